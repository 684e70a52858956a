"""`make pictures`: a missing or failing Chromium is one sentence; with one, docs/ gets the pictures of the last build."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture()
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    spec = importlib.util.spec_from_file_location("make_pictures", ROOT / "scripts" / "pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "end_with_parent", lambda: None)
    return module


def program(folder: Path, name: str, body: str) -> Path:
    """Write an executable Python program, which has its arguments in `given`."""
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport sys\ngiven = sys.argv[1:]\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def camera(folder: Path) -> Path:
    """A program that writes its arguments to the place of the screenshot, after the signature of a PNG."""
    body = (
        "place = next(one for one in given if one.startswith('--screenshot='))[13:]\n"
        f"open(place, 'wb').write({PNG!r} + ' '.join(given).encode())"
    )
    return program(folder, "chromium", body)


def test_chromium_is_found_by_its_variable_or_its_usual_names(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(UserError, match="Chromium was not found: install it, or set CHROMIUM to its path"):
        script.find_browser()
    usual = camera(tmp_path)
    assert script.find_browser() == str(usual)
    other = program(tmp_path, "my-browser", "")
    monkeypatch.setenv("CHROMIUM", str(other))
    assert script.find_browser() == str(other)
    monkeypatch.setenv("CHROMIUM", "nowhere")
    with pytest.raises(UserError, match="CHROMIUM is nowhere, which is not a program"):
        script.find_browser()


def test_a_failing_browser_is_one_sentence_and_keeps_the_old_picture(script: Any, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(PNG)
    failing = program(tmp_path, "failing", "sys.exit('first\\nno usable sandbox')")
    with pytest.raises(UserError, match="failed with exit status 1: no usable sandbox"):
        script.screenshot(str(failing), "about:blank", picture, (10, 10))
    with pytest.raises(UserError, match="wrote no picture of about:blank"):
        script.screenshot(str(program(tmp_path, "idle", "")), "about:blank", picture, (10, 10))
    assert picture.read_bytes() == PNG


def test_the_pictures_are_taken_of_the_last_build(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def server(_port: int | None) -> Any:
        yield SimpleNamespace(page="http://127.0.0.1:1", own=True)

    monkeypatch.setenv("CHROMIUM", str(camera(tmp_path)))
    monkeypatch.setattr(script, "DOCS", tmp_path)
    monkeypatch.setattr(script.local, "prefect_api", server)
    monkeypatch.setattr(script.local, "auth_string", lambda: "sure-math:string")
    monkeypatch.setattr(script, "last_build", lambda _api: SimpleNamespace(id="run-7", name="pocket"))
    monkeypatch.setattr(script, "last_artifact", lambda _api, key: {"lineage": "artifact-9"}.get(key))
    (tmp_path / "latest.json").write_text('{"dataset": "dataset", "report": "report.html"}')
    script.take_pictures(tmp_path, None)
    report, prefect = ((tmp_path / name).read_bytes() for name in ("report.png", "prefect.png"))
    assert report.startswith(PNG) and report.endswith((tmp_path / "report.html").as_uri().encode())
    assert b"--window-size=1100,1700" in report and b"--virtual-time-budget=5000" in report
    assert (
        prefect.endswith(b"http://127.0.0.1:1/runs/flow-run/run-7")
        and b"--virtual-time-budget=15000" in prefect
    )
    lineage = (tmp_path / "lineage.png").read_bytes()
    assert (
        lineage.endswith(b"http://127.0.0.1:1/artifacts/artifact/artifact-9")
        and not (tmp_path / "failure.png").exists()
    )
    assert b"--load-extension" not in report and b"--load-extension=" in prefect


def test_without_a_build_the_command_ends_with_one_line(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHROMIUM", str(camera(tmp_path)))
    monkeypatch.setattr(script, "PROJECT_ROOT", tmp_path)
    assert script.main() == 1
    assert re.fullmatch(r"sure-math: .* contains no finished dataset .*\n", capsys.readouterr().out)


def test_the_pictures_of_the_docs_are_small() -> None:
    pictures = sorted((ROOT / "docs").glob("*.png"))
    assert [one.stem for one in pictures] == ["failure", "lineage", "prefect", "report"]
    assert all(one.read_bytes().startswith(PNG) and os.stat(one).st_size < 300_000 for one in pictures)
