"""Settings and held-out problems of the training run that follows a build."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.config import DistillSettings
from tasks.rows import Problem
from tasks.seeds.registry import load
from tasks.storage.artifacts import atomic_write
from training.config import RunConfig, run_from


def run_config(settings: DistillSettings, dataset: Path, folder: Path) -> RunConfig:
    """Return the training settings: the profile's, with the paths of this run. Raises `UserError` that names the bad key."""
    given = dict(settings.run)
    given["output"] = str(folder)
    given["dataset"] = {**given.get("dataset", {}), "folder": str(dataset)}
    if settings.held_out:
        given["evaluation"] = {**given.get("evaluation", {}), "problems": str(folder / "held_out.jsonl")}
    return run_from(given, "distill.run")


def held_out(settings: DistillSettings) -> Iterator[Problem]:
    """Yield the held-out problems that the student is evaluated on: those with an answer."""
    for source in settings.held_out:
        for row in load(source).outcomes:
            if isinstance(row, Problem) and row.answer is not None:
                yield row


def write_held_out(path: Path, problems: Iterable[Problem]) -> None:
    """Write the problems as JSON lines with id, problem and answer."""
    rows = ({"id": row.id, "problem": row.text, "answer": row.answer} for row in problems)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
