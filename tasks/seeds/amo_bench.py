r"""AMO-Bench: 50 original problems of at least IMO difficulty with final answers (An et al., 2025, arXiv 2510.26768).

A benchmark. Schema (split test): `question_id` (integer), `prompt` (the problem, followed by a format instruction: "After
solving the above problem, please output ..."), `solution`, `answer` (in \boxed{}), `answer_type` (number, set, variable,
description). Licence MIT. Sources for the schema: the data set's card, its grading code, and prompts in public code.

The format instruction is removed. Where it specifies in which terms to express the answer, the problem does so too.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import PositiveInt

from tasks.answers.gold import final_answer
from tasks.rows import Tier
from tasks.seeds.filters import Drop, Fault
from tasks.seeds.hub_source import Found, HubPart, HubSource, Values, hub_kind, written

_INSTRUCTION = re.compile(r"\s*After solving the above problem, please\b.*\Z", re.DOTALL)


class AmoBench(HubSource):
    """All 50 problems, in the competition tier."""

    required: ClassVar = ("id", "text", "answer")
    column_names: ClassVar = {
        "id": "question_id", "text": "prompt", "answer": "answer", "solution": "solution",
    }  # fmt: skip

    rows: ClassVar = 50

    kind: Literal["amo_bench"] = "amo_bench"
    name: str = "amo_bench"
    parts: tuple[HubPart, ...] = (HubPart(hub_id="meituan-longcat/AMO-Bench", split="test", benchmark=True),)
    tier: Tier = Tier.COMPETITION
    licence: str = "mit"
    target: PositiveInt | None = None
    drop: tuple[Drop, ...] = ("language", "no_answer")


def read(values: Values, source: AmoBench, part: HubPart) -> Found:
    """Return the problem without the format instruction, with its answer."""
    answer = final_answer(values["answer"])
    return Found(
        text=_INSTRUCTION.sub("", written(values["text"])),
        row_id=written(values["id"]) or None,
        answer=answer,
        solution=written(values["solution"]) or None,
        benchmark=part.benchmark,
        fault=None if answer else Fault(drop="no_answer", detail="the answer is empty"),
    )


SOURCE = hub_kind(AmoBench, read)
