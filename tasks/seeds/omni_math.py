"""Omni-MATH: 4,428 olympiad problems (Gao et al., 2024, arXiv 2410.07985), a benchmark.

Schema (`test.jsonl`, split test): `domain` (list of strings), `difficulty` (1 to 10), `problem`, `solution`, `answer`,
`source` (the contest). Licence Apache-2.0. Sources for the schema: the cards of public copies of the data set, and its
file list on the hub. There is no id column, so the id is a hash of the text.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt

from tasks.answers.gold import final_answer
from tasks.rows import Tier
from tasks.seeds.filters import Drop, Fault
from tasks.seeds.hub_source import Found, HubPart, HubSource, Values, hub_kind, written


class OmniMath(HubSource):
    """Up to 4,400 hard problems, as in the paper; without proofs and figures there are fewer."""

    required: ClassVar = ("text", "answer")
    column_names: ClassVar = {"text": "problem", "answer": "answer", "solution": "solution"}

    kind: Literal["omni_math"] = "omni_math"
    name: str = "omni_math"
    parts: tuple[HubPart, ...] = (HubPart(hub_id="KbsdJames/Omni-MATH", split="test", benchmark=True),)
    tier: Tier = Tier.HARD
    licence: str = "apache-2.0"
    target: PositiveInt | None = 4_400
    drop: tuple[Drop, ...] = ("language", "figure", "proof", "no_answer")


def read(values: Values, source: OmniMath, part: HubPart) -> Found:
    """Return the problem with its answer."""
    answer = final_answer(values["answer"])
    return Found(
        text=written(values["text"]),
        answer=answer,
        solution=written(values["solution"]) or None,
        benchmark=part.benchmark,
        fault=None if answer else Fault(drop="no_answer", detail="the answer is empty"),
    )


SOURCE = hub_kind(OmniMath, read)
