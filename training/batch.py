"""One rollout batch: draw prompts, get their rollouts, have them scored and graded, and build the student's micro-batches.

Rollouts are always in the order of the draws (K of the first, K of the second, ...), independent of the order in which they
finish, so that a run that was killed and continued has bitwise identical gradients.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np

from training.algorithms.base import Columns, Sequences
from training.algorithms.token_weights import truncated_importance
from training.data.batches import TokenSequence
from training.data.packing import pack
from training.data.sampler import PromptGroup
from training.losses.reductions import Totals, check_sequences, expand
from training.plan import RunPlan, ScoringPass
from training.preflight.check import Prepared
from training.preflight.sampling import sampling
from training.rollouts.engine import INITIAL_VERSION, Generation, RolloutRequest
from training.rollouts.sequences import sequence
from training.scorers.scores import Scores
from training.student.messages import MicroBatch
from training.worker_set import PendingScores, Workers

__all__ = ["RolloutBatch", "generate_batch", "micro_batches"]

SCORING_PARTS = 4
"""Number of parts of a rollout batch. A part is sent to the scorers as soon as its last rollout has finished, so that scoring
overlaps with generation, and training on the first parts with scoring of the others. A part is contiguous in the order of the
draws, so that its content does not depend on timing."""


View = dict[str, np.ndarray]
"""The loss inputs of some response tokens: arrays [T, ...] by the field names of `training.losses.base.LossInputs`."""


@dataclass(frozen=True, kw_only=True)
class RolloutBatch:
    """A rollout batch of S = prompts x K rollouts.

    `updates`: the rollout indices of each part of each optimizer step. `weights` [S] float64: the prompt weight of every rollout.
    `scores[pass][part]`: the pending scores of each part by each scoring pass. `grades` [S]: pending rewards, empty without a
    reward. `rollout_seconds`: seconds of generation. `generated`: whether the rollouts were generated now, and are not those of a
    checkpoint or the dataset. `old_logprobs`: the student's before the first update, if the algorithm compares with them.
    `sequence_slopes`: by rollout, the derivative of a sequence loss with respect to its log-probability.
    """

    step: int
    groups: tuple[PromptGroup, ...]
    sequences: tuple[TokenSequence, ...]
    generations: tuple[Generation, ...]
    updates: tuple[tuple[range, ...], ...]
    weights: np.ndarray
    rollout_seconds: float
    generated: bool = True
    scores: Mapping[ScoringPass, tuple[PendingScores, ...]] = field(default_factory=dict)
    grades: tuple[Future[float], ...] = ()
    old_logprobs: Sequence[np.ndarray] | None = None
    sequence_slopes: Mapping[int, float] = field(default_factory=dict)

    @property
    def parts(self) -> list[range]:
        """The rollout indices of each part, over all updates."""
        return [part for update in self.updates for part in update]

    @cached_property
    def group_numbers(self) -> np.ndarray:
        """The number of each rollout's group, int64 [S]."""
        return np.repeat(np.arange(len(self.groups)), [len(group.seeds) for group in self.groups])

    @cached_property
    def rewards(self) -> np.ndarray | None:
        """The rewards [S] float64. Waits for the grades; None without a reward."""
        return np.array([one.result() for one in self.grades]) if self.grades else None

    def scoring_seconds(self) -> dict[str, float]:
        """Return the seconds of scoring by each frozen model. Waits for the scores."""
        seconds: dict[str, float] = {}
        for one, pending in self.scores.items():
            seconds[one.worker] = seconds.get(one.worker, 0.0) + sum(part.get()[1] for part in pending)
        return seconds

    def totals(self, update: int) -> Totals:
        """Return what the reductions of an optimizer step divide by."""
        chosen = [index for part in self.updates[update] for index in part]
        tokens = sum(len(self.generations[index].tokens) for index in chosen)
        return Totals(sequences=len(chosen), tokens=tokens)


def generate_batch(
    workers: Workers, prepared: Prepared, weights: np.ndarray, step: int, *, saved: Sequence[Generation] = ()
) -> RolloutBatch:
    """Get the rollouts of a step, and request their scores and grades.

    `weights` [rows] float64: for each of `prepared.rows`. `saved`: the rollouts of the step if a checkpoint has them.
    """
    plan, groups = prepared.plan, prepared.schedule.step(step)
    rows = [group.row for group in groups for _ in group.seeds]
    updates = split_updates(groups, prepared.schedule.updates_per_batch, whole_groups=plan.in_groups)
    parts = [part for update in updates for part in update]
    started = time.perf_counter()
    found: dict[int, Generation] = {}
    scores: dict[ScoringPass, dict[int, PendingScores]] = {one: {} for one in plan.passes}
    grades: dict[int, Future[float]] = {}
    for index, generation in _rollouts(workers, prepared, groups, rows, saved):
        found[index] = generation
        if plan.algorithm.reward:
            grades[index] = workers.grade(prepared, rows[index], generation.tokens)
        for number, part in enumerate(parts):
            if index in part and all(place in found for place in part):
                for one, pending in scores.items():
                    prompts = prepared.prompts(one.view)
                    ended = [sequence(prompts[rows[place]], found[place]) for place in part]
                    pending[number] = workers.score(one, ended, number)
    generated = time.perf_counter()
    generations = tuple(found[index] for index in range(len(rows)))
    plain = prepared.prompts("plain")
    return RolloutBatch(
        step=step,
        groups=groups,
        sequences=tuple(sequence(plain[row], one) for row, one in zip(rows, generations, strict=True)),
        generations=generations,
        updates=updates,
        weights=weights[rows],
        rollout_seconds=generated - started,
        generated=plan.samples and not saved,
        scores={one: tuple(pending[n] for n in range(len(parts))) for one, pending in scores.items()},
        grades=tuple(grades[index] for index in sorted(grades)),
    )


