from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing

from tasks.processes.loops import LoopThread

UNCAUGHT = """
from tasks.processes.loops import LoopThread
from contextlib import closing

async def numbers():
    try:
        yield 1
        yield 2
    finally:
        print("closed", flush=True)

def lines():
    source = numbers()
    with closing(LoopThread("test")) as thread:
        while True:
            yield thread.submit(anext(source)).result()

found = lines()
next(found)
raise RuntimeError("interrupted")
"""

FORKED = """
import os, sys
from tasks.processes.loops import LoopThread

thread = LoopThread("test")
child = os.fork()
if child == 0:
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_the_end_of_a_thread_cancels_its_tasks_and_closes_its_generators() -> None:
    ended: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ended.append("generator")

    async def forever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("task")

    async def first() -> int:
        return await anext(aiter(source))

    source = numbers()
    with closing(LoopThread("test")) as thread:
        assert thread.submit(first()).result() == 1
        unfinished = thread.submit(forever())
        thread.submit(asyncio.sleep(0)).result()
    assert ended == ["task", "generator"] and unfinished.cancelled()


def test_a_program_with_an_open_generator_ends() -> None:
    found = subprocess.run(
        [sys.executable, "-c", UNCAUGHT], check=False, capture_output=True, text=True, timeout=60
    )
    assert (found.stdout, found.stderr.splitlines()[-1]) == ("closed\n", "RuntimeError: interrupted")


def test_a_forked_process_ends() -> None:
    found = subprocess.run(
        [sys.executable, "-c", FORKED], check=False, capture_output=True, text=True, timeout=60
    )
    assert (found.stdout, found.returncode) == ("3\n", 0)
