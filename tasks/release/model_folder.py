"""The release folder of a trained student: its files, card, recipe, cost and curves."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.llm.model_identity import model_identity
from tasks.release.dataset_folder import Naming, citation
from tasks.release.licences import licence_text
from tasks.storage.checksums import read_sealed, written_by
from tasks.storage.disk import whole_folder
from tasks.storage.model_index import model_index

_PAPERS: Final = ("cost.json", "curves.png", "metrics.parquet")
_RECIPE: Final = (
    "algorithm", "method", "settings", "student", "teacher", "dataset", "prompts", "steps", "versions",
)  # fmt: skip
_HUB_MODEL: Final = re.compile(r"[\w.-]+/[\w.-]+")
_FRONT_MATTER: Final = re.compile(r"---\n(.*?\n)---\n(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished training run: its folder, its result, and the name of its base model on the hub, if it has one."""

    folder: Path
    result: Mapping[str, Any]
    base_model: str | None

    @property
    def student(self) -> Path:
        """The folder of the student."""
        return self.folder / "student"

    @property
    def identity(self) -> str:
        """The identity of the student (`model_identity`)."""
        return str(self.result["student"]["to"])


def read_trained(folder: Path) -> Trained:
    """Read a finished run. Raises `UserError` if it is not finished, was made by a version whose results lack something, or the
    student is not the one that the run exported."""
    remedy = "distil again (make distill)"
    result = read_sealed(folder / "result.json", remedy)
    missing = [name for name in (*_RECIPE, "held_out") if name not in result]
    missing += [name for name in _PAPERS if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} has no {missing[0]}: its result.json {written_by(result)}; {remedy}")
    found, written = (
        model_identity(str(folder / "student"), None, PROJECT_ROOT),
        str(result["student"]["to"]),
    )
    if found != written:
        raise UserError(
            f"{folder / 'student'} is {found}, and result.json of its run has {written}: its files were changed; {remedy}"
        )
    try:
        model = str(json.loads((folder / "RUN.json").read_bytes())["student"]["model"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder / 'RUN.json'} cannot be read: {remedy}") from error
    on_the_hub = _HUB_MODEL.fullmatch(model) and not (PROJECT_ROOT / model).exists()
    return Trained(folder=folder, result=result, base_model=model if on_the_hub else None)


def write_model_release(
    place: Path,
    trained: Trained,
    naming: Naming,
    *,
    licence: str,
    datasets: Sequence[str] = (),
    evaluations: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the release folder of a student, replacing an existing one as a whole.

    `datasets` are repositories on the hub. `evaluations` are results in the form of the hub's `model-index`, which follow those
    on the student's card. Raises `UserError` for an unknown licence.
    """
    card = (trained.student / "README.md").read_text(encoding="utf-8")
    match = _FRONT_MATTER.fullmatch(card)
    if match is None:
        raise UserError(f"{trained.student / 'README.md'} has no metadata: export the student again")
    head = yaml.safe_load(match[1])
    name = str(head["model_name"])
    text = licence_text(name, licence, ())
    results = [*_results(head), *evaluations]
    head |= {
        "license": licence,
        **({"base_model": [trained.base_model]} if trained.base_model else {}),
        **({"datasets": list(datasets)} if datasets else {}),
        **model_index(name, results),
    }
    with whole_folder(place, replace=True) as folder:
        shutil.copytree(trained.student, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
        for paper in _PAPERS:
            shutil.copyfile(trained.folder / paper, folder / paper)
        papers = {
            "README.md": f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n{match[2]}{_RELEASE}",
            "recipe.json": json.dumps(recipe(trained.result), indent=2) + "\n",
            "LICENSE": text,
            "CITATION.cff": citation(name, licence, naming, "model"),
        }
        for paper, content in papers.items():
            (folder / paper).write_text(content, encoding="utf-8", newline="\n")


_RELEASE: Final = """
## Files of this release

`recipe.json` has algorithm, settings, models and software of the run, `cost.json` its seconds, GPU hours and tokens, and
`metrics.parquet` one row for each step.

![Metrics of the run by step](curves.png)
"""


def recipe(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run was made of: algorithm, settings, models, dataset and software, without paths."""
    return {name: result[name] for name in _RECIPE}


def _results(head: Mapping[str, Any]) -> list[Any]:
    """Return the results in the metadata of a card."""
    return [result for model in head.get("model-index") or () for result in model["results"]]
