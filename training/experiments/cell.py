"""A cell of an experiment: one training, or one evaluation without training, by its settings and its key.

The key is a hash of declared settings and versions. It does not depend on paths, commits or machines, so that experiments and
machines share the results of a cell. A stored result also has the fingerprint of what was measured (the run with its dataset and
models), which a cell that is found again must have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from tasks.config import DistillSettings, load_config
from tasks.errors import UserError
from tasks.identity import canonical_json
from tasks.runtime.preflight import newest_dataset, output_folder
from tasks.runtime.training_run import reads_dataset, run_config
from tasks.seeds.registry import resolve
from tasks.settings import plain
from training.config import RunConfig, merged, project_path
from training.plan import resolve as plan_of
from training.preflight.check import VERSION as TRAINING_VERSION

__all__ = ["CELL_VERSION", "VERSIONS", "Baseline", "Cell", "nested"]

CELL_VERSION = 1  # of the measurement: raise it when the same run is measured in another way
VERSIONS: Mapping[str, int] = {"cell": CELL_VERSION, "training": TRAINING_VERSION}

Baseline = Literal["student", "teacher"]
"""The model that is evaluated without training."""

_UNREAD = Path("dataset")
"""Stands for the dataset in settings that are not used for a run."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training by `algorithm`, or the evaluation of a `baseline`, whose seed is 0.

    `changes`: dotted settings of a run (`training.config`) over `distill.run` of the profile. Its section `algorithm` is
    left out, so that two cells differ by what they declare: the parts of an algorithm are its own, or those in `changes`.
    """

    profile: str
    algorithm: str | None = None
    baseline: Baseline | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @cached_property
    def key(self) -> str:
        """16 hex digits: the hash of the cell's versions and settings. Raises `UserError` for settings that are not valid."""
        return hashlib.sha256(canonical_json(self.identity()).encode("ascii")).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """Return what the key is a hash of: versions, settings that change the result, and the names of models and data."""
        settings = self.settings()
        run = run_config(settings, _UNREAD, _UNREAD)
        teacher = None if run.teacher is None else run.teacher.model
        source = run.dataset.source
        names: dict[str, Any] = {
            "profile": self.profile,
            "held_out": plain(settings.held_out),
            "source": None if source is None else _plain_path(source.path),
            **{name: self.changes.get(name) for name in ("dataset.folder", "evaluation.problems")},
        }
        if self.baseline is None:
            names |= {"student": run.student.model, "teacher": teacher}
            if run.teachers:
                names["teachers"] = [[one.model, _plain_path(one.annotation)] for one in run.teachers]
            return {"versions": VERSIONS, "settings": plan_of(run).identity(), "names": names}
        names["model"] = run.student.model if self.baseline == "student" else teacher
        return {"versions": VERSIONS, "settings": _of_evaluation(run), "names": names}

    def settings(self) -> DistillSettings:
        """Return the section `distill` of the profile with the settings of the cell's run. Raises `UserError` if the profile has
        none."""
        found = _section(self.profile)
        run = dict(found.run)
        if self.algorithm is not None:
            run["algorithm"] = {"name": self.algorithm}
        changes = nested(self.changes)
        if self.algorithm is None:
            changes.pop("algorithm", None)
        held_out = () if "evaluation.problems" in self.changes else found.held_out
        run = merged(merged(run, changes), {"seed": self.seed})
        return found.model_copy(update={"run": run, "held_out": held_out})

    def run(self, folder: Path) -> tuple[RunConfig, DistillSettings, Path]:
        """Return the settings of the run in `folder`, those of the section `distill`, and the dataset that both read. Raises
        `UserError` if there is no dataset."""
        settings, root = self.settings(), output_folder(load_config(self.profile))
        chosen = self.changes.get("dataset.folder")
        dataset = root / "dataset" if chosen is None else project_path(chosen)
        if chosen is None and reads_dataset(settings):
            dataset = newest_dataset(root)
        return run_config(settings, dataset, folder), settings, dataset


@cache  # a table of many cells reads few profiles
def _section(profile: str) -> DistillSettings:
    """Return the section `distill` of a profile. Raises `UserError` if it has none."""
    found = resolve(load_config(profile)).distill
    if found is None:
        raise UserError(f"profile {profile} has no section `distill`: add one, or choose another profile")
    return found


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with dotted keys as a tree: {"a.b": 1} is {"a": {"b": 1}}."""
    found: dict[str, Any] = {}
    for key, value in dotted.items():
        *parents, last = key.split(".")
        tree: dict[str, Any] = {last: value}
        for name in reversed(parents):
            tree = {name: tree}
        found = merged(found, tree)
    return found


def _plain_path(path: Path | None) -> str | None:
    """Return a path as plain JSON data."""
    return None if path is None else str(path)


def _of_evaluation(run: RunConfig) -> dict[str, Any]:
    """Return the settings of a run that its evaluations before the training depend on."""
    found = run.identity()
    evaluation = found["evaluation"] or {}
    return {
        "evaluation": {name: evaluation.get(name) for name in ("samples", "temperature")},
        "held_out": found["dataset"]["held_out"],
        "lengths": found["lengths"],
        "prompt": found["prompt"],
        "dtype": run.rollout_dtype,
    }
