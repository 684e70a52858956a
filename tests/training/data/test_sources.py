"""Problems that nobody annotated as training rows: what is read, what is counted, what is refused."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from tasks.errors import UserError
from tests.training.small_run import example, response, rewrite, settings, write_small_dataset
from training.config import DatasetSettings, run_from
from training.data import sources
from training.data.drawn_responses import solution_response
from training.data.rows import TrainingRow, rows_digest
from training.data.sources import REPEATED, TOO_LONG, UNUSABLE, hold_out, read_data
from training.preflight.check import inspect, report

STEPS = "Ann has {0} pens and buys {1} more.\nShe has {0}+{1} = <<{0}+{1}={2}>>{2} pens."


def worked(number: int) -> dict[str, str]:
    """A problem with a whole solution as its answer, as GSM8K writes them."""
    text = STEPS.format(number, number + 1, 2 * number + 1)
    return {
        "question": f"Ann has {number} pens and buys {number + 1} more. How many?",
        "answer": f"{text}\n#### {2 * number + 1}",
    }


WORKED = [worked(number) for number in range(1, 13)]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chosen(path: Path, *, columns: Mapping[str, str] | None = None, **changes: Any) -> DatasetSettings:
    source = {"path": str(path), "columns": {"problem": "question"} if columns is None else columns}
    return DatasetSettings(source=source, **changes)  # type: ignore[arg-type]


# --- reading -----------------------------------------------------------------------------------------------------


def test_whole_solutions_are_read_as_answers_and_solutions_and_announced(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", WORKED)
    data = read_data(chosen(path))
    by_text = {row.text: row for row in data.rows}
    for number, given in enumerate(WORKED, 1):
        row = by_text[given["question"]]
        assert row.answer == str(2 * number + 1)
        assert row.solution == STEPS.format(number, number + 1, 2 * number + 1)
    (notice,) = data.notices
    assert notice.startswith("answers: the text after #### in 12 of 12 rows, e.g. ")
    assert "-> '3'" in notice and notice.endswith(
        "; dataset.answers verbatim takes the column as it is written"
    )
    assert (data.name, data.read, data.left_out, data.folder) == ("train.jsonl", 12, {}, None)
    assert data.origin == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_answers_are_taken_as_they_are_where_the_settings_say_so(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(4)]
    path = write(tmp_path / "train.jsonl", rows)
    assert {row.answer for row in read_data(chosen(path, answers="verbatim")).rows} == {
        "#### 1", "#### 2", "#### 3", "#### 4",
    }  # fmt: skip
    whole = write(tmp_path / "whole.jsonl", WORKED)
    with pytest.raises(
        UserError, match=r"none of the 12 answers .* leave the answer out with dataset\.source\.columns"
    ) as told:
        read_data(chosen(whole, answers="verbatim"))
    assert '{"problem": "question", "answer": ""}' in str(told.value)


def formats(tmp_path: Path) -> Iterator[Path]:
    yield write(tmp_path / "a.jsonl", WORKED)
    (tmp_path / "b.json").write_text(json.dumps(WORKED), encoding="utf-8")
    yield tmp_path / "b.json"
    with (tmp_path / "c.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(WORKED)
    yield tmp_path / "c.csv"
    pq.write_table(pa.Table.from_pylist(WORKED), tmp_path / "d.parquet")
    yield tmp_path / "d.parquet"
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    yield tmp_path / "e.jsonl.gz"


def test_the_rows_do_not_depend_on_format_name_and_order_of_the_file(tmp_path: Path) -> None:
    shuffled = list(WORKED)
    random.Random(3).shuffle(shuffled)
    paths = [*formats(tmp_path), write(tmp_path / "f.jsonl", shuffled)]
    found = [read_data(chosen(path)) for path in paths]
    assert len({rows_digest(data.rows) for data in found}) == 1
    assert len({data.fingerprint for data in found}) == 1
    assert len({tuple(row.solution for row in data.rows) for data in found}) == 1
    changed = [*WORKED[:-1], {**WORKED[-1], "answer": "#### 26"}]
    assert read_data(chosen(write(tmp_path / "g.jsonl", changed))).fingerprint != found[0].fingerprint


def test_columns_are_found_by_their_names_and_inside_objects_and_chats(tmp_path: Path) -> None:
    named = {"id": "n1", "problem": "What is 1 + 1?", "answer": 2.0, "solution": "It is 2.", "tier": "Hard"}
    (row,) = read_data(chosen(write(tmp_path / "a.jsonl", [named]), columns={})).rows
    assert (row.id, row.text, row.answer, row.solution, row.tier) == (
        "n1",
        "What is 1 + 1?",
        "2",
        "It is 2.",
        "hard",
    )
    chat = {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}],
        "reward_model": {"ground_truth": "2", "style": "rule"},
    }
    columns = {"problem": "prompt", "answer": "reward_model.ground_truth"}
    data = read_data(chosen(write(tmp_path / "b.jsonl", [chat]), columns=columns))
    assert [(row.text, row.answer, row.solution, row.tier) for row in data.rows] == [
        ("What is 1 + 1?", "2", None, None)
    ]
    boxed = {"problem": "What is 1 + 1?", "solution": "We add: \\boxed{2}."}
    (row,) = read_data(chosen(write(tmp_path / "c.jsonl", [boxed]), columns={"answer": "solution"})).rows
    assert (row.answer, row.solution) == ("2", "We add: \\boxed{2}.")


def test_repeated_texts_are_trained_on_once_and_counted(tmp_path: Path) -> None:
    rows = [*WORKED, WORKED[0], {**WORKED[1], "answer": None}, WORKED[0]]
    data = read_data(chosen(write(tmp_path / "train.jsonl", rows)))
    assert data.left_out == {REPEATED: 3} and data.read == len(data.rows) + 3 == 15


def test_texts_that_no_prompt_takes_are_refused_or_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", [*WORKED, {"question": "1 + " * 2001, "answer": "#### 1"}])
    with pytest.raises(
        UserError, match=r"train\.jsonl, line 13 has a text of 8,004 characters, .*dataset\.without"
    ):
        read_data(chosen(path))
    assert read_data(chosen(path, without="leave_out")).left_out == {TOO_LONG: 1}


def test_rows_that_cannot_be_used_are_listed_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    lines = [json.dumps(row) for row in WORKED[:2]]
    path.write_text(
        "\n".join([*lines, "{broken", json.dumps({"question": " ", "answer": "1"})]), encoding="utf-8"
    )
    with pytest.raises(UserError) as told:
        read_data(chosen(path))
    text = str(told.value)
    assert (
        f"{path} has 2 rows that cannot be used" in text
        and "line 3" in text
        and "line 4 has an empty text" in text
    )
    data = read_data(chosen(path, without="leave_out"))
    assert data.left_out == {UNUSABLE: 2} and data.read == len(data.rows) + 2 == 4
    assert any(one.startswith("left out: line 4 has an empty text") for one in data.notices)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {},
            "has no column 'text'; it has question, answer: .*dataset.source.columns"
            ' {"problem": "question", "answer": "answer"}',
        ),
        ({"problem": "task"}, "has no column 'task'; it has question, answer"),
    ],
)
def test_a_missing_column_is_named_with_the_setting_that_names_it(
    tmp_path: Path, columns: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_data(chosen(write(tmp_path / "train.jsonl", WORKED), columns=columns))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.jsonl"):
        read_data(chosen(tmp_path / "absent.jsonl"))


REVISION = "0123456789abcdef0123456789abcdef01234567"


def test_a_data_set_of_the_hub_is_read_at_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def rows(split: Any, revision: str) -> Iterator[Mapping[str, Any]]:
        asked.append((split.hub_id, split.config, split.split, revision))
        yield from WORKED[:6] if split.config == "main" else WORKED[6:]

    monkeypatch.setattr(sources, "hub_rows", rows)
    columns = {"problem": "question"}
    one = {"hub_id": "openai/gsm8k", "config": "main", "revision": REVISION, "columns": columns}
    data = read_data(DatasetSettings(source=one))  # type: ignore[arg-type]
    assert asked == [("openai/gsm8k", "main", "train", REVISION)]
    assert (data.name, data.origin) == ("openai/gsm8k, main, train", f"openai/gsm8k@{REVISION}")
    assert len(data.rows) == 6 and {row.source for row in data.rows} == {"gsm8k"}
    both = {**one, "config": ["main", "more"], "split": "test"}
    data = read_data(DatasetSettings(source=both))  # type: ignore[arg-type]
    assert asked[1:] == [("openai/gsm8k", name, "test", REVISION) for name in ("main", "more")]
    assert len(data.rows) == 12 and data.name == "openai/gsm8k, main, more, test"


def test_a_bad_row_of_the_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "hub_rows", lambda *_: iter([*WORKED, {"question": "", "answer": "#### 1"}]))
    source = {"hub_id": "a/b", "config": "main", "revision": REVISION, "columns": {"problem": "question"}}
    with pytest.raises(UserError, match=r"^a/b, main, row 13 has an empty text"):
        read_data(DatasetSettings(source=source))  # type: ignore[arg-type]


# --- exported datasets -------------------------------------------------------------------------------------------


def test_whole_solutions_in_an_export_are_read_as_their_answers(tmp_path: Path) -> None:
    rows = [example(number, answer=worked(number)["answer"]) for number in range(1, 5)]
    folder = write_small_dataset(tmp_path / "dataset", rows)
    data = read_data(DatasetSettings(folder=folder))
    assert [row.answer for row in data.rows] == ["3", "5", "7", "9"]
    assert data.rows[0].solution == STEPS.format(1, 2, 3)
    assert "the text after #### in 4 of 4 rows" in data.notices[0]


def test_an_export_without_the_column_solution_is_read_as_before(tmp_path: Path) -> None:
    folder = write_small_dataset(tmp_path / "dataset", [example(1, answer="4"), example(2)])
    now = read_data(DatasetSettings(folder=folder))
    rewrite(folder, lambda table: table.drop_columns(["solution"]))
    assert read_data(DatasetSettings(folder=folder)).rows == now.rows and now.notices == ()


def test_the_solution_of_an_export_is_what_a_teacher_sees(tmp_path: Path) -> None:
    rows = [example(1, answer="4", solution="We add 1 and 3."), example(2)]
    folder = write_small_dataset(tmp_path / "dataset", rows)
    data = settings(folder, algorithm={"name": "opsd"}, batches={"size": 2, "total_prompts": 2})
    prepared = inspect(run_from(data, "test")).prepared
    assert prepared is not None and prepared.references is not None
    assert prepared.references.rows[0].solution == "We add 1 and 3."
    assert prepared.references.sources("solution") == {"gold": 1, "majority_sample": 1}


# --- held-out problems -------------------------------------------------------------------------------------------


def row(number: int, text: str, answer: str | None = "1") -> TrainingRow:
    return TrainingRow(
        id=f"r{number}", text=text, tier=None, answer=answer, majority_answer=None, semantic_entropy=None, weight=None,
        pass_rate=None,
    )  # fmt: skip


def test_held_out_problems_have_the_smallest_hashes_of_those_with_an_answer() -> None:
    rows = [row(n, f"What is {n} + {n}?", None if n % 3 == 0 else str(2 * n)) for n in range(30)]
    kept, held = hold_out(rows, 5)
    hashes = {one.id: xxhash.xxh3_128_hexdigest(one.text.lower().encode()) for one in rows if one.answer}
    assert [one.id for one in held] == sorted(hashes, key=lambda name: hashes[name])[:5]
    assert {one.id for one in kept} | {one.id for one in held} == {one.id for one in rows}
    assert len(kept) == 25
    again = hold_out([*reversed(rows)], 5)[1]
    assert again == held and hold_out(rows, 6)[1][:5] == held  # whatever the order, and a prefix of more


def test_a_variant_of_a_held_out_text_is_not_trained_on() -> None:
    rows = [row(0, "What is 1+1?"), row(1, "what  is 1+1?"), row(2, "What is 2+2?", None)]
    kept, held = hold_out(rows, 1)
    assert [one.id for one in held] == ["r0"] and [one.id for one in kept] == ["r2"]


@pytest.mark.parametrize("count", [2, 3])
def test_more_held_out_problems_than_there_are_is_an_error(count: int) -> None:
    rows = [
        row(0, "What is 1+1?"),
        row(1, "What is 2+2?"),
        row(2, "What is 3+3?", "We need to think about it for a very long time"),
    ]
    if count == 2:
        assert len(hold_out(rows, count)[0]) == 1
        rows = rows[:2]
    with pytest.raises(
        UserError, match=rf"dataset\.held_out is {count}, but 2 problems of {len(rows)} rows have an answer"
    ):
        hold_out(rows, count)


# --- runs --------------------------------------------------------------------------------------------------------


def given(
    path: Path, name: str, /, dataset: Mapping[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    source = {"path": str(path), "columns": {"problem": "question"}}
    return settings(path, dataset={"source": source, **(dataset or {})}, algorithm={"name": name}, **changes)


@pytest.mark.parametrize("name", ["grpo", "kd", "opd", "opsd", "pw_opsd", "self_distilled_reasoner", "sft"])
def test_every_algorithm_without_weights_trains_on_a_file(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "train.jsonl", WORKED)
    data = given(path, name, {"held_out": 3}, batches={"size": 4, "total_prompts": 4})
    found = inspect(run_from(data, "test"))
    assert found.problems == () and found.prepared is not None
    prepared = found.prepared
    assert len(prepared.rows) == 9 and prepared.left_out == {}
    held = list(hold_out(read_data(chosen(path)).rows, 3)[1])
    assert prepared.held_out is not None and prepared.held_out.ids == tuple(row.id for row in held)
    assert [item.answer for item in prepared.held_out.items] == [row.answer for row in held]
    assert prepared.held_out.settings.samples == 4
    text = report(prepared)
    assert "rows       9 in train.jsonl, 9 used" in text and "held out   3 problems, evaluated only" in text
    assert "note       answers: the text after #### in 12 of 12 rows" in text
    assert ("labels     9 gold" in text) is (name == "grpo")
    assert ("solutions  9 gold" in text) is (name in ("opsd", "pw_opsd", "self_distilled_reasoner"))
    boxed = "responses  9 reference solutions, 9 of them with the answer in a box added at the end"
    assert (boxed in text) is (name in ("kd", "sft"))


@pytest.mark.parametrize("weight", [None, "permuted", "pass_rate", {"kind": "binary", "tau": 0.3}])
def test_what_needs_weights_says_how_to_get_them(tmp_path: Path, weight: Any) -> None:
    data = given(write(tmp_path / "train.jsonl", WORKED), "uopd")
    data["algorithm"]["prompt_weight"] = weight
    (problem,) = inspect(run_from(data, "test")).problems
    assert (
        "which this prompt weight requires: annotate the problems (make annotate FILE=...) and train on"
        in problem
    )


def test_what_a_source_lacks_is_refused_by_name_or_counted(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1) if n % 2 else None} for n in range(8)]
    path = write(tmp_path / "train.jsonl", rows)
    (problem,) = inspect(run_from(given(path, "opsd"), "test")).problems
    assert problem.endswith(
        "name the column with the solutions in dataset.source.columns, or set dataset.without to leave_out"
    )
    data = given(path, "grpo", {"without": "leave_out"}, batches={"size": 4, "total_prompts": 4})
    prepared = inspect(run_from(data, "test")).prepared
    assert prepared is not None and len(prepared.rows) == 4
    assert prepared.left_out == {"rows without a label: neither a ground truth nor a majority answer": 4}


@pytest.mark.parametrize("name", ["opd", "opsd"])
def test_prompts_that_are_too_long_are_refused_or_counted(tmp_path: Path, name: str) -> None:
    long = {"question": f"What is 1 + 1? {'Think about it. ' * 60}", "answer": "We add.\n#### 2"}
    shown = {"question": "What is 2 + 2?", "answer": f"{'We add again. ' * 150}\n#### 4"}
    path = write(tmp_path / "train.jsonl", [*WORKED, long, shown])
    lengths = {"max_prompt_tokens": 200, "max_response_tokens": 200}
    changes: dict[str, Any] = {
        "lengths": lengths,
        "batches": {"size": 4, "total_prompts": 4},
        "trainer": {"micro_batch_tokens": 512},
    }
    problems = inspect(run_from(given(path, name, **changes), "test")).problems
    assert "set dataset.without to leave_out" in problems[0]
    prepared = inspect(run_from(given(path, name, {"without": "leave_out"}, **changes), "test")).prepared
    assert prepared is not None
    assert sum(prepared.left_out.values()) + len(prepared.rows) == 14
    assert prepared.left_out["rows with a prompt of more than lengths.max_prompt_tokens (200)"] == 1
    views = [what for what in prepared.left_out if "in the view solution" in what]
    assert len(views) == (name == "opsd")
    assert {len(prompts) for prompts in prepared.views.values()} <= {len(prepared.rows)}


def test_labels_and_solutions_that_an_algorithm_does_not_use_leave_its_run_unchanged(tmp_path: Path) -> None:
    rows = [example(number, answer=str(number)) for number in range(1, 5)]
    folder = write_small_dataset(
        tmp_path / "dataset",
        rows,
        responses=[response(one, i, one.answer or "") for one in rows for i in range(4)],
    )

    def identity(name: str, **dataset: Any) -> str:
        changes = {"algorithm": {"name": name}, "batches": {"size": 4, "total_prompts": 4}}
        data = settings(folder, dataset={"folder": str(folder), **dataset}, **changes)
        prepared = inspect(run_from(data, "test")).prepared
        assert prepared is not None
        return prepared.fingerprint

    others: list[dict[str, Any]] = [{"labels": "gold"}, {"solutions": "gold"}, {"without": "leave_out"}]
    assert len({identity("uopd", **one) for one in [{}, *others]}) == 1
    assert identity("grpo") == identity("grpo", solutions="gold")
    assert identity("grpo") != identity("grpo", labels="gold") and identity("grpo") != identity(
        "grpo", without="leave_out"
    )
    assert identity("opsd") == identity("opsd", labels="gold")


HUB = {"hub_id": "a/b"}
WRONG_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({}, "dataset: give folder (an exported dataset) or source (problems as they are), and not both"),
    ({"folder": "d", "source": HUB}, "dataset: give folder (an exported dataset) or source (problems as they are)"),
    ({"source": {}}, "dataset.source: give path (a local file) or hub_id (a data set on the hub), and not both"),
    ({"source": {"path": "x", **HUB}}, "dataset.source: give path (a local file) or hub_id"),
    ({"source": {"path": "x", "revision": REVISION}}, "dataset.source: config, split and revision belong to a data set"),
    ({"source": HUB, "split": "test"}, "dataset: config and split belong to a dataset in folder: write those of a data set"),
    ({"source": {**HUB, "columns": {"question": "q"}}}, "dataset.source.columns.question"),
    ({"folder": "d", "held_out": 5, "evaluation": "x"}, "dataset.held_out and evaluation.problems both choose"),
    ({"folder": "d", "evaluation": None}, "evaluation has no problems: set evaluation.problems or dataset.held_out"),
]  # fmt: skip


@pytest.mark.parametrize(("dataset", "message"), WRONG_SETTINGS)
def test_settings_that_do_not_fit_together_are_named(dataset: dict[str, Any], message: str) -> None:
    rest = {"evaluation": {"problems": dataset["evaluation"]}} if "evaluation" in dataset else {}
    own = {name: value for name, value in dataset.items() if name != "evaluation"}
    with pytest.raises(UserError) as told:
        run_from(settings(Path("d"), dataset=own, **rest), "RUN.json")
    assert message in str(told.value)


def test_settings_written_by_a_run_are_read_again() -> None:
    for dataset in ({"source": {"path": "x"}, "held_out": 3}, {"source": HUB}, {"folder": "d"}):
        run = run_from(settings(Path("d"), dataset=dataset), "RUN.json")
        assert run_from(run.model_dump(mode="json"), "RUN.json") == run


def test_the_path_of_a_source_is_not_part_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    paths = [write(tmp_path / "train.jsonl", WORKED), write(tmp_path / "elsewhere" / "copy.jsonl", WORKED)]
    found = [
        inspect(run_from(given(path, "opd", batches={"size": 4, "total_prompts": 4}), "test")).prepared
        for path in paths
    ]
    assert len({one.fingerprint for one in found if one is not None}) == 1 and None not in found


# --- responses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solution", "answer", "text"),
    [
        ("We add. ", "2", "We add.\n\nThe answer is \\boxed{2}."),
        ("So \\boxed{2}.", "2", "So \\boxed{2}."),
        ("We add.", None, "We add."),
    ],
)
def test_a_solution_as_a_response_ends_with_its_answer_in_a_box(
    solution: str, answer: str | None, text: str
) -> None:
    found = solution_response(replace(row(1, "What is 1+1?", answer), solution=solution))
    assert (found.text, found.finished, found.answer) == (text, True, answer)
