"""The pocket world as a problem source: procedurally generated problems with answers known by construction."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from pocket import world
from tasks.rows import Problem, Role, Tier, problem_id
from tasks.seeds.kinds import KindSettings, Loaded, SourceKind

LICENCE = "cc0-1.0"
GENERATOR = "pocket-2"  # raise when the generator draws different problems for the same seed
POCKET_ID = re.compile(r"\d+/(?:" + "|".join(Tier) + r")/\d+")


class PocketSource(KindSettings):
    """Problems of the pocket world, drawn by seed. With `role: curated` they carry their answer."""

    kind: Literal["pocket"] = "pocket"
    name: str = "pocket"
    seed: int = 0
    counts: dict[Tier, int] = Field(default_factory=dict)


def load(source: PocketSource) -> Loaded:
    """Generate the problems given by `counts`."""
    rows = tuple(problems(source))
    return Loaded(outcomes=rows, seen=len(rows))


def problems(source: PocketSource) -> Iterator[Problem]:
    """Yield `counts[tier]` problems of each tier, easiest first.

    Only curated problems have their answer. The ground truth of a seed comes from the oracle, because a public seed's
    answer would not survive evolution either.
    """
    curated = source.role == "curated"
    for tier in Tier:
        for index in range(source.counts.get(tier, 0)):
            drawn = world.problem(source.seed, tier.value, index)
            source_id = f"{source.seed}/{tier.value}/{index}"
            row_id = problem_id(source=source.name, origin=source_id, strategy="", text=drawn.text)
            yield Problem(
                id=row_id,
                text=drawn.text,
                tier=tier,
                source=source.name,
                source_id=source_id,
                licence=LICENCE,
                role=Role(source.role),
                root_id=row_id,
                answer=drawn.answer if curated else None,
            )


def is_pocket_id(source_id: str) -> bool:
    """Whether a row with this `source_id` was drawn here, or evolved from one that was."""
    return POCKET_ID.fullmatch(source_id) is not None


def digest(source: PocketSource) -> str:
    """Return the version of the generator; seed and counts are in the settings."""
    return f"{GENERATOR}/{source.seed}"


SOURCE = SourceKind(settings=PocketSource, load=load, digest=digest)
