"""Long commands in their own processes: on this machine under the supervisor, or as a job of a Ray cluster.

A local one ends with its owner, whatever ends that: it is asked to, and has time to save its work. A cluster's goes on by
itself: whoever asks for the same job again while it runs is attached to it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx

from tasks.core.errors import UserError
from tasks.io.loops import cancel_the_others
from tasks.io.ray_session import last_error_line
from tasks.io.supervisor import PATIENCE

__all__ = ["JobFailed", "cluster_lines", "end", "job_environment", "local_lines"]

STOP_S = 20.0
"""How long a supervisor may take, with another below it, to end what nobody has patience with."""
QUIET_S = 3.0
"""How long the end of a command is waited for without a word."""
LAST_LINES = 5
LOOK_S = 0.1
"""How often the log of a local command is looked at for new lines."""
PROBE_S = 10.0
"""How long a cluster may take to say which Ray it runs; Ray's own client would wait for minutes."""
RECONNECT_S, RECONNECT_EVERY_S = 120.0, 2.0
"""How long, and how often, a job's output is asked for again after the connection broke."""
JOB_STOP_S = 600
"""What a job that is stopped, here or by `ray job stop`, has to end by itself: a training run finishes its step and writes a
checkpoint first, and the supervisor's 5 s or Ray's 3 s are too few."""
STEERING = ("HF_", "NCCL_", "OMP_", "PYTHONUNBUFFERED", "TOKENIZERS_", "TORCH", "VLLM_")
SECRETS = ("AUTH", "CREDENTIAL", "KEY", "PASSWORD", "SECRET", "TOKEN")
OF_RAY = ("Running entrypoint for job ", "job_manager.py:")
"""What marks the lines that Ray writes above a job's own."""


class JobFailed(UserError):
    """A command ran, here or on a cluster, and did not end well."""


def local_lines(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path
) -> Generator[str]:
    """Run a command in `folder` and give its output line by line, as it writes it to `log`.

    When the iterator is closed, or this process ends, the command gets SIGTERM and `JOB_STOP_S` seconds to end by itself, then
    everything of it ends; closing waits for that, Ctrl-C while it waits ends the command at once. Its output goes to the file
    and not through a pipe: without a reader it could not say, or do, what it has to. Raises `JobFailed` with its last words.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.io.supervisor", PATIENCE, str(JOB_STOP_S), "--", *command],
            stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
            cwd=folder, env=dict(environment), start_new_session=True,
        )  # fmt: skip
    last: deque[str] = deque(maxlen=LAST_LINES)
    try:
        for line in _written(log, process):
            last.append(line.rstrip())
            yield line
    finally:
        status = end(process, command[-1])
    if status != 0:
        raise JobFailed(f"{command[-1]} ended with {status}: {' | '.join(last) or 'no word'} (log: {log})")


def _written(log: Path, process: subprocess.Popen[bytes]) -> Iterator[str]:
    """The lines that `process` writes to `log`, until it has ended. A progress bar's returns end lines too."""
    rest, over = b"", False
    with log.open("rb") as written:
        while not over:
            over = process.poll() is not None  # asked before the file is read: nothing is written afterwards
            *lines, rest = (rest + written.read()).split(b"\n")
            lines += [rest] if over and rest else []
            for line in lines:
                yield from line.decode("utf-8", "replace").removesuffix("\r").split("\r")
            if not (lines or over):
                time.sleep(LOOK_S)


