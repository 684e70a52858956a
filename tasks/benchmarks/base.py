"""What a benchmark declares, and the reading of its rows from the hub at a commit, or from a local copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import xxhash

from tasks.answers.gold import written
from tasks.errors import UserError
from tasks.rows import Tier
from tasks.storage.hub import SUFFIXES, HubSplit, commit, files_digest, hub_rows, local_files, local_rows

AnswerType = Literal["math", "choice", "text"]
"""Graded as mathematics; a letter; not graded here."""
Cells = Mapping[str, Any]
"""One row under the names of `Columns`; None for a column that it does not have."""
Columns = Mapping[str, tuple[str, ...]]
"""Our name of a column -> its names in the known copies of the data set; the first one with a value counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One split of a data set on the hub. `revision`: its commit, or None for the newest. `files`: names of its files in a local
    copy (`tasks.storage.hub.local_files`)."""

    hub_id: str
    split: str
    config: str | None = None
    revision: str | None = None
    files: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """Names that distinguish this part's files from those of other parts."""
        return self.files or tuple(word for word in (self.config, self.split) if word)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One problem as it is asked. `answer` is None only if the benchmark is not graded here. `group`: few-shot examples have the
    same. `facts`: further columns that a result needs."""

    id: str
    text: str
    answer: str | None
    solution: str | None = None
    group: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubData:
    """Rows of the hub. `read` returns the problem of a row, or the reason for leaving it out. `example` returns a row of
    `example_parts` as (question, reply) for few-shot prompts."""

    parts: tuple[Part, ...]
    columns: Columns
    required: tuple[str, ...]
    read: Callable[[Cells, Part], Item | str]
    example_parts: tuple[Part, ...] = ()
    example: Callable[[Cells], tuple[str, str]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnData:
    """Problems that are generated, or read from a folder of our own. `read(path)` returns them and the identity of their
    content."""

    read: Callable[[Path | None], tuple[Sequence[Item], str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One benchmark. `registry` finds every file of this folder that defines one as `BENCHMARK`.

    `prompt`: the name of the prompt, which has the answer instruction. `shots`: number of examples before a problem. `protocols`:
    what the papers report on it (`protocols.py`). `max_tokens`: the most a response may have, if less than the protocol's.
    `files`: names of a local copy in a folder of benchmarks. `lineage`: where its problems come from, and which seeds share them.
    """

    name: str
    title: str
    data: HubData | OwnData
    answer: AnswerType = "math"
    prompt: str = "teacher/solve"
    shots: int = 0
    protocols: tuple[str, ...] = ("pass1_greedy",)
    max_tokens: int | None = None
    files: tuple[str, ...] = ()
    problems: int | None = None  # number of problems, if it is known
    tier: Tier = Tier.HARD
    licence: str = "unknown"
    lineage: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The problems of a benchmark in the order of its rows. `digest`: commits of the hub, or the hash of a local copy.
    `rejected`: rows that were left out, by reason. `examples`: (question, reply) by group."""

    items: tuple[Item, ...]
    digest: str
    origin: str
    rejected: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)


def load(
    benchmark: Benchmark, path: Path | None = None, shots: int | None = None, *, answered: bool = True
) -> Loaded:
    """Return the problems, from a file or folder if `path` is given. `shots` replaces the benchmark's number of examples. Rows
    without an answer are left out if they have to be `answered`.

    Raises `UserError` if the data cannot be reached or read, have another column, or no problem with an answer.
    """
    data, count = benchmark.data, benchmark.shots if shots is None else shots
    if isinstance(data, OwnData):
        if count:
            raise UserError(
                f"benchmark {benchmark.name} has no examples for few-shot prompts: set SHOTS to 0"
            )
        items, digest = data.read(path)
        found = Loaded(items=tuple(items), digest=digest, origin=digest if path is None else str(path))
    else:
        found = _from_rows(benchmark, data, path, answered=answered and benchmark.answer != "text")
        if count and answered:
            found = replace(found, examples=_examples(benchmark, data, path, count))
    if not found.items:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in found.rejected.items())
        raise UserError(
            f"benchmark {benchmark.name} has no problem with an answer in {found.origin}"
            f"{f' (left out: {reasons})' if reasons else ''}: correct the file, or give the path of another one"
        )
    return found


def content_digest(benchmark: Benchmark, path: Path | None = None) -> str:
    """Return the `digest` that `load` gives, without reading rows of the hub."""
    data = benchmark.data
    return data.read(path)[1] if isinstance(data, OwnData) else _identity(benchmark, data.parts, path)[0]


def local_copy(benchmark: Benchmark, folder: Path) -> Path | None:
    """Return the local copy of a benchmark in a folder of benchmarks: a file or folder with one of its names; None without."""
    for name in (benchmark.name, *benchmark.files):
        for path in (folder / name, *(folder / f"{name}{suffix}" for suffix in SUFFIXES)):
            if path.exists():
                return path
    return None


def text_id(text: str) -> str:
    """Return the id of a problem without one: a hash of its text."""
    return xxhash.xxh3_64_hexdigest(text.encode("utf-8", "surrogatepass"))


# --- rows --------------------------------------------------------------------------------------------------------


def _from_rows(benchmark: Benchmark, data: HubData, path: Path | None, *, answered: bool) -> Loaded:
    items: list[Item] = []
    rejected: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for part, cells in _rows(benchmark, data.parts, path):
        found = data.read(cells, part)
        if isinstance(found, Item) and not found.text:
            found = "no text"
        if isinstance(found, Item) and found.answer is None and answered:
            found = "no answer"
        if isinstance(found, str):
            rejected[found] += 1
            continue
        seen[found.id] += 1
        again = seen[found.id] > 1
        items.append(replace(found, id=f"{found.id}#{seen[found.id]}") if again else found)
    digest, origin = _identity(benchmark, data.parts, path)
    return Loaded(items=tuple(items), digest=digest, origin=origin, rejected=dict(sorted(rejected.items())))


def _examples(
    benchmark: Benchmark, data: HubData, path: Path | None, count: int
) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return the first `count` examples of each group, in the order of their rows."""
    if data.example is None:
        raise UserError(f"benchmark {benchmark.name} has no examples for few-shot prompts: set SHOTS to 0")
    found: dict[str, list[tuple[str, str]]] = {}
    for _, cells in _rows(benchmark, data.example_parts, path, alone=False):
        group = found.setdefault(written(cells.get("group")), [])
        if len(group) < count:
            group.append(data.example(cells))
    few = [name for name, group in found.items() if len(group) < count]
    if few or not found:
        raise UserError(
            f"benchmark {benchmark.name} has fewer than {count} examples"
            f"{f' of {few[0]!r}' if few and few[0] else ''}: lower SHOTS"
        )
    return {name: tuple(group) for name, group in found.items()}


