"""An uninterrupted small build that the tests of the flow compare with."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

import pytest

from tasks.storage.artifacts import digest
from tests.small_build import Builder, Undisturbed


@pytest.fixture(scope="session")
def build_once(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Undisturbed]:
    """Make the uninterrupted build, or wait until another test process has made it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed"
    folder.mkdir(exist_ok=True)
    builder = Builder(prefect_server, folder / "output")

    def build() -> Undisturbed:
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            log, found = folder / "log", folder / "digest"
            if not found.exists():
                log.write_text(builder.run(), encoding="utf-8")
                found.write_text(digest(builder.output / "dataset"))
            return Undisturbed(builder=builder, log=log.read_text(encoding="utf-8"), digest=found.read_text())

    return build


@pytest.fixture(scope="session")
def undisturbed(build_once: Callable[[], Undisturbed]) -> tuple[Builder, str]:
    """The builder, and the log of its first run."""
    whole = build_once()
    return whole.builder, whole.log
