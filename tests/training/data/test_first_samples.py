"""`dataset.samples`: entropies and weights of the teacher's first responses."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.errors import UserError
from tests.training.small_run import example, write_small_dataset
from training.config import DatasetSettings, run_from
from training.data.rows import read_dataset
from training.plan import resolve


def dataset(folder: Path) -> Path:
    rows = [
        example(number, sizes=(2, 4), entropy_by_size=(0.1 * number, 0.7), weight_by_size=(0.9, 0.1 * number))
        for number in (1, 2)
    ]
    return write_small_dataset(folder / "dataset", rows)


def test_entropy_and_weight_are_those_of_the_first_responses(tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    found = {
        samples: [
            value for row in read_dataset(settings).rows for value in (row.semantic_entropy, row.weight)
        ]
        for samples in (None, 2, 4)
        for settings in [DatasetSettings(folder=folder, samples=samples)]
    }
    assert found[2] == pytest.approx([0.1, 0.9, 0.2, 0.9])
    assert found[4] == pytest.approx([0.7, 0.1, 0.7, 0.2])
    assert found[None] == pytest.approx([0.6931471805599453, 0.5] * 2)


def test_a_number_that_was_not_annotated_is_refused(tmp_path: Path) -> None:
    sentence = r"no entropy of the first 16 responses \(dataset\.samples\): choose among 2, 4"
    with pytest.raises(UserError, match=sentence):
        read_dataset(DatasetSettings(folder=dataset(tmp_path), samples=16))


def test_a_source_has_no_responses() -> None:
    with pytest.raises(ValidationError, match="samples chooses among the teacher's responses"):
        DatasetSettings.model_validate({"source": {"hub_id": "a/b"}, "samples": 2})


def test_only_a_chosen_number_changes_the_identity_of_a_run() -> None:
    def identity(**dataset: object) -> dict[str, object]:
        run = run_from(
            {
                "output": "out", "dataset": {"folder": "data", **dataset}, "student": {"model": "pocket/student"},
                "teacher": {"model": "pocket/teacher"},
            },
            "the test",
        )  # fmt: skip
        return resolve(run).identity()["dataset"]

    assert "samples" not in identity() and identity(samples=4)["samples"] == 4
