"""Programs on file systems that are read-only, full or without inodes: real ones, mounted in a namespace of their own.

The mounts exist for the program only and end with it. They also bind root, which permissions do not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tasks.config import PROJECT_ROOT


@cache
def _refusal() -> str:
    """Return why no namespace can be made here; empty if one can."""
    try:
        done = subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or "unshare failed"


def run_with_mounts(program: str, folder: Path) -> str:
    """Run a Python program that may mount file systems, with `folder` as its argument; return its output.

    Skips the test where mounts are not allowed.
    """
    if why := _refusal():
        pytest.skip(f"no file system can be mounted here: {why}")
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", program, str(folder)],
        cwd=PROJECT_ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    return done.stdout


def mount(folder: Path, options: str) -> None:
    """Mount an empty tmpfs at `folder`, which is created. For programs of `run_with_mounts`."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