def _rollouts(
    workers: Workers,
    prepared: Prepared,
    groups: Sequence[PromptGroup],
    rows: Sequence[int],
    saved: Sequence[Generation],
) -> Iterator[tuple[int, Generation]]:
    """Yield (index, rollout): those of a checkpoint, the dataset's responses, or what the engines generate."""
    seeds = [seed for group in groups for seed in group.seeds]
    if saved:
        yield from enumerate(saved)
    elif prepared.plan.samples:
        plain = prepared.prompts("plain")
        requests = [RolloutRequest(prompt=plain[r], seed=s) for r, s in zip(rows, seeds, strict=True)]
        yield from workers.engines.stream(requests, sampling(prepared))
    else:
        for index, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
            yield index, _of_dataset(prepared, row, seed)


def _of_dataset(prepared: Prepared, row: int, seed: int) -> Generation:
    """Return the response of the dataset that a seed draws for a row, as a rollout whose log-probabilities are not known."""
    if prepared.responses is None:
        raise ValueError("this run has no responses of the dataset, because its algorithm samples rollouts")
    tokens = prepared.responses.drawn(prepared.rows[row].id, seed)
    unknown = np.full(len(tokens), np.nan, dtype=np.float32)
    return Generation(tokens=tokens, logprobs=unknown, finish_reason="stop", version=INITIAL_VERSION)


def micro_batches(batch: RolloutBatch, update: int, part: int, prepared: Prepared) -> list[list[MicroBatch]]:
    """Build the micro-batches of one part of an optimizer step for every student rank: `result[rank][i]`.

    Waits until the part is scored and graded. Rollouts of weight 0 count in the denominators but are not trained on.
    """
    run, ranks, rollouts = prepared.run, prepared.run.placement.students, batch.updates[update][part]
    number = sum(len(one) for one in batch.updates[:update]) + part
    signals = _signals(batch, number, prepared.plan)
    coefficients = _coefficients(batch, update, rollouts, signals, prepared.plan)
    if prepared.plan.algorithm.sequence_loss is not None:
        slopes = [np.full(len(batch.generations[i].tokens), batch.sequence_slopes[i]) for i in rollouts]
        signals["sequence_slopes"] = np.concatenate(slopes).astype(np.float32)
        signals["token_coefficients"] = coefficients.astype(np.float32)
        coefficients = np.ones(len(coefficients))
    starts = np.cumsum([0, *(len(batch.generations[index].tokens) for index in rollouts)])
    kept = [place for place, index in enumerate(rollouts) if batch.weights[index] > 0]
    lengths = [len(batch.sequences[rollouts[place]].tokens) for place in kept]
    cut = pack(lengths, budget=run.trainer.micro_batch_tokens, ranks=ranks)

    def made(chosen: Sequence[int]) -> MicroBatch:
        tokens = np.concatenate(
            [np.zeros(0, dtype=np.int64), *(np.arange(starts[place], starts[place + 1]) for place in chosen)]
        )
        return MicroBatch(
            sequences=tuple(batch.sequences[rollouts[place]] for place in chosen),
            coefficients=coefficients[tokens].astype(np.float32),
            signals={name: values[tokens] for name, values in signals.items()},
        )

    return [[made([kept[place] for place in chosen]) for chosen in batches] for batches in cut]


def _signals(batch: RolloutBatch, number: int, plan: RunPlan) -> View:
    """Return the loss inputs of all tokens of a part (the `number`-th of the batch). Waits for its scores and grades."""
    rollouts = batch.parts[number]
    signals: View = {}
    if plan.samples:
        signals["rollout_logprobs"] = np.concatenate([batch.generations[i].logprobs for i in rollouts])
    if batch.old_logprobs is not None:
        signals["old_logprobs"] = np.concatenate([batch.old_logprobs[i] for i in rollouts])
    for one, pending in batch.scores.items():
        signals |= _inputs(one, pending[number].get()[0])
    if plan.algorithm.advantages is not None:
        columns = _columns(batch, rollouts, signals)
        advantages = plan.algorithm.advantages(columns)
        correction = plan.run.algorithm.importance_correction
        if correction != "none":
            cap = plan.run.algorithm.importance_cap
            advantages = advantages * truncated_importance(columns, correction, cap)
        signals["advantages"] = advantages.astype(np.float32)
    return signals


