"""Benchmark problems that training rows descend from or overlap with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.benchmarks.base import Item
from tasks.errors import UserError
from tasks.rows import Example, problem_id
from tasks.storage.dataset import write_dataset
from tests.storage.test_dataset import example, manifest, samples
from training.evaluation.contamination import contamination, training_of

CONTEST = (
    "Nora rolls a fair die until the sum of all rolls is at least 11. The probability that she rolls exactly 4 times is p. "
    "Find the closest integer to 1000p."
)
CONE = (
    "A cone of height 12 and base radius 5 holds the largest sphere that fits. A second sphere touches the first one and the "
    "side of the cone. What is the ratio of both volumes?"
)
ITEMS = (
    Item(id="aime_2025/1", text=CONTEST, answer="1"),
    Item(id="aime_2025/2", text=CONE, answer="2"),
    Item(id="aime_2025/3", text="What is left of 91 walnuts that seven friends share?", answer="0"),
)


def dataset(folder: Path) -> Path:
    root = problem_id(source="matharena", origin="aime_2025/1", strategy="", text=CONTEST)
    rows = [
        example(0, source="matharena", source_id="aime_2025/1", root_id=root, benchmark_root=True, benchmark_overlap=True,
                overlap_benchmarks=("aime2025",)),
        example(2, problem=CONE.replace("second", "third")),
        example(4, problem="How many cats sleep on the roof if nine of the fourteen go for a walk?"),
    ]  # fmt: skip
    examples: dict[str, list[Example]] = {"train": rows}
    write_dataset(folder, examples, {"train": [one for row in rows for one in samples(row)]}, manifest())
    return folder


def test_descendants_and_overlaps_are_counted_apart(tmp_path: Path) -> None:
    training = training_of(None, dataset(tmp_path / "dataset"))
    assert training is not None and len(training.rows) == 3
    found = contamination("aime2025", ITEMS, training)
    assert (found.descends, found.overlaps, found.flagged) == ({0}, {1}, 1)
    assert found.problems == {0, 1}


@pytest.mark.parametrize(("config", "problems"), [("default", {0, 1}), ("decontaminated", {1})])
def test_the_dataset_of_a_student_is_found_by_itself(tmp_path: Path, config: str, problems: set[int]) -> None:
    student = tmp_path / "run" / "student"
    (student / "adapter").mkdir(parents=True)
    settings = {"dataset": {"folder": str(dataset(tmp_path / "dataset")), "config": config}}
    (tmp_path / "run" / "RUN.json").write_text(json.dumps(settings), encoding="utf-8")
    for folder in (student, student / "adapter"):
        training = training_of(folder, None)
        assert training is not None
        assert contamination("aime2025", ITEMS, training).problems == problems


def test_what_is_not_known_is_none_and_a_wrong_folder_is_named(tmp_path: Path) -> None:
    assert training_of(None, None) is None and training_of(tmp_path / "model", None) is None
    with pytest.raises(UserError, match="nowhere"):
        training_of(None, tmp_path / "nowhere")
