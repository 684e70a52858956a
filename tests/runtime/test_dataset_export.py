"""What the manifest counts: the problems that the evolver wrote, by round, tier and strategy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tasks.config import EvolveSettings
from tasks.problems.evolution_plan import planned_round
from tasks.rows import Problem, Role, Tier
from tasks.runtime.dataset_export import evolution_counts
from tasks.storage.artifacts import Artifact, Store

SEED = Problem(
    id="s", text="How many?", tier=Tier.HARD, source="s", source_id="1", licence="l", role=Role.SEED, root_id="s",
)  # fmt: skip


def stored(store: Store, name: str, rows: list[Problem], size: int) -> Artifact:
    folder, starts = store.folder(name, name * 8), range(0, len(rows), size)
    for index, start in enumerate(starts):
        part = rows[start : start + size]
        counts = {"in": len(part), "kept": len(part), "rejected": {}}
        store.write_shard(folder, index, {"problems": (Problem, part)}, {"counts": counts})
    return store.finish(name, name * 8, len(starts), {"build": "b"})


def test_the_manifest_has_the_shares_of_the_strategies_by_round_and_tier(tmp_path: Path) -> None:
    settings, store, rounds = EvolveSettings(), Store(tmp_path), []
    parents = [
        replace(SEED, id=f"{tier}{n}", tier=tier) for tier in (Tier.EASY, Tier.HARD) for n in range(200)
    ]
    for number in (1, 2):
        parents = [
            replace(
                parent,
                id=f"{parent.id}/{child.branch}",
                role=Role.EVOLVED,
                round=number,
                strategy=child.strategy,
            )
            for parent, child in planned_round(parents, number, settings)
        ]
        rounds.append(stored(store, f"round{number}", parents, 150))
    first, hard, second = evolution_counts(store, rounds)
    assert [(row.round, row.tier, row.total) for row in (first, hard, second)] == [
        (1, "easy", 200), (1, "hard", 200), (2, "hard", 200),
    ]  # fmt: skip
    assert (
        abs(first.harder_and_competition - 0.30) <= 0.01 and abs(hard.harder_and_competition - 0.55) <= 0.01
    )
    for row, tier in ((first, Tier.EASY), (hard, Tier.HARD)):
        for strategy, weight in settings.strategy_weights[tier].items():
            assert abs(row.shares[strategy] - weight) <= 0.01
    assert second.harder_and_competition > 0.6 and second.shares["rewrite"] == 0
