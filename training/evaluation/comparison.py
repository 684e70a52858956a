"""The paired comparison of two models on the results that both have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import UserError
from tasks.storage.tables import read_rows
from training.evaluation.results import METRICS, SAMPLES, SampleRow
from training.evaluation.statistics import Comparison, compare

Key = tuple[str, str]
"""Benchmark and name of the protocol's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """The comparison of one benchmark and protocol."""

    name: str
    score: str
    found: Comparison

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers as plain data."""
        numbers = self.found._asdict() | {"difference": self.found.difference._asdict()}
        return {"name": self.name, "score": self.score, **numbers}


def compare_results(first: Path, second: Path) -> tuple[list[Pairing], list[str]]:
    """Compare B (`second`) with A (`first`), each the folder of a model or of one result: return the comparisons, and what
    could not be compared, with the reason.

    Raises `UserError` if a folder has no result, or both have none in common.
    """
    own, other = results(first), results(second)
    pairs, skipped = [], []
    common = sorted(own.keys() & other.keys())
    for key in common:
        if (why := _unlike(own[key], other[key])) is not None:
            skipped.append(f"{'/'.join(key)} ({why})")
        else:
            pairs.append(_paired(key, own[key], other[key]))
    skipped += [f"{'/'.join(key)} (only of A)" for key in sorted(own.keys() - other.keys())]
    skipped += [f"{'/'.join(key)} (only of B)" for key in sorted(other.keys() - own.keys())]
    if not pairs:
        raise UserError(
            f"{first} and {second} have no result in common that can be compared ({'; '.join(skipped)}): evaluate both models on"
            " the same benchmarks and protocols"
        )
    return pairs, skipped


def results(folder: Path) -> dict[Key, Path]:
    """Return the graded results in a folder. Raises `UserError` if there are none."""
    if not folder.is_dir():
        raise UserError(
            f"{folder} does not exist: give the folder of a model below the folder of evaluations"
        )
    found = {
        (path.parent.parent.name, path.parent.name): path.parent for path in sorted(folder.rglob(METRICS))
    }
    graded = {key: path for key, path in found.items() if _numbers(path).get("main")}
    if not graded:
        raise UserError(f"{folder} has no result of an evaluation: run make evaluate first")
    return graded


def _numbers(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder / METRICS} cannot be read ({error}): evaluate the model again") from error
    return found if isinstance(found, dict) else {}


def _unlike(first: Path, second: Path) -> str | None:
    """Return why two results of the same benchmark and protocol cannot be compared, or None."""
    one, two = _numbers(first), _numbers(second)
    if (
        one["benchmark"]["data"] != two["benchmark"]["data"]
        or one["benchmark"]["problems"] != two["benchmark"]["problems"]
    ):
        return "other problems"
    differing = [name for name in one["protocol"] if one["protocol"][name] != two["protocol"].get(name)]
    return f"another {differing[0]}" if differing else None


def _paired(key: Key, first: Path, second: Path) -> Pairing:
    own, other = averages(first), averages(second)
    if own.keys() != other.keys():
        raise UserError(f"{first} and {second} have other problems: evaluate both models again")
    found = compare(np.array(list(own.values())), np.array([other[name] for name in own]))
    return Pairing(name=" ".join(key), score=_numbers(first)["main"], found=found)


def averages(folder: Path) -> dict[str, float]:
    """Return each problem's share of correct samples."""
    grades: dict[str, list[bool]] = {}
    for row in read_rows(folder / SAMPLES, SampleRow):
        grades.setdefault(row.problem_id, []).append(bool(row.correct))
    return {name: float(np.mean(row)) for name, row in grades.items()}


def table(pairs: Sequence[Pairing]) -> str:
    """Return the comparisons as text, in percent and points."""
    lines = [
        (
            "benchmark and protocol",
            "score",
            "n",
            "A",
            "B",
            "B - A",
            "95% interval",
            "better",
            "worse",
            "p",
            "detectable",
        )
    ]
    for pair in pairs:
        found = pair.found
        gap = found.difference
        lines.append(
            (
                pair.name, pair.score, f"{gap.n:,}", f"{100 * found.first:.2f}", f"{100 * found.second:.2f}",
                f"{100 * gap.value:+.2f}", f"{100 * gap.low:+.2f} to {100 * gap.high:+.2f}", f"{found.better:,}",
                f"{found.worse:,}", f"{found.p:.3g} ({found.test})",
                "-" if found.detectable is None else f"{100 * found.detectable:.2f}",
            )
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
