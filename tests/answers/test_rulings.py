"""Every ruling in the table of docs/answers.md, by its example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.answers.equivalence import Outcome, verdict
from tasks.answers.grading import matches

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "answers.md"
_ROW = re.compile(
    r"\| (?P<ruling>[^|]+) \| `(?P<a>[^`]+)` \| `(?P<b>[^`]+)` \| (?P<verdict>equal|different|graded equal) \|"
)


def rows() -> list[tuple[str, str, str, str]]:
    table = DOCUMENT.read_text(encoding="utf-8").partition("## Rulings")[2].partition("## Boxes")[0]
    return [(row["ruling"], row["a"], row["b"], row["verdict"]) for row in _ROW.finditer(table)]


@pytest.mark.parametrize(("ruling", "a", "b", "expected"), rows(), ids=[row[0] for row in rows()])
def test_each_ruling_holds_for_its_example(ruling: str, a: str, b: str, expected: str) -> None:
    found = verdict(a, b)
    assert found == verdict(b, a), ruling
    assert found.outcome is not Outcome.UNDECIDED
    assert found.equal is (expected == "equal")
    assert matches(a, b) is (expected != "different")


def test_the_table_has_forty_rulings_or_more_and_no_row_is_skipped() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").partition("## Rulings")[2].partition("## Boxes")[0]
    assert len(rows()) == sum(line.startswith("| ") for line in table.splitlines()) - 1 >= 40
