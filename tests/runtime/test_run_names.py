"""Runs are named after the profile, what they do, and what was overridden."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.runtime.run_names import MAX_CHARS, run_name


@pytest.mark.parametrize(
    ("what", "parameters", "name"),
    [
        ("build", {"profile": "pocket", "overrides": None}, "pocket build"),
        ("build", {"profile": "pocket", "dry_run": True}, "pocket plan"),
        ("build", {"profile": "pocket", "overrides": {"select.target": 50}}, "pocket build, select.target=50"),
        (
            "distill",
            {"profile": "p", "overrides": {"distill": {"run": {"seed": 1}}, "a": True}, "dataset": "out/data"},
            "p distill, data, distill.run.seed=1, a=true",
        ),
        ("experiment", {"experiment": "paper/uopd-main", "seeds": [0]}, "paper/uopd-main experiment"),
        ("annotate", {"profile": "p", "problems": "/data/exam.csv", "out": "x"}, "p annotate, exam.csv"),
        ("build", {"profile": "p", "overrides": {"select.target": "x" * 99}}, f"p build, select.target={'x' * 37}..."),
    ],
)  # fmt: skip
def test_a_run_is_named(what: str, parameters: dict[str, Any], name: str) -> None:
    assert run_name(what, parameters) == name


def test_a_long_name_is_cut() -> None:
    name = run_name("build", {"profile": "p", "overrides": {f"key{number}": number for number in range(40)}})
    assert len(name) == MAX_CHARS and name.endswith("...")
