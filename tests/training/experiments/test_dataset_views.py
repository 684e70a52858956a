"""The distribution of semantic entropy in a dataset, and its examples."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest

from tasks.rows import Tier
from tests.training.small_run import example, write_small_dataset
from training.experiments import dataset_views
from training.experiments.dataset_views import (
    BINS,
    bins_by_tier,
    entropy_csv,
    entropy_table,
    examples,
    read_annotated,
)

FENCE = "What is ```1 + 1```?\n## not a heading\N{RIGHT-TO-LEFT OVERRIDE}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sure = {"cluster_answers": ("7",), "cluster_probs": (1.0,), "cluster_labels": (0, 0, 0, 0), "weight": 1.0}
    rows = [
        example(1, semantic_entropy=0.0, **sure),
        example(2, semantic_entropy=math.log(4), weight=0.0, tier=Tier.HARD, problem=FENCE),
        example(3, semantic_entropy=0.5, weight=0.6, tier=Tier.HARD),
        example(4, semantic_entropy=0.0, **sure),
    ]
    return write_small_dataset(tmp_path_factory.mktemp("views") / "dataset", rows)


def test_numbers_by_tier(folder: Path) -> None:
    text = entropy_table(read_annotated(folder, "train"))
    hard = (0.5 + math.log(4)) / 2
    assert "| easy | 2 | 0.000 | 0.000 | 100.0% | 1.000 |" in text
    assert f"| hard | 2 | {hard:.3f} | {hard:.3f} | 0.0% | 0.300 |" in text
    assert f"| all | 4 | {hard / 2:.3f} | 0.250 | 50.0% | 0.650 |" in text


def test_every_row_is_in_one_bin(folder: Path) -> None:
    rows = read_annotated(folder, "train")
    edges, counts = bins_by_tier(rows)
    assert edges[-1] == pytest.approx(math.log(4)) and len(edges) == BINS + 1
    assert [int(one.sum()) for one in counts.values()] == [2, 2]
    assert (counts["easy"][0], counts["hard"][-1], counts["hard"][int(0.5 / math.log(4) * BINS)]) == (2, 1, 1)
    table = list(csv.DictReader(io.StringIO(entropy_csv(rows))))
    assert len(table) == BINS and sum(int(row["easy"]) + int(row["hard"]) for row in table) == 4


def test_examples_show_texts_as_data(folder: Path) -> None:
    text = examples(read_annotated(folder, "train"), 1)
    assert (
        text.index("lowest") < text.index("Lena has 1 apples") < text.index("highest") < text.index("What is")
    )
    assert "````text\nWhat is ```1 + 1```?\n## not a heading<U+202E>" in text
    assert "  0.500  1\n  0.500  6\n" in text, "the clusters of the uncertain problem"


def test_the_command_writes_all_views(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dataset_views.main([str(folder), "--output", str(tmp_path / "out")]) == 0
    names = {"entropy.md", "entropy.csv", "entropy.svg", "entropy.png", "examples.md"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert "| all | 4 |" in capsys.readouterr().out


def test_a_folder_without_a_dataset_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dataset_views.main([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
