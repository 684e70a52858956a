"""Near-duplicate removal at full size, Parquet to Parquet, on mutated copies of real problems.

    PYTHONPATH=. python speed/dedup_million.py gsm8k_train.jsonl --count 1000000 --edit-rate 0.25

*Size.* The texts of the file are the sources. Every candidate is a copy of a random source with a share of its words replaced by
words of the file. The share is uniform between 0 and twice the edit rate, so that similarities cover the whole range. A separate
process then runs the stage without Prefect: it reads both artifacts, decides, and writes every shard with its rejects and edges.
Its wall time, CPU time and peak resident memory are printed.
*Sample.* With the same number of copies per text and 20,000 candidates: recall and precision against brute force (which shares
no code with `tasks.problems.dedup`), ten shuffled orders of the input, and datasketch's index for comparison.
*Templates.* Copies that differ in one number only, so that the number of edges is quadratic in the copies. If there are too many
edges, the stage keeps only those with a kept text.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from dedup_recall import Pair, brute_force, greedy, read_texts, with_datasketch

from tasks.config import DedupSettings
from tasks.problems.dedup import near_duplicates, normalise
from tasks.processes.mapper import open_mapper
from tasks.rows import Edge, Problem, Role, Strategy, Tier
from tasks.runtime.chunks import shard_sizes
from tasks.runtime.deduplication import decide, dedup_work, edges_of
from tasks.runtime.driver import Shard
from tasks.runtime.shard_work import reject_near_duplicates
from tasks.storage.artifacts import Artifact, Store

Mutate = Callable[[str], str]
SETTINGS = DedupSettings()
SHARD = 10_000


def replacing(texts: Sequence[str], rate: float, rng: random.Random) -> Mutate:
    vocabulary = [word for text in texts for word in text.split()]

    def mutate(text: str) -> str:
        words = text.split()
        for place in rng.sample(range(len(words)), round(len(words) * 2 * rate * rng.random())):
            words[place] = vocabulary[rng.randrange(len(vocabulary))]
        return " ".join(words)

    return mutate


def renumbering(rng: random.Random) -> Mutate:
    def mutate(text: str) -> str:
        words = text.split()
        words[len(words) // 2] = str(rng.randrange(10**9))
        return " ".join(words)

    return mutate


def candidates(texts: Sequence[str], count: int, mutate: Mutate, rng: random.Random) -> Iterator[Problem]:
    for number in range(count):
        root = rng.randrange(len(texts))
        name = hashlib.blake2b(f"{number}".encode(), digest_size=8).hexdigest()
        yield Problem(
            id=name, text=mutate(texts[root]), tier=Tier.EASY, source="bench", source_id=str(root), licence="none",
            role=Role.EVOLVED, root_id=f"seed-{root}", parent_id=f"seed-{root}", round=1, strategy=Strategy.HARDER,
            model="none@0123456789abcdef", prompt="evolution/harder@1:0123456789ab",
        )  # fmt: skip


def seeds(texts: Sequence[str]) -> Iterator[Problem]:
    for root, text in enumerate(texts):
        yield Problem(
            id=f"seed-{root}", text=text, tier=Tier.EASY, source="bench", source_id=str(root), licence="none",
            role=Role.SEED, root_id=f"seed-{root}",
        )  # fmt: skip


def write(store: Store, name: str, rows: Iterator[Problem]) -> Artifact:
    shards = 0
    while part := list(islice(rows, SHARD)):
        counts = {"in": len(part), "kept": len(part), "rejected": {}}
        store.write_shard(store.folder(name, name), shards, {"problems": (Problem, part)}, {"counts": counts})
        shards += 1
    return store.finish(name, name, shards, {})


def dedup(store: Store, sources: Artifact, copies: Artifact, workers: int = 1) -> dict[str, Any]:
    """Run the stage shard by shard; return counts, the time of each part, and peak memory."""
    began, cpu, sizes, kept = time.perf_counter(), used_cpu(), shard_sizes(store, copies), 0
    with open_mapper(workers) as mapper:
        decision = decide(store, sources, copies, SETTINGS, mapper)
        decided = time.perf_counter()
        items = (dedup_work(decision, store, copies, index, sizes) for index in range(len(sizes)))
        for index, tables in enumerate(mapper(reject_near_duplicates, items)):
            edges = (Edge, edges_of(decision, index, sizes))
            shard = Shard(incoming=sizes[index], tables={**tables, "edges": edges})
            counts = shard.counts("problems")
            store.write_shard(store.folder("unique", "unique"), index, shard.tables, {"counts": counts})
            kept += counts["kept"]
        whole, memory = time.perf_counter() - began, peak_gib()
    return {
        "kept": kept, "edges": len(decision.first), "decide": decided - began, "whole": whole,
        "cpu": used_cpu() - cpu, "peak_gib": memory, **decision.notes,
    }  # fmt: skip


def used_cpu() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def peak_gib() -> float:
    """Return the sum of the peak memory of this process and its workers (getrusage would include the parent's)."""
    workers = (child.pid for child in psutil.Process().children(recursive=True))
    status = (Path(f"/proc/{pid}/status").read_text(encoding="ascii") for pid in (os.getpid(), *workers))
    return sum(int(text.partition("VmHWM:")[2].split()[0]) for text in status) / 2**20


def sized(
    texts: Sequence[str], count: int, mutate: Mutate, rng: random.Random, fixed: Sequence[str], workers: int
) -> str:
    """Deduplicate `count` candidates against the source problems `fixed` in a separate process and return a line of figures."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        sources = write(store, "sources", seeds(fixed))
        copies = write(store, "copies", candidates(texts, count, mutate, rng))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(dedup, (store, sources, copies, workers))
    return (
        f"{count:>9,} candidates of {len(texts):,} texts: kept {found['kept']:,}, {found['edges']:,} edges"
        f"{'' if found['all_edges'] else ' (only those with kept texts)'} from {found['compared']:,} compared pairs; "
        f"{found['whole']:.1f} s ({found['decide']:.1f} s for the decision), {found['cpu']:.1f} s of CPU, "
        f"{found['peak_gib']:.2f} GiB peak memory"
    )


def ours(texts: list[str], threshold: float, ngram: int) -> set[Pair]:
    edges = near_duplicates(texts, threshold=threshold, ngram=ngram).edges
    return set(zip(edges["i"].tolist(), edges["j"].tolist(), strict=True))


def compare(texts: list[str]) -> None:
    """Print recall and precision of both methods against brute force. Duplicate texts are removed first, since they need no
    MinHash."""
    texts = list({normalise(text): text for text in texts}.values())
    truth = brute_force(texts, SETTINGS.threshold, SETTINGS.ngram)
    print(
        f"sample: {len(texts):,} texts, {len(truth):,} pairs at Jaccard >= {SETTINGS.threshold:g} by brute force"
    )
    ways = {"near_duplicates": ours, "datasketch MinHashLSH": with_datasketch}
    for name, way in ways.items():
        began, cpu = time.perf_counter(), time.process_time()
        found = way(texts, SETTINGS.threshold, SETTINGS.ngram)
        seconds, used = time.perf_counter() - began, time.process_time() - cpu
        hits = len(found & truth.keys())
        print(
            f"  {name:<24} recall {hits / len(truth):.4f}, precision {hits / len(found):.4f}, "
            f"{seconds:.1f} s, {used:.1f} s of CPU"
        )
    keep = near_duplicates(texts).keep.tolist()
    same = sum(one == other for one, other in zip(keep, greedy(len(texts), truth), strict=True))
    print(f"  keep decision equal to brute force for {same:,} of {len(texts):,} texts")


def shuffled(rows: list[Problem], times: int) -> None:
    """Print the number of distinct kept sets over shuffled orders of the input, with ids as the priority as in the stage."""
    outcomes = set()
    for number in range(times):
        random.Random(number).shuffle(rows)
        found = near_duplicates([row.text for row in rows], priority=[row.id for row in rows])
        outcomes.add(frozenset(rows[place].id for place in np.flatnonzero(found.keep).tolist()))
    print(f"{times} shuffled orders of {len(rows):,} candidates give {len(outcomes)} kept set(s)")


def main() -> None:
    """Parse the arguments, run the measurements and print the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="JSON Lines")
    parser.add_argument("--column", default="question")
    parser.add_argument("--count", type=int, default=100_000, help="number of candidates; 0 skips this part")
    parser.add_argument("--edit-rate", type=float, default=0.25, help="mean share of replaced words")
    parser.add_argument("--sample", type=int, default=20_000, help="number of candidates; 0 skips this part")
    parser.add_argument("--workers", type=int, default=1, help="worker processes for the shards")
    parser.add_argument("--shuffles", type=int, default=10)
    parser.add_argument(
        "--templated", type=int, nargs="*", default=[5_000, 10_000, 20_000], help="candidates from 50 texts"
    )
    arguments = parser.parse_args()
    texts, rng = read_texts(arguments.file, arguments.column, None), random.Random(0)
    mutate = replacing(texts, arguments.edit_rate, rng)
    if arguments.count:
        print(sized(texts, arguments.count, mutate, rng, texts, arguments.workers), flush=True)
    if arguments.sample:
        few = texts[: max(1, arguments.sample * len(texts) // max(arguments.count, 1_000_000))]
        rows = list(candidates(few, arguments.sample, mutate, rng))
        compare([row.text for row in rows])
        shuffled(rows, arguments.shuffles)
    for count in arguments.templated:
        line = sized(texts[:50], count, renumbering(rng), rng, texts[50:100], arguments.workers)
        print("templated:", line, flush=True)


if __name__ == "__main__":
    main()
