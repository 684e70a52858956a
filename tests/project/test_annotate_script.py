"""`make annotate` reports invalid files and settings before Prefect or a model starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture()
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    spec = importlib.util.spec_from_file_location("make_annotate", SCRIPTS / "annotate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "served", lambda: pytest.fail("Prefect was started"))
    return module


@pytest.mark.parametrize(
    ("content", "more", "sentence"),
    [
        (
            "text\n\n ,\n",
            [],
            r"mine.csv, line 3 has 2 cells, but the header has 1: put cells with commas",
        ),
        (
            "question\nHow many?\n",
            [],
            "mine.csv has no column 'text'; it has question: name the one with the problem",
        ),
        (
            "question\nHow many?\n",
            ["--column", "text=problem"],
            "mine.csv has no column 'problem'; it has question",
        ),
        ("text\nHow many?\n", ["--profile", "none"], "unknown profile 'none': choose one of"),
        ("text\nHow many?\n", ["--overrides", '{"sample.samples": 3}'], "sample.samples: unknown key"),
        ("text\nHow many?\n", ["--overrides", "{"], "OVERRIDES is not valid JSON"),
    ],
)
def test_invalid_files_and_settings_are_reported_before_anything_starts(
    script: Any, tmp_path: Path, capsys: Any, content: str, more: list[str], sentence: str
) -> None:
    (tmp_path / "mine.csv").write_text(content)
    assert script.main(["own", str(tmp_path / "mine.csv"), "--out", str(tmp_path / "out"), *more]) == 1
    output = capsys.readouterr().out
    assert output.startswith("sure-math: ") and sentence in output and output.count("\n") == 1
    assert not (tmp_path / "out").exists()
