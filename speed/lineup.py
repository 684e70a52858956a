"""Time of the stages without a model on a million candidates, compared with datasketch.

    PYTHONPATH=. python speed/lineup.py gsm8k_train.jsonl FOLDER --count 1000000 --edit-rate 0.25

The candidates are those of `dedup_million.py`; they are first written to FOLDER (untimed, and reused by later calls). A separate
process then runs rules, deduplicate and select like the stages, from Parquet to Parquet, but without Prefect and with `--workers`
processes for the shards. Seconds are wall time; memory is the sum of the peaks of the process and its workers. Signatures are
computed in the workers, banding lists the pairs that share a key, verification compares their shingles, and the rest of the
decision is the greedy pass and bookkeeping.

For comparison, datasketch's own objects and index (default settings) list candidate pairs of the first `--datasketch` texts in
one process, without verifying them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
from dedup_million import SETTINGS, candidates, peak_gib, replacing, seeds, used_cpu, write
from dedup_recall import read_texts, with_datasketch

from tasks.config import load_config
from tasks.problems import dedup
from tasks.processes.mapper import Mapper, open_mapper
from tasks.rows import Edge, Problem
from tasks.runtime import deduplication, selection_shards
from tasks.runtime.chunks import shard_sizes
from tasks.runtime.driver import Shard
from tasks.runtime.shard_work import RulesWork, Tables, reject_by_rules, reject_near_duplicates
from tasks.storage.artifacts import Artifact, Store
from tasks.storage.tables import read_table

SHARD = 10_000
Seconds = defaultdict[str, float]


def timed(seconds: Seconds, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its time is added to `seconds[name]`; for a generator, the time of its steps."""

    def steps(found: Iterator[Any]) -> Iterator[Any]:
        while True:
            began = time.perf_counter()
            try:
                value = next(found)
            except StopIteration:
                return
            finally:
                seconds[name] += time.perf_counter() - began
            yield value

    def call(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        found = function(*arguments, **options)
        seconds[name] += time.perf_counter() - began
        return steps(found) if isinstance(found, Iterator) else found

    return call


def by_name(seconds: Seconds, mapper: Mapper[Any, Any]) -> Mapper[Any, Any]:
    """Wrap a mapper so that the time spent waiting for it is added up by function name."""
    return lambda function, items: timed(seconds, function.__name__, mapper)(function, items)


def written(store: Store, name: str, shards: Iterable[tuple[int, Tables]], seconds: Seconds) -> Artifact:
    """Write an artifact from (number of incoming rows, tables) of each shard."""
    count = 0
    for index, (incoming, tables) in enumerate(shards):
        counts = Shard(incoming=incoming, tables=tables).counts("problems")
        writing = timed(seconds, "writing", store.write_shard)
        writing(store.folder(name, name), index, tables, {"counts": counts})
        count += 1
    return store.finish(name, name, count, {})


def rules(store: Store, copies: Artifact, mapper: Mapper[Any, Any], seconds: Seconds) -> Artifact:
    """Do the work of the stage rules."""
    sizes, settings = shard_sizes(store, copies), load_config("pocket").rules
    items = (
        RulesWork(path=store.shard_path(copies, index, "problems"), settings=settings)
        for index in range(len(sizes))
    )
    return written(store, "candidates", zip(sizes, mapper(reject_by_rules, items), strict=True), seconds)


def unique(
    store: Store, sources: Artifact, candidates: Artifact, mapper: Mapper[Any, Any], seconds: Seconds
) -> Artifact:
    """Do the work of the stage deduplicate."""
    sizes = shard_sizes(store, candidates)
    decision = deduplication.decide(store, sources, candidates, SETTINGS, mapper)
    items = (
        deduplication.dedup_work(decision, store, candidates, index, sizes) for index in range(len(sizes))
    )
    knowing = timed(seconds, "identity", deduplication.content_of)

    def shards() -> Iterator[tuple[int, Tables]]:
        for index, tables in enumerate(mapper(reject_near_duplicates, items)):
            knowing(decision, store, candidates, index, sizes)
            yield sizes[index], {**tables, "edges": (Edge, deduplication.edges_of(decision, index, sizes))}

    artifact = written(store, "unique", shards(), seconds)
    print(f"  {len(decision.first):,} edges, {decision.notes}", flush=True)
    return artifact


def selected(store: Store, sources: Artifact, kept: Artifact, seconds: Seconds) -> Artifact:
    """Do the work of the stage select with a target of 8,000; there are no curated problems."""
    config = load_config("pocket", {"select.target": 8000, "aggregate.test_problems": 0})
    parts = selection_shards.parts_of(store, sources, kept)
    splits = selection_shards.split_of(selection_shards.columns(parts), config)

    def shards() -> Iterator[tuple[int, Tables]]:
        for part in parts:
            rows = selection_shards.read_part(part)
            yield len(rows), selection_shards.divided(rows, splits, config.select)

    return written(store, "selected", shards(), seconds)


def line_up(store: Store, sources: Artifact, copies: Artifact, workers: int) -> None:
    """Run the three stages and print a line for each."""
    seconds: Seconds = defaultdict(float)
    dedup.candidate_pairs = timed(seconds, "banding", dedup.candidate_pairs)
    dedup.jaccards = timed(seconds, "verification", dedup.jaccards)
    deduplication.found_among = timed(seconds, "decision", deduplication.found_among)
    stages: dict[str, Callable[..., Artifact]] = {"rules": rules, "deduplicate": unique}
    last = copies
    for name, stage in stages.items():
        began, cpu = time.perf_counter(), used_cpu()
        seconds.clear()
        with open_mapper(workers) as mapper:
            inputs = (last,) if stage is rules else (sources, last)
            last = stage(store, *inputs, by_name(seconds, mapper), seconds)
            memory = peak_gib()
        report(name, store, last, time.perf_counter() - began, used_cpu() - cpu, memory, seconds)
    began, cpu = time.perf_counter(), used_cpu()
    seconds.clear()
    last = selected(store, sources, last, seconds)
    report("select", store, last, time.perf_counter() - began, used_cpu() - cpu, peak_gib(), seconds)


def report(
    name: str, store: Store, made: Artifact, wall: float, cpu: float, memory: float, seconds: Seconds
) -> None:
    """Print the figures of a stage."""
    counts = store.record(made)["counts"]
    parts = ", ".join(f"{part} {spent:.1f}" for part, spent in seconds.items())
    print(
        f"{name:<12} {counts['in']:>9,} in, {counts['kept']:>9,} kept: {wall:5.1f} s wall, {cpu:5.1f} s CPU,"
        f" {memory:.2f} GiB ({parts})",
        flush=True,
    )


def datasketch_at_size(texts: list[str]) -> None:
    """Measure objects, index and candidate pairs of datasketch."""
    began = time.perf_counter()
    pairs = len(with_datasketch(texts, SETTINGS.threshold, SETTINGS.ngram))
    print(
        f"datasketch MinHashLSH {len(texts):>9,} texts: {time.perf_counter() - began:5.1f} s,"
        f" {pairs:,} candidate pairs, {peak_gib():.2f} GiB",
        flush=True,
    )


def texts_of(store: Store, artifact: Artifact, count: int) -> list[str]:
    texts: list[str] = []
    for shard in store.shards(artifact):
        if len(texts) < count:
            texts += read_table(store.shard_path(artifact, shard.index, "problems"), Problem, ("text",))[
                "text"
            ].to_pylist()
    return texts[:count]


def prepared(store: Store, arguments: argparse.Namespace) -> tuple[Artifact, Artifact]:
    """Return sources and candidates, writing them if they do not exist."""
    found = store.find("sources", "sources"), store.find("copies", "copies")
    if found[0] is not None and found[1] is not None and found[1].num_rows == arguments.count:
        return found[0], found[1]
    shutil.rmtree(store.root, ignore_errors=True)
    texts, rng = read_texts(arguments.file, arguments.column, None), random.Random(0)
    mutate = replacing(texts, arguments.edit_rate, rng)
    return (
        write(store, "sources", seeds(texts)),
        write(store, "copies", candidates(texts, arguments.count, mutate, rng)),
    )


def main() -> None:
    """Parse the arguments, prepare the data, and run every part in a separate process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="JSON Lines")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--column", default="question")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--edit-rate", type=float, default=0.25)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--datasketch", type=int, default=100_000, help="number of texts; 0 skips it")
    arguments = parser.parse_args()
    store = Store(arguments.folder)
    sources, copies = prepared(store, arguments)
    for name in ("candidates", "unique", "selected"):
        shutil.rmtree(store.folder(name, name), ignore_errors=True)
    print(
        f"{copies.num_rows:,} candidates, {psutil.cpu_count()} cores, {arguments.workers} workers", flush=True
    )
    apart(line_up, store, sources, copies, arguments.workers)
    if arguments.datasketch:
        apart(datasketch_at_size, texts_of(store, copies, arguments.datasketch))


def apart(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in a separate process, to measure its memory alone."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()


if __name__ == "__main__":
    main()
