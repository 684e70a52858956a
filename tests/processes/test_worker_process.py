"""A process that calls functions: its errors, its output, and its end."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.processes.worker_process import WorkerDied, WorkerProcess

WORK = """
import os, subprocess, sys, threading, time

class Unsendable(Exception):
    def __init__(self, first, second):
        super().__init__("two things")
        self.lock = threading.Lock()

class Unmakeable(Exception):
    def __init__(self, first, second):
        super().__init__("only one")

def raises(name):
    raise globals()[name](1, 2)

def prints(text):
    print(text)
    subprocess.run([sys.executable, "-c", "print('from a child')"])
    return sys.stdin.read()

def lock(_):
    return threading.Lock()

def busy(path):
    with open(path, "w") as file:
        file.write("begun")
    while True:
        sum(range(1000))

def double(number):
    return 2 * number
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "worker_work.py").write_text(WORK, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import worker_work  # pyright: ignore[reportMissingImports]

    yield worker_work
    sys.modules.pop("worker_work")


@pytest.fixture
def worker(work: Any) -> Iterator[WorkerProcess]:
    started = WorkerProcess()
    yield started
    started.stop()


def test_an_exception_that_cannot_be_sent_is_named_and_the_worker_goes_on(
    worker: WorkerProcess, work: Any
) -> None:
    with pytest.raises(RuntimeError, match=r"^Unsendable: two things$"):
        worker.call(work.raises, "Unsendable")
    with pytest.raises(RuntimeError, match=r"^Unmakeable: only one$"):
        worker.call(work.raises, "Unmakeable")
    with pytest.raises(TypeError, match="cannot pickle"):  # a result that cannot be sent
        worker.call(work.lock, 0)
    assert worker.call(work.double, 4) == 8


def test_what_a_worker_prints_is_not_part_of_its_results_and_it_has_no_input(work: Any) -> None:
    with tempfile.TemporaryFile("a+b") as errors:
        worker = WorkerProcess(errors=errors)
        assert worker.call(work.prints, "a line") == ""
        worker.stop()
        errors.seek(0)
        assert sorted(errors.read().decode().split("\n")) == ["", "a line", "from a child"]


def test_keys_are_not_inherited_and_a_variable_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "very-secret-value")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    for given, threads in ((WorkerProcess(), "1"), (WorkerProcess({"A": "b"}), "7")):
        assert given.call(os.getenv, "SOME_API_KEY") is None
        assert given.call(os.getenv, "OMP_NUM_THREADS") == threads
        given.stop()


def test_sigterm_is_left_to_the_parent(worker: WorkerProcess, work: Any) -> None:
    assert worker.call(work.double, 1) == 2
    for number in (signal.SIGTERM, signal.SIGINT):
        worker.process.send_signal(number)
    assert worker.call(work.double, 2) == 4
    worker.process.kill()
    with pytest.raises(WorkerDied, match=r"while it ran double \(exit status -9\)"):
        worker.call(work.double, 3)


def test_a_worker_ends_with_its_input_also_while_it_is_busy(
    worker: WorkerProcess, work: Any, tmp_path: Path
) -> None:
    import threading

    threading.Thread(target=_call_and_fail, args=(worker, work.busy, str(tmp_path / "begun"))).start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    psutil.wait_procs([psutil.Process(worker.process.pid)], timeout=10)
    assert worker.process.wait(10) == 0


def _call_and_fail(worker: WorkerProcess, function: Any, item: Any) -> None:
    with pytest.raises(WorkerDied):
        worker.call(function, item)
