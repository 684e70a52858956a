"""The sections of the report about what follows the export: the validation, the students' pass@1 and cost, and the lineage.

They stand between two marks in the page, so that they are replaced when a later stage finishes, and the page is not built again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import UserError
from tasks.reports.pages import render_page
from tasks.storage.checksums import read_sealed
from tasks.storage.disk import atomic_write
from tasks.storage.lineage import Kind, Product, key_of, missing, outline, products, related
from tasks.storage.versions import latest

START, END = (
    "<!-- results -->\n",
    "<!-- end of results -->\n",
)  # never in a text of the page, where < is escaped
INTERVAL = ("value", "low", "high")


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """How well one measure detects wrong majority answers."""

    measure: str
    auroc: Mapping[str, float]  # value, low, high
    aurc: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """The main numbers of `validation.json`; the detections begin with the best."""

    known: int
    wrong: int
    total: int
    detections: tuple[Detection, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """The main numbers of one finished distillation. pass@1 is None without held-out problems."""

    run: str
    algorithm: str
    steps: int
    before: float | None
    after: float | None
    gain: Mapping[str, float] | None  # value, low, high
    seconds: float
    gpu_hours: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One product in the lineage: its depth in the tree, and what it was made from that is not recorded in this folder."""

    depth: int
    product: Product
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What an output folder contains about one dataset. `page` is the path of the validation page, relative to the report."""

    validated: Validated | None = None
    page: str = ""
    students: tuple[Student, ...] = ()
    lineage: tuple[Step, ...] = ()


def read_results(root: Path, report: Path, fingerprint: str) -> Results:
    """Read the results in an output folder about the dataset with this fingerprint. What cannot be read counts as absent."""
    folder = root / "validation"
    students = (_student(path, fingerprint) for path in sorted((root / "distill").glob("*/result.json")))
    return Results(
        validated=_validated(folder / "validation.json", fingerprint),
        page=Path(os.path.relpath(folder / "report.html", report.parent)).as_posix(),
        students=tuple(student for student in students if student is not None),
        lineage=_lineage(root, fingerprint),
    )


def _lineage(root: Path, fingerprint: str) -> tuple[Step, ...]:
    """Return what the dataset was made from and what was made from it."""
    found = related(products(root), [key_of(Kind.DATASET, fingerprint)])
    return tuple(
        Step(depth=depth, product=one, missing=tuple(missing(one, found))) for depth, one in outline(found)
    )


def _validated(path: Path, fingerprint: str) -> Validated | None:
    try:
        found = json.loads(path.read_bytes())
        if found["dataset"] != fingerprint:
            return None
        majority = found["majority"]
        detections = [
            Detection(
                measure=str(one["measure"]), auroc={name: float(one["auroc"][name]) for name in INTERVAL},
                aurc=None if one["aurc"] is None else float(one["aurc"]["value"]),
            )
            for one in majority["detections"]
            if one["auroc"] is not None
        ]  # fmt: skip
        detections.sort(key=lambda one: (-one.auroc["value"], one.measure))
        known, wrong, total = int(found["known"]), int(majority["wrong"]), int(majority["total"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Validated(known=known, wrong=wrong, total=total, detections=tuple(detections))


def _student(path: Path, fingerprint: str) -> Student | None:
    try:
        found = read_sealed(path, "run the distillation again")
        if found["dataset"] != fingerprint:
            return None
        held_out, cost = found["held_out"], found["cost"]
        return Student(
            run=path.parent.name, algorithm=str(found["algorithm"]), steps=int(found["steps"]),
            before=float(held_out["before"]["value"]) if held_out else None,
            after=float(held_out["after"]["value"]) if held_out else None,
            gain={name: float(held_out["gain"][name]) for name in INTERVAL} if held_out else None,
            seconds=float(cost["seconds_all"]), gpu_hours=float(cost["gpu_hours"]), tokens=int(cost["tokens"]),
        )  # fmt: skip
    except (UserError, ValueError, KeyError, TypeError):
        return None


def render_results(results: Results) -> str:
    """Return the sections with their marks."""
    return f"{START}{render_page('results.html.j2', {'results': results})}{END}"


def renew_results(root: Path) -> Path | None:
    """Replace the section in the report of the newest dataset in `root`; return the report, or None if it has no section."""
    try:
        newest = latest(root)
        report, fingerprint = Path(newest["report"]), newest["fingerprint"]
        page = report.read_text(encoding="utf-8")
    except (UserError, OSError, KeyError, UnicodeDecodeError):
        return None
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        return None
    renewed = before + render_results(read_results(root, report, fingerprint)) + after
    if renewed != page:
        atomic_write(report, renewed)
    return report
