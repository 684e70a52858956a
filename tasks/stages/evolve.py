"""Stage evolve: Evol-Instruct in rounds. Each round is an artifact; all rounds use the same server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from prefect.logging import get_run_logger

from prompts import load_prompt
from tasks.llm.chat import ChatModel, ChatRequest
from tasks.llm.turns import Turns
from tasks.problems.evolution_plan import with_target
from tasks.rows import Problem, Role, Strategy
from tasks.runtime.driver import Lazy, Run, Shard, Stage, run_shards
from tasks.runtime.evolution import EvolutionRound, Plan, collect, evolved, request, request_recipe
from tasks.runtime.models import RequestsAhead, chat_model
from tasks.runtime.pending import Pending, rows_digest
from tasks.storage.artifacts import Artifact

VERSION = 4


def evolve(run: Run, sources: Artifact) -> tuple[Artifact, ...]:
    """Run rounds 1..R of evolution. Round r evolves the problems of round r-1 that pass the rules."""
    log = get_run_logger().info
    run = with_branches(run, sources)
    artifacts, parents = [], sources
    with Lazy(lambda: chat_model(run, "evolver", "evolve", log)) as model:
        for number in range(1, max(run.config.evolve.rounds.values()) + 1):
            parents = evolve_round(run, parents, number, model)
            artifacts.append(parents)
    return tuple(artifacts)


def with_branches(run: Run, sources: Artifact) -> Run:
    """Return the run with the branches per tier that reach `evolve.target` for its seeds; unchanged without a target."""
    if run.config.evolve.target is None:
        return run
    rows = run.store.rows(sources, "problems", Problem)
    settings = with_target(Counter(row.tier for row in rows if row.role is Role.SEED), run.config.evolve)
    get_run_logger().info(
        "evolve: branches %s for %s candidates", dict(settings.branches), f"{settings.target:,}"
    )
    return replace(run, config=run.config.model_copy(update={"evolve": settings}))


def evolve_round(run: Run, parents: Artifact, number: int, model: Lazy[ChatModel]) -> Artifact:
    """Run one round: one request per planned child, one problem or reject per request."""
    settings, size = run.config.evolve, run.config.run.shard_rows
    stage = Stage(
        name=f"evolve-{number}", version=VERSION, unit="problem", inputs=(parents,),
        settings={
            "evolve": settings.identity(), "round": number, "shard_rows": size,
            "model": run.config.models.evolver.identity(), "rules": run.config.rules.identity(),
        },
        prompts=tuple(load_prompt(f"evolution/{strategy}").fingerprint for strategy in Strategy),
        models=(run.identities["evolver"],),
    )  # fmt: skip
    children_of, recipe = EvolutionRound(run, parents, number), request_recipe(run)
    pending = Pending(run.store, stage, lambda index: rows_digest(children_of.shard(index)))

    def requests_of(index: int) -> tuple[Plan, list[ChatRequest]]:
        part = children_of.shard(index)
        return part, [request(parent, child, run.config, recipe) for parent, child in part]

    with Turns(model.get) as turns:
        ahead = RequestsAhead(turns, requests_of, lambda: len(children_of.sizes), pending)

        def work(index: int, on_progress: Callable[[int], None]) -> Shard:
            return collect([evolved(*pair, reply, run) for pair, reply in ahead.outcomes(index, on_progress)])

        return run_shards(run, stage, lambda: children_of.sizes, work, pending)
