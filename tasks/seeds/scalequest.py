"""ScaleQuest-Math: a million problems written from scratch by small models (Ding et al., 2024, arXiv 2410.18693).

Schema (`train.json`, one object per line, 1.5 GB): `query` (the problem), `response` (a model's solution). Licence
Apache-2.0. Sources for the schema: the data set's page on the hub (files, licence) and public code that loads `train.json`
with these two names. There is no id and no ground truth: the id is a hash of the text, and the response is ignored.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt

from tasks.rows import Tier
from tasks.seeds.filters import Drop
from tasks.seeds.hub_source import Found, HubPart, HubSource, Values, hub_kind, written


class ScaleQuest(HubSource):
    """15,000 easy problems, as in the paper."""

    column_names: ClassVar = {"text": "query"}

    kind: Literal["scalequest"] = "scalequest"
    name: str = "scalequest"
    role: Literal["seed"] = "seed"
    parts: tuple[HubPart, ...] = (HubPart(hub_id="dyyyyyyyy/ScaleQuest-Math", split="train"),)
    tier: Tier = Tier.EASY
    licence: str = "apache-2.0"
    target: PositiveInt | None = 15_000
    drop: tuple[Drop, ...] = ("language", "figure", "choice", "proof")


def read(values: Values, source: ScaleQuest, part: HubPart) -> Found:
    """Return the problem without the response, which is not ground truth."""
    return Found(text=written(values["text"]), benchmark=part.benchmark)


SOURCE = hub_kind(ScaleQuest, read)
