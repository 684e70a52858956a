"""The rules on one file of problems: what is kept and what is rejected, with reason and setting."""

from __future__ import annotations

from pathlib import Path

from tasks.config import load_config
from tasks.problems.rules import RULES
from tasks.rows import Problem, Reject, Role, Strategy, Tier
from tasks.runtime.shard_work import RulesWork, reject_by_rules
from tasks.storage.tables import write_rows

TEXTS = {
    "length": "What is 2 + 3?",
    "multiple_choice": "What is the value of 2 + 3? (A) 4 (B) 5 (C) 6",
    "proof": "Prove that the sum of two odd numbers is even.",
    "several_questions": "Find the value of 2 + 3. Also find the value of 2 - 3.",
    "needs_figure": "As shown in Figure 1, AB is a diameter. Find the radius.",
    "no_question": "Ann has three apples and gives one of them to Tom.",
    "bad_characters": "What is the sum of two and three,\x07 doubled?",
    "repetition": "What is the sum of " + "one and two and " * 20 + "three?",
    "": "Rationalize the denominator: $\\frac{2}{\\sqrt{3}}$.",
}


def candidate(name: str, text: str) -> Problem:
    return Problem(
        id=name or "sound", text=text, tier=Tier.EASY, source="s", source_id="1", licence="l", role=Role.EVOLVED,
        root_id="r", parent_id="r", round=1, strategy=Strategy.HARDER,
    )  # fmt: skip


def rejected(profile: str, path: Path) -> tuple[list[str], dict[str, str]]:
    tables = reject_by_rules(RulesWork(path=path, settings=load_config(profile).rules))
    rejects: list[Reject] = tables["rejects"][1]
    return tables["problems"][1]["id"].to_pylist(), {row.problem_id: row.detail for row in rejects}


def test_every_rejected_row_names_the_setting_of_its_rule(tmp_path: Path) -> None:
    path = tmp_path / "problems.parquet"
    write_rows(path, Problem, [candidate(name, text) for name, text in TEXTS.items()])
    assert set(TEXTS) == {*RULES, ""}
    kept, details = rejected("pocket", path)
    assert kept == ["sound"]
    assert {name: detail.partition(":")[0] for name, detail in details.items()} == {
        name: f"rules.{name}" for name in RULES
    }
    kept, details = rejected("paper-1.7b", path)
    assert set(details) == {"length", "multiple_choice"}
    assert len(kept) == len(TEXTS) - 2
