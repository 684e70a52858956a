"""A small pocket build in its own process, for the tests of the whole flow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from tasks.config import PROJECT_ROOT
from tasks.llm.ledger import Ledger
from tasks.rows import Tier

SMALL = {
    "run.shard_rows": 12,
    "aggregate.test_problems": 4,
    "aggregate.sources": [
        {"kind": "pocket", "name": "pocket", "seed": 0, "counts": dict.fromkeys(Tier, 6)},
        {"kind": "pocket", "name": "curated", "role": "curated", "seed": 3, "counts": dict.fromkeys(Tier, 2)},
    ],
    "evolve.branches": dict.fromkeys(Tier, 1),
    "evolve.rounds": {"easy": 1, "medium": 1, "hard": 2, "competition": 2},
    "select.target": 16,
    # problems 0 and 1 of the six seeds of every tier, whose descendants are flagged
    "decontam.benchmarks": [{"kind": "pocket", "name": "exam", "seed": 0, "counts": dict.fromkeys(Tier, 2)}],
    "sample.sampling": {"max_tokens": 256},
    "distill": None,
}
AT_ONCE = {"cluster.overlap": "always"}  # as on machines where teacher and judge do not share the cores
STAGES = (
    "aggregate", "evolve-1", "evolve-2", "rules", "deduplicate", "judge", "select", "decontaminate", "sample", "cluster",
)  # fmt: skip


@dataclass(frozen=True)
class Builder:
    """Runs the flow in its own process, as a worker does."""

    api: str
    output: Path

    def start(self, **overrides: object) -> subprocess.Popen[str]:
        settings = json.dumps({**SMALL, "run.output": str(self.output), **overrides})
        code = f"import json; from flows.build import build; build('pocket', json.loads({settings!r}))"
        return subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=PROJECT_ROOT,
            env=os.environ | {"PREFECT_API_URL": self.api},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, **overrides: object) -> str:
        process = self.start(**overrides)
        log, _ = process.communicate(timeout=900)
        assert process.returncode == 0, log[-5000:]
        return log

    def entries(self) -> int:
        with Ledger(self.output / "ledger.sqlite") as ledger:
            return len(ledger)

    def shard_files(self) -> dict[str, tuple[int, int]]:
        files = (self.output / "artifacts").rglob("shard-*/*.parquet")
        return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


@dataclass(frozen=True)
class Undisturbed:
    """A complete build, made once per test session. `log` is its output, `digest` the digest of its dataset."""

    builder: Builder
    log: str
    digest: str


def sent_requests(log: str) -> int:
    """Chat requests sent plus problems sampled, according to the log."""
    chats = re.findall(r"([\d,]+) requests? sent", log)
    samples = re.findall(r"([\d,]+) problems? sampled", log)
    return sum(int(count.replace(",", "")) for count in [*chats, *samples])


def left_after(family: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Return the processes that are still alive after so many seconds."""
    _, alive = psutil.wait_procs(family, timeout=seconds)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
