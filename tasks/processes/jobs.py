"""Run long commands in their own processes: on this machine under the supervisor, or as a job of a Ray cluster.

A local command never outlives the process that started it: it gets SIGTERM and time to save its work. A job on a cluster
keeps running; submitting the same job again while it runs attaches to it.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp
import httpx

from tasks.errors import UserError
from tasks.keys import is_secret
from tasks.processes.loops import LoopThread
from tasks.processes.ray_session import last_error_line
from tasks.processes.supervisor import PATIENCE

__all__ = ["JobFailed", "cluster_lines", "end", "job_environment", "local_lines"]

STOP_S = 20.0
"""Seconds that a supervisor, possibly with a nested one, may take to end processes without a grace period of their own."""
QUIET_S = 3.0
"""Seconds to wait for a command to end before a warning is logged."""
LAST_LINES = 5
POLL_S = 0.1
"""Seconds between two reads of the log of a local command."""
PROBE_S = 10.0
"""Timeout in seconds for a cluster's version request; Ray's own client would wait for minutes."""
RECONNECT_S, RECONNECT_EVERY_S = 120.0, 2.0
"""How long, and how often, to try to read a job's output again after the connection broke, in seconds."""
JOB_STOP_S = 600
"""Grace period in seconds of a job that is stopped, here or by `ray job stop`: a training run finishes its step and writes a
checkpoint first, for which the supervisor's 5 s or Ray's 3 s are too short."""
STEERING = ("HF_", "NCCL_", "OMP_", "PYTHONUNBUFFERED", "TOKENIZERS_", "TORCH", "VLLM_")
OF_RAY = ("Running entrypoint for job ", "job_manager.py:")
"""Markers of the lines that Ray itself writes at the start of a job's output."""


class JobFailed(UserError):
    """A command ran, on this machine or on a cluster, and failed."""


def local_lines(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path
) -> Generator[str]:
    """Run a command in `folder` and yield its output line by line, as it is written to `log`.

    When the iterator is closed, or this process ends, the command gets SIGTERM and `JOB_STOP_S` seconds to finish; then all
    its processes are killed. Closing waits for that; Ctrl-C during the wait kills the command at once. Output goes to the file
    and not through a pipe, which would block the command without a reader. Raises `JobFailed` with the last lines of output.
    """
    with _opened(log) as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.processes.supervisor", "--", *command],
            stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
            cwd=folder, env={**environment, PATIENCE: str(JOB_STOP_S)}, start_new_session=True,
        )  # fmt: skip
    last: deque[str] = deque(maxlen=LAST_LINES)
    try:
        for line in _written(log, process):
            last.append(line.rstrip())
            yield line
    finally:
        status = end(process, command[-1])
    if status != 0:
        raise JobFailed(
            f"{command[-1]} failed with exit status {status}: {' | '.join(last) or 'no output'} (log: {log})"
        )


def _opened(log: Path) -> BinaryIO:
    """Create a log and its folder. Raises `UserError` if that is impossible."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("wb")
    except OSError as error:
        raise UserError(
            f"the log {log} cannot be written ({error.strerror}): make its folder writable, free some space, or choose another"
            " output folder"
        ) from error


def _written(log: Path, process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield the lines that `process` writes to `log` until it ends. Carriage returns, as of progress bars, end lines too."""
    rest, over = b"", False
    with log.open("rb") as written:
        while not over:
            over = process.poll() is not None  # polled before the read, so that no output is missed
            *lines, rest = (rest + written.read()).split(b"\n")
            lines += [rest] if over and rest else []
            for line in lines:
                yield from line.decode("utf-8", "replace").removesuffix("\r").split("\r")
            if not (lines or over):
                time.sleep(POLL_S)


def end(process: subprocess.Popen[bytes], what: str, *, quiet_s: float = QUIET_S) -> int:
    """Close a supervisor's pipe, wait until its command, called `what` in the log, has ended, and return the exit status.

    Logs a warning after `quiet_s` seconds. Ctrl-C kills the command at once.
    """
    assert process.stdin is not None
    process.stdin.close()
    try:
        try:
            return process.wait(quiet_s)
        except subprocess.TimeoutExpired:
            logging.getLogger(__name__).warning(
                "%s is stopping and has up to %d s to save its work (Ctrl-C: stop at once)", what, JOB_STOP_S
            )
        return process.wait(JOB_STOP_S + STOP_S)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGQUIT)
        process.wait(STOP_S)
        raise


