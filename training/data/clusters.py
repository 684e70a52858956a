"""The clusters of the teacher's answers to each row, from the annotation in the dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import UserError
from tasks.identity import canonical_json
from training.config import DatasetSettings
from training.data.rows import TrainingRow, dataset_files

__all__ = ["Clusters", "clusters_digest", "read_clusters"]

_ANSWERS, _PROBS = "cluster_answers", "cluster_probs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """The clusters of a row that have an answer: one answer of each, and the teacher's probability of the cluster. Responses
    without an answer are in none of them, so that the probabilities may sum to less than 1."""

    answers: tuple[str, ...]
    probs: tuple[float, ...]


def read_clusters(rows: Sequence[TrainingRow], settings: DatasetSettings) -> tuple[Clusters, ...]:
    """Return the clusters of each row.

    Raises `UserError` for problems without annotation, or one that names a file without the two columns or the first row whose
    values are no clusters.
    """
    if settings.folder is None:
        raise UserError(
            "dataset.source has no clusters of the teacher's answers, which algorithm.rollout_weight answer_share needs: annotate"
            " the problems first (make annotate FILE=... MODEL=...)"
        )
    found: dict[str, Clusters] = {}
    for path in dataset_files(settings.folder, settings):
        for record in _records(path):
            found[str(record["id"])] = _clusters(record)
    missing = next((row.id for row in rows if row.id not in found), None)
    if missing is not None:
        raise UserError(f"row {missing} has no clusters: annotate the dataset again")
    return tuple(found[row.id] for row in rows)


def clusters_digest(clusters: Iterable[Clusters]) -> str:
    """Return the SHA-256 (hex) of the clusters of all rows."""
    digest = hashlib.sha256()
    for one in clusters:
        digest.update(canonical_json([one.answers, one.probs]).encode("ascii") + b"\n")
    return digest.hexdigest()


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        names = pq.read_schema(path).names
        if lacking := [name for name in (_ANSWERS, _PROBS) if name not in names]:
            raise UserError(
                f"{path} has no column {lacking[0]!r}, which algorithm.rollout_weight answer_share needs: annotate the dataset"
            )
        return pq.read_table(path, columns=["id", _ANSWERS, _PROBS], use_threads=False).to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({reason}): export the dataset again") from error


def _clusters(record: dict[str, Any]) -> Clusters:
    answers, probs = record[_ANSWERS], record[_PROBS]
    if not _are_clusters(answers, probs):
        raise UserError(
            f"row {record['id']} has {_ANSWERS} and {_PROBS} that are not one answer and one probability for each cluster:"
            " annotate the dataset again"
        )
    pairs = [(answer, prob) for answer, prob in zip(answers, probs, strict=True) if answer is not None]
    return Clusters(answers=tuple(one for one, _ in pairs), probs=tuple(one for _, one in pairs))


def _are_clusters(answers: Any, probs: Any) -> bool:
    return (
        isinstance(answers, list)
        and isinstance(probs, list)
        and len(answers) == len(probs) > 0
        and all(answer is None or isinstance(answer, str) for answer in answers)
        and all(isinstance(prob, float | int) and 0.0 <= prob <= 1.0 + 1e-6 for prob in probs)
    )
