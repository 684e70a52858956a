"""docs/results.md is what the stored cells give, and the command writes the views of an experiment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.config import PROJECT_ROOT
from tests.training.experiments.hand_made import experiment, results
from tests.training.experiments.test_figures import GRADES
from training.experiments import tables
from training.experiments.grid import load_experiment
from training.experiments.stored import read_cells, write_cell
from training.experiments.tables import CELLS, FIGURE_FOLDER, PAGE, page, write_page, write_views


def test_the_page_is_generated_from_the_stored_cells() -> None:
    stored = read_cells(CELLS)
    if not stored:
        assert not PAGE.exists(), "docs/results.md shows cells that are not in results/cells"
        return
    text = page(stored)
    assert PAGE.read_text(encoding="utf-8") == text, "run python -m training.experiments.tables --page"
    figures = {path.name for path in (PAGE.parent / FIGURE_FOLDER).glob("*.svg")}
    assert figures == {name for name in figures if f"({FIGURE_FOLDER}/{name})" in text}
    assert text.count(f"]({FIGURE_FOLDER}/") == len(figures)


def test_the_page_shows_the_experiments_of_which_half_of_the_rows_have_a_cell(tmp_path: Path) -> None:
    made = load_experiment(PROJECT_ROOT / "configs/experiments/pocket/uopd-main.yaml")
    assert len(made.rows) == 7
    evaluation = {"problems": 6, "problems_digest": "9f", "samples": 8, "temperature": 1.0, "top_p": 1.0}
    grades = [("001100", "345678")]
    found = results(made, dict.fromkeys(("UOPD", "OPD", "GRPO", "Teacher"), grades), evaluation=evaluation)
    files = write_page(found, tmp_path / "docs" / "results.md")
    text = files[0].read_text(encoding="utf-8")
    assert "python -m training.experiments.tables --page" in text
    assert "make experiment NAME=pocket/uopd-main" in text and "uopd-main-curves.svg" in text
    shared, missing = text.split("## Not measured yet")
    assert "## uopd-cost" in shared, "an experiment that shares the cells"
    assert "## eopd-main" not in text and "\n- eopd-main: " in missing
    assert "\n- uopd-samples: Responses per problem (rows with a cell: 1 of 3)\n" in missing
    (folder / "old.svg").write_text("") if (folder := files[1].parent).is_dir() else None
    write_page(found, files[0])
    assert {path.name for path in folder.iterdir()} == {path.name for path in files[1:]}


def test_the_views_of_an_experiment_are_files(tmp_path: Path) -> None:
    made = experiment(tmp_path, views=["table", "metrics", "curves", "entropy_curves"])
    found = results(made, GRADES)
    files = write_views(made, found, tmp_path / "out", tmp_path / "cells")
    names = ["table.md", "table.csv", "table.tex", "metrics.md", "metrics.csv", "curves.svg", "curves.png"]
    assert [file.name for file in files] == names
    assert "](../cells/" in files[0].read_text(encoding="utf-8")


def test_the_command_reads_cells_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = experiment(tmp_path, views=["table"])
    for result in results(made, GRADES).values():
        write_cell(tmp_path / "cells", result)
    given = [
        str(tmp_path / "experiment.yaml"),
        "--cells",
        str(tmp_path / "cells"),
        "--output",
        str(tmp_path / "out"),
    ]
    assert tables.main(given) == 0
    assert "experiment/table.tex" in capsys.readouterr().out
    assert (tmp_path / "out" / "experiment" / "table.md").is_file()


def test_a_wrong_experiment_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment(tmp_path, columns=["accuracy"])
    assert tables.main([str(tmp_path / "experiment.yaml"), "--cells", str(tmp_path)]) == 2
    assert "unknown column 'accuracy'" in capsys.readouterr().err
