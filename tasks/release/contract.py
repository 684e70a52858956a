"""What a dataset must satisfy to be released: one function per clause, which names the rows that break it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from prompts import load_prompt
from tasks.errors import UserError
from tasks.keys import secret_values
from tasks.release.licences import is_known
from tasks.release.texts import findings, text_of
from tasks.rows import Example, Response, Role
from tasks.storage.checksums import MANIFEST, checksum
from tasks.storage.manifest import DATA, FLAGGED, RESPONSES, Manifest, parquet_files, read_manifest
from tasks.storage.tables import read_rows
from tasks.text import counted

MAX_NAMED: Final = 5
"""Rows that are named for each clause; the others are counted."""
_TOLERANCE: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A problem, with its split and the folder of its file (`data` or `flagged`)."""

    split: str
    folder: str
    row: Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A built dataset: its manifest, problems, and responses by split."""

    folder: Path
    manifest: Manifest
    problems: tuple[Placed, ...]
    responses: Mapping[str, tuple[Response, ...]]


Clause = Callable[[Built], Iterator[str]]


def read_built(folder: Path) -> Built:
    """Read a dataset for release. Raises `UserError` with all files that break the clauses "digests" and "schema"."""
    manifest = read_manifest(folder)
    _refuse({"digests": list(wrong_digests(folder, manifest))})
    problems, responses, wrong = list[Placed](), dict[str, list[Response]](), list[str]()
    for path in parquet_files(folder, "*/*.parquet"):
        split = path.name.rpartition("-of-")[0].rpartition("-")[0]
        try:
            if path.parent.name == RESPONSES:
                responses.setdefault(split, []).extend(read_rows(path, Response))
            else:
                problems += [
                    Placed(split=split, folder=path.parent.name, row=row) for row in read_rows(path, Example)
                ]
        except UserError as error:
            wrong.append(str(error))
    _refuse({"schema": wrong})
    return Built(
        folder=folder, manifest=manifest, problems=tuple(problems),
        responses={split: tuple(rows) for split, rows in responses.items()},
    )  # fmt: skip


def check(built: Built) -> None:
    """Raise `UserError` with every clause that a dataset breaks, and the first rows of each."""
    _refuse({name: list(clause(built)) for name, clause in CLAUSES.items()})


def _refuse(found: Mapping[str, list[str]]) -> None:
    lines = [
        f"contract clause {name!r}: {'; '.join(islice(broken, MAX_NAMED))}"
        + (f"; and {counted(len(broken) - MAX_NAMED, 'more')}" if len(broken) > MAX_NAMED else "")
        + ": not released, correct the dataset and build it again"
        for name, broken in found.items()
        if broken
    ]
    if lines:
        raise UserError("\n".join(lines))


def wrong_digests(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Name the Parquet files that are missing, not listed or not what was written."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")}
    if not manifest.files:
        yield f"{MANIFEST} lists no checksums"
        return
    for name in sorted(there | manifest.files.keys()):
        if name not in there:
            yield f"{name} is missing"
        elif name not in manifest.files:
            yield f"{name} is not in {MANIFEST}"
        elif checksum(folder / name) != manifest.files[name]:
            yield f"{name} differs from its checksum"


def repeated_ids(built: Built) -> Iterator[str]:
    """Name ids that several problems have, and responses with the same problem and number."""
    ids = Counter(one.row.id for one in built.problems)
    yield from (f"problem {name} is there {count} times" for name, count in ids.items() if count > 1)
    keys = Counter((row.problem_id, row.index) for rows in built.responses.values() for row in rows)
    yield from (
        f"response {index} of problem {name} is there {count} times"
        for (name, index), count in keys.items()
        if count > 1
    )


def out_of_range(built: Built) -> Iterator[str]:
    """Name problems and responses with a value that its definition excludes."""
    for one in built.problems:
        yield from (f"problem {one.row.id} has {what}" for what in _wrong_values(one.row))
    for rows in built.responses.values():
        for row in rows:
            if row.token_count < 1 or not (math.isfinite(row.logprob_sum) and row.logprob_sum <= _TOLERANCE):
                yield (
                    f"response {row.index} of problem {row.problem_id} has {counted(row.token_count, 'token')} with"
                    f" log-probability {row.logprob_sum}"
                )


def _wrong_values(row: Example) -> Iterator[str]:
    highest = math.log(row.num_samples) if row.num_samples > 0 else -1.0
    for name, low, high in (
        ("weight", 0.0, 1.0), ("majority_share", 0.0, 1.0), ("semantic_entropy", 0.0, highest),
        ("discrete_entropy", 0.0, highest), ("num_valid", 0, row.num_samples), ("num_truncated", 0, row.num_samples),
        ("num_samples", 1, math.inf), ("mean_logprob", -math.inf, 0.0),
    ):  # fmt: skip
        value = getattr(row, name)
        if not low - _TOLERANCE <= value <= high + _TOLERANCE:  # also of NaN
            yield f"{name} {value}"
    if abs(math.fsum(row.cluster_probs) - 1) > 1e-6:
        yield f"cluster probabilities with the sum {math.fsum(row.cluster_probs)}"
    if len(row.cluster_probs) != len(row.cluster_answers):
        yield (
            f"{counted(len(row.cluster_probs), 'cluster probability', 'cluster probabilities')} and"
            f" {counted(len(row.cluster_answers), 'cluster answer')}"
        )
    if any(not -1 <= label < len(row.cluster_probs) for label in row.cluster_labels):
        yield "a label of no cluster"
    if not row.problem.strip():
        yield "no text"


def wrong_responses(built: Built) -> Iterator[str]:
    """Name problems without their N responses in the same split, and responses without a problem."""
    for split in {one.split for one in built.problems} | built.responses.keys():
        expected = {one.row.id: one.row.num_samples for one in built.problems if one.split == split}
        found = Counter(row.problem_id for row in built.responses.get(split, ()))
        for name in sorted(expected.keys() | found.keys()):
            if name not in expected:
                yield f"split {split} has responses to problem {name}, but not the problem"
            elif found[name] != expected[name]:
                yield (
                    f"problem {name} has {counted(found[name], 'response')}, and its row counts {expected[name]}"
                )


def shared_roots(built: Built) -> Iterator[str]:
    """Name seeds whose descendants are in several splits."""
    splits: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for one in built.problems:
        splits[one.row.root_id].setdefault(one.split, one.row.id)
    for root, found in splits.items():
        if len(found) > 1:
            where = ", ".join(f"{name} ({split})" for split, name in found.items())
            yield f"root {root} is in the splits of {where}"


def broken_lineage(built: Built) -> Iterator[str]:
    """Name problems whose role, round, strategies, parent and root contradict each other."""
    rows = {one.row.id: one.row for one in built.problems}
    for row in rows.values():
        yield from (f"problem {row.id} {what}" for what in _lineage(row, rows))


def _lineage(row: Example, rows: Mapping[str, Example]) -> Iterator[str]:
    if row.role is Role.SEED:
        yield "is a seed, and seeds are not released"
    elif row.role is not Role.EVOLVED:
        if row.round or row.strategies or row.parent_id is not None or row.root_id != row.id:
            yield f"is {row.role} but has a lineage"
        return
    elif not row.round or len(row.strategies) != row.round or row.parent_id is None or row.root_id == row.id:
        yield (
            f"is evolved in round {row.round} with {counted(len(row.strategies), 'strategy', 'strategies')}, parent"
            f" {row.parent_id} and root {row.root_id}"
        )
    parent = rows.get(row.parent_id or "")
    if parent is not None and (parent.root_id, parent.strategies) != (row.root_id, row.strategies[:-1]):
        yield f"has another root or other strategies than its parent {parent.id}"


def contaminated(built: Built) -> Iterator[str]:
    """Name problems of the config `decontaminated` that overlap with a benchmark, or descend from a problem that does."""
    flagged = {one.row.id for one in built.problems if one.row.benchmark_overlap}
    for one in built.problems:
        row = one.row
        if one.folder == FLAGGED and not row.benchmark_overlap:
            yield f"problem {row.id} is among the flagged ones without a flag"
        if one.folder != DATA:
            continue
        if row.benchmark_overlap:
            yield f"problem {row.id} is in config decontaminated with a flag"
        elif row.benchmark_root:
            yield f"problem {row.id} descends from a benchmark problem and has no flag"
        elif {row.parent_id, row.root_id} & flagged:
            yield f"problem {row.id} descends from a flagged problem and has no flag"


def unknown_licences(built: Built) -> Iterator[str]:
    """Name the dataset's licence and sources whose licence is not one of the hub, with a row of each."""
    if not is_known(built.manifest.licence):
        yield f"the dataset has the licence {built.manifest.licence!r} (export.licence)"
    named = {(one.row.source, one.row.licence): one.row.id for one in reversed(built.problems)}
    for (source, licence), name in sorted(named.items()):
        if not is_known(licence):
            yield f"problem {name} of source {source} has the licence {licence!r}"


