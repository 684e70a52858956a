"""Overlap of selected problems with benchmarks: the problems to compare with, the ancestors, the findings and flags."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from tasks.config import DecontamSettings
from tasks.problems.decontam import BenchmarkIndex, lineage
from tasks.processes.mapper import Mapper
from tasks.rows import Finding, FindingKind, Flag, Problem, Selected
from tasks.runtime.shard_work import CompareWork, compare_with_benchmarks
from tasks.storage.artifacts import Artifact, Store
from tasks.text import counted

COMPARED_AT_ONCE = 10_000  # rows per work item
TEST_SPLIT = "test split"  # the name of the dataset's own test split among the benchmarks


def benchmark_problems(
    store: Store, selected: Artifact, sources: Artifact, benchmarks: Artifact
) -> list[Problem]:
    """Return every problem to compare with, without repeated ids. `source` is the name of the benchmark.

    These are the configured benchmarks, the seeds and curated problems whose source declares them benchmark problems, and
    the dataset's own test split.
    """
    splits = store.rows(selected, "selected", Selected)
    held_out = {row.problem_id for row in splits if row.split == "test"}
    rows = chain(
        store.rows(benchmarks, "problems", Problem),
        (row for row in store.rows(sources, "problems", Problem) if row.benchmark_root),
        (
            replace(row, source=TEST_SPLIT)
            for row in store.rows(selected, "problems", Problem)
            if row.id in held_out
        ),
    )
    unique: dict[str, Problem] = {}
    for row in rows:
        unique.setdefault(row.id, row)
    return list(unique.values())


def ancestors(rows: Sequence[Problem], generations: Iterable[Iterable[Problem]]) -> list[Problem]:
    """Return the ancestors of `rows` that are not in `rows`.

    `generations` holds all problems, the latest round first, since a parent always belongs to an earlier round.
    """
    own = {row.id for row in rows}
    wanted = {row.parent_id for row in rows if row.parent_id is not None} - own
    found = []
    for row in chain.from_iterable(generations):
        if row.id in wanted:
            found.append(row)
            if row.parent_id is not None and row.parent_id not in own:
                wanted.add(row.parent_id)
    return found


def compare(
    rows: Sequence[Problem],
    older: Sequence[Problem],
    against: Sequence[Problem],
    settings: DecontamSettings,
    mapper: Mapper[Any, Any] = map,
    judged: Sequence[Finding] = (),
) -> dict[str, list[Finding]]:
    """Return the findings by problem id, for the rows that have any. `judged`: findings of the quality judge, which descendants
    have too.

    A held-out problem that matches the test split is not a finding.
    """
    index, problems = BenchmarkIndex.build(against, settings), [*older, *rows]
    texts = [(row.id, row.text) for row in problems]
    items = [
        CompareWork(texts=texts[start : start + COMPARED_AT_ONCE], index=index)
        for start in range(0, len(texts), COMPARED_AT_ONCE)
    ]
    overlaps = [*chain.from_iterable(mapper(compare_with_benchmarks, items)), *judged]
    descent = lineage(problems, benchmarks=index.problems, overlaps=overlaps)
    own = {row.id for row in rows}
    held_out = {row.id for row in against if row.source == TEST_SPLIT}
    result: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in (*overlaps, *descent):
        in_test_split = finding.benchmark == TEST_SPLIT and finding.problem_id in held_out
        if finding.problem_id in own and not in_test_split:
            result[finding.problem_id].append(finding)
    return dict(result)


def flag(problem_id: str, findings: Sequence[Finding]) -> Flag:
    """Summarise the findings of one problem."""
    seen = {finding.kind for finding in findings}
    return Flag(
        problem_id=problem_id,
        benchmark_overlap=bool(findings),
        benchmarks=tuple(sorted({finding.benchmark for finding in findings})),
        kinds=tuple(kind for kind in FindingKind if kind in seen),
    )


def account(against: Sequence[Problem], flagged: int, total: int) -> str:
    """Return a log line: how many rows are flagged, and the benchmarks with their sizes."""
    sizes = Counter(row.source for row in against)
    names = ", ".join(f"{name} ({size:,})" for name, size in sorted(sizes.items())) or "no benchmark"
    return f"flagged {flagged:,} of {counted(total, 'problem')}, compared with {names}"
