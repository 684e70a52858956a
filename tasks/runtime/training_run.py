"""Settings and held-out problems of the training run that follows a build."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.config import PROJECT_ROOT, DistillSettings
from tasks.errors import UserError
from tasks.rows import Example, Problem
from tasks.seeds.registry import load
from tasks.storage.artifacts import atomic_write
from tasks.storage.manifest import DATA, FLAGGED, parquet_files
from tasks.storage.tables import iter_rows
from training.config import RunConfig, run_from


def run_config(settings: DistillSettings, dataset: Path, folder: Path) -> RunConfig:
    """Return the training settings: the profile's, with the paths of this run. Raises `UserError` that names the bad key."""
    given = dict(settings.run)
    given["output"] = str(folder)
    if not trains_on_source(settings):
        given["dataset"] = {**given.get("dataset", {}), "folder": str(dataset)}
    if settings.held_out:
        given["evaluation"] = {**given.get("evaluation", {}), "problems": str(folder / "held_out.jsonl")}
    return run_from(given, "distill.run")


def trains_on_source(settings: DistillSettings) -> bool:
    """Whether the student is trained on the problems of `distill.run.dataset.source`, and not on an exported dataset."""
    dataset = settings.run.get("dataset")
    return isinstance(dataset, Mapping) and dataset.get("source") is not None


def reads_dataset(settings: DistillSettings) -> bool:
    """Whether the training reads an exported dataset."""
    return settings.held_out == "test" or not trains_on_source(settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutProblem:
    """A problem with a known answer that the student is evaluated on."""

    id: str
    problem: str
    answer: str


def held_out(settings: DistillSettings, dataset: Path) -> list[HeldOutProblem]:
    """Return the held-out problems that have an answer: those of the sources, or of the dataset's split test.

    Raises `UserError` if split test is asked for and has none.
    """
    if settings.held_out == "test":
        folder = PROJECT_ROOT / dataset
        files = [path for name in (DATA, FLAGGED) for path in parquet_files(folder, f"{name}/test-*.parquet")]
        rows = [(row.id, row.problem, row.answer) for path in files for row in iter_rows(path, Example)]
    else:
        problems = [row for source in settings.held_out_sources for row in load(source).outcomes]
        rows = [(row.id, row.text, row.answer) for row in problems if isinstance(row, Problem)]
    found = [HeldOutProblem(id=name, problem=text, answer=answer) for name, text, answer in rows if answer]
    if settings.held_out == "test" and not found:
        raise UserError(
            f"distill.held_out is test, but split test of {dataset} has no problem with an answer: choose another dataset, or"
            " set distill.held_out to a list of sources"
        )
    return found


def write_held_out(path: Path, problems: Iterable[HeldOutProblem]) -> None:
    """Write the problems as JSON lines with id, problem and answer."""
    atomic_write(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in problems))
