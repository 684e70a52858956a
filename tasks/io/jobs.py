"""Long commands in their own processes: on this machine under the supervisor, or as a job of a Ray cluster.

A local one ends with its owner, whatever ends that. A cluster's goes on by itself: whoever asks for the same job again
while it runs is attached to it.
"""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.core.errors import UserError

__all__ = ["cluster_lines", "local_lines"]

STOP_S = 15.0
LAST_LINES = 5


def local_lines(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path
) -> Iterator[str]:
    """Run a command in `folder` and give its output line by line, which is written to `log` too.

    When the iterator is closed, or this process ends, everything of the command ends. Raises `UserError` with its last
    words when it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.io.supervisor", "--", *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        cwd=folder, env=dict(environment), start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    last: list[str] = []
    try:
        with log.open("w", encoding="utf-8") as kept:
            for line in process.stdout:
                kept.write(line)
                kept.flush()
                last = [*last, line.rstrip()][-LAST_LINES:]
                yield line.rstrip("\n")
    finally:
        process.stdin.close()
        status = process.wait(STOP_S)
    if status != 0:
        raise UserError(f"{command[-1]} ended with {status}: {' | '.join(last) or 'no word'} (log: {log})")


def cluster_lines(address: str, job: str, command: Sequence[str], *, folder: Path) -> Iterator[str]:
    """Submit a command to the Ray cluster at `address` (http://host:8265) as job `job`, or attach to it when it waits or runs
    there, and give its output line by line. `folder` must lie at the same place on the cluster. A job that has ended is
    submitted again, also when it succeeded: a command that finds its work done ends at once.

    Raises `UserError` when the cluster does not answer or the job fails.
    """
    client = _client(address)
    known = {details.submission_id: details.status for details in client.list_jobs()}
    if job not in known or known[job].is_terminal():
        if job in known:
            client.delete_job(job)
        client.submit_job(
            entrypoint=f"cd {shlex.quote(str(folder))} && {shlex.join(command)}", submission_id=job
        )
    yield from _followed(client.tail_job_logs(job))
    status = str(client.get_job_status(job))
    if status != "SUCCEEDED":
        raise UserError(f"Ray job {job} at {address} ended as {status}: {client.get_job_info(job).message}")


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({error}): start it, or leave distill.ray_address unset to train here"
        ) from error


def _followed(logs: AsyncIterator[str]) -> Iterator[str]:
    """The lines of an asynchronous stream of text."""
    loop, rest = asyncio.new_event_loop(), ""
    try:
        while True:
            try:
                rest += loop.run_until_complete(anext(logs))
            except StopAsyncIteration:
                break
            *lines, rest = rest.split("\n")
            yield from lines
    finally:
        loop.close()
    if rest:
        yield rest
