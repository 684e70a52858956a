r"""AMO-Bench: 50 new problems of at least IMO difficulty with final answers (An et al., 2025, arXiv 2510.26768), a
benchmark.

Schema (split test): `question_id` (integer), `prompt` (the problem, and below it how the answer is to be written:
"After solving the above problem, please output ..."), `solution`, `answer` (in \boxed{}), `answer_type` (number, set,
variable, description). Licence MIT. Read in: the data set's card, its grading code, and prompts as public code has them.

The instruction below the problem is cut off. It may say what the answer is to be expressed in; the problem says so too.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import PositiveInt

from tasks.core.rows import Tier
from tasks.seeds.filters import Drop, Fault
from tasks.seeds.hub_source import Found, HubSource, Part, Values, final_answer, hub_kind, written

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
    parts: tuple[Part, ...] = (Part(hub_id="meituan-longcat/AMO-Bench", split="test", benchmark=True),)
    tier: Tier = Tier.COMPETITION
    licence: str = "mit"
    target: PositiveInt | None = None
    drop: tuple[Drop, ...] = ("language", "no_answer")


def read(values: Values, source: AmoBench, part: Part) -> Found:
    """The problem without the instruction, with its answer."""
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
