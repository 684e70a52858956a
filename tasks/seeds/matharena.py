"""MathArena's contests: AIME 2024 and 2025, HMMT February and November 2025 (Balunovic et al., 2025), all benchmarks.

Schema (one data set per contest, the one split train): `problem_idx` (integer), `problem`, `answer` (integer for AIME,
string for HMMT), and in newer ones `problem_type` (list of strings). Licence CC BY-NC-SA 4.0, which is recorded for every
row and its descendants. Sources for the schema: the cards of aime_2024_I, aime_2024_II, aime_2026, hmmt_feb_2026 and
cmimc_2025 on the hub, and public code that loads aime_2025, hmmt_feb_2025 and hmmt_nov_2025 under these names.

15 + 15 + 30 + 30 + 30 = 120 problems; the id is the contest and the number. All have a final answer. Figures are
Asymptote code inside the text, as in MATH.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt

from tasks.answers.gold import final_answer
from tasks.rows import Tier
from tasks.seeds.filters import Drop, Fault
from tasks.seeds.hub_source import Found, HubPart, HubSource, Values, hub_kind, written

CONTESTS = ("aime_2024_I", "aime_2024_II", "aime_2025", "hmmt_feb_2025", "hmmt_nov_2025")


def contest(name: str) -> HubPart:
    """Return the part for one of MathArena's data sets. In a local copy its files are named after the contest."""
    return HubPart(hub_id=f"MathArena/{name}", split="train", benchmark=True, files=(name,))


class MathArena(HubSource):
    """All problems of the five contests, in the competition tier."""

    required: ClassVar = ("id", "text", "answer")
    column_names: ClassVar = {"id": "problem_idx", "text": "problem", "answer": "answer"}

    rows: ClassVar = 120

    kind: Literal["matharena"] = "matharena"
    name: str = "matharena"
    parts: tuple[HubPart, ...] = tuple(map(contest, CONTESTS))
    tier: Tier = Tier.COMPETITION
    licence: str = "cc-by-nc-sa-4.0"
    target: PositiveInt | None = None
    drop: tuple[Drop, ...] = ("language", "no_answer")


def read(values: Values, source: MathArena, part: HubPart) -> Found:
    """Return the problem with the id `contest/number` and its answer."""
    answer = final_answer(values["answer"])
    return Found(
        text=written(values["text"]),
        row_id=f"{part.hub_id.partition('/')[2]}/{written(values['id'])}",
        answer=answer,
        benchmark=part.benchmark,
        fault=None if answer else Fault(drop="no_answer", detail="the answer is empty"),
    )


SOURCE = hub_kind(MathArena, read)
