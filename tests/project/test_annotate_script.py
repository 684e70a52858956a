"""`make annotate` takes its settings as they are written, and reports invalid ones before Prefect or a model starts."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.storage.ownership import BUILD, claim

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"


@pytest.fixture()
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    spec = importlib.util.spec_from_file_location("make_annotate", SCRIPTS / "annotate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # a dataclass looks its module up
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "served", lambda: pytest.fail("Prefect was started"))
    for name in module.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    return module


@pytest.mark.parametrize(
    ("content", "settings", "sentence"),
    [
        ("text\n\n ,\na,b\n", {}, r"mine.csv, line 4 has 2 cells, but the header has 1: put cells with commas"),
        ("question\nHow many?\n", {}, "mine.csv has no column 'text'; it has question: name the one with the problem"),
        ("question\nHow many?\n", {"COLUMNS": "text=problem"}, "mine.csv has no column 'problem'; it has question"),
        ("text\nHow many?\n", {"COLUMNS": "question"}, "COLUMNS has 'question', which starts with none of text"),
        ("text\nHow many?\n", {"PROFILE": "none"}, "unknown profile 'none': choose one of"),
        ("text\nHow many?\n", {"OVERRIDES": '{"sample.samples": 3}'}, "sample.samples: unknown key"),
        ("text\nHow many?\n", {"OVERRIDES": "{"}, "OVERRIDES is not valid JSON"),
        ("text\nHow many?\n", {"TIER": "brutal"}, "TIER is 'brutal': use one of easy"),
        ("text\nHow many?\n", {"ANSWERS": "none"}, "ANSWERS is 'none': use one of auto, verbatim"),
        ("text\nHow many?\n", {"OUT": "caf\udce9"}, "OUT caf<U+DCE9> has a name that is not UTF-8: rename it"),
        ("text\nHow many?\n", {"FILE": "caf\udce9.csv"}, "FILE caf<U+DCE9>.csv has a name that is not UTF-8"),
        ("text\nHow many?\n", {"OUT": ""}, "FILE and OUT are required, e.g. make annotate FILE="),
    ],
)  # fmt: skip
def test_invalid_files_and_settings_are_reported_before_anything_starts(
    script: Any,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
    settings: dict[str, str],
    sentence: str,
) -> None:
    (tmp_path / "mine.csv").write_text(content)
    for name, value in {"FILE": str(tmp_path / "mine.csv"), "OUT": str(tmp_path / "out"), **settings}.items():
        monkeypatch.setenv(name, value)
    assert script.main(["own"]) == 1
    output = capsys.readouterr().out
    assert output.startswith("sure-math: ") and sentence in output and output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_folder_of_a_build_is_refused_before_anything_starts(
    script: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("text\nHow many?\n")
    claim(tmp_path / "pocket", BUILD)
    monkeypatch.setenv("FILE", str(tmp_path / "a.csv"))
    monkeypatch.setenv("OUT", str(tmp_path / "pocket"))
    assert script.main(["own"]) == 1
    assert "pocket was made by make build, and make annotate of a would overwrite" in capsys.readouterr().out


def test_the_settings_of_a_call_are_those_of_the_environment(script: Any, tmp_path: Path) -> None:
    environment = {
        "FILE": f"{tmp_path}/a b.csv", "OUT": "~/out", "COLUMNS": "text=Frage answer=Short Answer", "TIER": "Hard",
        "LICENCE": "mit", "ANSWERS": "verbatim", "OVERRIDES": '{"sample.num_samples": 4}',
    }  # fmt: skip
    call = script.read_call(environment)
    assert (call.file, call.out) == (tmp_path / "a b.csv", Path.home() / "out")
    assert call.reading() == {
        "columns": {"text": "Frage", "answer": "Short Answer"}, "tier": "Hard", "licence": "mit", "answers": "verbatim",
    }  # fmt: skip
    assert (call.profile, dict(call.overrides)) == ("pocket", {"sample.num_samples": 4})
    assert script.read_call({}).reading() == {
        "columns": {}, "tier": "medium", "licence": "unknown", "answers": "auto",
    }  # fmt: skip


@pytest.mark.parametrize("command", ["annotate", "reannotate"])
def test_make_passes_settings_as_they_are_written(command: str, tmp_path: Path) -> None:
    """A copy of the Makefile with a `python` that prints its environment: neither make nor a shell reads the values."""
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        "#!/usr/bin/env python3\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
    )
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "overrides.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".venv/.ready").touch()
    values = {
        "FILE": "costs$5 `touch x`$(touch x).jsonl", "OUT": "a'b\"c # d", "COLUMNS": "text=Frage answer=Short Answer",
        "TIER": "$(shell touch x)", "LICENCE": "cc-by-4.0; touch x", "ANSWERS": "verbatim", "PROFILE": "$PROFILE",
        "OVERRIDES": '{"a": "$$b"}',
    }  # fmt: skip
    outside_make = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    done = subprocess.run(
        ["make", command, *(f"{name}={value}" for name, value in values.items())],
        cwd=tmp_path, env=outside_make, capture_output=True, text=True, check=True,
    )  # fmt: skip
    arguments, environment = json.loads(done.stdout)
    assert arguments == ["scripts/annotate.py", "own" if command == "annotate" else "stale"]
    assert {name: environment[name] for name in values} == values
    assert not (tmp_path / "x").exists()
