r"""MATH: 12,500 problems of American contests in seven subjects (Hendrycks et al., 2021, arXiv 2103.03874).

Schema (seven configurations, splits train 7,500 and test 5,000): `problem`, `level` ("Level 1" to "Level 5"), `type`
(the subject), `solution` (its answer in the last \boxed{}). Licence MIT. Read in: the data set's page and former loading
script on the hub. A local copy may also be the authors' own archive, one .json file per problem in
`train/algebra/` and so on.

The test split is a benchmark (MATH-500 is drawn from it); the train split is none. Figures are drawn in Asymptote code
inside the text, which is therefore complete: they are kept, as in the paper, unless `drop` says `figure`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt

from tasks.core.answers import extract_answer
from tasks.core.rows import Tier
from tasks.seeds.filters import Drop
from tasks.seeds.hub_source import Found, HubSource, Part, Values, hub_kind, no_box, written

SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
    "precalculus",
)  # fmt: skip


class MathHendrycks(HubSource):
    """All 12,500 problems, medium."""

    required: ClassVar = ("text", "solution")
    column_names: ClassVar = {"text": "problem", "solution": "solution"}

    kind: Literal["math"] = "math"
    name: str = "math"
    parts: tuple[Part, ...] = tuple(
        Part(hub_id="EleutherAI/hendrycks_math", config=subject, split=split, benchmark=split == "test")
        for subject in SUBJECTS
        for split in ("train", "test")
    )
    tier: Tier = Tier.MEDIUM
    licence: str = "mit"
    target: PositiveInt | None = 12_500
    drop: tuple[Drop, ...] = ("language", "no_answer")


def read(values: Values, source: MathHendrycks, part: Part) -> Found:
    """The problem with the answer that its solution boxes."""
    solution = written(values["solution"])
    return Found(
        text=written(values["text"]),
        answer=extract_answer(solution),
        solution=solution,
        benchmark=part.benchmark,
        fault=no_box(solution),
    )


SOURCE = hub_kind(MathHendrycks, read)
