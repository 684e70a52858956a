"""One optimizer step of any algorithm on made-up rollouts, in float64 and without workers: its loss and its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from tests.training.small_run import settings
from training.algorithms.base import Source
from training.batch import RolloutBatch, split_updates, with_demonstrations
from training.config import run_from
from training.data.batches import TokenSequence
from training.data.routing import Routing
from training.data.sampler import PromptGroup
from training.loss_inputs import part_inputs, sequences_of
from training.losses.base import LossInputs
from training.losses.head import chunked_head
from training.plan import RunPlan, ScoringPass, resolve
from training.rollouts.engine import Generation
from training.scorers.routed import RoutedScores
from training.scorers.scores import Scores, TopK
from training.student.messages import tensors

V, H = 30, 6


def plan_of(
    name: str, options: dict[str, Any] | None = None, routing: str | None = None, **algorithm: Any
) -> RunPlan:
    """Return the plan of a run of an algorithm, with `routing` of two teachers."""
    chosen = {"name": name, "options": options or {}, **algorithm}
    given = settings(Path("d"), algorithm=chosen)
    if routing is not None:
        teachers = [{"name": "a", "model": "a"}, {"name": "b", "model": "b", "annotation": "b"}]
        given |= {"teacher": None, "teachers": teachers, "routing": routing}
    return resolve(run_from(given, "test"))


@dataclass(kw_only=True)
class World:
    """Rollouts of `groups` prompts, `size` of each, then a demonstration of each group in `shown`. Distributions are logits
    [T, V] at all their tokens; the student's are `hidden` [T, H] @ `head` [V, H].T. `teachers`: those of several teachers, of
    which each has a share [groups, teachers] in `routes`."""

    lengths: np.ndarray
    size: int
    groups: int
    rewards: np.ndarray
    weights: np.ndarray
    hidden: Tensor
    head: Tensor
    old: Tensor
    teacher: Tensor
    reference: Tensor
    ids: Tensor
    shown: tuple[tuple[int, Source], ...] = ()
    shares: np.ndarray | None = None
    step: int = 0
    teachers: tuple[Tensor, ...] = ()
    routes: np.ndarray | None = None
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def rollouts(self) -> int:
        return self.groups * self.size

    def spans(self) -> list[slice]:
        """Return the tokens of each sequence."""
        ends = np.cumsum([0, *self.lengths]).tolist()
        return [slice(first, last) for first, last in pairwise(ends)]

    def at(self, logits: Tensor) -> Tensor:
        """Return the log-probabilities [T] of the sampled tokens."""
        return logits.log_softmax(-1).gather(-1, self.ids[:, None])[:, 0]


def world(
    *,
    groups: int = 4,
    size: int = 3,
    seed: int = 0,
    rewards: Sequence[float] | None = None,
    shown: Sequence[tuple[int, Source]] = (),
    lengths: Sequence[int] | None = None,
    distance: float = 0.3,
) -> World:
    """Return random rollouts. The student has moved by about `distance` from the one that generated them."""
    draw, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    count = groups * size + len(shown)
    sizes = rng.integers(1, 7, count) if lengths is None else np.array(lengths)
    total = int(sizes.sum())

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    hidden, head = randn(total, H), randn(V, H) / 2
    logits = hidden @ head.T
    sharpness = torch.rand(total, 1, generator=draw, dtype=torch.float64) * 5
    return World(
        lengths=sizes, size=size, groups=groups, hidden=hidden, head=head, old=logits + distance * randn(total, V),
        teacher=logits + sharpness * randn(total, V), reference=logits + distance * randn(total, V),
        ids=torch.randint(V, (total,), generator=draw),
        rewards=rng.integers(0, 2, groups * size).astype(float) if rewards is None else np.array(rewards),
        weights=np.repeat(rng.random(groups), size), shown=tuple(shown),
    )  # fmt: skip


class Ready:
    def __init__(self, scores: list[Scores]) -> None:
        self.get = lambda: (scores, 1.0)


def done(value: float) -> Future[float]:
    future: Future[float] = Future()
    future.set_result(value)
    return future


def batch_of(made: World, plan: RunPlan, *, whole: bool = False, updates: int = 1) -> RolloutBatch:
    """Return the rollout batch; `whole`: every update in one part."""
    groups = tuple(
        PromptGroup(
            index=n,
            row=n,
            row_id=str(n),
            seeds=tuple(7919 * (n * made.size + k + 1) for k in range(made.size)),
        )
        for n in range(made.groups)
    )
    split = split_updates(groups, updates, whole_groups=plan.in_groups)
    if whole:
        split = tuple((range(update[0].start, update[-1].stop),) for update in split)
    old = made.at(made.old).numpy().astype(np.float32)
    spans = made.spans()
    unknown = {index for index in range(len(spans)) if index >= made.rollouts}
    generations = tuple(
        Generation(
            tokens=made.ids[span].numpy().astype(np.int32),
            logprobs=np.full(span.stop - span.start, np.nan, np.float32) if index in unknown else old[span],
            finish_reason="stop",
            version=0,
        )
        for index, span in enumerate(spans)
    )
    weights = (
        made.weights
        if plan.algorithm.prompt_weight.__class__.__name__ != "Uniform"
        else np.ones_like(made.weights)
    )
    batch = RolloutBatch(
        step=made.step,
        groups=groups,
        sequences=tuple(
            TokenSequence(tokens=np.append(np.zeros(2, np.int32), one.tokens), prompt_length=2)
            for one in generations
        ),
        generations=generations,
        updates=with_demonstrations(split, groups, [group for group, _ in made.shown]),
        weights=np.append(weights, [weights[group * made.size] for group, _ in made.shown]),
        rollout_seconds=1.0,
        grades=tuple(map(done, made.rewards)) if plan.algorithm.reward else (),
        answer_shares=() if made.shares is None else tuple(map(done, made.shares)),
        demonstrations=made.shown,
    )
    if plan.student_outputs:
        entropy = torch.distributions.Categorical(logits=made.old).entropy().numpy().astype(np.float32)
        batch = replace(
            batch,
            old_logprobs=[old[span] for span in spans],
            student_entropy=[entropy[span] for span in spans],
        )
    scores = {one: tuple(_pending(made, batch, one, part) for part in batch.parts) for one in plan.passes}
    if made.routes is None:
        return replace(batch, scores=scores)
    names = tuple(str(number) for number in range(len(made.teachers)))
    routing = Routing(names=names, shares=made.routes, weights=made.routes)
    return replace(batch, scores=scores, routing=routing, rows=tuple(batch.group_numbers.tolist()))


def _pending(made: World, batch: RolloutBatch, one: ScoringPass, part: range) -> Any:
    """Return the scores of a part, of several teachers by each of those of a sequence."""
    spans = made.spans()
    if made.routes is None or one.worker != "teacher":
        return Ready([_scores(made, one, spans[index]) for index in part])
    calls = []
    for teacher, logits in enumerate(made.teachers):
        alone = replace(made, teacher=logits)
        shares = made.routes[batch.group_numbers[list(part)], teacher]
        places = np.flatnonzero(shares).tolist()
        calls.append((places, Ready([_scores(alone, one, spans[part[place]]) for place in places])))
    return RoutedScores(cast(Any, calls), len(part))


def _scores(made: World, one: ScoringPass, span: slice) -> Scores:
    logits = (made.teacher if one.worker == "teacher" else made.reference)[span]
    logprobs = logits.log_softmax(-1)
    top = None
    if one.request.top_k is not None:
        kept = logprobs.topk(one.request.top_k)
        top = TopK(logprobs=kept.values.numpy().astype(np.float32), ids=kept.indices.numpy().astype(np.int32))
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    return Scores(
        sampled=made.at(made.teacher if one.worker == "teacher" else made.reference)[span]
        .numpy()
        .astype(np.float32),
        top_k=top,
        entropy=entropy.numpy().astype(np.float32) if one.request.entropy else None,
    )


def step(
    made: World, plan: RunPlan, *, whole: bool = False, updates: int = 1, update: int = 0
) -> tuple[float, Tensor, Tensor, dict[str, Tensor]]:
    """Return the loss of an optimizer step, its gradients with respect to hidden [T, H] and head [V, H], and the diagnostics of
    all trained tokens, as the ranks of the student compute them."""
    batch = batch_of(made, plan, whole=whole, updates=updates)
    offset = 0.0
    if plan.algorithm.sequence_loss is not None:
        own = made.at(made.hidden @ made.head.T)
        indices = [index for part in batch.updates[update] for index in part]
        spans = made.spans()
        _, sequences = sequences_of(batch, update, plan, [own[spans[index]].numpy() for index in indices])
        found = plan.algorithm.sequence_loss(sequences)
        batch = replace(batch, sequence_slopes=dict(zip(indices, found.slopes.tolist(), strict=True)))
        offset = found.loss - float((found.slopes * sequences.logprobs).sum())
    hidden, head = made.hidden.clone().requires_grad_(), made.head.clone().requires_grad_()
    loss, seen = torch.zeros((), dtype=torch.float64), list[dict[str, Tensor]]()
    for part in range(len(batch.updates[update])):
        given = part_inputs(batch, update, part, plan)
        indices = batch.updates[update][part]
        kept = np.repeat(given.trained, [made.lengths[index] for index in indices])
        tokens = np.concatenate([np.r_[made.spans()[index]] for index in indices])
        inputs = LossInputs(
            sampled_ids=made.ids[tokens],
            **tensors({name: np.ascontiguousarray(one) for name, one in given.signals.items()}),
        ).rows(torch.from_numpy(np.flatnonzero(kept)))
        result = chunked_head(
            hidden[tokens[kept]], head, plan.token_loss(), inputs,
            torch.from_numpy(given.coefficients[kept]), chunk_size=7,
        )  # fmt: skip
        loss = loss + result.loss
        seen.append(result.diagnostics)
    loss.backward()
    assert hidden.grad is not None and head.grad is not None
    names = dict.fromkeys(name for one in seen for name in one)
    diagnostics = {name: torch.cat([one[name] for one in seen if name in one]) for name in names}
    return float(loss.detach()) + offset, hidden.grad, head.grad, diagnostics
