"""Labels and solutions of training rows: which source they come from, what lacks one, and what the check reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pocket import world
from tests.training.small_run import example, response, write_small_dataset
from training.config import DatasetSettings
from training.data.references import (
    LeftOut,
    Reference,
    References,
    make_references,
    read_references,
    reference_problems,
)
from training.data.responses import TeacherResponse
from training.data.rows import TrainingRow, read_dataset

NO_MAJORITY = "no solution, and no finished response of the teacher in its majority cluster"
NO_CORRECT = "no solution, and no finished response of the teacher that has the known answer"


def row(number: int = 1, **changes: Any) -> TrainingRow:
    values: dict[str, Any] = {
        "id": f"r{number}", "text": "What is 1 + 1?", "tier": None, "answer": None, "majority_answer": "2",
        "semantic_entropy": 0.5, "weight": 0.5, "pass_rate": 0.5, "cluster_labels": (0, 1, 1, -1),
    }  # fmt: skip
    return TrainingRow(**(values | changes))


def sample(index: int, answer: str | None, number: int = 1, **changes: Any) -> TeacherResponse:
    values: dict[str, Any] = {
        "row_id": f"r{number}", "index": index, "text": f"Sample {index}: {answer}", "finish_reason": "stop", "answer": answer,
    }  # fmt: skip
    return TeacherResponse(**(values | changes))


SAMPLES = (sample(0, "3"), sample(1, "2"), sample(2, "2.0"), sample(3, None))


def settings(**changes: Any) -> DatasetSettings:
    return DatasetSettings(folder=Path("d"), **changes)


def made(one: TrainingRow, samples: Sequence[TeacherResponse] = SAMPLES, **changes: Any) -> Reference:
    (found,) = make_references([one], settings(**changes), samples, lambda _: "7").rows
    return found


# --- labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "labels", "label", "source"),
    [
        ("5", "gold", "5", "gold"),
        ("5", "teacher_majority", "5", "gold"),
        ("5", "oracle", "5", "gold"),
        (None, "gold", None, None),
        (None, "teacher_majority", "2", "teacher_majority"),
        (" ", "teacher_majority", "2", "teacher_majority"),
        (None, "oracle", "7", "oracle"),
    ],
)
def test_the_label_is_the_ground_truth_or_what_the_setting_names(
    answer: str | None, labels: str, label: str | None, source: str | None
) -> None:
    found = made(row(answer=answer), labels=labels)
    assert (found.label, found.label_source) == (label, source)
    assert ("label" in found.lacking) is (label is None)


def test_an_answer_that_no_prompt_can_show_is_no_label() -> None:
    found = made(row(answer="1" * 4001))
    assert found.lacking["label"] == "an answer that is a sentence or too long to be compared"
    assert made(row(answer="1" * 4000)).label == "1" * 4000


def test_a_whole_solution_is_no_label() -> None:
    text = "Natalia sold 48/2 = 24 clips in May and 48+24 = 72 clips altogether in April and May."
    found = made(row(answer=text))
    assert found.label is None and "a sentence" in found.lacking["label"]
    assert found.solution is None  # no response has it as its answer, so that none is known to be right


def test_the_oracle_solves_pocket_problems_only(tmp_path: Path) -> None:
    drawn = world.problem(3, "medium", 5)
    known = {"problem": drawn.text, "source_id": "3/medium/5"}
    rows = [
        example(1, **known),
        example(2, **known, source="someone else"),
        example(3, source_id="3/medium/5", problem="Is every even number above 2 a sum of two primes?"),
        example(4, **known, answer="123"),
    ]
    folder = write_small_dataset(tmp_path / "dataset", rows)
    chosen = DatasetSettings(folder=folder, labels="oracle")
    found = read_references(read_dataset(chosen), chosen, {"label"}).rows
    assert [one.label for one in found] == [drawn.answer, None, None, "123"]
    assert [one.label_source for one in found] == ["oracle", None, None, "gold"]


# --- solutions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_the_solution_is_the_first_response_of_the_majority_in_any_order(order: tuple[int, ...]) -> None:
    found = made(row(), [SAMPLES[index] for index in order])
    assert (found.solution, found.solution_source) == ("Sample 1: 2", "majority_sample")


def test_a_known_answer_decides_which_response_is_right() -> None:
    gold = make_references([row(answer="3.0")], settings(), SAMPLES).rows
    solved = make_references([row()], settings(labels="oracle"), SAMPLES, lambda _: "3").rows
    for (found,) in (gold, solved):
        assert (found.solution, found.solution_source) == ("Sample 0: 3", "correct_sample")
    nobody = made(row(answer="4"))
    assert (nobody.solution, nobody.lacking) == (None, {"solution": NO_CORRECT})


def test_a_solution_of_the_dataset_comes_first() -> None:
    for solutions in ("gold", "majority_sample"):
        found = made(row(solution="Count. \\boxed{2}"), solutions=solutions)
        assert (found.solution, found.solution_source) == ("Count. \\boxed{2}", "gold")
    assert made(row(), solutions="gold").lacking == {"solution": "no solution"}
    long = row(solution="x" * 8001)
    assert made(long).solution == "Sample 1: 2"
    assert made(long, solutions="gold").lacking == {"solution": "a solution of more than 8,000 characters"}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"finish_reason": "length"}, {}, "Sample 2: 2.0"),
        ({"text": "x" * 8001}, {}, "Sample 2: 2.0"),
        ({"text": "<think>\nhm\n</think>\n\nTwo. "}, {}, "Two."),
        ({"text": "<think>hm</think>  "}, {}, "Sample 2: 2.0"),
        ({"text": "<think>" + "x" * 9000 + "</think>Two."}, {}, "Two."),
        ({"finish_reason": "length"}, {"finish_reason": "length"}, None),
        ({"row_id": "r9"}, {"row_id": "r9"}, None),
    ],
)
def test_a_response_must_be_finished_and_fit_into_a_prompt(
    first: dict[str, Any], second: dict[str, Any], expected: str | None
) -> None:
    samples = (SAMPLES[0], sample(1, "2", **first), sample(2, "2.0", **second), SAMPLES[3])
    found = made(row(), samples)
    assert found.solution == expected
    assert found.lacking == ({} if expected else {"solution": NO_MAJORITY})


def test_a_majority_without_an_answer_gives_nothing() -> None:
    unparsed = row(majority_answer=None)
    assert made(unparsed).lacking == {
        "label": "neither a ground truth nor a majority answer",
        "solution": NO_MAJORITY,
    }
    assert made(row(cluster_labels=())).lacking == {"solution": NO_MAJORITY}


def test_the_responses_of_an_export_are_read(tmp_path: Path) -> None:
    rows = [example(1), example(2, answer="9"), example(3)]
    responses = [
        response(one, index, "9" if index == 3 else str(10 * place + index))
        for place, one in enumerate(rows)
        for index in range(4)
    ]
    folder = write_small_dataset(tmp_path / "dataset", rows, responses=responses)
    chosen = DatasetSettings(folder=folder)
    data = read_dataset(chosen)
    found = read_references(data, chosen, {"solution"})
    assert [one.solution for one in found.rows] == [f"So \\boxed{{{text}}}" for text in ("1", "9", "21")]
    assert found.sources("solution") == {"majority_sample": 2, "correct_sample": 1}
    assert found.sources("label") == {"teacher_majority": 2, "gold": 1}
    (only_labels,) = {one.solution for one in read_references(data, chosen, {"label"}).rows}
    assert only_labels is None


def test_rows_of_other_people_have_what_their_columns_give(tmp_path: Path) -> None:
    records = {
        "id": [1, 2], "problem": ["What is 1 + 1?", "What is 2 + 2?"], "answer": ["2", None], "solution": [None, "It is 4."],
        "source": [{"page": 1}, {"page": 2}], "source_id": [7, 8],
    }  # fmt: skip
    pq.write_table(pa.table(records), tmp_path / "train.parquet")
    chosen = DatasetSettings(folder=tmp_path)
    data = read_dataset(chosen)
    found = read_references(data, chosen, {"label", "solution"})
    assert [(one.label, one.solution) for one in found.rows] == [("2", None), (None, "It is 4.")]
    problems = reference_problems(data.rows, found, {"label", "solution"}, "refuse")
    assert problems == [
        "row 2 has no label to train on: it has neither a ground truth nor a majority answer: add a column answer, or set"
        " dataset.without to leave_out",
        f"row 1 has no solution to train on: it has {NO_CORRECT}: add a column solution, or set dataset.without to leave_out",
    ]


# --- checks ------------------------------------------------------------------------------------------------------


def three() -> tuple[list[TrainingRow], References]:
    rows = [row(1, answer="5"), row(2), row(3, solution="See.")]
    return rows, make_references(rows, settings(labels="gold", solutions="gold"))


def test_rows_that_lack_what_is_needed_are_named_and_counted() -> None:
    rows, references = three()
    (label,) = reference_problems(rows, references, {"label"}, "refuse")
    assert label == (
        "row r2 has no label to train on: it has no ground truth (and 1 more row of 3 without one): set dataset.labels to"
        " teacher_majority, or set dataset.without to leave_out"
    )
    both = reference_problems(rows, references, {"label", "solution"}, "refuse")
    assert [one.split(" to train on")[0] for one in both] == ["row r2 has no label", "row r1 has no solution"]
    assert reference_problems(rows, references, set(), "refuse") == []
    assert reference_problems(rows[:1], references.select([0]), {"label"}, "refuse") == []


def test_rows_that_are_left_out_are_counted_by_their_first_reason() -> None:
    rows, references = three()
    assert references.left_out({"solution"}) == LeftOut(
        indices=(0, 1), reasons={"without a solution: no solution": 2}
    )
    all_gone = references.left_out({"label", "solution"})
    assert all_gone == LeftOut(
        indices=(0, 1, 2),
        reasons={"without a solution: no solution": 1, "without a label: no ground truth": 2},
    )
    assert references.left_out(set()) == LeftOut(indices=(), reasons={})
    assert reference_problems(rows, references, {"solution"}, "leave_out") == []
    (nothing,) = reference_problems(rows, references, {"label", "solution"}, "leave_out")
    assert nothing.startswith("no row has the label and the solution that the run needs: without a solution")
    assert nothing.endswith(
        "set dataset.labels to teacher_majority and set dataset.solutions to majority_sample"
    )
    assert references.select([2]).rows[0].solution == "See."


def test_the_digest_depends_on_what_is_needed_and_on_nothing_else() -> None:
    _, references = three()
    other = make_references([row(1, answer="5"), row(2), row(3, solution="Look.")], settings(labels="gold"))
    assert references.digest({"label"}) == other.digest({"label"})
    assert references.digest({"solution"}) != other.digest({"solution"})
    assert references.digest({"label"}) != references.digest({"solution"})
    assert references.digest({"label", "solution"}) == references.digest(["solution", "label"])
