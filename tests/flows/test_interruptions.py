"""`make build` with its own server and worker, interrupted in all stages that send requests: Ctrl-C, cancellation, kills."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from tasks.config import PROJECT_ROOT
from tasks.storage.artifacts import digest
from tests.small_build import AT_ONCE, SMALL, Builder, Undisturbed, left_after, sent_requests

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

PROJECT_FILES = (
    "speed",
    "configs",
    "data_cards",
    "flows",
    "pocket",
    "prefect.yaml",
    "prompts",
    "scripts",
    "tasks",
    "training",
)
PATIENCE_S = 10.0


@dataclass(frozen=True)
class ProjectCopy:
    """A copy of the project with its own locks, Prefect home and outputs."""

    root: Path

    def start(self) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= {"PYTHONPATH": str(self.root), "OVERRIDES": json.dumps({**SMALL, **AT_ONCE})}
        return subprocess.Popen(
            [sys.executable, "scripts/build.py", "build"], cwd=self.root, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    @contextmanager
    def stopped_at(self, pattern: str) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process], str]]:
        """Start a build and wait until a second after it logs `pattern`; yield it with its descendants and the address of its
        server.

        After the block all of these processes must end within ten seconds.
        """
        build, output = self.start(), []
        assert build.stdout is not None
        for line in build.stdout:
            output.append(line)
            if re.search(pattern, line):
                break
        else:
            pytest.fail(f"the build ended before {pattern!r}: {''.join(output)[-4000:]}")
        sleep(1.0)  # a model starts, or the next shard
        family = psutil.Process(build.pid).children(recursive=True)
        address = re.search(r"Prefect is ready at (\S+)", "".join(output))
        assert address is not None and len(family) > 4
        yield build, family, f"{address[1]}/api"
        left = left_after(
            [psutil.Process(build.pid), *family] if build.poll() is None else family, PATIENCE_S
        )
        assert not left, left

    def finish(self) -> str:
        build = self.start()
        log, _ = build.communicate(timeout=900)
        assert build.returncode == 0, log[-5000:]
        return log


def worker_and_flow(family: list[psutil.Process]) -> list[psutil.Process]:
    """The process worker and the process of the flow run that it started."""
    found = []
    for process in family:
        with suppress(psutil.NoSuchProcess):  # a model server may be ending
            command = process.cmdline()
            if "tasks.processes.supervisor" not in command and (
                "worker" in command or "prefect.engine" in command
            ):
                found.append(process)
    assert len(found) >= 2, family
    return found


@contextmanager
def client_of(api: str, root: Path) -> Iterator[SyncPrefectClient]:
    """A client of the server that a build in `root` has started, with the auth string of that server."""
    secret = (root / ".prefect/auth-string").read_text(encoding="ascii")
    with (
        temporary_settings({PREFECT_API_URL: api, PREFECT_API_AUTH_STRING: secret}),
        get_client(sync_client=True) as client,
    ):
        yield client


def only_run(client: SyncPrefectClient) -> FlowRun:
    """The flow run that is in progress."""
    return next(run for run in client.read_flow_runs() if run.state and run.state.is_running())


@pytest.fixture
def project(tmp_path: Path) -> ProjectCopy:
    copied = ProjectCopy(tmp_path / "project")
    copied.root.mkdir()
    for name in PROJECT_FILES:
        source = PROJECT_ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, copied.root / name)
    return copied


def test_after_ctrl_c_and_kills_no_process_is_left_and_the_next_build_repeats_no_request(
    build_once: Callable[[], Undisturbed], project: ProjectCopy
) -> None:
    with project.stopped_at(r"starting the quality judge") as (build, _, _):
        build.send_signal(signal.SIGINT)
        assert build.wait(60) == 130
    with project.stopped_at(r"sample shard 1:") as (build, family, _):
        for process in (build, *worker_and_flow(family)):
            process.kill()
        build.wait()
    killed = Builder("", project.root / "output/pocket")
    flushed, known = killed.shard_files(), killed.entries()
    log = project.finish()
    assert "was left unfinished by an earlier command and is now marked as Crashed" in log
    assert "cluster: runs alongside sampling" in log
    assert sent_requests(log) == killed.entries() - known > 0
    after = killed.shard_files()
    assert flushed and all(after[file] == flushed[file] for file in flushed)
    assert digest(killed.output / "dataset") == build_once().digest


def test_after_the_death_of_the_worker_and_a_cancellation_no_process_is_left_and_the_bytes_are_the_same(
    build_once: Callable[[], Undisturbed], project: ProjectCopy
) -> None:
    with project.stopped_at(r"judge shard 1:") as (build, family, _):
        for process in worker_and_flow(family):
            process.kill()
        assert build.wait(60) == 1
    with project.stopped_at(r"starting the teacher") as (build, _, api):
        with client_of(api, project.root) as client:
            client.set_flow_run_state(only_run(client).id, Cancelling())
        assert build.wait(60) == 1
        assert build.stdout is not None and "ended as Cancelled" in build.stdout.read()
    project.finish()
    assert digest(project.root / "output/pocket/dataset") == build_once().digest
