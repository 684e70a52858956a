"""Reading a dataset for training: real exports, and every kind of invalid one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prompts import load_prompt
from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.llm.model_identity import model_identity
from tests.training.small_run import (
    TABLE,
    copy_model,
    example,
    rewrite,
    set_values,
    small_run,
    teacher,
    write_small_dataset,
)
from training.config import DatasetSettings
from training.data.model_files import ModelFiles, open_model
from training.data.rows import (
    TrainingRow,
    columns,
    manifest_problems,
    prompt_length_problems,
    read_dataset,
    rows_digest,
    with_prompts,
)
from training.losses.prompt_weights import Binary, Constant, PassRate, Permuted, Soft, Uniform
from training.plan import resolve
from training.preflight.check import inspect


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [example(3, weight=0.25), example(1), example(2, answer="6", majority_answer=None)]
    return write_small_dataset(tmp_path / "dataset", rows)


@pytest.fixture(scope="module")
def student() -> ModelFiles:
    return open_model("student", "pocket/student")


@pytest.fixture(scope="module")
def pocket_teacher() -> ModelFiles:
    return open_model("teacher", "pocket/teacher")


def rows_of(folder: Path, **changes: Any) -> tuple[TrainingRow, ...]:
    return read_dataset(DatasetSettings(folder=folder, **changes)).rows


def test_rows_are_sorted_by_id_and_have_the_values_that_training_needs(folder: Path) -> None:
    found = rows_of(folder)
    assert [row.id for row in found] == [f"{number:032x}" for number in (1, 2, 3)]
    assert found[0] == TrainingRow(
        id=f"{1:032x}",
        text="Lena has 1 apples and buys 3 more. How many apples does she have now?",
        tier="easy",
        answer=None,
        majority_answer="4",
        semantic_entropy=math.log(2),
        weight=0.5,
        pass_rate=0.75,  # three of the four labels 0, 1, 1, 1
        source="pocket",
        source_id="1",
        cluster_labels=(0, 1, 1, 1),
    )
    assert (found[1].answer, found[1].pass_rate, found[2].weight) == ("6", 0.0, 0.25)


def test_unclustered_samples_count_as_disagreement(tmp_path: Path) -> None:
    made = write_small_dataset(tmp_path / "dataset", [example(1, cluster_labels=(-1, 0, 0, -1))])
    assert rows_of(made)[0].pass_rate == 0.5


def test_weights_out_of_bounds_by_rounding_are_clipped(tmp_path: Path) -> None:
    rows = [example(1, weight=1 + 1e-12), example(2, weight=-1e-12, semantic_entropy=-1e-12)]
    rows += [example(3, weight=1 + 7e-7), example(4, weight=-7e-7, semantic_entropy=-7e-7)]  # of float32
    found = rows_of(write_small_dataset(tmp_path / "dataset", rows))
    assert [(row.weight, row.semantic_entropy) for row in found] == 2 * [
        (1.0, found[0].semantic_entropy),
        (0.0, 0.0),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": math.nan}, "row 0+2 has weight nan, which is not between 0 and 1: "),
        ({"weight": 1.01}, "row 0+2 has weight 1.01, which is not between 0 and 1: "),
        ({"weight": -0.01}, "row 0+2 has weight -0.01"),
        ({"weight": math.inf}, "row 0+2 has weight inf"),
        ({"semantic_entropy": math.nan}, "row 0+2 has semantic_entropy nan"),
        (
            {"semantic_entropy": -0.5},
            "row 0+2 has semantic_entropy -0.5, which is not between 0 and infinity",
        ),
        ({"problem": " \n"}, "row 0+2 has an empty text: correct or remove the row"),
        ({"problem": "x" * 8001}, "row 0+2 has a text of more than 8,000 characters"),
        ({"cluster_labels": [-1, -1]}, "row 0+2 has no clustered sample"),
    ],
)
def test_an_invalid_row_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    made = write_small_dataset(tmp_path / "dataset", [example(1), example(2), example(3)])
    set_values(made, 1, changes)
    with pytest.raises(UserError, match=message) as refused:
        rows_of(made)
    assert "\n" not in str(refused.value)


def test_all_defects_are_reported_with_their_number_of_rows(tmp_path: Path) -> None:
    made = write_small_dataset(tmp_path / "dataset", [example(number) for number in (1, 2, 3, 4)])
    for row, values in enumerate(({"weight": 2.0}, {"problem": ""}, {"weight": math.nan}, {"weight": -1.0})):
        set_values(made, row, values)
    with pytest.raises(UserError) as refused:
        rows_of(made)
    empty, weight = str(refused.value).splitlines()
    assert "0002 has an empty text:" in empty
    assert "0001 has weight 2.0" in weight and "(and 2 more rows have this defect)" in weight


def drop(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns([name])


def without_values(name: str) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        nothing = pa.nulls(table.num_rows, table.schema.field(name).type)
        return table.drop_columns([name]).append_column(name, nothing)

    return change


def cast_column(name: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    """Convert a column to another type, including conversions that Arrow rejects."""

    def change(table: pa.Table) -> pa.Table:
        values = [None if value is None else converted(value, kind) for value in table[name].to_pylist()]
        place = table.schema.get_field_index(name)
        return table.set_column(place, name, pa.array(values, kind))

    return change


def converted(value: Any, kind: pa.DataType) -> Any:
    if isinstance(value, list):
        return [converted(one, kind.value_type) for one in value]
    if pa.types.is_integer(kind):
        return len(value) if isinstance(value, str) else value
    return float(value) if pa.types.is_floating(kind) else str(value)


def dictionary_column(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(
        table.schema.get_field_index(name), name, table[name].dictionary_encode()
    )


def empty_column(name: str) -> Callable[[pa.Table], pa.Table]:
    """Replace a column by one of null type, as in a table with only nulls."""
    return lambda table: table.set_column(
        table.schema.get_field_index(name), name, pa.nulls(table.num_rows, pa.null())
    )


@pytest.mark.parametrize(
    ("name", "kind", "reported"),
    [
        (
            "weight",
            pa.string(),
            "'weight' of type string, but training needs numbers: export the dataset again",
        ),
        ("semantic_entropy", pa.string(), "'semantic_entropy' of type string, but training needs numbers"),
        ("problem", pa.int64(), "'problem' of type int64, but training needs text"),
        ("id", pa.float64(), "'id' of type double, but training needs text or whole numbers"),
        ("cluster_labels", pa.list_(pa.string()), "needs lists of whole numbers"),
        ("cluster_labels", pa.list_(pa.float64()), "needs lists of whole numbers"),
    ],
)
def test_a_column_of_the_wrong_type_is_reported_once(
    folder: Path, name: str, kind: pa.DataType, reported: str
) -> None:
    rewrite(folder, cast_column(name, kind))
    with pytest.raises(UserError) as refused:
        rows_of(folder)
    (sentence,) = str(refused.value).splitlines()
    assert reported in sentence and str(folder) in sentence


def test_every_column_of_the_wrong_type_is_reported(folder: Path) -> None:
    rewrite(folder, cast_column("weight", pa.string()))
    rewrite(folder, cast_column("cluster_labels", pa.list_(pa.string())))
    with pytest.raises(UserError) as refused:
        rows_of(folder)
    assert [line.split("'")[5] for line in str(refused.value).splitlines()] == ["weight", "cluster_labels"]


def test_equivalent_arrow_types_are_read(folder: Path) -> None:
    before = rows_of(folder)
    rewrite(folder, cast_column("cluster_labels", pa.large_list(pa.int8())))
    rewrite(folder, cast_column("problem", pa.large_string()))
    rewrite(folder, dictionary_column("tier"))
    assert rows_of(folder) == before
    rewrite(folder, empty_column("answer"))
    assert [row.answer for row in rows_of(folder)] == [None] * 3
    rewrite(folder, empty_column("weight"))
    with pytest.raises(UserError, match=r"0001 has no weight \(and 2 more rows"):
        rows_of(folder)


def test_rows_without_an_id_are_counted_and_reported_by_number(folder: Path) -> None:
    rewrite(folder, cast_column("id", pa.string()))  # the exporter's column does not accept nulls
    set_values(folder, 1, {"id": None})
    set_values(folder, 2, {"id": None})
    with pytest.raises(UserError, match=r"row number 2 has no id \(and 1 more rows") as refused:
        rows_of(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "0" * 32}, {"text": "Another?"}, {"tier": "hard"}, {"answer": "5"}, {"majority_answer": None},
        {"semantic_entropy": 0.25}, {"weight": 0.25}, {"pass_rate": 0.5},
    ],
)  # fmt: skip
def test_the_digest_depends_on_every_value_that_training_uses(folder: Path, changes: dict[str, Any]) -> None:
    rows = rows_of(folder)
    changed = (replace(rows[0], **changes), *rows[1:])
    found = {rows_digest(some) for some in (rows, changed, rows[1:])}
    assert len(found) == 3 and all(len(digest) == 64 for digest in found)
    assert rows_digest([replace(row, prompt_ids=(1, 2)) for row in rows]) == rows_digest(rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("id"), "has no column 'id': add it, or train on a dataset that the flow sure-math exported"),
        (drop("problem"), "has no column 'problem'"),
        (without_values("weight"), r"0001 has no weight \(and 2 more rows"),
        (without_values("problem"), "0001 has an empty text"),
        (lambda table: table.slice(0, 0), "has no rows"),
        (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "0001 occurs 2 times"),
    ],
)
def test_a_damaged_table_is_rejected(
    folder: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(UserError, match=message):
        rows_of(folder)


def test_unknown_folders_configs_and_splits_are_rejected_with_the_choices(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="is not an exported dataset"):
        rows_of(tmp_path / "nowhere")
    with pytest.raises(
        UserError,
        match=r"dataset.config 'clean' does not exist .* choose one of decontaminated, default, responses",
    ):
        rows_of(folder, config="clean")
    with pytest.raises(UserError, match=r"dataset.split 'test' does not exist .* choose one of train"):
        rows_of(folder, split="test")
    with pytest.raises(UserError, match=r"config 'responses'.* has no column 'id'"):
        rows_of(folder, config="responses")


def test_flagged_rows_are_excluded_only_in_the_config_decontaminated(tmp_path: Path) -> None:
    rows = [example(1), example(2, benchmark_overlap=True, overlap_benchmarks=("aime",)), example(3)]
    folder = write_small_dataset(tmp_path / "dataset", rows)
    assert [int(row.id, 16) for row in rows_of(folder)] == [1, 2, 3]
    assert [int(row.id, 16) for row in rows_of(folder, config="decontaminated")] == [1, 3]
    (folder / "flagged/train-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match=r"flagged/train-00000-of-00001\.parquet is missing"):
        rows_of(folder)


def test_the_error_for_a_missing_config_lists_the_existing_ones(tmp_path: Path) -> None:
    folder = write_small_dataset(tmp_path / "dataset", [example(1, benchmark_overlap=True)])
    with pytest.raises(
        UserError, match=r"dataset.config 'decontaminated' does not exist .* choose one of default, resp"
    ):
        rows_of(folder, config="decontaminated")


def test_missing_and_broken_files_are_rejected(folder: Path) -> None:
    (folder / TABLE).write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet is damaged"):
        rows_of(folder)
    (folder / TABLE).unlink()
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet is missing"):
        rows_of(folder)


def test_a_dataset_of_an_earlier_version_is_refused_by_its_version(folder: Path) -> None:
    rewrite(folder, lambda table: table.drop_columns(["problem"]))
    with pytest.raises(UserError, match="has no column 'problem'") as refusal:
        rows_of(folder)
    assert "written by" not in str(refusal.value)
    record = json.loads((folder / "manifest.json").read_text())
    for key in ("format", "checksum", "files"):
        del record[key]
    (folder / "manifest.json").write_text(json.dumps(record | {"versions": {"sure-math": "0.0.9"}}))
    with pytest.raises(
        UserError, match=r"'problem'.*\(it was written by another version, sure-math 0\.0\.9 \(format 1\)\)"
    ):
        rows_of(folder)


@pytest.mark.parametrize(
    "configs",
    [
        "no front matter",
        "---\nconfigs: 7\n---\n",
        "---\nconfigs: [{config_name: default}]\n---\n",
        "---\nconfigs: [{config_name: default, data_files: [{split: train, path: 7}]}]\n---\n",
        "---\nconfigs: [{config_name: default, data_files: [{split: train, path: [7]}]}]\n---\n",
        "---\nconfigs: 2026-99-99\n---\n",
        "---\nconfigs: " + "[" * 5000 + "\n---\n",
        "---\nconfigs: !!python/object/apply:os.getcwd []\n---\n",
        "---\n\x00\n---\n",
    ],
)
def test_a_damaged_front_matter_is_one_sentence(folder: Path, configs: str) -> None:
    (folder / "README.md").write_text(configs, encoding="utf-8")
    with pytest.raises(
        UserError, match=r"README\.md does not list the dataset's configs in its front matter"
    ):
        rows_of(folder)


def test_prompts_equal_those_of_the_engines_and_end_without_thinking(
    folder: Path, student: ModelFiles
) -> None:
    found = with_prompts(rows_of(folder), student, thinking=False)
    assert student.tokenizer.decode(found[0].prompt_ids) == (
        "<|im_start|>user\nLena has 1 apples and buys 3 more. How many apples does she have now?\n\n"
        "Please reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert all(
        replace(row, prompt_ids=()) == plain for row, plain in zip(found, rows_of(folder), strict=True)
    )


def test_prompts_beyond_the_limit_are_reported_with_the_longest_row(
    folder: Path, student: ModelFiles
) -> None:
    rows = with_prompts(rows_of(folder), student, thinking=False)
    lengths = [len(row.prompt_ids) for row in rows]
    assert prompt_length_problems(rows, max(lengths)) == []
    (problem,) = prompt_length_problems(rows, max(lengths) - 1)
    longest = max(rows, key=lambda row: (len(row.prompt_ids), row.id))
    assert problem.startswith(
        f"row {longest.id} has a prompt of {max(lengths)} tokens, but lengths.max_prompt_tokens is"
    )


def test_the_datasets_teacher_is_accepted_in_any_folder(
    folder: Path, tmp_path: Path, pocket_teacher: ModelFiles
) -> None:
    run, data = small_run(folder), read_dataset(DatasetSettings(folder=folder))
    assert manifest_problems(run, data, pocket_teacher) == []
    moved = open_model("teacher", str(copy_model("teacher", tmp_path / "renamed")))
    assert manifest_problems(run, data, moved) == []


@pytest.mark.parametrize(
    ("who", "message"),
    [
        ({"model": "teacher:0123456789abcdef"}, "annotated with teacher teacher:0123456789abcdef, but this run has teacher:"),
        ({"prompt": "teacher/solve@9:aaaaaaaaaaaa"}, "annotated with prompt teacher/solve@9:aaaaaaaaaaaa"),
        ({"thinking": True}, "annotated with thinking mode True, but this run has False"),
        ({"chat_template": "0123456789abcdef"}, "annotated with chat template 0123456789abcdef, but this run has"),
        ({"template_date": "2026-02-03"}, "annotated with prompt.date 2026-02-03, but this run has None"),
    ],
)  # fmt: skip
def test_another_teacher_is_rejected_unless_a_mismatch_is_allowed(
    tmp_path: Path, pocket_teacher: ModelFiles, who: dict[str, Any], message: str
) -> None:
    folder = write_small_dataset(tmp_path / "dataset", [example(1)], teacher(**who))
    data = read_dataset(DatasetSettings(folder=folder))
    (problem,) = manifest_problems(small_run(folder), data, pocket_teacher)
    assert message in problem and "dataset.allow_mismatch" in problem
    reported = small_run(folder, dataset={"folder": str(folder), "allow_mismatch": True})
    assert manifest_problems(reported, data, pocket_teacher) == []


def test_a_hub_teacher_is_compared_by_tokenizer_and_template(
    tmp_path: Path, pocket_teacher: ModelFiles
) -> None:
    ours = pocket_teacher.identity
    for changes, reported in (
        ({}, []),
        ({"tokenizer": "other"}, ["tokenizer other"]),
        ({"tokenizer": "other", "chat_template": "another"}, ["tokenizer other", "chat template another"]),
    ):
        who = {
            "model": "Qwen/Qwen3-8B@main",
            "tokenizer": ours.tokenizer,
            "chat_template": ours.chat_template,
        }
        folder = write_small_dataset(tmp_path / "dataset", [example(1)], teacher(**(who | changes)))
        data = read_dataset(DatasetSettings(folder=folder))
        problems = manifest_problems(small_run(folder), data, pocket_teacher)
        assert len(problems) == len(reported)
        assert all(
            f"annotated with {what}, but" in problem for what, problem in zip(reported, problems, strict=True)
        )


def test_the_fixture_describes_the_pocket_teacher() -> None:
    assert teacher().model == model_identity("pocket/teacher", None, PROJECT_ROOT)
    assert teacher().prompt == load_prompt("teacher/solve").fingerprint


def test_the_settings_choose_the_prompt_weight() -> None:
    def chosen(weight: object) -> object:
        return resolve(
            small_run(Path("d"), algorithm={"prompt_weight": weight}, seed=5)
        ).algorithm.prompt_weight

    assert chosen(None) == Soft()  # UOPD's own
    assert [chosen(word) for word in ("uniform", "soft", "pass_rate", "constant")] == [
        Uniform(), Soft(), PassRate(), Constant(),
    ]  # fmt: skip
    assert chosen("permuted") == Permuted(seed=5)
    assert chosen({"kind": "binary", "tau": 0.3, "scale": "normalised"}) == Binary(
        tau=0.3, scale="normalised"
    )


def test_prompt_weights_are_computed_from_the_rows(folder: Path) -> None:
    made = columns(rows_of(folder))
    assert Soft()(made).weight.tolist() == [0.5, 0.5, 0.25]
    assert PassRate()(made).weight.tolist() == [0.1875, 0.0, 0.1875]  # 3/4 * 1/4
    assert Binary(tau=0.3)(replace(made, entropy=[0.2, 0.3, 0.4])).kept.tolist() == [True, True, False]


@pytest.mark.parametrize("path", ["../*.parquet", "/etc/*.parquet", "data/../../x.parquet"])
def test_a_card_whose_data_are_outside_of_its_folder_is_refused(tmp_path: Path, path: str) -> None:
    folder = write_small_dataset(tmp_path / "dataset", [example(1)])
    card = folder / "README.md"
    card.write_text(re.sub(r"(path: ).*", rf'\g<1>"{path}"', card.read_text()))
    with pytest.raises(UserError, match=r"names data outside of its folder"):
        read_dataset(DatasetSettings(folder=folder))


HUB_CARD = "---\nlicense: mit\n---\n\n# Problems\n"


def foreign(
    folder: Path, table: pa.Table, *, name: str = "train.parquet", card: str | None = HUB_CARD
) -> Path:
    """Write a dataset as people upload them: a card without configs, and a Parquet file."""
    folder.mkdir(exist_ok=True)
    if card is not None:
        (folder / "README.md").write_text(card)
    pq.write_table(table, folder / name)
    return folder


@pytest.mark.parametrize("card", [HUB_CARD, "# Problems\n", None])
@pytest.mark.parametrize("name", ["train-00000-of-00001.parquet", "problems.parquet"])
def test_a_bare_parquet_file_with_integer_ids_and_string_views_is_read(
    tmp_path: Path, card: str | None, name: str
) -> None:
    table = pa.table(
        {"id": [7, 12], "problem": pa.array(["What is 1 + 1?", "What is 2 + 2?"], pa.string_view())}
    )
    folder = foreign(tmp_path / "theirs", table, name=name, card=card)
    foreign(folder, table.slice(0, 1), name="test_0.parquet", card=card)
    data = read_dataset(DatasetSettings(folder=folder))
    assert [(row.id, row.text) for row in data.rows] == [("12", "What is 2 + 2?"), ("7", "What is 1 + 1?")]
    assert (data.manifest, data.rows[0].weight, data.rows[0].pass_rate) == (None, None, None)
    assert data.fingerprint == rows_digest(data.rows)
    assert [row.id for row in rows_of(folder, split="test")] == ["7"]
    assert Uniform()(columns(data.rows)).weight.tolist() == [1.0, 1.0]


def test_a_dataset_of_somebody_elses_making_trains_what_needs_no_more(tmp_path: Path) -> None:
    table = pa.table({"id": [1], "problem": ["What is 1 + 1?"], "weight": pa.array([0.5], pa.float32())})
    folder = foreign(tmp_path / "theirs", table)

    def problems(**changes: Any) -> tuple[str, ...]:
        return inspect(small_run(folder, **changes)).problems

    (unknown,) = problems()
    assert unknown.startswith(f"{folder} has no manifest.json, so it is not known which teacher")
    allowed = {"folder": str(folder), "allow_mismatch": True}
    assert problems(dataset=allowed) == ()
    (missing,) = problems(dataset=allowed, algorithm={"prompt_weight": "pass_rate"})
    assert missing.startswith("the dataset has no column pass_rate, which this prompt weight requires")
    foreign(folder, table.drop_columns(["weight"]))
    (missing,) = problems(dataset=allowed)
    assert missing.startswith("the dataset has no column weight, which this prompt weight requires")
    assert problems(dataset=allowed, algorithm={"name": "opd"}) == ()
    assert problems(dataset=allowed, algorithm={"prompt_weight": "uniform"}) == ()
    foreign(folder, table.drop_columns(["id", "problem"]))
    with pytest.raises(UserError) as refused:
        read_dataset(DatasetSettings(folder=folder))
    assert [line.partition(": ")[0].partition(") ")[2] for line in str(refused.value).splitlines()] == [
        "has no column 'id'", "has no column 'problem'",
    ]  # fmt: skip
