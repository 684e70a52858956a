"""The report of a failed run: its sentences and rows, a command that continues it, and no key in it."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.config import load_config
from tasks.errors import UserError
from tasks.processes.jobs import JobFailed
from tasks.runtime.failures import MAX_LINES, ROWS, Failure, clean, deployment_command, failure, make_command

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
KEY = "sk-0123456789abcdef0123"
HARD: dict[str, Any] = {
    "profile": "paper-1.7b", "overrides": {"select.target": 50, "export.name": "it's \"a\" $HOME `x` é"}, "dataset": "1",
    "chain": True, "licence": None,
}  # fmt: skip


def reported(**changes: Any) -> Failure:
    given: dict[str, Any] = {
        "run": "pocket build", "run_id": "7", "flow": "sure-math", "state": "Failed", "error": None, "message": "gone",
        "command": "make build",
    }  # fmt: skip
    return failure(**(given | changes))


def test_an_error_of_the_user_is_its_sentences_and_another_one_has_its_type() -> None:
    assert reported(error=UserError("x is missing: add it\ny too")).sentences == (
        "x is missing: add it",
        "y too",
    )
    assert reported(error=ValueError("7")).sentences == ("ValueError: 7",)
    prefix = "Flow run encountered an exception: "
    assert reported(message=f"{prefix}UserError: a: b").sentences == ("a: b",)
    assert reported(message=f"{prefix}ValueError: b").sentences == ("ValueError: b",)
    assert reported(message="exit code -9").sentences == ("exit code -9",)
    assert reported(error=JobFailed("it ended")).sentences == ("it ended",)
    many = reported(error=UserError("\n".join(f"line {n}" for n in range(100))))
    assert len(many.sentences) == MAX_LINES + 1 and many.sentences[-1].startswith("and 60 more lines")


def test_the_rows_are_those_of_the_notes() -> None:
    error = ValueError("7")
    error.add_note("something else")
    error.add_note(f"{ROWS}stage judge, shard 2 of 3, rows 13 to 24 of 30")
    found = reported(error=error)
    assert found.rows == ("stage judge, shard 2 of 3, rows 13 to 24 of 30",)
    assert "rows: stage judge, shard 2 of 3" in found.as_text()
    assert json.loads(json.dumps(found.as_json()))["continue"] == "make build"


def test_a_hostile_text_is_no_markup_and_does_not_leave_the_code_block() -> None:
    error = UserError("<img src=x> [a](javascript:b) | `c`")
    text = reported(error=error, run="<b>", command="make build OVERRIDES='```'").as_markdown()
    assert "<" not in text and text.count("```") == 2 and "javascript:b)" in text and "\\[a\\]" in text


def test_keys_and_passwords_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_API_KEY", KEY)
    found = reported(
        run=f"build {KEY}", error=UserError(f"no answer from http://me:{KEY}@host/x"), message=KEY,
        command=f"make build OVERRIDES='http://ada:pass@host/{KEY}'",
    )  # fmt: skip
    whole = found.as_text() + found.as_markdown() + json.dumps(found.as_json())
    assert KEY not in whole and "pass" not in whole and "http://[removed]@host" in found.command
    assert clean("a\u202eb") == "a<U+202E>b"


def test_the_command_of_a_deployment_gives_the_same_parameters() -> None:
    """Read as the command line of Prefect does: JSON if it is, else text."""
    command, *rest = shlex.split(deployment_command("sure-math/build", HARD))
    assert [command, *rest[:3]] == ["prefect", "deployment", "run", "sure-math/build"]
    assert rest[3::2] == ["-p"] * (len(HARD) - 1)
    found = {}
    for pair in rest[4::2]:
        name, _, value = pair.partition("=")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    assert found == {name: value for name, value in HARD.items() if value is not None}


def environment_of(command: str) -> tuple[str, dict[str, str]]:
    make, target, *given = shlex.split(command)
    assert make == "make"
    return target, dict(one.split("=", 1) for one in given)


def test_the_command_of_make_gives_the_same_parameters(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    for path in SCRIPTS.glob("*.py"):  # another test may have loaded flows of the same names
        monkeypatch.setitem(sys.modules, path.stem, None)
        monkeypatch.delitem(sys.modules, path.stem)
    annotate, release, experiment = map(importlib.import_module, ("annotate", "release", "experiment"))
    file, out = tmp_path / "it's mine.csv", tmp_path / "out"
    given = {
        "problems": str(file), "out": str(out), "profile": "pocket", "overrides": {"sample.num_samples": 4},
        "columns": {"text": "the question", "answer": "final"}, "tier": "hard", "licence": "mit", "answers": "verbatim",
    }  # fmt: skip
    target, variables = environment_of(make_command("annotate", given))
    call = annotate.read_call(variables)
    assert target == "annotate" and (call.file, call.out) == (file, out)
    assert dict(call.overrides) == given["overrides"] and dict(call.columns) == given["columns"]
    assert (call.tier, call.licence, call.answers) == ("hard", "mit", "verbatim")
    sent = {
        "what": "model", "profile": "pocket", "overrides": {}, "version": "1.2.0", "dry_run": False, "private": False,
        "datasets": ["a/b", "c/d"], "repo": "a/c", "licence": "mit", "roll_back_to": None, "secret_block": "hub",
        "source": str(tmp_path), "previous": None, "evaluations": [str(tmp_path / "a"), str(tmp_path / "b")],
    }  # fmt: skip
    target, variables = environment_of(make_command("release", sent))
    assert target == "release" and release.parameters(variables) == sent
    measured = {
        "experiment": "pocket/learning", "only": ["OPD", "UOPD, answer share"], "seeds": [0, 2], "max_hours": 1.5,
        "results": "my cells",
    }  # fmt: skip
    target, variables = environment_of(make_command("experiment", measured))
    assert target == "experiment" and experiment.parameters(variables) == measured
    assert make_command("build", {"profile": "pocket", "dry_run": True}) == "make plan PROFILE=pocket"
    evaluated = {"profile": "pocket", "model": "m", "benchmarks": ["gsm8k", "aime2025"], "protocols": None}
    assert (
        make_command("evaluate", evaluated)
        == "make evaluate MODEL=m PROFILE=pocket BENCHMARKS=gsm8k,aime2025"
    )


def test_the_setting_is_a_type_and_a_name_and_no_setting_is_part_of_an_identity() -> None:
    assert load_config("pocket").run.failure_block is None
    config = load_config("pocket", {"run.failure_block": "webhook/ops"})
    assert config.identity() == load_config("pocket").identity()
    for wrong in ("ops", "https://hooks.example/secret", "webhook/a/b"):
        with pytest.raises(UserError, match=r"run\.failure_block") as refused:
            load_config("pocket", {"run.failure_block": wrong})
        assert wrong not in str(refused.value).replace("run.failure_block", "")