def end(process: subprocess.Popen[bytes], what: str, *, quiet_s: float = QUIET_S) -> int:
    """Close a supervisor's pipe and wait until `what` runs there has had its time and has ended, after `quiet_s` seconds with a
    word of it; Ctrl-C cuts that short. Returns the exit status."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        try:
            return process.wait(quiet_s)
        except subprocess.TimeoutExpired:
            logging.getLogger(__name__).warning(
                "%s was asked to stop and has up to %d s to save its work (Ctrl-C: at once)", what, JOB_STOP_S
            )
        return process.wait(JOB_STOP_S + STOP_S)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGQUIT)
        process.wait(STOP_S)
        raise


def cluster_lines(
    address: str, job: str, command: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path
) -> Generator[str]:
    """Submit a command to the Ray cluster at `address` (http://host:8265) as job `job`, or attach to that job when it waits
    or runs there, and give its output from the beginning, line by line, which is written to `log` too.

    `folder` and the command's program must lie at the same place on the cluster; of `environment` the job gets what
    `job_environment` leaves. A job that has ended is submitted again as `job`-2, -3, ..., also when it succeeded: a command
    that finds its work done ends at once. Closing the iterator leaves the job running.

    Raises `UserError` when the cluster does not answer, `JobFailed` with the job's last words when it fails.
    """
    last: deque[str] = deque(maxlen=LAST_LINES)
    with _told(address):
        client = _client(address)
        name = _submitted(
            client, job, f"cd {shlex.quote(str(folder))} && exec {shlex.join(command)}", environment
        )
    yield from _kept(_output(client, address, name), log, last)
    with _told(address):
        info = client.get_job_info(name)
    if info.status != "SUCCEEDED":
        words = " | ".join(last) or (info.message or "no word").splitlines()[0]
        raise JobFailed(f"Ray job {name} at {address} ended as {info.status}: {words} (log: {log})")


def job_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a job on a cluster gets of an environment: what steers libraries, and no secret."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(STEERING) and not any(word in name for word in SECRETS)
    } | {"RAY_JOB_STOP_WAIT_TIME_S": str(JOB_STOP_S)}


def _client(address: str) -> Any:
    """A client of the cluster's job API, when there is one that answers in time."""
    from ray.job_submission import JobSubmissionClient

    try:
        answer = httpx.get(f"{address.rstrip('/')}/api/version", timeout=PROBE_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({_cause(error)}): start it, with its dashboard, or leave"
            " distill.ray_address unset to train here"
        ) from error
    wants_token = answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
    if not wants_token and "ray_version" not in answer.text:
        raise UserError(
            f"what answers at {address} has no job API of Ray (status {answer.status_code} for /api/version): give the"
            " address of a cluster's dashboard, as http://host:8265"
        )
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    with _unset("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # Ray would take these instead of `address`
        return JobSubmissionClient(address)


def _submitted(client: Any, job: str, entrypoint: str, environment: Mapping[str, str]) -> str:
    """The name of the job that runs or waits as `job`, which is submitted when there is none. Every start has a name of its
    own, since Ray adds the output of a name's second start to that of its first."""
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
    """A job's lines from its first to its end. A connection that breaks is opened again, and no line comes twice."""
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
                f"the connection to the Ray cluster at {address} broke ({_cause(broke)}): job {job} goes on by itself if"
                " the cluster does, start again to be attached to it"
            ) from broke
        time.sleep(RECONNECT_EVERY_S)


def _lines(output: AsyncIterator[str]) -> Iterator[str]:
    """Whole lines of an asynchronous stream of text, without those that Ray writes itself."""

    async def next_piece() -> str | None:
        return await anext(output, None)

    rest = ""
    # no asyncio.Runner: its handler of Ctrl-C cancels a task, which may not care
    loop = asyncio.new_event_loop()
    try:
        while (piece := loop.run_until_complete(next_piece())) is not None:
            *lines, rest = (rest + piece).split("\n")
            yield from (line for line in lines if not any(mark in line for mark in OF_RAY))
    finally:
        loop.run_until_complete(cancel_the_others())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    if rest:
        yield rest


def _kept(lines: Iterable[str], log: Path, last: deque[str]) -> Iterator[str]:
    """The same lines, each written to `log` before it is given; `last` holds the latest."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as kept:
        for line in lines:
            kept.write(f"{line}\n")
            kept.flush()
            last.append(line.rstrip())
            yield line


@contextmanager
def _told(address: str) -> Iterator[None]:
    """What goes wrong between this process and a cluster, as one sentence."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise UserError(
            f"the Ray cluster at {address} asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH)"
            " in the environment"
        ) from error
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"the Ray cluster at {address} refused ({_cause(error)}): see to its dashboard, then start again"
        ) from error


@contextmanager
def _unset(*names: str) -> Iterator[None]:
    """A block without these environment variables."""
    found = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(found)


def _cause(error: Exception | None) -> str:
    """What an error says, or what it is."""
    return last_error_line(str(error)) if str(error).strip() else type(error).__name__
