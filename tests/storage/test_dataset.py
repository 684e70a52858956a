from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from tasks.config import load_config
from tasks.errors import UserError
from tasks.rows import Example, FindingKind, Response, Role, Tier
from tasks.storage import cards, dataset
from tasks.storage.dataset import describe, strategy_counts, write_dataset
from tasks.storage.dataset_card import render_card
from tasks.storage.manifest import (
    MANIFEST,
    BenchmarkCount,
    FinishCount,
    JudgeCount,
    Manifest,
    StageCount,
    Teacher,
    read_manifest,
)


def example(number: int, *, tier: Tier = Tier.EASY, curated: bool = False, **changes: object) -> Example:
    row = Example(
        id=f"{number:032x}",
        problem=f"What is {number} + 1?",
        tier=tier,
        role=Role.CURATED if curated else Role.EVOLVED,
        source="pocket",
        source_id=str(number),
        licence="cc-by-4.0",
        root_id=f"{number:032x}" if curated else f"{number + 1000:032x}",
        parent_id=None if curated else f"{number + 1000:032x}",
        round=0 if curated else 1,
        strategies=() if curated else ("harder",),
        answer=str(number + 1) if curated else None,
        majority_answer=str(number + 1),
        majority_correct=None,
        semantic_entropy=0.25,
        weight=0.75,
        discrete_entropy=0.25,
        valid_entropy=None,
        intra_entropy=0.0,
        predictive_entropy=1.5,
        normalised_entropy=0.25,
        mean_logprob=-0.25,
        majority_share=0.75,
        sizes=(2,),
        entropy_by_size=(0.25,),
        weight_by_size=(0.75,),
        cluster_labels=(0, 1),
        cluster_probs=(0.5, 0.5),
        cluster_answers=(str(number + 1), None),
        num_samples=2,
        num_valid=1,
        num_truncated=0,
        judge_calls=0,
        order_flips=0,
        transitivity_violations=0,
        benchmark_root=False,
        benchmark_overlap=False,
        overlap_benchmarks=(),
        overlap_kinds=(),
        evolver_model=None if curated else "assistant:1",
        evolver_prompt=None if curated else "harder@1:1",
        quality_judge_model=None if curated else "assistant:1",
        quality_judge_prompt=None if curated else "quality@1:1",
        teacher_model="teacher:1",
        teacher_prompt="solve@1:1",
        equivalence_judge_model=None,
        equivalence_judge_prompt=None,
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def samples(row: Example) -> list[Response]:
    return [
        Response(
            problem_id=row.id,
            index=index,
            text=f"So \\boxed{{{index}}}",
            token_count=7,
            logprob_sum=-1.5,
            finish_reason="stop",
            answer=str(index) if index == 0 else None,
            model="teacher:1",
            prompt="solve@1:1",
            sampling="{}",
            seed=2**62 + index,
        )
        for index in range(row.num_samples)
    ]


def manifest(**changes: object) -> Manifest:
    made = Manifest(
        name="SURE-Math",
        licence="cc-by-4.0",
        profile="pocket",
        fingerprint="ab" * 32,
        stages=(
            StageCount(
                stage="judge", rows_in=1234567, kept=1234000, rejected={"not_multi_step": 560, "truncated": 7}
            ),
            StageCount(stage="sample", rows_in=5, kept=5),
        ),
        models={"teacher": "teacher:1", "evolver": "assistant:1"},
        prompts={"teacher/solve": "solve@1:1"},
        settings=load_config("pocket").identity(),
        teacher=Teacher(
            model="teacher:1",
            prompt="solve@1:1",
            tokenizer="sha256:aa",
            chat_template="sha256:bb",
            num_samples=2,
            temperature=0.7,
            top_p=0.95,
            max_tokens=448,
            thinking=False,
            logprobs="raw",
            scope="all",
        ),
        seeds={"split_seed": 0},
        versions={"vllm": "1.2"},
        timings={"sample": 12.5},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


TRAIN = [example(1), example(2, tier=Tier.HARD, weight=0.5), example(3, curated=True)]
TEST = [example(4, curated=True)]
EXAMPLES = {"train": TRAIN, "test": TEST}
RESPONSES = {
    split: [response for row in rows for response in samples(row)] for split, rows in EXAMPLES.items()
}


def digests(folder: Path, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in leave_out)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    return lambda folder, *config: datasets.load_dataset(
        str(folder), *config, cache_dir=str(tmp_path / "cache")
    )


def test_load_dataset_returns_every_row_of_both_configs(tmp_path: Path, load):
    write_dataset(tmp_path / "dataset", EXAMPLES, RESPONSES, manifest())
    problems, responses = load(tmp_path / "dataset"), load(tmp_path / "dataset", "responses")
    assert {split: len(rows) for split, rows in problems.items()} == {"train": 3, "test": 1}
    assert {split: len(rows) for split, rows in responses.items()} == {"train": 6, "test": 2}
    assert problems["train"].column_names == [field.name for field in fields(Example)]
    row = problems["train"][0]
    assert (row["problem"], row["tier"], row["strategies"], row["answer"]) == (
        "What is 1 + 1?",
        "easy",
        ["harder"],
        None,
    )
    assert (row["cluster_answers"], row["cluster_labels"], row["valid_entropy"]) == (
        ["2", None],
        [0, 1],
        None,
    )
    assert [dict(found) for found in responses["test"]] == [
        {field.name: getattr(row, field.name) for field in fields(Response)} for row in RESPONSES["test"]
    ]


def flagged(row: Example) -> Example:
    return replace(
        row,
        benchmark_overlap=True,
        overlap_benchmarks=("aime",),
        overlap_kinds=(FindingKind.LINEAGE, FindingKind.TEMPLATE),
    )


def test_the_config_decontaminated_has_exactly_the_rows_without_a_flag(tmp_path: Path, load):
    rows = {"train": [flagged(TRAIN[0]), *TRAIN[1:]], "test": TEST}
    write_dataset(tmp_path / "dataset", rows, RESPONSES, manifest())
    whole, clean = load(tmp_path / "dataset"), load(tmp_path / "dataset", "decontaminated")
    assert set(whole["train"]["id"]) == {row.id for row in TRAIN} and len(whole["train"]) == 3
    assert set(clean["train"]["id"]) == {row.id for row in TRAIN[1:]} and len(clean["train"]) == 2
    assert clean["test"]["id"] == whole["test"]["id"] == [TEST[0].id]
    [row] = [row for row in whole["train"] if row["benchmark_overlap"]]
    assert (row["id"], row["overlap_benchmarks"], row["overlap_kinds"]) == (
        TRAIN[0].id, ["aime"], ["lineage", "template"],
    )  # fmt: skip
    assert clean["train"].features == whole["train"].features
    contents = read_manifest(tmp_path / "dataset").contents
    assert contents is not None and [row.decontaminated for row in contents.splits] == [2, 1]


def test_a_split_of_flagged_rows_only_is_not_in_the_config_decontaminated(tmp_path: Path, load):
    rows = {"train": TRAIN, "test": [flagged(TEST[0])]}
    write_dataset(tmp_path / "dataset", rows, RESPONSES, manifest())
    assert list(load(tmp_path / "dataset", "decontaminated")) == ["train"]
    assert list(load(tmp_path / "dataset")) == ["train", "test"]
    every = {split: [flagged(row) for row in found] for split, found in EXAMPLES.items()}
    write_dataset(tmp_path / "all", every, RESPONSES, manifest())
    names = [
        config["config_name"] for config in front_matter((tmp_path / "all/README.md").read_text())["configs"]
    ]
    assert names == ["default", "responses"]


def test_a_rebuilt_dataset_is_not_loaded_from_the_cache_of_the_older_one(tmp_path: Path, load):
    write_dataset(tmp_path / "dataset", EXAMPLES, RESPONSES, manifest())
    assert len(load(tmp_path / "dataset")["train"]) == 3
    kept = EXAMPLES["train"][:1]
    responses = {"train": [row for row in RESPONSES["train"] if row.problem_id == kept[0].id]}
    write_dataset(tmp_path / "dataset", {"train": kept}, responses, replace(manifest(), fingerprint="f" * 64))
    assert len(load(tmp_path / "dataset")["train"]) == 1


def test_a_dataset_of_curated_rows_only_and_without_test_split_loads_with_the_same_types(
    tmp_path: Path, load
):
    write_dataset(tmp_path / "full", EXAMPLES, RESPONSES, manifest())
    write_dataset(
        tmp_path / "small", {"train": TEST, "test": []}, {"train": RESPONSES["test"], "test": []}, manifest()
    )
    full, small = load(tmp_path / "full"), load(tmp_path / "small")
    assert list(small) == ["train"]
    assert small["train"].features == full["train"].features


def test_bytes_depend_on_the_rows_and_not_on_their_order(tmp_path: Path):
    write_dataset(tmp_path / "one", EXAMPLES, RESPONSES, manifest())
    turned = {split: rows[::-1] for split, rows in EXAMPLES.items()}
    write_dataset(
        tmp_path / "two", turned, {split: rows[::-1] for split, rows in RESPONSES.items()}, manifest()
    )
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert set(digests(tmp_path / "one")) == {
        "README.md",
        "manifest.json",
        "data/train-00000-of-00001.parquet",
        "data/test-00000-of-00001.parquet",
        "responses/train-00000-of-00001.parquet",
        "responses/test-00000-of-00001.parquet",
    }


def test_timings_change_the_manifest_and_nothing_else(tmp_path: Path):
    write_dataset(tmp_path / "one", EXAMPLES, RESPONSES, manifest(timings={"sample": 1.0}))
    write_dataset(tmp_path / "two", EXAMPLES, RESPONSES, manifest(timings={"sample": 99.0}))
    leave_out = (MANIFEST,)
    assert digests(tmp_path / "one", leave_out) == digests(tmp_path / "two", leave_out)
    first, second = read_manifest(tmp_path / "one"), read_manifest(tmp_path / "two")
    assert first != second and replace(first, timings={}) == replace(second, timings={})


def test_long_splits_are_split_into_files_that_load_as_one(
    tmp_path: Path, load, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dataset, "ROWS_PER_FILE", 4)
    write_dataset(tmp_path / "dataset", EXAMPLES, RESPONSES, manifest())
    names = sorted(path.name for path in (tmp_path / "dataset" / "responses").iterdir())
    assert names == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert len(load(tmp_path / "dataset", "responses")["train"]) == 6


def test_a_failed_export_leaves_the_old_dataset_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_dataset(tmp_path / "dataset", EXAMPLES, RESPONSES, manifest())
    before = digests(tmp_path / "dataset")

    def fail(path: Path, row_type: type, rows: object) -> None:
        if row_type is Response:
            raise OSError("broken disk")

    monkeypatch.setattr(dataset, "write_rows", fail)
    with pytest.raises(OSError, match="broken disk"):
        write_dataset(tmp_path / "dataset", {"train": TRAIN}, {"train": RESPONSES["train"]}, manifest())
    assert digests(tmp_path / "dataset") == before
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_an_older_dataset_is_replaced_as_a_whole(tmp_path: Path):
    write_dataset(tmp_path / "dataset", EXAMPLES, RESPONSES, manifest())
    write_dataset(tmp_path / "dataset", {"train": TRAIN}, {"train": RESPONSES["train"]}, manifest())
    assert not list((tmp_path / "dataset").rglob("test-*"))


@pytest.mark.parametrize(
    ("examples", "responses", "message"),
    [
        (
            {"train": TRAIN, "test": [*TEST, TRAIN[0]]},
            RESPONSES,
            "exported twice: in split train and in split test",
        ),
        ({"train": [replace(TRAIN[0], role=Role.SEED)]}, {}, "seeds are never exported"),
        ({"train": TRAIN}, {"train": RESPONSES["train"] + RESPONSES["test"]}, "not in that split"),
        ({"train": TRAIN}, RESPONSES, "split test has 2 responses but no problems"),
        ({"train": TRAIN}, {"train": RESPONSES["train"][:-2]}, "0003 in split train has no responses"),
        (
            {"train": TRAIN},
            {"train": [*RESPONSES["train"], RESPONSES["train"][0]]},
            "response 0 of problem .* twice",
        ),
    ],
)
def test_inconsistent_tables_are_refused(tmp_path: Path, examples, responses, message: str):
    with pytest.raises(ValueError, match=message):
        write_dataset(tmp_path / "dataset", examples, responses, manifest())
    assert not list(tmp_path.iterdir())


def test_nothing_to_export_is_a_user_error(tmp_path: Path):
    with pytest.raises(UserError, match=r"nothing to export .* the funnel"):
        write_dataset(tmp_path / "dataset", {"train": []}, {}, manifest())


def test_contents_are_counted_from_the_rows():
    contents = describe(EXAMPLES, RESPONSES)
    assert [(row.split, row.problems, row.decontaminated, row.responses) for row in contents.splits] == [
        ("train", 3, 3, 6),
        ("test", 1, 1, 2),
    ]
    assert [(row.tier, dict(row.problems), row.mean_weight) for row in contents.tiers] == [
        ("easy", {"train": 2, "test": 1}, 0.75),
        ("hard", {"train": 1, "test": 0}, 0.5),
    ]
    assert [(row.role, row.problems) for row in contents.sources] == [("curated", 2), ("evolved", 2)]
    assert contents.strategies == {"harder": 2, "none": 2}
    assert (contents.with_answer, contents.judged, contents.responses, contents.valid_responses) == (
        2,
        2,
        8,
        4,
    )


def test_shares_of_the_strategies_are_counted_by_round_and_tier():
    rows = [
        (1, "hard", "harder"), (1, "hard", "competition"), (1, "hard", "rewrite"), (2, "hard", "compose"), (1, "easy", "apply"),
    ]  # fmt: skip
    easy, hard, second = strategy_counts(rows)
    assert (easy.round, easy.tier, easy.total, easy.harder_and_competition) == (1, "easy", 1, 0.0)
    assert (hard.round, hard.tier, hard.total, hard.harder_and_competition) == (1, "hard", 3, 0.6667)
    assert hard.problems == {
        "harder": 1, "rewrite": 1, "algebraize": 0, "apply": 0, "compose": 0, "competition": 1,
    }  # fmt: skip
    assert hard.shares["harder"] == 0.3333 and easy.shares["apply"] == 1.0
    assert (second.round, second.shares["compose"]) == (2, 1.0)
    exported = describe(EXAMPLES, RESPONSES).evolution  # two evolved rows, by harder in round 1
    assert [(row.round, row.tier, row.total, row.harder_and_competition) for row in exported] == [
        (1, "easy", 1, 1.0),
        (1, "hard", 1, 1.0),
    ]
    text = render_card(manifest(evolution=(easy, hard, second), contents=describe(EXAMPLES, RESPONSES)))
    assert "| 1 | hard | 3 | 0.667 | 0.333 | 0.333 | 0.000 | 0.000 | 0.000 | 0.333 |" in text


def test_finish_reasons_and_judge_calls_are_counted_over_all_problems():
    judged = example(1, judge_calls=4, order_flips=1, transitivity_violations=2, weight=0.25)
    rows = [judged, example(2)]
    first, second = samples(judged)
    cut = replace(second, finish_reason="length")
    contents = describe({"train": rows}, {"train": [first, cut, *samples(rows[1])]})
    assert contents.equivalence == JudgeCount(problems=1, calls=4, order_flips=1, transitivity_violations=2)
    assert contents.finishes == (
        FinishCount(reason="length", responses=1, mean_weight=0.25),
        FinishCount(reason="stop", responses=3, mean_weight=(0.25 + 2 * 0.75) / 3),
    )
    card = render_card(replace(manifest(), contents=contents))
    assert "| length | 1 | 0.250 |" in card and "4 calls, 1 pair decided differently when swapped" in card


def test_a_stage_whose_counts_do_not_add_up_is_refused():
    with pytest.raises(ValueError, match=r"stage judge: 10 in, but 6 kept \+ 3 rejected"):
        StageCount(stage="judge", rows_in=10, kept=6, rejected={"truncated": 3})


def test_a_manifest_survives_the_round_trip_and_its_numbers_are_plain_json():
    made = replace(manifest(), contents=describe(EXAMPLES, RESPONSES))
    assert Manifest.from_json(made.to_json()) == made
    assert json.loads(made.to_json())["stages"][0]["rejected"] == {"not_multi_step": 560, "truncated": 7}


def test_a_folder_without_a_manifest_is_not_a_dataset(tmp_path: Path):
    with pytest.raises(UserError, match="is not an exported dataset"):
        read_manifest(tmp_path)


def card(**changes: object) -> str:
    return render_card(replace(manifest(**changes), contents=describe(EXAMPLES, RESPONSES)))


def front_matter(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_shows_the_funnel_the_splits_and_the_licences():
    text = card()
    assert "| judge | 1,234,567 | 1,234,000 | 567 | not multi step 560, truncated 7 |" in text
    assert "| train | 3 | 3 | 6 |" in text and "| test | 1 | 1 | 2 |" in text
    assert "| pocket | cc-by-4.0 | curated | 2 |" in text
    assert "| hard | 1 | 0 | 0.500 | 0.250 |" in text
    assert "readable answer was found in 4 of 8 responses" in text
    assert "12.5" not in text  # timings are not on the card
    assert front_matter(text)["configs"][0]["data_files"][1] == {
        "split": "test",
        "path": "data/test-*.parquet",
    }


def test_the_card_explains_exactly_the_columns():
    meanings = yaml.safe_load((cards.CARDS / "columns.yaml").read_text(encoding="utf-8"))
    assert list(meanings["examples"]) == [field.name for field in fields(Example)]
    assert list(meanings["responses"]) == [field.name for field in fields(Response)]
    assert "| `cluster_probs` | list of double | p(c) of each cluster |" in card()


def test_every_number_in_the_tables_follows_the_manifest():
    other = card(teacher=replace(manifest().teacher, num_samples=64, max_tokens=38912, temperature=0.3))
    assert "N = 64 times (temperature 0.3, top-p 0.95, at most 38,912 tokens)" in other
    settings = {**load_config("pocket").identity(), "dedup": {"threshold": 0.42, "ngram": 5, "seed": 1}}
    assert "word 5-grams, Jaccard similarity 0.42" in card(settings=settings)


def test_the_card_describes_the_comparison_with_benchmarks():
    assert "not compared with any benchmark" in card()
    found = BenchmarkCount(benchmark="aime", problems=30, flagged=1200, kinds={"lineage": 1200, "ngram": 2})
    none = BenchmarkCount(benchmark="amc|23", problems=40, flagged=0)
    settings = load_config("pocket", {"decontam.checks": ["jaccard"], "decontam.threshold": 0.42}).identity()
    text = card(benchmarks=(found, none), settings=settings)
    assert "| aime | 30 | 1,200 | lineage 1,200, ngram 2 |" in text and "| amc\\|23 | 40 | 0 |  |" in text
    assert "similarity of word 3-grams is 0.42 or more" in text
    assert "- `ngram`: not checked" in text and "- `template`: not checked" in text
    rows = {"train": [flagged(TRAIN[0]), *TRAIN[1:]]}
    made = manifest(benchmarks=(found, none), settings=settings)
    text = render_card(replace(made, contents=describe(rows, {"train": []})))
    assert "Flagged: 1 of 3 problems" in text and "contains the other 2." in text


def test_the_card_of_a_dataset_that_an_earlier_version_compared_lists_the_settings_of_its_manifest():
    earlier = {
        "checks": ["ngram", "jaccard"],
        "gram_words": 13,
        "gram_share": 0.9,
        "common_grams": 2,
        "ngram": 3,
    }
    settings = {**load_config("pocket").identity(), "decontam": {**earlier, "benchmarks": []}}
    text = card(benchmarks=(BenchmarkCount(benchmark="aime", problems=30, flagged=2),), settings=settings)
    assert (
        "(ngram and jaccard), with `gram_words` 13, `gram_share` 0.9, `common_grams` 2, `ngram` 3\n" in text
    )
    assert "bits of information" not in text and "`: not checked" not in text and "| aime | 30 | 2 |" in text


def test_markup_in_a_licence_or_a_model_name_is_escaped(tmp_path: Path):
    poison = (
        "<script>alert(1)</script> | [x](javascript:y) `a` **b** $c$ & ![i](u)\n---\nlicense: evil \ud800\x00"
    )
    rows = [replace(row, licence=poison, source=poison) for row in TRAIN]
    made = manifest(
        name=poison, licence=poison, models={"teacher": poison}, profile=poison, fingerprint="`" + poison
    )
    text = render_card(replace(made, contents=describe({"train": rows}, {"train": []})))
    body = text.split("---\n", 2)[2]
    assert (
        "<script" not in body
        and "[x](" not in body
        and " `a`" not in body
        and " **b**" not in body
        and "&amp;" in body
    )
    table = next(line for line in body.splitlines() if "alert" in line and line.endswith("evolved | 2 |"))
    assert len([place for place, mark in enumerate(table) if mark == "|" and table[place - 1] != "\\"]) == 5
    assert front_matter(text)["license"] == "other"
    text.encode("utf-8")


def test_a_long_value_is_truncated_on_the_card():
    text = card(models={"teacher": "x" * 1_000_000})
    assert len(text) < 30_000 and "x" * cards.MAX_CELL + " ..." in text


def test_the_card_renders_as_markdown_with_complete_tables():
    from markdown_it import MarkdownIt

    evolution = strategy_counts([(1, "easy", "apply")])
    text = card(benchmarks=(BenchmarkCount(benchmark="aime", problems=30, flagged=0),), evolution=evolution)
    html = MarkdownIt("commonmark").enable("table").render(text.split("---\n", 2)[2])
    assert html.count("<table>") == html.count("</table>") == 13
    assert "|---" not in html and "{{" not in html and "{%" not in html
