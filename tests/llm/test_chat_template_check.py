"""Chat templates that do not end are found in a process with limits; no remote code is ever permitted."""

from __future__ import annotations

import ast
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocket.recipes import POCKET
from tasks.llm import chat_template_check
from tasks.llm.chat_template_check import TOO_LARGE, main, template_problem
from tasks.llm.checkpoint_files import checkpoint_problem

ROOT = Path(__file__).resolve().parents[2]
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLE = (
    "{% set n = namespace(x='ab') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
)


def with_template(folder: Path, template: object, name: str = "tokenizer_config.json") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(
        json.dumps({"chat_template": template}) if name.endswith("json") else str(template)
    )
    return folder


def test_the_pocket_templates_and_missing_ones_are_no_problem(tmp_path: Path) -> None:
    assert [template_problem(POCKET / name) for name in ("teacher", "judge")] == [None, None]
    assert template_problem(tmp_path) is None
    assert (
        template_problem(with_template(tmp_path / "error", "{{ raise_exception('no') }}{{ x.y.z }}")) is None
    )
    assert template_problem(with_template(tmp_path / "list", [{"name": "other", "template": LOOP}])) is None


@pytest.mark.parametrize(
    ("template", "what"), [(LOOP, "does not end"), (DOUBLE, "makes a text without bounds"), ("x" * 2_000_000, "has 2,000,000 ")]
)  # fmt: skip
def test_a_template_beyond_the_limits_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, what: str
) -> None:
    start = time.monotonic()
    for folder in (
        with_template(tmp_path / "a", template),
        with_template(tmp_path / "b", template, "chat_template.jinja"),
        with_template(tmp_path / "c", [{"name": "default", "template": template}]),
    ):
        found = template_problem(folder)
        assert found is not None and what in found and str(folder) in found
    assert time.monotonic() - start < 120  # it is rendered once


def test_a_long_text_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template_check.resource, "setrlimit", lambda *_: None)  # of this process
    assert main("{% for a in range(2000) %}{{ 'x' * 1000 }}{% endfor %}") == TOO_LARGE
    assert main("{{ messages[0].content }}") == 0


def test_a_large_header_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write((90_000_000).to_bytes(8, "little"))
        file.truncate(90_000_008)
    found = checkpoint_problem(tmp_path, 128)
    assert found is not None and "not a safetensors file" in found


def calls(name: str) -> Iterator[tuple[Path, ast.Call]]:
    for package in ("tasks", "training", "pocket", "speed", "scripts"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr == name
                ):
                    yield path, node


def test_every_checkpoint_is_loaded_without_remote_code() -> None:
    loads = list(calls("from_pretrained"))
    assert len(loads) > 5
    for path, call in loads:
        given = {word.arg: word.value for word in call.keywords}
        value = given.get("trust_remote_code")
        assert isinstance(value, ast.Constant) and value.value is False, f"{path}:{call.lineno}"