def _rows(
    benchmark: Benchmark, parts: Sequence[Part], path: Path | None, *, alone: bool = True
) -> Iterator[tuple[Part, Cells]]:
    """Yield every row of the parts. A single file, or a folder of files without a part's names, is the first part's whole data
    if it is `alone`."""
    for files, part in _sources(benchmark, parts, path, alone=alone):
        columns = tuple(name for names in _data(benchmark).columns.values() for name in names)
        rows = (
            (row for file in files for row in local_rows(file, columns))
            if files is not None
            else hub_rows(_split(benchmark, part), _commit(benchmark, part), columns)
        )
        for number, row in enumerate(rows):
            if number == 0:
                _check_columns(benchmark, row, str(files[0]) if files else part.hub_id)
            yield part, _cells(_data(benchmark).columns, row)


def _sources(
    benchmark: Benchmark, parts: Sequence[Part], path: Path | None, *, alone: bool
) -> Iterator[tuple[tuple[Path, ...] | None, Part]]:
    if path is None:
        yield from ((None, part) for part in parts)
    elif path.is_file() and not alone:
        raise UserError(
            f"benchmark {benchmark.name}: {path} is a file, but the examples of few-shot prompts are in another one: give the"
            " folder of both, or set SHOTS to 0"
        )
    elif path.is_file():
        yield local_files(benchmark.name, path, (), alone=True), parts[0]
    else:
        whole = alone and len(parts) == 1
        for part in parts:
            yield local_files(benchmark.name, path, part.words, alone=whole), part


def _check_columns(benchmark: Benchmark, row: Mapping[str, Any], where: str) -> None:
    data = _data(benchmark)
    for ours in data.required:
        names = data.columns[ours]
        if not any(name in row for name in names):
            raise UserError(
                f"benchmark {benchmark.name}: {where} has no column {' or '.join(map(repr, names))} for the {ours}; it has"
                f" {', '.join(map(str, row)) or 'none of ours'}: rename the column"
            )


def _cells(columns: Columns, row: Mapping[str, Any]) -> Cells:
    return {
        ours: next((row[name] for name in names if row.get(name) is not None), None)
        for ours, names in columns.items()
    }


def _identity(benchmark: Benchmark, parts: Sequence[Part], path: Path | None) -> tuple[str, str]:
    """Return the digest of the data and where they are."""
    if path is None:
        commits = dict.fromkeys(f"{part.hub_id}@{_commit(benchmark, part)}" for part in parts)
        return ",".join(commits), ",".join(commits)
    files = [file for found, _ in _sources(benchmark, parts, path, alone=True) for file in found or ()]
    return f"sha256:{files_digest(files, path)}", str(path)


def _split(benchmark: Benchmark, part: Part) -> HubSplit:
    return HubSplit(source=benchmark.name, hub_id=part.hub_id, config=part.config, split=part.split)


def _commit(benchmark: Benchmark, part: Part) -> str:
    return commit(benchmark.name, part.hub_id, part.revision)


def _data(benchmark: Benchmark) -> HubData:
    assert isinstance(benchmark.data, HubData)
    return benchmark.data
