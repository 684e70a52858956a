"""Which problems of a benchmark the training rows of a model descend from, or overlap with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.benchmarks.base import Item
from tasks.config import PROJECT_ROOT, DecontamSettings
from tasks.errors import UserError
from tasks.rows import Example, Problem, Role, Tier, problem_id
from tasks.storage.checksums import MANIFEST
from tasks.storage.manifest import read_manifest
from tasks.storage.versions import read_examples

RUN = "RUN.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The rows that a model was trained on. `checks`: how texts are compared, as in the dataset's own decontamination."""

    dataset: str
    fingerprint: str
    rows: tuple[Example, ...]
    checks: DecontamSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Contamination:
    """Numbers of a benchmark's problems: those that training rows descend from, and those that they overlap with by text.
    `flagged`: the training rows that the dataset itself marks with this benchmark, also by their ancestors' texts."""

    descends: frozenset[int]
    overlaps: frozenset[int]
    flagged: int

    @property
    def problems(self) -> frozenset[int]:
        """The problems found either way."""
        return self.descends | self.overlaps


def training_of(folder: Path | None, given: Path | None) -> Training | None:
    """Return the training rows of a model: of the dataset `given`, or for a student of ours of the dataset of its run; None if
    neither is known. Raises `UserError` if the dataset cannot be read."""
    config = "default"
    if given is None:
        run = None if folder is None else _run(folder)
        if run is None:
            return None
        settings: dict[str, Any] = run.get("dataset") or {}
        given, config = Path(str(settings.get("folder"))), str(settings.get("config", "default"))
        if not (PROJECT_ROOT / given / MANIFEST).is_file():
            return None  # moved, or no dataset of ours
    dataset = PROJECT_ROOT / given.expanduser()
    manifest = read_manifest(dataset)
    rows = read_examples(dataset, "train")
    kept = [row for row in rows if config != "decontaminated" or not row.benchmark_overlap]
    if not kept:
        raise UserError(f"{dataset} has no training rows: give the dataset that the model was trained on")
    return Training(
        dataset=str(given),
        fingerprint=manifest.fingerprint,
        rows=tuple(kept),
        checks=_checks(manifest.settings),
    )


def _run(folder: Path) -> dict[str, Any] | None:
    """Return the settings of the training run that exported the model in `folder` (its `student`, or the adapter in it)."""
    for parent in list(folder.parents)[:2]:
        try:
            found = json.loads((parent / RUN).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        return found if isinstance(found, dict) else None
    return None


def _checks(settings: Any) -> DecontamSettings:
    """Return the settings by which the dataset was compared with benchmarks; the defaults if they are unknown."""
    own = settings.get("decontam") if isinstance(settings, dict) else None
    known = DecontamSettings.model_fields.keys() - {"benchmarks", "not_evaluated", "judge"}
    try:
        return DecontamSettings(**{key: value for key, value in (own or {}).items() if key in known})
    except ValueError:
        return DecontamSettings()


def contamination(name: str, items: Sequence[Item], training: Training) -> Contamination:
    """Compare a benchmark's problems with the training rows.

    A row descends from a problem if its root is that problem under the source that the row names: exact, if benchmark and source
    read the same data. Texts are compared as by the stage decontaminate.
    """
    from tasks.problems.decontam import BenchmarkIndex  # loads scipy, which most evaluations do not need

    sources = {row.source for row in training.rows} | {name}
    roots = {row.root_id for row in training.rows}
    descends = {
        number
        for number, item in enumerate(items)
        if any(_problem_id(source, item) in roots for source in sources)
    }
    problems = list(_problems(name, items))
    places = {problem.id: number for number, problem in enumerate(problems)}
    index = BenchmarkIndex.build(problems, training.checks)
    found = index.findings((row.id, row.problem) for row in training.rows)
    overlaps = {places[finding.benchmark_problem_id] for finding in found}
    flagged = sum(name in row.overlap_benchmarks for row in training.rows)
    return Contamination(descends=frozenset(descends), overlaps=frozenset(overlaps), flagged=flagged)


def _problem_id(source: str, item: Item) -> str:
    return problem_id(source=source, origin=item.id, strategy="", text=item.text)


def _problems(name: str, items: Sequence[Item]) -> Iterable[Problem]:
    for item in items:
        identity = _problem_id(name, item)
        yield Problem(
            id=identity, text=item.text, tier=Tier.MEDIUM, source=name, source_id=item.id, licence="", role=Role.SEED,
            root_id=identity, benchmark_root=True,
        )  # fmt: skip
