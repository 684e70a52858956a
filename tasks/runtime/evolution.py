"""A round of evolution: its planned children in shards, their requests, and the problems of the replies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache

import numpy as np

from prompts import load_prompt
from tasks.config import Config
from tasks.identity import request_seed
from tasks.llm.chat import ChatRequest, Completion, Failure
from tasks.problems.evolution_plan import Planned, planned_round
from tasks.problems.rules import check
from tasks.problems.verdicts import BadReply, parse_evolution
from tasks.rows import Problem, Reason, Reject, Role, problem_id
from tasks.runtime.chunks import RowHashes, bounds, cut, overlaps, row_hashes, shard_rows
from tasks.runtime.driver import Run, Shard
from tasks.storage.artifacts import Artifact

Plan = Sequence[tuple[Problem, Planned]]


class EvolutionRound:
    """The planned children of a round, in shards.

    The children of one shard of parents are planned together, so that a changed seed changes strategies in its own shard
    only. Only one 64-bit mark per child is kept in memory; the children are planned again, one shard of parents at a time, when
    they are needed.
    """

    def __init__(self, run: Run, parents: Artifact, number: int) -> None:
        self._of_parents = lru_cache(maxsize=1)(
            lambda index: planned(
                shard_rows(run.store, parents, index, "problems", Problem), number, run.config
            )
        )
        self._num_parents = lambda: run.store.record(parents)["num_shards"]
        self._size = run.config.run.shard_rows

    @cached_property
    def _row_hashes(self) -> list[RowHashes]:
        plans = map(self._of_parents, range(self._num_parents()))
        return [row_hashes(request_key(*pair) for pair in plan) for plan in plans]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of children in each shard."""
        return cut(np.concatenate([np.empty(0, dtype=np.uint64), *self._row_hashes]), self._size)

    def shard(self, index: int) -> list[tuple[Problem, Planned]]:
        """Return the (parent, child) pairs of a shard."""
        places = overlaps([len(part) for part in self._row_hashes], *bounds(self.sizes, index))
        return [pair for part, low, high in places for pair in self._of_parents(part)[low:high]]


def request_key(parent: Problem, child: Planned) -> str:
    """Return the identity of a planned child, independent of the rest of the plan."""
    return f"{parent.id}/{child.branch}/{child.strategy}"


def planned(parents: Iterable[Problem], number: int, config: Config) -> Plan:
    """Plan the children of every parent that passes the rules, in the order of the parents."""
    fit = [
        parent
        for parent in parents
        if parent.role is not Role.CURATED and (number == 1 or check(parent.text, config.rules) is None)
    ]
    return planned_round(fit, number, config.evolve)


def request_recipe(run: Run) -> str:
    """Return what a child's seed depends on besides its parent: sampling and model, but neither inputs nor the plan."""
    return f"{run.identities['evolver']}/{run.config.evolve.sampling.identity()}/{run.config.evolve.seed}"


def request(parent: Problem, child: Planned, config: Config, recipe: str) -> ChatRequest:
    """Build the request for one child. Its seed is a hash of (parent, branch, strategy, recipe), never of a position."""
    prompt = load_prompt(f"evolution/{child.strategy}")
    key = request_key(parent, child)
    return ChatRequest(
        key=key,
        messages=tuple(prompt.render(problem=parent.text)),
        sampling=config.evolve.sampling,
        seed=request_seed(key, "evolver", recipe),
        prompt=prompt.fingerprint,
    )


def evolved(parent: Problem, child: Planned, reply: Completion | Failure, run: Run) -> Problem | Reject:
    """Return the evolved problem, or a reject with the reason why there is none."""
    stage = f"evolve-{parent.round + 1}"

    def reject(reason: Reason, detail: str, text: str) -> Reject:
        return Reject(
            problem_id=parent.id, stage=stage, reason=reason, detail=f"{child.strategy}: {detail}", text=text
        )

    if isinstance(reply, Failure):
        return reject(reply.code, reply.reason, "")
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
    """Build the tables of a shard. A problem with the same id as a sibling is rejected."""
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
