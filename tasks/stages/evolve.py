"""Stage evolve: Evol-Instruct in rounds. Each round is an artifact; one server serves them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from prefect.logging import get_run_logger

from prompts import load_prompt
from tasks.core.config import Config
from tasks.core.evolution_plan import Planned, children, with_target
from tasks.core.identity import request_seed
from tasks.core.rows import Problem, Reason, Reject, Role, Strategy, problem_id
from tasks.core.rules import check
from tasks.core.verdicts import BadReply, parse_evolution
from tasks.io.artifacts import Artifact
from tasks.io.chat import ChatModel, ChatRequest, Completion, Failure
from tasks.stages.chunks import chunk, chunk_sizes
from tasks.stages.driver import Lazy, Run, Shard, Stage, run_shards
from tasks.stages.models import ask, chat_model

VERSION = 1

Plan = Sequence[tuple[Problem, Planned]]


def evolve(run: Run, sources: Artifact) -> tuple[Artifact, ...]:
    """Rounds 1..R of evolution; round r starts from what round r-1 wrote and what the quick rules let pass."""
    log = get_run_logger().info
    run = with_branches(run, sources)
    artifacts, parents = [], sources
    with Lazy(lambda: chat_model(run, "evolver", "evolve", log)) as model:
        for number in range(1, max(run.config.evolve.rounds.values()) + 1):
            parents = evolve_round(run, parents, number, model)
            artifacts.append(parents)
    return tuple(artifacts)


def with_branches(run: Run, sources: Artifact) -> Run:
    """The run with the branches that `evolve.target` asks for, given its seeds."""
    if run.config.evolve.target is None:
        return run
    rows = run.store.rows(sources, "problems", Problem)
    settings = with_target(Counter(row.tier for row in rows if row.role is Role.SEED), run.config.evolve)
    get_run_logger().info(
        "evolve: branches %s for %s candidates", dict(settings.branches), f"{settings.target:,}"
    )
    return replace(run, config=run.config.model_copy(update={"evolve": settings}))


def evolve_round(run: Run, parents: Artifact, number: int, model: Lazy[ChatModel]) -> Artifact:
    """One round: a request per planned child, a problem or a reject per request."""
    settings, size = run.config.evolve, run.config.run.shard_rows
    stage = Stage(
        name=f"evolve-{number}", version=VERSION, unit="problems", inputs=(parents,),
        settings={
            "evolve": settings.identity(), "round": number, "shard_rows": size,
            "model": run.config.models.evolver.identity(), "rules": run.config.rules.identity(),
        },
        prompts=tuple(load_prompt(f"evolution/{strategy}").fingerprint for strategy in Strategy),
        models=(run.identities["evolver"],),
    )  # fmt: skip
    plan = cache(lambda: planned(run.store.rows(parents, "problems", Problem), number, run.config))
    recipe = request_recipe(run)

    def work(index: int, at: object) -> Shard:
        part = chunk(plan(), size, index)
        requests = [request(parent, child, run.config, recipe) for parent, child in part]
        replies = ask(model.get(), requests, at) if part else []  # type: ignore[arg-type]
        pairs = list(zip(part, replies, strict=True))
        return collect([evolved(parent, child, reply, run) for (parent, child), reply in pairs])

    return run_shards(run, stage, lambda: chunk_sizes(len(plan()), size), work)


def planned(parents: object, number: int, config: Config) -> Plan:
    """Children of every parent that the quick rules let pass, in the order of the parents."""
    return [
        (parent, child)
        for parent in parents  # type: ignore[attr-defined]
        if parent.role is not Role.CURATED and (number == 1 or check(parent.text, config.rules) is None)
        for child in children(parent, number, config.evolve)
    ]


def request_recipe(run: Run) -> str:
    """What a child's seed hangs on beside its parent: sampling and model, but neither inputs nor the plan."""
    return f"{run.identities['evolver']}/{run.config.evolve.sampling.identity()}/{run.config.evolve.seed}"


def request(parent: Problem, child: Planned, config: Config, recipe: str) -> ChatRequest:
    """The request for one child. Its seed is a hash of (parent, branch, strategy, recipe): never a position."""
    prompt = load_prompt(f"evolution/{child.strategy}")
    key = f"{parent.id}/{child.branch}/{child.strategy}"
    return ChatRequest(
        key=key,
        messages=tuple(prompt.render(problem=parent.text)),
        sampling=config.evolve.sampling,
        seed=request_seed(key, "evolver", recipe),
        prompt=prompt.fingerprint,
    )


def evolved(parent: Problem, child: Planned, reply: Completion | Failure, run: Run) -> Problem | Reject:
    """The child, or why there is none."""
    stage = f"evolve-{parent.round + 1}"

    def reject(reason: Reason, detail: str, text: str) -> Reject:
        return Reject(
            problem_id=parent.id, stage=stage, reason=reason, detail=f"{child.strategy}: {detail}", text=text
        )

    if isinstance(reply, Failure):
        return reject(Reason.MODEL_ERROR, reply.reason, "")
    text = parse_evolution(reply.text, reply.finish_reason, parent.text, run.config.evolve.max_reply_chars)
    if isinstance(text, BadReply):
        return reject(text.reason, text.detail, reply.text[:2000])
    return Problem(
        id=problem_id(source=parent.source, origin=parent.id, strategy=child.strategy, text=text),
        text=text,
        tier=parent.tier,
        source=parent.source,
        source_id=parent.source_id,
        licence=parent.licence,
        role=Role.EVOLVED,
        root_id=parent.root_id,
        parent_id=parent.id,
        round=parent.round + 1,
        strategy=child.strategy,
        benchmark_root=parent.benchmark_root,
        model=run.identities["evolver"],
        prompt=load_prompt(f"evolution/{child.strategy}").fingerprint,
    )


def collect(results: Sequence[Problem | Reject]) -> Shard:
    """Problems and rejects of a shard; a sibling that came out the same is a reject, too."""
    problems: dict[str, Problem] = {}
    rejects: list[Reject] = []
    for result in results:
        if isinstance(result, Reject):
            rejects.append(result)
        elif result.id in problems:
            rejects.append(
                Reject(
                    problem_id=result.id,
                    stage=f"evolve-{result.round}",
                    reason=Reason.DUPLICATE_ID,
                    detail=f"a sibling by {result.strategy} has the same text",
                    text=result.text[:2000],
                )
            )
        else:
            problems[result.id] = result
    tables = {"problems": (Problem, list(problems.values())), "rejects": (Reject, rejects)}
    return Shard(incoming=len(results), tables=tables)
