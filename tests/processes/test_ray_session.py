"""Ray sessions: an unreachable cluster is reported at once, and the processes of Ray are distinguished from other servers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import ray

from tasks.errors import UserError
from tasks.keys import read_key
from tasks.processes.ray_session import RaySession, of_ray

PARENT = (
    "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print('up', flush=True); time.sleep(60)"
)


def test_an_unreachable_cluster_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{one.getsockname()[1]}")
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        with pytest.raises(UserError, match=r"no Ray cluster listens at RAY_ADDRESS=127.*unset RAY_ADDRESS"):
            RaySession(1)


@pytest.mark.slow
def test_no_process_of_a_new_ray_inherits_a_key_and_this_process_keeps_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("TEAM_KEY", "HF_TOKEN", "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, "sk-12345")
    before = set(psutil.Process().children(recursive=True))
    with RaySession(1):
        seen = ray.get(cast(Any, ray.remote)(lambda: dict(os.environ)).remote())
        family = set(psutil.Process().children(recursive=True)) - before
        environments = [seen, *(process.environ() for process in family)]
    assert len(family) > 3 and read_key("TEAM_KEY") == os.environ["TEAM_KEY"] == "sk-12345"
    assert not [value for found in environments for value in found.values() if "sk-12345" in value]


def test_only_processes_that_run_a_program_of_ray_and_their_children_belong_to_ray() -> None:
    program = str(Path(ray.__file__).parent / "core" / "raylet")
    started = [
        subprocess.Popen([sys.executable, "-c", PARENT, *more], stdout=subprocess.PIPE, text=True)
        for more in ([program], ["some other server"])
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
    assert of_ray(family) == set()  # ended processes are ignored