def exposed(built: Built) -> Iterator[str]:
    """Name rows with a secret or a path of this machine in any text, and the manifest if it has one. No secret is quoted."""
    keys = secret_values()
    yield from (f"{MANIFEST} has {what}" for what in findings(built.manifest.to_json(), keys))
    for one in built.problems:
        yield from (f"problem {one.row.id} has {what}" for what in findings(text_of(one.row), keys))
    for rows in built.responses.values():
        for row in rows:
            where = f"response {row.index} of problem {row.problem_id}"
            yield from (f"{where} has {what}" for what in findings(text_of(row), keys))


def other_prompt(built: Built) -> Iterator[str]:
    """Name the teacher's prompt if it is not the present one: `messages` would not be what the teacher was asked."""
    fingerprint = built.manifest.teacher.prompt
    try:
        present = load_prompt(fingerprint.partition("@")[0]).fingerprint
    except (UserError, OSError):
        present = "none"
    if present != fingerprint:
        yield f"the teacher was asked with prompt {fingerprint}, and the present one is {present}"


def wrong_counts(built: Built) -> Iterator[str]:
    """Name splits whose rows are not as many as the manifest says: the card has its numbers."""
    contents = built.manifest.contents
    listed = {} if contents is None else {one.split: one for one in contents.splits}
    problems = Counter(one.split for one in built.problems)
    for split in sorted(listed.keys() | problems.keys() | built.responses.keys()):
        found = (problems[split], len(built.responses.get(split, ())))
        said = (listed[split].problems, listed[split].responses) if split in listed else (0, 0)
        if found != said:
            yield f"split {split} has {found[0]} problems and {found[1]} responses, and {MANIFEST} counts {said[0]} and {said[1]}"


CLAUSES: Final[Mapping[str, Clause]] = {
    "unique ids": repeated_ids,
    "ranges": out_of_range,
    "responses": wrong_responses,
    "counts": wrong_counts,
    "disjoint splits": shared_roots,
    "lineage": broken_lineage,
    "decontaminated": contaminated,
    "licences": unknown_licences,
    "secrets and paths": exposed,
    "prompt": other_prompt,
}
