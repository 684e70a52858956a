"""New responses of the teacher for prompts that have no right rollout and no solution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import numpy as np

from tasks.identity import request_seed
from training.data.demonstrations import Demonstration
from training.data.responses import FINISHED
from training.data.sampler import PromptGroup
from training.preflight.check import Prepared
from training.preflight.sampling import sampling
from training.rollouts.engine import RolloutRequest
from training.worker_set import Workers

__all__ = ["generated_demonstrations", "unsolved"]


def unsolved(
    groups: Sequence[PromptGroup],
    shown: Sequence[tuple[int, Demonstration]],
    rewards: Mapping[int, Future[float]],
) -> list[int]:
    """Return the numbers of the groups that have neither a right rollout nor a demonstration. `rewards`: by the index of each
    rollout, in the order of the groups. Waits for them. `shown`: the demonstrations by group."""
    right, start = {number for number, _ in shown}, 0
    for number, group in enumerate(groups):
        mine = range(start, start + len(group.seeds))
        if any(rewards[index].result() == 1.0 for index in mine):
            right.add(number)
        start = mine.stop
    return [number for number in range(len(groups)) if number not in right]


def generated_demonstrations(
    workers: Workers, prepared: Prepared, groups: Sequence[PromptGroup], numbers: Sequence[int]
) -> list[tuple[int, Demonstration]]:
    """Return for some of the groups the first finished, right response of the teacher to their prompt, with the number of the
    group; none for a prompt that the teacher does not solve. The seeds depend on the draw alone."""
    count, prompts = prepared.plan.algorithm.generated, prepared.prompts("plain")
    requests = [
        RolloutRequest(
            prompt=prompts[groups[number].row],
            seed=request_seed(
                groups[number].row_id, f"teacher/{groups[number].index}/{n}", str(prepared.run.seed)
            ),
        )
        for number in numbers
        for n in range(count)
    ]
    if not requests:
        return []
    made = workers.generate_by_teacher(requests, sampling(prepared))
    owners = np.repeat(numbers, count).tolist()
    grades = [
        (owner, one.tokens, workers.grade(prepared, groups[owner].row, one.tokens))
        for owner, one in zip(owners, made, strict=True)
        if one.finish_reason == FINISHED and one.tokens.max() < prepared.shared_vocab
    ]
    found: dict[int, Demonstration] = {}
    for owner, tokens, grade in grades:
        if owner not in found and grade.result() == 1.0:
            found[owner] = Demonstration(tokens=tokens, source="teacher")
    return sorted(found.items())
