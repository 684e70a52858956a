"""The metadata `model-index` of a model card on the hub: results of evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["MODEL_INDEX", "index_result", "model_index"]

MODEL_INDEX = "model-index.yml"
"""File of an evaluation's result."""


def index_result(dataset: Mapping[str, Any], scores: Mapping[str, float], protocol: str) -> dict[str, Any]:
    """Return one result: the scores (shares from 0 to 1, stated in percent) on a dataset, which has at least name and type."""
    listed = [
        {"type": name, "name": f"{name} ({protocol})", "value": round(100 * value, 2)}
        for name, value in scores.items()
    ]
    task = {"type": "text-generation", "name": "Text Generation"}
    return {"task": task, "dataset": dict(dataset), "metrics": listed}


def model_index(name: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the metadata for a model of this name; nothing without results."""
    return {"model-index": [{"name": name, "results": list(results)}]} if results else {}
