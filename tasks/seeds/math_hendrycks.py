r"""MATH: 12,500 problems of American contests in seven subjects (Hendrycks et al., 2021, arXiv 2103.03874).

Schema (seven configurations, splits train 7,500 and test 5,000): `problem`, `level` ("Level 1" to "Level 5"), `type`
(the subject), `solution` (with the answer in the last \boxed{}). Licence MIT. Sources for the schema: the data set's page
and its former loading script on the hub. A local copy may also be the authors' archive, with one .json file per problem
in `train/algebra/` etc.

The test split is a benchmark (MATH-500 is a subset of it), the train split is not. Figures are Asymptote code inside the
text, so the text is complete: these problems are kept, as in the paper.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt

from tasks.answers.extraction import extract_answer
from tasks.rows import Tier
from tasks.seeds.filters import Drop
from tasks.seeds.hub_source import Found, HubPart, HubSource, Values, hub_kind, no_box, written

SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
    "precalculus",
)  # fmt: skip


class MathHendrycks(HubSource):
    """All 12,500 problems, in the medium tier."""

    required: ClassVar = ("text", "solution")
    column_names: ClassVar = {"text": "problem", "solution": "solution"}

    kind: Literal["math"] = "math"
    name: str = "math"
    parts: tuple[HubPart, ...] = tuple(
        HubPart(hub_id="EleutherAI/hendrycks_math", config=subject, split=split, benchmark=split == "test")
        for subject in SUBJECTS
        for split in ("train", "test")
    )
    tier: Tier = Tier.MEDIUM
    licence: str = "mit"
    target: PositiveInt | None = 12_500
    drop: tuple[Drop, ...] = ("language", "no_answer")


def read(values: Values, source: MathHendrycks, part: HubPart) -> Found:
    """Return the problem with the boxed answer of its solution."""
    solution = written(values["solution"])
    return Found(
        text=written(values["text"]),
        answer=extract_answer(solution),
        solution=solution,
        benchmark=part.benchmark,
        fault=no_box(solution),
    )


SOURCE = hub_kind(MathHendrycks, read)
