"""docs/algorithms.md is what the declarations give."""

from __future__ import annotations

from scripts.algorithms_page import PAGE, page
from training.algorithms import algorithm_names


def test_the_page_is_generated_from_the_declarations() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m scripts.algorithms_page"


def test_every_algorithm_has_a_section() -> None:
    sections = [line.removeprefix("## ") for line in page().split("\n") if line.startswith("## ")]
    assert sections == algorithm_names()
