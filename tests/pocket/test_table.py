"""The quality tables in pocket/README.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocket.table import END, START, quality_table, write_table

SOLVER = {
    "problems_per_group": 10,
    "accuracy": {"easy": 0.97, "medium": 0.8, "hard": 0.7, "competition": 0.4, "evolved": 0.5},
    "accuracy_overall": 0.7175,
    "well_formed": 1.0,
    "auroc": {"value": 0.9, "low": 0.85, "high": 0.94, "n": 50},
    "tokens_above_gate": 0.05,
    "accuracy_with_answer": 0.96,
    "accuracy_with_answer_in_system": 0.94,
    "accuracy_with_solution": 0.99,
    "accuracy_with_solution_in_system": 0.98,
}


def test_a_model_that_was_not_measured_has_dashes() -> None:
    lines = quality_table({"teacher": SOLVER}).splitlines()
    assert "| right, easy | teacher >= 95% | 97.0% | - |" in lines
    assert "| right, shown the answer in the system message | teacher >= 95% | 94.0% | - |" in lines
    assert "| AUROC of semantic entropy for a wrong majority |  | 90.0% | - |" in lines


def test_an_undefined_auroc_has_a_dash() -> None:
    lines = quality_table({"teacher": {**SOLVER, "auroc": None}}).splitlines()
    assert "| AUROC of semantic entropy for a wrong majority |  | - | - |" in lines


def test_only_the_text_between_the_markers_is_replaced(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    write_table({"teacher": SOLVER}, readme)
    write_table({"teacher": SOLVER}, readme)
    text = readme.read_text()
    assert text.startswith(f"before\n{START}\n") and text.endswith(f"{END}\nafter\n")
    assert "old" not in text and text.count("right, easy") == 1


def test_a_readme_without_markers_is_rejected(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="lacks the markers"):
        write_table({"teacher": SOLVER}, readme)
