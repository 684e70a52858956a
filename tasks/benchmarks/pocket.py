"""500 problems of the pocket world, 125 of each tier, that no pocket model was trained on: seed 4, whose first 50 of each tier
are the held-out problems of profile `pocket`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.benchmarks.base import Benchmark, Item, OwnData
from tasks.errors import UserError
from tasks.rows import Tier

SEED, EACH = 4, 125
VERSION = "pocket-2"  # raise when the generator draws different problems for the same seed


def read(path: Path | None) -> tuple[Sequence[Item], str]:
    """Generate the problems."""
    from pocket import world  # the generator is needed for this benchmark only

    if path is not None:
        raise UserError("benchmark pocket is generated: remove its path")
    drawn = ((tier, index, world.problem(SEED, tier.value, index)) for tier in Tier for index in range(EACH))
    items = [
        Item(id=f"{SEED}/{tier.value}/{index}", text=one.text, answer=one.answer, group=tier.value)
        for tier, index, one in drawn
    ]
    return items, f"{VERSION}/{SEED}x{EACH}"


BENCHMARK = Benchmark(
    name="pocket",
    title="Pocket world",
    data=OwnData(read=read),
    protocols=("pass1_greedy", "avg16"),
    max_tokens=448,  # as the profile's teacher
    problems=500,
    tier=Tier.MEDIUM,
    licence="cc0-1.0",
    lineage="generated; other seeds of the generator make the training problems",
)
