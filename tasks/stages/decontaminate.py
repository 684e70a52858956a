"""Stage decontaminate: flag the selected problems that overlap with or descend from a benchmark problem; none is rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from prefect.logging import get_run_logger

from tasks.rows import Finding, Flag, Neighbour, Problem
from tasks.runtime.ahead import cpu_mapper
from tasks.runtime.chunks import shard_rows, shard_sizes
from tasks.runtime.decontamination import account, ancestors, benchmark_problems, compare, flag
from tasks.runtime.driver import Lazy, Run, Shard, Stage, run_shards
from tasks.runtime.neighbours import finding
from tasks.runtime.pending import Pending, rows_digest
from tasks.storage.artifacts import Artifact

VERSION = 2


def decontaminate(
    run: Run,
    selected: Artifact,
    sources: Artifact,
    rounds: Sequence[Artifact],
    benchmarks: Artifact,
    neighbours: Artifact | None = None,
) -> Artifact:
    """Flag every selected problem and store the findings behind each flag.

    Ancestors are compared as well: a problem that descends from an overlapping one is flagged. `neighbours`: the verdicts of the
    quality judge, if it was asked.
    """
    settings = run.config.decontam
    checks = {name: value for name, value in settings.identity().items() if name != "judge"}
    stage = Stage(
        name="decontaminate", version=VERSION, primary="flags", settings={"decontam": checks},
        inputs=(selected, sources, *rounds, benchmarks, *([] if neighbours is None else [neighbours])),
    )  # fmt: skip

    @cache
    def found() -> Mapping[str, list[Finding]]:
        against = benchmark_problems(run.store, selected, sources, benchmarks)
        rows = list(run.store.rows(selected, "problems", Problem))
        generations = [run.store.rows(artifact, "problems", Problem) for artifact in (*rounds[::-1], sources)]
        before = ancestors(rows, generations)
        result = compare(rows, before, against, settings, mapper.get(), _judged(run, neighbours))
        get_run_logger().info("decontaminate: %s", account(against, len(result), len(rows)))
        return result

    def found_in(index: int) -> tuple[list[Flag], list[Finding]]:
        return _flagged(shard_rows(run.store, selected, index, "problems", Problem), found())

    def work(index: int, _on_progress: object) -> Shard:
        flags, findings = found_in(index)
        return Shard(incoming=len(flags), tables={"flags": (Flag, flags), "findings": (Finding, findings)})

    pending = Pending(run.store, stage, lambda index: rows_digest(found_in(index)))
    with Lazy(lambda: cpu_mapper(run, lambda: selected.num_rows)) as mapper:
        return run_shards(run, stage, lambda: shard_sizes(run.store, selected), work, pending)


def _flagged(rows: Sequence[Problem], found: Mapping[str, list[Finding]]) -> tuple[list[Flag], list[Finding]]:
    flags = [flag(row.id, found.get(row.id, ())) for row in rows]
    return flags, [one for row in rows for one in found.get(row.id, ())]


def _judged(run: Run, neighbours: Artifact | None) -> list[Finding]:
    """Return a finding for every pair that the quality judge takes for the same problem."""
    verdicts = () if neighbours is None else run.store.rows(neighbours, "neighbours", Neighbour)
    return [finding(one) for one in verdicts if one.same]
