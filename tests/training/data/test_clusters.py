"""The clusters of the teacher's answers, as the dataset has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from tests.training.small_run import example, rewrite, set_values, write_small_dataset
from training.config import DatasetSettings
from training.data.clusters import Clusters, clusters_digest, read_clusters
from training.data.rows import read_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        example(1),
        example(
            2, cluster_answers=("7", None, "8"), cluster_probs=(0.5, 0.25, 0.25), cluster_labels=(0, 0, 1, 2)
        ),
    ]
    return write_small_dataset(tmp_path / "dataset", rows)


def read(folder: Path) -> tuple[Clusters, ...]:
    settings = DatasetSettings(folder=folder)
    return read_clusters(read_dataset(settings).rows, settings)


def test_clusters_without_an_answer_are_left_out(folder: Path) -> None:
    first, second = read(folder)
    assert first == Clusters(answers=("1", "4"), probs=(0.5, 0.5))
    assert second == Clusters(answers=("7", "8"), probs=(0.5, 0.25))
    assert len({clusters_digest(one) for one in ([first, second], [second, first], [first])}) == 3


@pytest.mark.parametrize(
    "values",
    [
        {"cluster_answers": ["1"]},
        {"cluster_probs": [0.5, 1.5]},
        {"cluster_probs": [], "cluster_answers": []},
        {"cluster_probs": None},
    ],
)
def test_values_that_are_no_clusters_are_refused_by_row(folder: Path, values: dict[str, Any]) -> None:
    set_values(folder, 0, values)
    with pytest.raises(
        UserError, match=f"row {1:032x} has cluster_answers and cluster_probs that are not one"
    ):
        read(folder)


def test_a_dataset_without_the_columns_is_refused(folder: Path) -> None:
    rewrite(folder, lambda table: table.drop_columns(["cluster_probs"]))
    with pytest.raises(
        UserError, match=r"has no column 'cluster_probs', which algorithm\.rollout_weight answer_share"
    ):
        read(folder)
