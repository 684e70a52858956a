r"""Any data set on the hub, or a local copy of one, as seeds or as curated problems with answers.

Everything is set in the profile: `parts`, `columns` (text; optionally answer, solution, id, tier), `tier`, `licence`, and
`answer_form`, the content of the answer column: the answer, boxed or plain (`final`); a solution with the answer in its
last balanced \boxed{...} (`boxed`); or a solution that ends in `#### answer` (`hashes`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from tasks.answers.extraction import extract_answer
from tasks.answers.gold import after_hashes, final_answer
from tasks.rows import Tier
from tasks.seeds.filters import Drop, Fault
from tasks.seeds.hub_source import Found, HubPart, HubSource, Values, hub_kind, written


class AnyHub(HubSource):
    """`tier` applies to rows without a valid tier in the tier column."""

    column_names: ClassVar = {
        "text": "problem", "answer": "answer", "solution": "solution", "id": "id", "tier": "tier",
    }  # fmt: skip

    kind: Literal["hub"] = "hub"
    name: str = Field(min_length=1)
    licence: str = "unknown"
    target: PositiveInt | None = None
    drop: tuple[Drop, ...] = ("language", "figure", "choice", "proof")
    answer_form: Literal["final", "boxed", "hashes"] = "final"


def read(values: Values, source: AnyHub, part: HubPart) -> Found:
    """Return the problem with the values of the profile's columns."""
    answer = answer_of(values["answer"], source.answer_form)
    tier = written(values["tier"])
    return Found(
        text=written(values["text"]),
        row_id=written(values["id"]) or None,
        answer=answer,
        solution=written(values["solution"]) or None,
        benchmark=part.benchmark,
        tier=Tier(tier) if tier in list(Tier) else None,
        fault=None if answer else Fault(drop="no_answer", detail="no answer is given"),
    )


def answer_of(cell: Any, form: str) -> str | None:
    """Return the answer in a cell of this form, or None if there is none."""
    if form == "boxed":
        return extract_answer(written(cell))
    if form == "hashes":
        return after_hashes(cell)
    return final_answer(cell)


SOURCE = hub_kind(AnyHub, read)
