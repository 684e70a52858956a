"""The right answer of a row, where it is known: its own ground truth, or for a pocket problem the oracle's answer.

Pocket problems are those whose source is of kind `pocket` in the settings of the dataset (`pocket_sources`). The functions
take the names of these sources; the oracle is asked about no other row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tasks.answers import matches
from tasks.rows import Example, Response
from tasks.seeds.pocket_source import is_pocket_id
from tasks.uncertainty.validation import Checked, measures

__all__ = ["check", "is_right", "majority_is_right", "oracle_answer", "pocket_sources", "truth_of"]


def pocket_sources(settings: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the sources of kind `pocket` in the settings of a manifest; none for the user's own problems."""
    sources = settings.get("aggregate", {}).get("sources", ())
    return frozenset(source["name"] for source in sources if source["kind"] == "pocket")


def truth_of(row: Example, pocket: Collection[str]) -> str | None:
    """Return the ground truth of a row. A pocket problem without one is solved by the oracle; None for any other row."""
    return (
        row.answer
        if row.answer is not None
        else oracle_answer(row.problem, row.source, row.source_id, pocket)
    )


def oracle_answer(problem: str, source: str, source_id: str, pocket: Collection[str]) -> str | None:
    """Return the oracle's answer to a pocket problem, None where it has none; None for any other problem."""
    if source not in pocket or not is_pocket_id(source_id):
        return None
    from pocket.world import oracle  # needed for pocket problems only

    return oracle(problem)


def is_right(given: str | None, truth: str) -> bool:
    """Whether an answer, of one sample or of a majority, matches the truth, as in grading. A missing answer is wrong."""
    return given is not None and matches(given, truth)


def majority_is_right(row: Example, pocket: Collection[str]) -> bool | None:
    """Whether the majority answer of a row is right; None where the truth is unknown. A missing majority answer is wrong."""
    truth = truth_of(row, pocket)
    return None if truth is None else is_right(row.majority_answer, truth)


def check(row: Example, responses: Sequence[Response], pocket: Collection[str]) -> Checked | None:
    """Compare an annotated row and each of its samples with the truth; None where the truth is unknown."""
    truth = truth_of(row, pocket)
    if truth is None:
        return None
    return Checked(
        tier=row.tier.value,
        weight=row.weight,
        scores=measures(row),
        majority_right=is_right(row.majority_answer, truth),
        right=sum(is_right(response.answer, truth) for response in responses),
        samples=len(responses),
    )
