"""A round of evolution that is planned shard by shard requests the same children as one planned as a whole."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from prefect import flow

from tasks.config import Config, load_config
from tasks.llm.chat import ChatModel
from tasks.problems.evolution_plan import Planned
from tasks.rows import Problem, Role, Tier
from tasks.runtime.driver import Lazy, Run
from tasks.runtime.evolution import EvolutionRound, planned
from tasks.stages.evolve import evolve_round
from tasks.storage.artifacts import Artifact, Store
from tests.scripted_server import running


def seeds(count: int) -> list[Problem]:
    return [
        Problem(
            id=f"{number:016x}", text=f"A train of {number} carriages leaves.", tier=Tier.EASY, source="s", licence="none",
            source_id=str(number), role=Role.SEED if number % 5 else Role.CURATED, root_id=f"{number:016x}",
        )
        for number in range(count)
    ]  # fmt: skip


def by_shard(rows: list[Problem], size: int, config: Config) -> list[tuple[Problem, Planned]]:
    """Plan round 1 of every `size` rows together."""
    starts = range(0, len(rows), size)
    return [pair for start in starts for pair in planned(rows[start : start + size], 1, config)]


def stored(store: Store, rows: list[Problem], size: int) -> Artifact:
    folder = store.folder("seeds", "0" * 64)
    for index, start in enumerate(range(0, len(rows), size)):
        part = rows[start : start + size]
        counts = {"in": len(part), "kept": len(part), "rejected": {}}
        store.write_shard(folder, index, {"problems": (Problem, part)}, {"counts": counts})
    return store.finish("seeds", "0" * 64, -(-len(rows) // size), {"build": "first"})


@pytest.mark.parametrize(("stored_by", "size"), [(7, 5), (7, 40), (40, 7), (100, 100), (1, 3)])
def test_the_shards_of_a_round_have_the_children_of_every_shard_of_parents(
    tmp_path: Path, stored_by: int, size: int
) -> None:
    config = load_config("pocket", {"evolve.branches": dict.fromkeys(Tier, 3), "run.shard_rows": size})
    run = Run(config=config, store=Store(tmp_path), identities={"evolver": "scripted@1"})
    evolution_round = EvolutionRound(run, stored(run.store, seeds(40), stored_by), 1)
    parts = [evolution_round.shard(index) for index in range(len(evolution_round.sizes))]
    assert [len(part) for part in parts] == list(evolution_round.sizes) and max(evolution_round.sizes) <= size
    whole = by_shard(seeds(40), stored_by, config)
    assert len(whole) == 96 and [pair for part in parts for pair in part] == whole


def test_a_changed_seed_changes_one_shard_and_no_cuts(tmp_path: Path) -> None:
    config = load_config("pocket", {"evolve.branches": dict.fromkeys(Tier, 3), "run.shard_rows": 10})
    found = []
    for name, text in (("one", None), ("other", "A boat leaves.")):
        run = Run(config=config, store=Store(tmp_path / name), identities={"evolver": "scripted@1"})
        rows = seeds(40)
        rows[21] = rows[21] if text is None else replace(rows[21], text=text)
        evolution_round = EvolutionRound(run, stored(run.store, rows, 7), 1)
        found.append([evolution_round.shard(index) for index in range(len(evolution_round.sizes))])
    assert [len(part) for part in found[0]] == [len(part) for part in found[1]]
    assert sum(one != other for one, other in zip(*found, strict=True)) in (1, 2)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("prefect_server")
def test_the_stage_requests_every_planned_child_once_and_in_order(tmp_path: Path) -> None:
    with running() as server:  # it echoes the prompt, and the text in its last tags is parsed as the child
        role = {"model": "scripted", "base_url": server.base_url, "serve": None}
        branches = dict.fromkeys(Tier, 3)
        config = load_config(
            "pocket", {"models.evolver": role, "evolve.branches": branches, "run.shard_rows": 20}
        )
        run = Run(config=config, store=Store(tmp_path), identities={"evolver": "scripted@1"})
        parents = stored(run.store, seeds(40), 7)
        model = ChatModel(config.models.evolver, server.base_url, "scripted", "scripted@1")

        @flow
        def one_round() -> Artifact:
            return evolve_round(run, parents, 1, Lazy(lambda: nullcontext(model)))

        artifact = one_round()
        assert server.counts.total() == 96
    assert run.store.record(artifact)["num_shards"] == len(EvolutionRound(run, parents, 1).sizes) > 4
    children = [(row.parent_id, row.strategy) for row in run.store.rows(artifact, "problems", Problem)]
    assert children == [(parent.id, child.strategy) for parent, child in by_shard(seeds(40), 7, config)]
