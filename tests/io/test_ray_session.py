"""Which processes are Ray's: the guard of a session ends those, and no server that was started meanwhile."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray

from tasks.core.errors import UserError
from tasks.io.ray_session import RaySession, of_ray

PARENT = (
    "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print('up', flush=True); time.sleep(60)"
)


def test_a_cluster_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))  # bound and not listening: whoever connects is refused
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{one.getsockname()[1]}")
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        with pytest.raises(UserError, match=r"no Ray cluster listens at RAY_ADDRESS=127.*unset RAY_ADDRESS"):
            RaySession(1)


def test_only_what_runs_a_program_of_rays_and_its_children_are_rays() -> None:
    program = str(Path(ray.__file__).parent / "core" / "raylet")
    started = [
        subprocess.Popen([sys.executable, "-c", PARENT, *more], stdout=subprocess.PIPE, text=True)
        for more in ([program], ["a server of somebody else"])
    ]
    family = [psutil.Process(one.pid) for one in started]
    try:
        for one in started:
            assert one.stdout is not None and one.stdout.readline() == "up\n"
        mine, other = family
        assert len(mine.children()) == len(other.children()) == 1
        assert of_ray(family) == {mine, *mine.children()}
    finally:
        for process in [*family, *(child for one in family for child in one.children())]:
            process.kill()
        for one in started:
            one.communicate()
    time.sleep(0.1)
    assert of_ray(family) == set()  # they are gone, and that is no error