def sequences_of(
    batch: RolloutBatch, update: int, plan: RunPlan, logprobs: Sequence[np.ndarray]
) -> tuple[list[int], Sequences]:
    """Return the rollout indices of an optimizer step, and what a sequence loss reads of them. Waits for scores and grades.

    `logprobs`: the student's log-probabilities of each of these rollouts' tokens.
    """
    first = sum(len(one) for one in batch.updates[:update])
    numbers = range(first, first + len(batch.updates[update]))
    rollouts = [index for part in batch.updates[update] for index in part]
    lengths = np.array([len(batch.generations[index].tokens) for index in rollouts], dtype=np.int64)
    tokens = [_signals(batch, number, plan).get("reference_logprobs") for number in numbers]
    reference = None
    if all(one is not None for one in tokens):
        joined = np.concatenate([one for one in tokens if one is not None]).astype(np.float64)
        reference = np.add.reduceat(joined, np.cumsum([0, *lengths[:-1]]))
    return rollouts, Sequences(
        logprobs=np.array([one.astype(np.float64).sum() for one in logprobs]),
        groups=batch.group_numbers[rollouts],
        lengths=lengths,
        reference=reference,
        rewards=None if batch.rewards is None else batch.rewards[rollouts],
    )


def _inputs(one: ScoringPass, scores: Sequence[Scores]) -> View:
    """Return the loss inputs that a scoring pass gives for some rollouts."""
    found: dict[str, list[np.ndarray | None]] = {}
    for scorer in one.scorers:
        if scorer.role == "reference":
            found["reference_logprobs"] = [score.sampled for score in scores]
            continue
        for output in scorer.outputs:
            if output == "sampled":
                found["teacher_sampled_logprobs"] = [score.sampled for score in scores]
            elif output == "entropy":
                found["teacher_entropy"] = [score.entropy for score in scores]
            elif one.request.states:
                found["teacher_states"] = [score.states for score in scores]
            else:
                tops = [score.top_k for score in scores if score.top_k is not None]
                found["teacher_logprobs"] = [top.logprobs for top in tops]
                found["teacher_ids"] = [top.ids for top in tops]
    present = {name: [value for value in values if value is not None] for name, values in found.items()}
    return {name: np.concatenate(values) for name, values in present.items() if values}


def _columns(batch: RolloutBatch, rollouts: Sequence[int], signals: View) -> Columns:
    chosen = list(rollouts)
    return Columns(
        lengths=np.array([len(batch.generations[index].tokens) for index in chosen], dtype=np.int64),
        groups=batch.group_numbers[chosen],
        rewards=None if batch.rewards is None else batch.rewards[chosen],
        values={name: values for name, values in signals.items() if values.ndim == 1},
    )


def _coefficients(
    batch: RolloutBatch, update: int, rollouts: Sequence[int], signals: View, plan: RunPlan
) -> np.ndarray:
    """Return c_t, float64 [T], of all tokens of a part: reduction and prompt weight, times the token weight.

    Raises `ValueError`, naming the sequence, for invalid weights or lengths.
    """
    columns, weights = _columns(batch, rollouts, signals), batch.weights[list(rollouts)]
    check_sequences(weights, columns.lengths)
    per_token = expand(
        plan.algorithm.reduction(weights, columns.lengths, batch.totals(update)), columns.lengths
    )
    weight = plan.algorithm.token_weight
    return per_token if weight is None else per_token * weight(columns)


def split_updates(
    groups: Sequence[PromptGroup], updates: int, *, whole_groups: bool
) -> tuple[tuple[range, ...], ...]:
    """Split the rollouts of the groups into contiguous parts, `result[update][part]`.

    The updates have whole groups, and numbers of groups that differ by at most one. An update has SCORING_PARTS parts divided by
    the number of updates, at least one; with `whole_groups` a part, too, has whole groups.
    """
    ends = np.cumsum([0, *(len(group.seeds) for group in groups)])
    updates = min(updates, len(groups))
    cuts = [len(groups) * number // updates for number in range(updates + 1)]
    count = max(1, SCORING_PARTS // updates)
    return tuple(
        tuple(_parts(ends[first : last + 1], count, whole_groups=whole_groups))
        for first, last in pairwise(cuts)
    )


def _parts(ends: np.ndarray, count: int, *, whole_groups: bool) -> list[range]:
    """Split the rollouts ends[0] ... ends[-1] - 1, whose groups end at `ends`, into up to `count` contiguous parts."""
    start, total = int(ends[0]), int(ends[-1] - ends[0])
    size = -(-total // count)
    cuts = [start + offset for offset in range(0, total, size)]
    if whole_groups:
        cuts = sorted({int(ends[np.searchsorted(ends, cut, side="right") - 1]) for cut in cuts})
    return [range(first, last) for first, last in zip(cuts, [*cuts[1:], int(ends[-1])], strict=True)]
