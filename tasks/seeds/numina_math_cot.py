"""NuminaMath-CoT: 859,494 problems from exercises, olympiads and forums (Li et al., 2024).

Schema (hub features, splits train and test): `source` (the subset: aops_forum, amc_aime, cn_k12, gsm8k, math,
olympiads, orca_math, synthetic_amc, synthetic_math), `problem`, `solution` (rewritten by a model, with a boxed answer),
`messages` (both again, as chat messages). Licence Apache-2.0. Sources for the schema: the data set's card on the hub and a
public copy of it.

The id is the subset and a hash of the text. Problems of `amc_aime` come from the contests of the AMC and AIME
benchmarks, so they are flagged as benchmark problems.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt

from tasks.rows import Tier
from tasks.seeds.filters import Drop
from tasks.seeds.hub_source import Found, HubPart, HubSource, Values, hub_kind, identified, no_box, written


class NuminaMathCot(HubSource):
    """10,000 medium problems, as in the paper. Solutions without a box are mostly proofs."""

    required: ClassVar = ("text", "solution", "subset")
    column_names: ClassVar = {"text": "problem", "solution": "solution", "subset": "source"}

    kind: Literal["numina_math_cot"] = "numina_math_cot"
    name: str = "numina_math_cot"
    role: Literal["seed"] = "seed"
    parts: tuple[HubPart, ...] = (HubPart(hub_id="AI-MO/NuminaMath-CoT", split="train"),)
    tier: Tier = Tier.MEDIUM
    licence: str = "apache-2.0"
    target: PositiveInt | None = 10_000
    drop: tuple[Drop, ...] = ("language", "figure", "choice", "proof", "no_answer")
    benchmark_subsets: tuple[str, ...] = ("amc_aime",)


def read(values: Values, source: NuminaMathCot, part: HubPart) -> Found:
    """Return the problem with the id `subset/hash`, without its answer, which was rewritten by a model."""
    subset, text = written(values["subset"]), written(values["text"])
    return Found(
        text=text,
        row_id=f"{subset}/{identified(Found(text=text)).row_id}",
        benchmark=part.benchmark or subset in source.benchmark_subsets,
        fault=no_box(values["solution"]),
    )


SOURCE = hub_kind(NuminaMathCot, read)
