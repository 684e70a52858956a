"""Commands as jobs: on this machine, and on a real Ray cluster that runs for the duration of these tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.processes import jobs
from tasks.processes.jobs import JobFailed, cluster_lines, job_environment, local_lines
from tasks.processes.ray_session import RAY_ENVIRONMENT
from tasks.processes.supervisor import PATIENCE

START_S = 120.0
COUNT = "for i in 1 2 3; do echo line $i; done; until [ -e {flag} ]; do sleep 0.1; done; for i in 4 5; do echo line $i; done"
LINES = [f"line {number}" for number in range(1, 6)]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def on(address: str, job: str, command: list[str], log: Path) -> Iterator[str]:
    """Follow a job that runs in the project's folder with this process's environment."""
    return cluster_lines(address, job, command, folder=PROJECT_ROOT, environment=os.environ, log=log)


# --- on this machine ---------------------------------------------------------------------------------------------


def test_the_lines_of_a_local_command_are_yielded_and_logged(tmp_path: Path) -> None:
    command = python("import os; print('one'); print(os.getcwd()); print(os.environ['SAID'])")
    found = list(local_lines(command, folder=tmp_path, environment={"SAID": "x"}, log=tmp_path / "a/log"))
    assert found == ["one", str(tmp_path), "x"]
    assert (tmp_path / "a/log").read_text() == "".join(f"{line}\n" for line in found)


def test_a_command_does_not_inherit_the_grace_period_of_its_supervisor(tmp_path: Path) -> None:
    command = python(f"import os; print({PATIENCE!r} in os.environ)")
    assert list(local_lines(command, folder=tmp_path, environment=os.environ, log=tmp_path / "log")) == [
        "False"
    ]


def test_the_error_of_a_failed_local_command_contains_its_last_lines(tmp_path: Path) -> None:
    lines = local_lines(
        python("print('one'); import sys; print('two', file=sys.stderr); sys.exit(3)"),
        folder=tmp_path, environment=os.environ, log=tmp_path / "log",
    )  # fmt: skip
    with pytest.raises(JobFailed, match=r"failed with exit status 3: .*two.* \(log: "):
        list(lines)


def test_carriage_returns_end_lines_and_the_last_line_needs_no_newline(tmp_path: Path) -> None:
    command = python(r"print('10%\r20%\rthe end', end='\r\n'); print('caf\xe9', end='')")
    found = local_lines(
        command, folder=tmp_path, environment=os.environ | {"PYTHONIOENCODING": "utf-8"}, log=tmp_path / "log"
    )
    assert list(found) == ["10%", "20%", "the end", "café"]


def test_a_local_command_ends_when_its_iterator_is_closed(tmp_path: Path) -> None:
    lines = local_lines(
        python("import os, time; print(os.getpid(), flush=True); time.sleep(60)"),
        folder=tmp_path, environment=os.environ, log=tmp_path / "log",
    )  # fmt: skip
    process, began = int(next(lines)), time.monotonic()
    lines.close()
    assert not Path(f"/proc/{process}").exists() and time.monotonic() - began < 10


SAVING = """
import signal, subprocess, sys, time
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
def save(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in range(20000):  # more than fits into a pipe
        print("saving", number)
    time.sleep(0.5)
    print("saved with its helper" if helper.poll() is None else "saved without its helper", flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, save)
print(helper.pid, flush=True)
time.sleep(300)
"""
"""Like a trainer, it needs its helper process while it saves. A second SIGTERM ends it."""
WAITING = SAVING.replace("time.sleep(0.5)", "time.sleep(300)")
"""The same, but it never ends."""


def saving_in(folder: Path, script: str = SAVING) -> tuple[Generator[str], psutil.Process]:
    """Start a script; return its lines and its helper process."""
    lines = local_lines(python(script), folder=folder, environment=os.environ, log=folder / "log")
    return lines, psutil.Process(int(next(lines)))


def last_line(log: Path) -> str:
    return log.read_text().splitlines()[-1]


@pytest.mark.parametrize("end", ["its reader stops", "Ctrl-C"])
def test_a_local_command_saves_its_work_before_its_processes_are_ended(tmp_path: Path, end: str) -> None:
    lines, helper = saving_in(tmp_path)
    if end == "Ctrl-C":
        with pytest.raises(KeyboardInterrupt):
            lines.throw(KeyboardInterrupt())
    else:
        lines.close()
    assert last_line(tmp_path / "log") == "saved with its helper"
    assert not helper.is_running()


def test_a_local_command_is_killed_after_its_grace_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "JOB_STOP_S", 1)
    lines, helper = saving_in(tmp_path, WAITING)
    lines.close()
    assert last_line(tmp_path / "log").startswith("saving")
    assert not helper.is_running()


OWNER = """
import os, signal
from pathlib import Path
from tasks.processes.jobs import local_lines
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
for line in local_lines({command!r}, folder=Path("."), environment=os.environ, log=Path({log!r})):
    print(line, flush=True)
"""


@contextmanager
def owner_of(script: str, log: Path) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """Yield a process that reads the lines of a started script, and the script's helper process."""
    with subprocess.Popen(
        python(OWNER.format(command=python(script), log=str(log))), cwd=PROJECT_ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": "."},
    ) as owner:  # fmt: skip
        assert owner.stdout is not None
        try:
            yield owner, psutil.Process(int(owner.stdout.readline()))
        finally:
            owner.kill()


def test_a_local_command_saves_its_work_and_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    with owner_of(SAVING, tmp_path / "log") as (owner, helper):
        owner.kill()
        assert psutil.wait_procs([helper], timeout=20)[1] == []
    assert last_line(tmp_path / "log") == "saved with its helper"


def test_a_second_ctrl_c_ends_a_local_command_at_once(tmp_path: Path) -> None:
    with owner_of(WAITING, tmp_path / "log") as (owner, helper):
        assert owner.stderr is not None
        owner.send_signal(signal.SIGINT)
        assert any("has up to 600 s to save its work (Ctrl-C: stop at once)" in line for line in owner.stderr)
        assert helper.is_running()
        owner.send_signal(signal.SIGINT)
        owner.wait(15)
        assert not helper.is_running()


# --- without a cluster -------------------------------------------------------------------------------------------


def test_a_job_gets_the_variables_that_configure_libraries_and_no_secrets() -> None:
    given = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_TOKEN": "s", "VLLM_API_KEY": "s", "NCCL_DEBUG": "INFO",
             "PREFECT_API_URL": "u", "RAY_AUTH_TOKEN": "s", "CUDA_VISIBLE_DEVICES": "0", "PATH": "/bin"}  # fmt: skip
    assert job_environment(given) == {
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NCCL_DEBUG": "INFO", "RAY_JOB_STOP_WAIT_TIME_S": "600",
    }  # fmt: skip


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """Run a server with one answer for /api/version and 404 for other paths; with status 0 it never responds."""
    asked = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if status == 0:
                asked.wait(10)
                return
            known = self.path == "/api/version"
            self.send_response(status if known else 404)
            self.end_headers()
            self.wfile.write(body.encode() if known else b"not found")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        asked.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (200, "<html>", "has no Ray job API .status 200.*give the address of a cluster's dashboard"),
        (404, "not found", "has no Ray job API .status 404"),
        (401, "who are you?", "requires a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"),
        (200, '{"ray_version": "1.2.0"}', "refused .*Ray version 1.2.0 is running on the cluster"),
        (
            200,
            '{"ray_version": "2.60.0"}',
            "refused the request .Request failed with status code 404: not found",
        ),
        (0, "", "no Ray cluster responds at .* .timed out.: start it"),
    ],
)
def test_a_server_without_a_job_api_is_reported_quickly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, body: str, sentence: str
) -> None:
    monkeypatch.setattr(jobs, "PROBE_S", 1.0)
    with answering(status, body) as address, pytest.raises(UserError, match=sentence):
        list(on(address, "job", ["true"], tmp_path / "log"))


