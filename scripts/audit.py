"""`make audit`: compare the installed packages with the versions that constraints.txt pins."""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
UNPINNED = frozenset({"pip", "sure-math"})
"""Installed, but not chosen by the resolver: the virtual environment brings pip, and sure-math is this project."""


def canonical(name: str) -> str:
    """Normalise the name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(text: str) -> dict[str, str]:
    """Return package name -> version of each line `name==version`."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonical(name): version for name, version in pairs}


def deviations(installed: Mapping[str, str], pins: Mapping[str, str]) -> list[str]:
    """Return a sentence for each package without a pin or with another version; local versions (2.13.0+cpu) are ignored."""
    found = {canonical(name): version.partition("+")[0] for name, version in installed.items()}
    checked = sorted(found.items() - pins.items())
    return [
        f"{name} {version} is installed, but "
        + (f"{pins[name]} is pinned" if name in pins else "constraints.txt has no pin for it")
        for name, version in checked
        if name not in UNPINNED
    ]


def installed_packages() -> dict[str, str]:
    """Return package name -> version of this Python environment."""
    folders = [
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
    ]  # not what a package brings inside itself
    return {str(one.metadata["Name"]): one.version for one in distributions(path=folders)}


def report(lines: Iterable[str], packages: int) -> int:
    """Print the deviations; the exit status is 1 if there are any."""
    lines = list(lines)
    for line in lines:
        print(f"sure-math: {line}")
    if not lines:
        print(f"sure-math: all {packages} installed packages have the version that constraints.txt pins")
    return int(bool(lines))


def main() -> int:
    """Compare this environment with constraints.txt; 1 if a package deviates."""
    found = installed_packages()
    return report(deviations(found, read_pins(CONSTRAINTS.read_text(encoding="utf-8"))), len(found))


if __name__ == "__main__":
    sys.exit(main())
