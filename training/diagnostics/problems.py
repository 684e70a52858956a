"""The problems of a diagnostic: of benchmarks, and of an exported dataset."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.benchmarks.base import AnswerType, load
from tasks.benchmarks.registry import find
from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.storage.manifest import read_manifest
from tasks.storage.versions import read_examples
from tasks.text import counted
from training.diagnostics.command import Log
from training.diagnostics.settings import DiagnosticSettings

__all__ = ["Problem", "Problems", "read_problems", "spread"]

_ENTRY = re.compile(r"([\w-]+)(?::([1-9]\d*))?(?:=(.+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem with a gold answer. `id` has the name of its source."""

    id: str
    source: str
    text: str
    answer: str
    kind: AnswerType


@dataclass(frozen=True, slots=True, kw_only=True)
class Problems:
    """Problems in order, and the identity of their content."""

    items: tuple[Problem, ...]
    digest: str


def read_problems(settings: DiagnosticSettings, log: Log) -> Problems:
    """Read all problems. Raises `UserError` for an unknown benchmark, one without gold answers, and data that cannot be read."""
    items: dict[str, Problem] = {}
    digests = []
    for source, digest, problems in _sources(settings):
        log(f"{source}: {counted(len(problems), 'problem')} of {digest}")
        digests.append(f"{source}@{digest}/{len(problems)}")
        items |= {one.id: one for one in problems}
    return Problems(items=tuple(items.values()), digest=",".join(digests))


def spread(items: Sequence[Problem], count: int | None) -> list[Problem]:
    """Return `count` of the items at equal distances, in order; all of them without a count."""
    if count is None or count >= len(items):
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]


def _sources(settings: DiagnosticSettings) -> Iterator[tuple[str, str, list[Problem]]]:
    for entry in settings.benchmarks:
        yield _benchmark(entry)
    if settings.dataset is not None:
        yield _dataset(PROJECT_ROOT / Path(settings.dataset).expanduser(), settings.split)


def _benchmark(entry: str) -> tuple[str, str, list[Problem]]:
    match = _ENTRY.fullmatch(entry.strip())
    if match is None:
        raise UserError(
            f"benchmarks: {entry!r} is no benchmark: write a name, a number of problems and a path as name:24=PATH"
        )
    name, count, path = match.groups()
    benchmark = find(name)
    if benchmark.answer == "text":
        raise UserError(f"benchmark {name} has no gold answers: choose another one")
    data = load(benchmark, None if path is None else PROJECT_ROOT / Path(path).expanduser(), 0)
    problems = [
        Problem(id=f"{name}/{one.id}", source=name, text=one.text, answer=one.answer, kind=benchmark.answer)
        for one in data.items
        if one.answer is not None
    ]
    return name, data.digest, spread(problems, None if count is None else int(count))


def _dataset(folder: Path, split: str) -> tuple[str, str, list[Problem]]:
    manifest = read_manifest(folder)
    rows = read_examples(folder, split)
    problems = [
        Problem(id=f"dataset/{row.id}", source="dataset", text=row.problem, answer=row.answer, kind="math")
        for row in rows
        if row.answer is not None
    ]
    if not problems:
        raise UserError(
            f"dataset: none of the {len(rows):,} rows of split {split} of {folder} has a ground truth: choose another split"
        )
    return "dataset", f"{manifest.fingerprint}/{split}", problems