def test_an_address_where_nothing_listens_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no Ray cluster responds at .*Connection refused"):
        list(on(f"http://127.0.0.1:{free_port()}", "job", ["true"], tmp_path / "log"))
    with pytest.raises(UserError, match="missing an 'http://'"):
        list(on("localhost:8265", "job", ["true"], tmp_path / "log"))


class Breaking:
    """The output of a job over connections that break; `pieces` has the pieces of each connection."""

    def __init__(self, *pieces: list[str], ends: bool = True) -> None:
        self.pieces, self.ends = list(pieces), ends

    async def tail_job_logs(self, _job: str) -> AsyncIterator[str]:
        for piece in self.pieces.pop(0) if self.pieces else ():
            yield piece
        if self.pieces or not self.ends:
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_status(self, _job: str) -> Any:
        return SimpleNamespace(is_terminal=lambda: not self.pieces)


def test_a_broken_connection_is_opened_again_without_repeating_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "RECONNECT_EVERY_S", 0.0)
    client = Breaking(["a\nb", "b\nc"], [], ["a\nbb\ncc", "\n\nd\n", "e"])
    assert list(jobs._output(client, "address", "job")) == ["a", "bb", "cc", "", "d", "e"]


def test_the_error_of_a_lost_connection_states_that_the_job_keeps_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "RECONNECT_EVERY_S", 0.0)
    monkeypatch.setattr(jobs, "RECONNECT_S", 0.05)
    lines = jobs._output(Breaking(["a\n"], ends=False), "address", "job")
    assert next(lines) == "a"
    with pytest.raises(UserError, match=r"closed unexpectedly.*: job job keeps running"):
        next(lines)


