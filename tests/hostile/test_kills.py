"""Kills: work that is killed at random moments and started again ends with the same bytes and pays for nothing twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from speed import kills
from tasks.config import PROJECT_ROOT
from tasks.llm.ledger import Ledger
from tasks.storage.artifacts import digest
from tests.hostile.trials import Trials

CANDIDATES = 2000
WORK = """
import hashlib, sys, time
from pathlib import Path
from tasks.llm.ledger import Ledger
from tasks.rows import Selected
from tasks.storage.artifacts import Store

root, paid = Path(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
store = Store(root)
folder = store.folder("rules", "ab" * 32)
print("ready", flush=True)
with Ledger(root / "ledger.sqlite") as ledger:
    for shard in range(6):
        if store.finished_shard(folder, shard) is not None:
            continue
        keys = [f"{shard}-{number}" for number in range(300)]
        known, rows = ledger.get_many(keys), []
        for key in keys:
            if key not in known:
                print(key, file=paid)
                time.sleep(0.0005)
                known[key] = hashlib.sha256(key.encode()).hexdigest()
                ledger.put(key, known[key])
            rows.append(Selected(problem_id=known[key], split="train"))
        record = {"counts": {"in": len(rows), "kept": len(rows), "rejected": {}}}
        store.write_shard(folder, shard, {"problems": (Selected, rows)}, record)
store.finish("rules", "ab" * 32, 6, {})
"""
"""A stage in small: answers come from the ledger or are paid for, which is recorded in a file; shards are written."""


def work(root: Path, paid: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(root), str(paid)],
        cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def answered(root: Path) -> set[str]:
    """Return the keys of the committed answers."""
    keys = [f"{shard}-{number}" for shard in range(6) for number in range(300)]
    with Ledger(root / "ledger.sqlite") as ledger:
        return set(ledger.get_many(keys))


def kill_work(tmp_path: Path, count: int) -> list[str]:
    """Kill the work `count` times, finish it, and return what is wrong."""
    paid, wrong = tmp_path / "paid", list[str]()
    assert work(tmp_path / "whole", tmp_path / "paid-whole").wait() == 0
    committed: set[str] = set()
    for number in range(count + 1):
        paid.unlink(missing_ok=True)
        process = work(tmp_path / "killed", paid)
        if number < count:
            time.sleep(random.Random(number).uniform(0, 1.5 / count))
            process.send_signal(signal.SIGKILL)
        process.wait()
        twice = committed & set(paid.read_text().split())
        wrong += [f"kill {number}: {len(twice)} answers of the ledger were paid for again"] if twice else []
        committed = answered(tmp_path / "killed")
    whole, killed = (digest(tmp_path / name) for name in ("whole", "killed"))
    return wrong + ([] if whole == killed else ["the bytes differ"])


def test_killed_work_ends_with_the_same_bytes_and_pays_nothing_twice(tmp_path: Path, trials: Trials) -> None:
    trials.add("kills of a stage in small", 2, kill_work(tmp_path, 2))


@pytest.mark.hostile
@pytest.mark.timeout(3600)
def test_a_killed_build_ends_with_the_same_bytes_and_pays_nothing_twice(
    tmp_path: Path, trials: Trials
) -> None:
    """The whole flow with scripted models: 2,000 candidates, killed 15 times."""
    place = kills.prepared(tmp_path, "pocket", "question", CANDIDATES)
    kills.whole(place, CANDIDATES)
    kills.kill(place, CANDIDATES, 15, 0, float("inf"))
    notes = place.read_notes()
    wrong = [
        f"kill {number}: {row['from_ledger']} answers of the ledger were paid for again"
        for number, row in enumerate(notes["kills"])
        if row["from_ledger"]
    ]
    wrong += [] if notes["outcome"]["same"] else ["the bytes of the dataset differ"]
    wrong += [] if notes["outcome"]["from_ledger"] == 0 else [f"paid twice: {notes['outcome']}"]
    trials.add("kills of a build", len(notes["kills"]), wrong)


@pytest.mark.hostile
@pytest.mark.timeout(3600)
def test_of_two_builds_in_one_folder_one_is_refused(tmp_path: Path, trials: Trials) -> None:
    place, wrong, count = kills.prepared(tmp_path, "pocket", "question", 200), list[str](), 3
    with kills.prefect_server(place) as api:
        for number in range(count):
            kills.clear_pair(place)
            found = kills.pair(place, api, 200, random.Random(number).random())
            wrong += [f"pair {number}: {'; '.join(found)}"] if found else []
    trials.add("two builds in one folder", count, wrong)
