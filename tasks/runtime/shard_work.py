"""The work of the stages without a model on one shard: functions of paths and settings that run in any process.

This module does not import Prefect, so that worker processes start quickly. Rows that are not changed stay Arrow tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from tasks.config import DedupSettings, RuleSettings
from tasks.problems.arrays import Indices
from tasks.problems.decontam import BenchmarkIndex
from tasks.problems.dedup import Sketch, sketch, template_key
from tasks.problems.rules import check
from tasks.rows import Finding, Problem, Reason, Reject
from tasks.storage.tables import read_table

Tables = dict[str, tuple[type, Any]]
"""Table name -> (row type, rows or an Arrow table)."""
REJECT_CHARS = 2000  # characters of a text that are stored in the table of rejects


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesWork:
    """Work item of `reject_by_rules`: a file of problems, and the settings of the rules."""

    path: Path
    settings: RuleSettings


def reject_by_rules(item: RulesWork) -> Tables:
    """Keep the problems that pass every rule and reject the others."""
    problems = read_table(item.path, Problem)
    texts: list[str] = problems["text"].to_pylist()
    failures = [check(text, item.settings) for text in texts]
    rejects = [
        Reject(
            problem_id=name, stage="rules", reason=failure.reason, detail=failure.detail, text=text[:REJECT_CHARS]
        )
        for name, text, failure in zip(problems["id"].to_pylist(), texts, failures, strict=True)
        if failure is not None
    ]  # fmt: skip
    kept = problems.filter(pa.array([failure is None for failure in failures], type=pa.bool_()))
    return {"problems": (Problem, kept), "rejects": (Reject, rejects)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SketchWork:
    """Work item of `sketch_file`: a file of problems, and the settings of near-duplicate detection."""

    path: Path
    settings: DedupSettings


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FileSketch:
    """Ids and roles (string arrays) and the sketch of the texts of one file, in the order of its rows."""

    ids: pa.Array
    roles: pa.Array
    sketch: Sketch


def sketch_file(item: SketchWork) -> FileSketch:
    """Read one file and sketch its texts."""
    table = read_table(item.path, Problem, ("id", "role", "text")).combine_chunks()
    settings = item.settings
    return FileSketch(
        ids=pa.concat_arrays(table["id"].chunks) if len(table) else pa.array([], type=pa.string()),
        roles=pa.concat_arrays(table["role"].chunks) if len(table) else pa.array([], type=pa.string()),
        sketch=sketch(
            table["text"].to_pylist(), threshold=settings.threshold, ngram=settings.ngram, seed=settings.seed
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TemplateWork:
    """Work item of `template_digests`: a file of problems, and the positions of some of its rows."""

    path: Path
    rows: Indices


def template_digests(item: TemplateWork) -> NDArray[np.uint64]:
    """Hash the template of each text to 128 bits. Shape [rows, 2]; problems that differ in numbers only are equal."""
    texts = read_table(item.path, Problem, ("text",))["text"].take(pa.array(item.rows)).to_pylist()
    digests = b"".join(
        xxhash.xxh3_128_digest(template_key(text).encode("utf-8", "surrogatepass")) for text in texts
    )
    return np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DedupWork:
    """Work item of `reject_near_duplicates`: a file of problems, the positions of those to reject, and a detail for each of
    these."""

    path: Path
    leaving: Indices
    details: Sequence[str]


def reject_near_duplicates(item: DedupWork) -> Tables:
    """Reject the near-duplicates and keep the other problems."""
    problems = read_table(item.path, Problem)
    leaving = problems.select(["id", "text"]).take(pa.array(item.leaving))
    rejects = [
        Reject(
            problem_id=name, stage="deduplicate", reason=Reason.NEAR_DUPLICATE, detail=detail,
            text=text[:REJECT_CHARS],
        )
        for name, text, detail in zip(
            leaving["id"].to_pylist(), leaving["text"].to_pylist(), item.details, strict=True
        )
    ]  # fmt: skip
    stays = np.ones(len(problems), dtype=np.bool_)
    stays[item.leaving] = False
    return {"problems": (Problem, problems.filter(pa.array(stays))), "rejects": (Reject, rejects)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompareWork:
    """Work item of `compare_with_benchmarks`: (id, text) pairs, and the index of the benchmarks."""

    texts: Sequence[tuple[str, str]]
    index: BenchmarkIndex


def compare_with_benchmarks(item: CompareWork) -> list[Finding]:
    """Return the overlaps of the texts with the benchmarks."""
    return list(item.index.findings(item.texts))