# --- on a real cluster -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Run a cluster of one node with two cores and four GPUs (which exist for Ray's scheduler only); yield its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="sure-math-ray-") as folder:
        command = [
            Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--port=0", f"--dashboard-port={port}",
            "--dashboard-agent-listen-port=0", "--num-cpus=2", "--num-gpus=4", f"--temp-dir={folder}",
            f"--object-store-memory={128 * 1024**2}", "--include-log-monitor=false",
        ]  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.processes.supervisor", "--", *map(str, command)], cwd=PROJECT_ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=os.environ | RAY_ENVIRONMENT | {"RAY_AUTH_MODE": "disabled"},
        )  # fmt: skip
        assert process.stdin is not None
        try:
            _wait_until_up(address, process)
            yield address
        finally:
            process.stdin.close()
            process.wait(30)


def _wait_until_up(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(int(START_S / 0.25)):
        assert process.poll() is None, "ray start ended"
        try:
            if httpx.get(f"{address}/api/version", timeout=5.0).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.25)
    raise AssertionError(f"the cluster is not up after {START_S:.0f} s")


def names(address: str) -> list[str]:
    found = httpx.get(f"{address}/api/jobs/", timeout=10.0).json()
    return sorted(one["submission_id"] for one in found if one["submission_id"])


FOLLOW = """
import signal
from pathlib import Path
from tasks.processes.jobs import cluster_lines
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
for line in cluster_lines({address!r}, "count", {command!r}, folder=Path("."), environment={{}}, log=Path({log!r})):
    print(line, flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_running_job_is_attached_to_after_its_follower_was_killed_and_an_ended_one_runs_again(
    cluster: str, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    count = ["bash", "-c", COUNT.format(flag=flag)]
    follower = subprocess.Popen(
        python(FOLLOW.format(address=cluster, command=count, log=str(tmp_path / "first"))), cwd=PROJECT_ROOT,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": "."},
    )  # fmt: skip
    assert follower.stdout is not None and follower.stdout.readline() == "line 1\n"
    follower.send_signal(signal.SIGINT)
    output, _ = follower.communicate(timeout=30)
    assert output.rstrip().endswith("KeyboardInterrupt") and "line 4\n" not in output
    lines = on(cluster, "count", count, tmp_path / "log")
    first = next(lines)
    flag.touch()
    assert [first, *lines] == LINES
    assert names(cluster) == ["count"]
    assert (tmp_path / "log").read_text() == "".join(f"{line}\n" for line in LINES)
    assert list(on(cluster, "count", ["echo", "again"], tmp_path / "log")) == ["again"]
    assert names(cluster) == ["count", "count-2"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_error_of_a_failed_job_contains_its_last_lines(cluster: str, tmp_path: Path) -> None:
    command = ["bash", "-c", "pwd; echo $HF_HUB_OFFLINE; echo 'no such model' >&2; exit 2"]
    lines = on(cluster, "failing", command, tmp_path / "log")
    assert [next(lines), next(lines)] == [str(PROJECT_ROOT), "1"]
    with pytest.raises(JobFailed) as caught:
        list(lines)
    assert str(caught.value) == (
        f"Ray job failing at {cluster} ended with status FAILED: {PROJECT_ROOT} | 1 | no such model (log: {tmp_path / 'log'})"
    )


SLOTS = """
import json, os
import ray
from tasks.processes.ray_session import RaySession
from training.workers.placement import actor_options, make_placement, reserve

class Actor:
    def device(self):
        return os.environ["CUDA_VISIBLE_DEVICES"]

with RaySession(4) as session:
    placement = make_placement("split", students=1, engines=2)
    group = reserve(placement)
    actors = [ray.remote(Actor).options(**actor_options(slot, group)).remote() for slot in placement.slots]
    print(json.dumps(ray.get([actor.device.remote() for actor in actors])))
    reserve(make_placement("split", students=2, engines=2))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_actors_of_a_job_are_placed_on_its_cluster(cluster: str, tmp_path: Path) -> None:
    lines = on(cluster, "slots", python(SLOTS), tmp_path / "log")
    devices = next(json.loads(line) for line in lines if line.startswith("["))
    assert sorted(devices) == [
        "0",
        "1",
        "2",
        "3",
    ]  # student, teacher and two engines, each on its own GPU
    with pytest.raises(UserError, match="placement 'split' needs 5 GPUs, but the cluster has 4"):
        list(lines)