def cluster_lines(
    address: str, job: str, command: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path
) -> Generator[str]:
    """Submit a command to the Ray cluster at `address` (http://host:8265) as job `job`, or attach to that job if it is pending
    or running, and yield its output from the beginning, line by line; it is also written to `log`.

    `folder` and the command's program must have the same paths on the cluster; the job's environment is
    `job_environment(environment)`. A job that has ended, even successfully, is submitted again as `job`-2, -3, ...: a command
    whose work is done returns at once. Closing the iterator leaves the job running.

    Raises `UserError` if the cluster does not respond, and `JobFailed` with the last lines of output if the job fails.
    """
    last: deque[str] = deque(maxlen=LAST_LINES)
    with _cluster_errors(address):
        client = _client(address)
        name = _submitted(
            client, job, f"cd {shlex.quote(str(folder))} && exec {shlex.join(command)}", environment
        )
    yield from _kept(_output(client, address, name), log, last)
    with _cluster_errors(address):
        info = client.get_job_info(name)
    if info.status != "SUCCEEDED":
        words = " | ".join(last) or (info.message or "no output").splitlines()[0]
        raise JobFailed(f"Ray job {name} at {address} ended with status {info.status}: {words} (log: {log})")


def job_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that a job on a cluster gets: variables that configure libraries, but no secrets."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(STEERING) and not is_secret(name)
    } | {"RAY_JOB_STOP_WAIT_TIME_S": str(JOB_STOP_S)}


def _client(address: str) -> Any:
    """Return a client of the cluster's job API. Raises `UserError` if there is none or it does not respond in time."""
    from ray.job_submission import JobSubmissionClient

    try:
        answer = httpx.get(f"{address.rstrip('/')}/api/version", timeout=PROBE_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(
            f"no Ray cluster responds at {address} ({_cause(error)}): start it, with its dashboard, or leave"
            " distill.ray_address unset to train on this machine"
        ) from error
    wants_token = answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
    if not wants_token and "ray_version" not in answer.text:
        raise UserError(
            f"the server at {address} has no Ray job API (status {answer.status_code} for /api/version): give the"
            " address of a cluster's dashboard, such as http://host:8265"
        )
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    with _unset("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # Ray would take these instead of `address`
        return JobSubmissionClient(address)


def _submitted(client: Any, job: str, entrypoint: str, environment: Mapping[str, str]) -> str:
    """Return the name of the pending or running job for `job`, submitting one if there is none. Every start has its own name,
    since Ray appends the output of a second start of a name to that of the first."""
    known = {details.submission_id: details.status for details in client.list_jobs()}
    starts = []
    while (name := job if not starts else f"{job}-{len(starts) + 1}") in known:
        starts.append(name)
    if starts and not known[starts[-1]].is_terminal():
        return starts[-1]
    return client.submit_job(
        entrypoint=entrypoint, submission_id=name, runtime_env={"env_vars": job_environment(environment)}
    )


def _output(client: Any, address: str, job: str) -> Iterator[str]:
    """Yield all output lines of a job until it ends. Reconnects after a broken connection, without repeating lines."""
    given, heard = 0, time.monotonic()
    while True:
        broke: Exception | None = None
        try:
            for number, line in enumerate(_lines(client.tail_job_logs(job))):
                heard = time.monotonic()
                if number >= given:
                    given += 1
                    yield line
            if client.get_job_status(job).is_terminal():
                return
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            broke = error
        if time.monotonic() - heard > RECONNECT_S:
            raise UserError(
                f"the connection to the Ray cluster at {address} broke ({_cause(broke)}): job {job} keeps running as long as"
                " the cluster does; start again to attach to it"
            ) from broke
        time.sleep(RECONNECT_EVERY_S)


def _lines(output: AsyncIterator[str]) -> Iterator[str]:
    """Yield the lines of an asynchronous text stream, without those that Ray itself writes."""

    async def next_piece() -> str | None:
        return await anext(output, None)

    rest = ""
    with closing(LoopThread("job output")) as thread:
        while (piece := thread.submit(next_piece()).result()) is not None:
            *lines, rest = (rest + piece).split("\n")
            yield from (line for line in lines if not any(mark in line for mark in OF_RAY))
    if rest:
        yield rest


def _kept(lines: Iterable[str], log: Path, last: deque[str]) -> Iterator[str]:
    """Yield the same lines, writing each to `log` first; `last` collects the latest ones."""
    with _opened(log) as kept:
        for line in lines:
            kept.write(f"{line}\n".encode("utf-8", "backslashreplace"))
            kept.flush()
            last.append(line.rstrip())
            yield line


@contextmanager
def _cluster_errors(address: str) -> Iterator[None]:
    """Turn errors of the connection to a cluster into a `UserError`."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise UserError(
            f"the Ray cluster at {address} requires a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH)"
            " in the environment"
        ) from error
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"the Ray cluster at {address} refused the request ({_cause(error)}): check its dashboard, then start again"
        ) from error


@contextmanager
def _unset(*names: str) -> Iterator[None]:
    """Unset these environment variables inside the block."""
    found = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(found)


def _cause(error: Exception | None) -> str:
    """Return the message of an error, or its type if it has none."""
    return last_error_line(str(error)) if str(error).strip() else type(error).__name__
