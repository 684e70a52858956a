"""The evaluations of a model that stand on its card: results of `make evaluate` of the same files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.storage.model_index import MODEL_INDEX
from tasks.text import counted
from tasks.yaml_text import load_yaml

METRICS = "metrics.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Results for the metadata `model-index`, and why others are left out, in words."""

    results: tuple[dict[str, Any], ...] = ()
    left_out: tuple[str, ...] = ()


def evaluations_of(identity: str, folders: Sequence[Path], *, given: bool) -> Found:
    """Return the results in these folders of the model with this identity (`model_identity`), in the order of their paths.

    A result of a part of a benchmark's problems, or with failed requests, is left out. Raises `UserError` for a result that
    cannot be read, and if the folders are `given` by the user, for one without a result and for a result of another model.
    """
    results, left_out = list[dict[str, Any]](), list[str]()
    for folder in folders:
        paths = sorted(folder.rglob(MODEL_INDEX))
        if given and not paths:
            raise UserError(
                f"{folder} has no result of an evaluation: run make evaluate, or correct the path"
            )
        for path in paths:
            found = _read(path.parent)
            if given and _content(found.model) != _content(identity):
                raise UserError(
                    f"{path.parent} is an evaluation of {found.model}, the released model is {identity}: evaluate the released"
                    " model"
                )
            if _content(found.model) != _content(identity):
                continue
            if (why := _unusable(found)) is not None:
                left_out.append(f"{path.parent.parent.name}/{path.parent.name} ({why})")
            else:
                results += found.index
    return Found(results=tuple(results), left_out=tuple(left_out))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """One result: the identity of the model, its problems and those of the benchmark, failed requests, and the metadata."""

    model: str
    problems: int
    of: int
    failed: int
    index: tuple[dict[str, Any], ...]


def _read(folder: Path) -> _Result:
    try:
        numbers = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        index = load_yaml((folder / MODEL_INDEX).read_text(encoding="utf-8"))
        return _Result(
            model=str(numbers["model"]["identity"]), problems=int(numbers["benchmark"]["problems"]),
            of=int(numbers["benchmark"]["of"]), failed=int(numbers["counts"]["error"]),
            index=tuple(index["model-index"][0]["results"]),
        )  # fmt: skip
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"the evaluation {folder} cannot be read ({error}): evaluate the model again"
        ) from error


def _content(identity: str) -> str:
    """Return the hash of a model's files, without the name of its folder; with that of a chat template that replaces its own."""
    return identity.partition(":")[2]


def _unusable(found: _Result) -> str | None:
    if found.problems != found.of:
        return f"{found.problems:,} of {counted(found.of, 'problem')}"
    return counted(found.failed, "failed request") if found.failed else None
