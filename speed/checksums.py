"""Cost of verifying checksums: CPU time of reading shards and datasets, and of a stage, with and without it.

    PYTHONPATH=. python speed/checksums.py --rows 20000

Writes a shard of generated problems with `--rows` rows, and a dataset of `--rows` / 10 problems with 8 responses each. Every
reading is repeated `--repeats` times in turn with and without verification, with files in the page cache; the smallest CPU time
counts. The stage is `rules`, from Parquet to Parquet, as a worker process runs it: it reads, checks and writes the shard.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pocket.world.generate import problem
from tasks.config import load_config
from tasks.rows import Problem, Response, Role, Tier
from tasks.runtime.shard_work import RulesWork, reject_by_rules
from tasks.storage import tables
from tasks.storage.artifacts import Store

WORDS = "we let the sum of product equals integer such that therefore number value is and so have from 12 7 x y".split()


def problems(count: int) -> list[Problem]:
    """Return generated problems, each text with a number of its own."""
    texts = [problem(0, "hard", number).text for number in range(min(count, 2000))]
    first = Problem(
        id="", text="", tier=Tier.HARD, role=Role.SEED, source="pocket", source_id="", licence="cc0-1.0", root_id=""
    )  # fmt: skip
    return [
        replace(
            first,
            id=f"{n:032x}",
            root_id=f"{n:032x}",
            source_id=f"{n}",
            text=f"{texts[n % len(texts)]} ({n})",
        )
        for n in range(count)
    ]


def responses(count: int) -> list[Response]:
    """Return responses of about 1,400 characters of random words."""
    rng = random.Random(0)
    return [
        Response(
            problem_id=f"{n // 8:032x}", index=n % 8, text=" ".join(rng.choices(WORDS, k=300)), token_count=350,
            logprob_sum=-rng.random(), finish_reason="stop", answer=str(n), model="teacher:1", prompt="solve@1:1",
            sampling="{}", seed=n,
        )
        for n in range(count)
    ]  # fmt: skip


def least(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def compare(work: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return the least CPU time of `work` with and without verification."""
    verify, seconds = tables.verify, ([], [])
    for _ in range(repeats):
        for place, function in enumerate((verify, lambda _path: None)):
            tables.verify = function
            seconds[place].append(least(work))
    tables.verify = verify
    return min(seconds[0]), min(seconds[1])


def works(folder: Path, rows: int) -> dict[str, tuple[Path, Callable[[], Any]]]:
    """Write two shards, and return what is measured: the file that is read, and the work, by name."""
    store, counts = Store(folder), {"in": 0, "kept": 0, "rejected": {}}
    store.write_shard(folder, 0, {"problems": (Problem, problems(rows))}, {"counts": counts})
    store.write_shard(folder, 1, {"responses": (Response, responses(rows * 8 // 10))}, {"counts": counts})
    one, two = folder / "shard-00000/problems.parquet", folder / "shard-00001/responses.parquet"
    settings = load_config("pocket").rules

    def stage() -> None:
        for kind, kept in reject_by_rules(RulesWork(path=one, settings=settings)).values():
            tables.write_rows(folder / "out.parquet", kind, kept)

    return {
        "problems as a table": (one, lambda: tables.read_table(one, Problem)),
        "problems as rows": (one, lambda: tables.read_rows(one, Problem)),
        "responses as a table": (two, lambda: tables.read_table(two, Response)),
        "responses as rows": (two, lambda: tables.read_rows(two, Response)),
        "stage rules": (one, stage),
    }


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(
        "| reading | MB | ms verified | ms not verified | ratio | ms of `verify` | share |\n|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, (path, work) in works(Path(folder), options.rows).items():
            verified, plain = compare(work, options.repeats)
            alone = min(least(lambda path=path: tables.verify(path)) for _ in range(options.repeats))
            print(
                f"| {name} | {path.stat().st_size / 1e6:.1f} | {1e3 * verified:.1f} | {1e3 * plain:.1f}"
                f" | {verified / plain:.3f} | {1e3 * alone:.2f} | {alone / plain:.2%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
