"""`make audit`: the installed packages against constraints.txt."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from scripts.audit import CONSTRAINTS, UNPINNED, canonical, deviations, installed_packages, read_pins, report

ROOT = Path(__file__).parent.parent.parent
PINS = read_pins("# versions\n\nnumpy==2.3.5\nhf-xet==1.8.0\ntorch==2.13.0\n")


def test_pins_are_read_without_comments() -> None:
    assert PINS == {"numpy": "2.3.5", "hf-xet": "1.8.0", "torch": "2.13.0"}


def test_names_are_normalised_and_local_versions_ignored() -> None:
    assert deviations({"HF_Xet": "1.8.0", "torch": "2.13.0+cpu", "pip": "23.2.1"}, PINS) == []


def test_a_package_without_a_pin_and_another_version_are_listed() -> None:
    assert deviations({"NumPy": "2.4.0", "rensa": "0.5.0"}, PINS) == [
        "numpy 2.4.0 is installed, but 2.3.5 is pinned",
        "rensa 0.5.0 is installed, but constraints.txt has no pin for it",
    ]


def test_the_exit_status_says_whether_anything_deviates(capsys: pytest.CaptureFixture[str]) -> None:
    assert report([], 265) == 0 and "all 265 installed packages" in capsys.readouterr().out
    assert (
        report(["x 1 is installed"], 265) == 1 and capsys.readouterr().out == "sure-math: x 1 is installed\n"
    )


def test_every_installed_package_has_a_pin() -> None:
    pins = read_pins(CONSTRAINTS.read_text(encoding="utf-8"))
    assert {canonical(name) for name in installed_packages()} - pins.keys() - UNPINNED == set()


def test_every_requirement_of_the_project_has_a_pin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    names = [re.split(r"[\[<>=; ]", one)[0] for group in (project["dependencies"], *extras) for one in group]
    assert {canonical(name) for name in names} - read_pins(
        CONSTRAINTS.read_text(encoding="utf-8")
    ).keys() == set()
