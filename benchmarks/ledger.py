"""Writes per second of the request ledger, one process and several, beside plain SQLite.

    PYTHONPATH=. python benchmarks/ledger.py --writes 20000 --processes 4

Every process opens the file and waits; from the start signal on it puts its share of the answers (each of about 1,500
characters, with its tokens accounted) and ends when everything is committed. The floor is one process that hands the same
rows, compressed beforehand, to `executemany` in one transaction; the second row compresses them, too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

from tasks.io.ledger import Ledger, Spent

WORDS = (
    "Let the number of apples that a farmer sells in week be equal to twice its square root minus 17".split()
)


def answers(name: int, count: int) -> Iterator[tuple[str, dict[str, object]]]:
    """Keys as long as real ones, and replies that compress about as well as prose does."""
    rng = random.Random(name)
    for number in range(count):
        text = " ".join(f"{rng.choice(WORDS)}{rng.randrange(100)}" for _ in range(200))
        value: dict[str, object] = {
            "text": text,
            "finish_reason": "stop",
            "prompt_tokens": 400,
            "completion_tokens": 300,
        }
        yield f"{name:08x}{number:056x}", value


def put_all(path: Path, name: int, count: int, start: Barrier) -> None:
    prepared, one = list(answers(name, count)), Spent(requests=1, prompt_tokens=400, completion_tokens=300)
    with Ledger(path) as ledger:
        start.wait()
        for key, value in prepared:
            ledger.put(key, value, model="scripted@1", spent=one)
        ledger.flush()
        start.wait()


def ledger_seconds(writes: int, processes: int) -> float:
    """Wall seconds of `writes` answers put by so many processes at once, from their common start to the last commit."""
    context = multiprocessing.get_context("spawn")
    start, share = context.Barrier(processes + 1), writes // processes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        workers = [
            context.Process(target=put_all, args=(path, name, share, start)) for name in range(processes)
        ]
        for worker in workers:
            worker.start()
        start.wait()
        began = time.perf_counter()
        start.wait()
        seconds = time.perf_counter() - began
        for worker in workers:
            worker.join()
        with Ledger(path) as ledger:
            assert len(ledger) == ledger.spent()["scripted@1"].requests == share * processes
    return seconds


def floor_seconds(writes: int, *, compress: bool) -> float:
    """Wall seconds of the same rows by plain `executemany`; without `compress`, zlib has done its work beforehand."""
    texts = [
        (key, json.dumps(value, separators=(",", ":")).encode("ascii")) for key, value in answers(0, writes)
    ]
    rows = texts if compress else [(key, zlib.compress(text)) for key, text in texts]
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "plain.sqlite", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL)")
        began = time.perf_counter()
        if compress:
            rows = [(key, zlib.compress(text)) for key, text in texts]
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR IGNORE INTO entries VALUES (?, ?)", rows)
        seconds = time.perf_counter() - began
        connection.close()
    return seconds


def main() -> None:
    """Read the arguments, measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--writes", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=4)
    arguments = parser.parse_args()
    writes, processes = arguments.writes, arguments.processes
    rows = {
        "plain executemany, compressed before": floor_seconds(writes, compress=False),
        "plain executemany and zlib": floor_seconds(writes, compress=True),
        "ledger, 1 process": ledger_seconds(writes, 1),
        f"ledger, {processes} processes": ledger_seconds(writes, processes),
    }
    for name, seconds in rows.items():
        print(f"{name:<40}{writes / seconds:>10,.0f} writes/s")


if __name__ == "__main__":
    main()
