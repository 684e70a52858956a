"""Write throughput of the request ledger with one and several processes, CPU per write, and bytes per answer.

    PYTHONPATH=. python speed/ledger.py --writes 40000 --processes 4 --filled 500000

Every process opens the file and waits for a common start. It then writes its share of the answers (each of about 1,400 characters
under a random key, with its token counts) and ends when everything is committed. This is repeated with a file that already
has `--filled` answers, whose index is not cached. CPU time is that of all writing processes after the start. The baselines are
one process that passes the same rows to `executemany` in one transaction: compressed beforehand, and compressed by plain zlib.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

from tasks.llm.ledger import Ledger, Spent

WORDS = (
    "Let the number of apples that a farmer sells in week be equal to twice its square root minus 17".split()
)


def answers(name: int, count: int) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield keys in the real format, and answers that compress about as well as prose."""
    rng = random.Random(name)
    for number in range(count):
        text = " ".join(f"{rng.choice(WORDS)}{rng.randrange(100)}" for _ in range(200))
        value: dict[str, object] = {
            "text": text,
            "finish_reason": "stop",
            "prompt_tokens": 400,
            "completion_tokens": 300,
            "logprob_sum": None,
            "logprob_count": 0,
        }
        yield hashlib.sha256(f"{name} {number}".encode()).hexdigest(), value


def put_all(
    path: Path, name: int, count: int, start: Barrier, cpu: multiprocessing.SimpleQueue[float]
) -> None:
    """Write this process's share of the answers and report its CPU seconds."""
    prepared, one = list(answers(name, count)), Spent(requests=1, prompt_tokens=400, completion_tokens=300)
    with Ledger(path) as ledger:
        start.wait()
        began = time.process_time()
        for key, value in prepared:
            ledger.put(key, value, model="scripted@1", spent=one)
        ledger.flush()
        cpu.put(time.process_time() - began)
        start.wait()


def ledger_seconds(writes: int, processes: int, filled: Path | None = None) -> tuple[float, float]:
    """Return the wall seconds from the common start to the last commit of `writes` answers, written by several processes into a
    copy of `filled`, and the processes' CPU seconds."""
    context = multiprocessing.get_context("spawn")
    start, cpu, share = context.Barrier(processes + 1), context.SimpleQueue(), writes // processes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        if filled is not None:
            shutil.copy(filled, path)
        workers = [
            context.Process(target=put_all, args=(path, name, share, start, cpu)) for name in range(processes)
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
            assert ledger.spent()["scripted@1"].requests == share * processes
    return seconds, sum(cpu.get() for _ in workers)


def fill(path: Path, count: int) -> None:
    """Create a ledger with `count` unrelated answers of 640 bytes."""
    with Ledger(path):
        pass
    connection = sqlite3.connect(path)
    with connection:
        rows = ((os.urandom(32).hex(), os.urandom(640)) for _ in range(count))
        connection.executemany("INSERT INTO entries VALUES (?, ?)", rows)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def floor_seconds(writes: int, *, compress: bool) -> tuple[float, float]:
    """Return the wall and CPU seconds of the same rows by plain `executemany`; without `compress` they are compressed before."""
    texts = [
        (key, json.dumps(value, separators=(",", ":")).encode("ascii")) for key, value in answers(0, writes)
    ]
    rows = texts if compress else [(key, zlib.compress(text)) for key, text in texts]
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "plain.sqlite", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL)")
        began, cpu = time.perf_counter(), time.process_time()
        if compress:
            rows = [(key, zlib.compress(text)) for key, text in texts]
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR IGNORE INTO entries VALUES (?, ?)", rows)
        seconds = time.perf_counter() - began, time.process_time() - cpu
        connection.close()
    return seconds


def bytes_an_answer(writes: int) -> dict[str, float]:
    """Return the mean bytes per answer: as JSON, by plain zlib, in the ledger, and of the ledger's file including keys."""
    texts = [json.dumps(value, separators=(",", ":")).encode("ascii") for _, value in answers(0, writes)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        with Ledger(path) as ledger:
            for key, value in answers(0, writes):
                ledger.put(key, value)
        connection = sqlite3.connect(path)
        kept = connection.execute("SELECT sum(length(value)) FROM entries").fetchone()[0]
        connection.close()
        sizes = {
            "JSON": sum(map(len, texts)),
            "plain zlib": sum(len(zlib.compress(text)) for text in texts),
            "in the ledger": kept,
            "in its file": path.stat().st_size,
        }
    return {name: size / writes for name, size in sizes.items()}


def main() -> None:
    """Parse the arguments, run the measurements and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--writes", type=int, default=40_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--filled", type=int, default=500_000)
    arguments = parser.parse_args()
    writes, processes = arguments.writes, arguments.processes
    rows = {
        "plain executemany, compressed before": floor_seconds(writes, compress=False),
        "plain executemany and zlib": floor_seconds(writes, compress=True),
        "ledger, 1 process": ledger_seconds(writes, 1),
        f"ledger, {processes} processes": ledger_seconds(writes, processes),
    }
    with tempfile.TemporaryDirectory() as folder:
        fill(filled := Path(folder) / "filled.sqlite", arguments.filled)
        name = f"the same, {arguments.filled:,} existing answers"
        rows[name] = ledger_seconds(writes, processes, filled)
    for name, (seconds, cpu) in rows.items():
        print(f"{name:<40}{writes / seconds:>10,.0f} writes/s {1e6 * cpu / writes:6.1f} us CPU per write")
    sizes = bytes_an_answer(min(writes, 10_000))
    print("bytes per answer:", ", ".join(f"{size:,.0f} {name}" for name, size in sizes.items()))


if __name__ == "__main__":
    main()
