"""Mapping functions over items in other processes: order, errors, and no processes left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.processes.mapper import open_mapper

SMALL_WORK = """
import os, time
from tasks.errors import UserError

def half(number):
    print("a line that must not get between the results")
    time.sleep(0.02 * (number % 3))
    return number / 2, os.getpid()

def refuses(number):
    raise UserError(f"{number} is too much: take less")

def unhappy(number):
    raise ValueError(number)

def dies(number):
    os._exit(3)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    (tmp_path / "small_work.py").write_text(SMALL_WORK, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("tasks.processes.mapper.available_cores", lambda: 2)
    import small_work  # pyright: ignore[reportMissingImports]

    yield small_work
    sys.modules.pop("small_work")


def test_results_are_in_order_and_no_worker_process_is_left(work: object) -> None:
    before = set(psutil.Process().children(recursive=True))
    with open_mapper(2) as mapper:
        found = list(mapper(work.half, range(40)))  # type: ignore[attr-defined]
        again = list(mapper(work.half, [8]))  # type: ignore[attr-defined]
    assert [value for value, _ in found] == [number / 2 for number in range(40)] and again[0][0] == 4
    pids = {pid for _, pid in found}
    assert 1 <= len(pids) <= 2 and os.getpid() not in pids and again[0][1] in pids
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_single_worker_is_this_process(work: object) -> None:
    with open_mapper(1) as mapper:
        assert list(mapper(work.half, [2])) == [(1, os.getpid())]  # type: ignore[attr-defined]


def test_only_a_few_items_are_read_ahead(work: object) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    with open_mapper(2) as mapper:
        next(mapper(work.half, items()))  # type: ignore[attr-defined]
        assert len(taken) == 4


def test_exceptions_of_a_worker_are_raised_in_the_caller(work: object) -> None:
    with open_mapper(2) as mapper:
        with pytest.raises(UserError, match="7 is too much: take less"):
            list(mapper(work.refuses, [7]))  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="7"):
            list(mapper(work.unhappy, [7]))  # type: ignore[attr-defined]


def test_the_death_of_a_worker_is_a_user_error(work: object) -> None:
    with (
        open_mapper(2) as mapper,
        pytest.raises(UserError, match=r"died while it ran dies \(exit status 3\)"),
    ):
        list(mapper(work.dies, [1]))  # type: ignore[attr-defined]


def test_workers_end_when_their_owner_is_killed(work: object, tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", "import time, small_work, tasks.processes.mapper as m\n"
         "m.available_cores = lambda: 2\n"
         "with m.open_mapper(2) as mapper:\n"
         "    print(next(mapper(small_work.half, range(4)))[1], flush=True)\n"
         "    time.sleep(60)"],
        stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(PROJECT_ROOT), str(tmp_path)])},
    )  # fmt: skip
    assert owner.stdout is not None
    assert owner.stdout.readline().strip()
    workers = psutil.Process(owner.pid).children()
    assert workers
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    _, left = psutil.wait_procs(workers, timeout=10)
    assert [one for one in left if one.status() != psutil.STATUS_ZOMBIE] == []


def test_an_unreachable_ray_cluster_is_a_user_error() -> None:
    with (
        pytest.raises(UserError, match=r"no Ray cluster responds at ray\.address 127\.0\.0\.1:9 "),
        open_mapper(2, "127.0.0.1:9"),
    ):
        pass
