"""docs/fidelity.md: every setting that it names has the value that it gives, and every difference has a reason."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from prompts import load_prompt
from tasks.config import PROJECT_ROOT, load_config
from tasks.rows import QUALITY_CRITERIA, Strategy
from tasks.runtime.training_run import run_config
from tasks.seeds.registry import resolve

PAGE = PROJECT_ROOT / "docs" / "fidelity.md"
HEADER = "| paper | here | setting | status | why |"
SETTING = re.compile(r"`([\w.:-]+)` = `([^`]*)`")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


@dataclass(frozen=True)
class Row:
    """One row of a table that compares the paper with the settings."""

    paper: str
    here: str
    setting: str
    status: str
    why: str


def rows() -> list[Row]:
    found, inside = [], False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        inside = line == HEADER or (inside and line.startswith("|"))
        if inside and line != HEADER and not line.startswith("|---"):
            found.append(Row(*(cell.strip() for cell in line.strip().strip("|").split("|"))))
    return found


ROWS = rows()
CHECKED = [(row, *pair) for row in ROWS for pair in SETTING.findall(row.setting)]


@cache
def settings_of(profile: str) -> dict[str, Any]:
    """Return all settings of a profile as plain data; sources by their name, the training with its defaults."""
    config = resolve(load_config(profile))
    found = config.model_dump(mode="json")
    found["aggregate"]["sources"] = {one["name"]: one for one in found["aggregate"]["sources"]}
    assert config.distill is not None
    run = run_config(config.distill, Path("dataset"), Path("distill"))
    found["distill"]["run"] = run.model_dump(mode="json")
    return found


def value_of(name: str) -> Any:
    profile, _, key = name.rpartition(":")
    value: Any = settings_of(profile or "paper-1.7b")
    for part in key.split("."):
        value = value[part]
    return value


def numbers(text: str) -> set[float]:
    return {float(number.rstrip(",").replace(",", "")) for number in NUMBER.findall(text)}


def test_the_page_has_tables_with_settings() -> None:
    assert len(ROWS) >= 70 and len(CHECKED) >= 75
    assert {row.status for row in ROWS} <= {"same", "ours", "different", "not built"}


@pytest.mark.parametrize(("row", "name", "value"), CHECKED, ids=[name for _, name, _ in CHECKED])
def test_a_setting_has_the_value_on_the_page(row: Row, name: str, value: str) -> None:
    assert value_of(name) == json.loads(value), row.paper


@pytest.mark.parametrize(("row", "name", "value"), CHECKED, ids=[name for _, name, _ in CHECKED])
def test_a_number_that_is_the_papers_is_in_the_papers_statement(row: Row, name: str, value: str) -> None:
    wanted = json.loads(value)
    if row.status == "same" and isinstance(wanted, int | float) and not isinstance(wanted, bool):
        assert float(wanted) in numbers(row.paper), f"{row.paper}: {name} is {value}"


def test_every_difference_has_a_reason_and_every_choice_of_ours_a_value_or_a_sentence() -> None:
    for row in ROWS:
        assert row.paper and (row.status == "same" or row.why), row
        assert row.status != "ours" or row.here or row.setting, row


def row_about(start: str) -> Row:
    (row,) = [row for row in ROWS if row.paper.startswith(start)]
    return row


def test_the_criteria_on_the_page_are_those_of_the_judge() -> None:
    row = row_about("five criteria")
    assert row.status == "same" and re.findall(r"\((\d)\)", row.paper) == list("12345")
    assert re.findall(r"`(\w+)`", row.here) == list(QUALITY_CRITERIA)


def test_each_strategy_has_the_system_prompt_that_the_page_states() -> None:
    row, prompts = row_about("each strategy"), [load_prompt(f"evolution/{strategy}") for strategy in Strategy]
    assert row.status == "same" and len(Strategy) == 6
    assert len({prompt.system for prompt in prompts}) == 6 and len({prompt.user for prompt in prompts}) == 1


def test_the_page_is_self_contained() -> None:
    text = PAGE.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)", text)
    assert all((PAGE.parent / link).exists() for link in links)
    assert not re.search(r"PAPERS\.md|DESIGN\.md|shared/", text)
