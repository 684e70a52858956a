"""The loss inputs and the coefficients of a rollout batch's tokens, from its rollouts, scores and grades. NumPy only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from training.algorithms.base import Columns, Floats, Sequences, Source
from training.algorithms.token_weights import truncated_importance
from training.losses.reductions import Totals, check_sequences, expand
from training.plan import RunPlan, ScoringPass
from training.scorers.scores import Scores

if TYPE_CHECKING:
    from training.batch import RolloutBatch

__all__ = ["PartInputs", "part_inputs", "sequences_of"]

_COLUMNS_ONLY = frozenset({"student_entropy"})
"""Columns that no loss reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartInputs:
    """What a part of an optimizer step is trained with. `signals`: arrays [T, ...] by the field names of
    `training.losses.base.LossInputs`. `coefficients` float64 [T]. `trained` bool: which of its sequences have a gradient."""

    signals: Mapping[str, np.ndarray]
    coefficients: Floats
    trained: np.ndarray


def part_inputs(batch: RolloutBatch, update: int, part: int, plan: RunPlan) -> PartInputs:
    """Return what one part of an optimizer step is trained with. Waits for its scores and grades; if the algorithm's weights
    compare all rollouts of the step, for those of all its parts.

    Raises `ValueError`, naming the sequence, for invalid weights or lengths.
    """
    number, indices = batch.part_numbers(update)[part], batch.updates[update][part]
    columns = _columns(batch, [number], plan)
    weights, totals = _weights(batch, update, part, columns, plan)
    of_sequences = batch.weights[list(indices)] * weights.rollouts
    check_sequences(of_sequences, columns.lengths)
    per_sequence = plan.algorithm.reduction(of_sequences, columns.lengths, totals)
    coefficients = expand(per_sequence, columns.lengths)
    if weights.tokens is not None:
        coefficients = coefficients * weights.tokens
    signals = {name: values for name, values in columns.values.items() if name not in _COLUMNS_ONLY}
    signals |= _distributions(batch, number)
    if plan.algorithm.advantages is not None:
        signals["advantages"] = _advantages(columns, plan).astype(np.float32)
    if weights.terms:
        signals["term_weights"] = np.stack(weights.terms, axis=1).astype(np.float32)
    trained = of_sequences > 0
    if plan.algorithm.sequence_loss is not None:
        slopes = np.array([batch.sequence_slopes[index] for index in indices])
        signals["sequence_slopes"] = expand(slopes, columns.lengths).astype(np.float32)
        signals["token_coefficients"] = coefficients.astype(np.float32)
        coefficients, trained = np.ones(len(coefficients)), trained | (slopes != 0)
    return PartInputs(signals=signals, coefficients=coefficients, trained=trained)


def sequences_of(
    batch: RolloutBatch, update: int, plan: RunPlan, logprobs: Sequence[np.ndarray]
) -> tuple[list[int], Sequences]:
    """Return the indices of the sequences of an optimizer step, and what a sequence loss reads of them. Waits for scores and
    grades.

    `logprobs`: the student's log-probabilities of each of these sequences' tokens.
    """
    indices = [index for part in batch.updates[update] for index in part]
    columns = _columns(batch, batch.part_numbers(update), plan)
    reference = columns.values.get("reference_logprobs")
    if reference is not None:
        starts = np.cumsum([0, *columns.lengths[:-1]])
        reference = np.add.reduceat(reference.astype(np.float64), starts)
    sources = tuple(_sources(batch))
    return indices, Sequences(
        logprobs=np.array([one.astype(np.float64).sum() for one in logprobs]),
        groups=columns.groups,
        lengths=columns.lengths,
        reference=reference,
        rewards=columns.rewards,
        sources=tuple(sources[index] for index in indices),
        weights=batch.weights[indices],
    )


def _sources(batch: RolloutBatch) -> Iterator[Source]:
    """Yield where each sequence comes from."""
    for _ in batch.rollouts:
        yield "rollout"
    for _, source in batch.demonstrations:
        yield source


# --- columns -----------------------------------------------------------------------------------------------------


def _columns(batch: RolloutBatch, numbers: Sequence[int], plan: RunPlan) -> Columns:
    """Return what is known of the sequences of some parts. Waits for their scores and grades."""
    indices = [index for number in numbers for index in batch.parts[number]]
    values: dict[str, np.ndarray] = {}
    if plan.samples:
        values["rollout_logprobs"] = np.concatenate([batch.generations[i].logprobs for i in indices])
    for name, own in (("old_logprobs", batch.old_logprobs), ("student_entropy", batch.student_entropy)):
        if own is not None:
            values[name] = np.concatenate([own[index] for index in indices])
    for one, pending in batch.scores.items():
        scores = [score for number in numbers for score in pending[number].get()[0]]
        values |= _joined(_numbers(one, scores))
    given = len(batch.demonstrations)
    rewards, shares = batch.rewards, batch.shares
    return Columns(
        lengths=np.array([len(batch.generations[index].tokens) for index in indices], dtype=np.int64),
        groups=batch.group_numbers[indices],
        rewards=None if rewards is None else np.append(rewards, np.ones(given))[indices],
        answer_shares=None if shares is None else np.append(shares, np.zeros(given))[indices],
        seeds=np.append(batch.seeds, np.zeros(given, dtype=np.uint64))[indices],
        step=batch.step,
        values=values,
    )


def _numbers(one: ScoringPass, scores: Sequence[Scores]) -> dict[str, list[np.ndarray | None]]:
    """Return the loss inputs [T] that a scoring pass gives, by sequence."""
    found: dict[str, list[np.ndarray | None]] = {}
    for scorer in one.scorers:
        if scorer.role == "reference":
            found["reference_logprobs"] = [score.sampled for score in scores]
            continue
        if "sampled" in scorer.outputs:
            found["teacher_sampled_logprobs"] = [score.sampled for score in scores]
        if "entropy" in scorer.outputs:
            found["teacher_entropy"] = [score.entropy for score in scores]
    return found


def _distributions(batch: RolloutBatch, number: int) -> dict[str, np.ndarray]:
    """Return the loss inputs [T, ...] that represent the teacher's distributions, of a part."""
    found: dict[str, list[np.ndarray | None]] = {}
    for one, pending in batch.scores.items():
        if not any({"top_k", "full"} & set(scorer.outputs) for scorer in one.scorers):
            continue
        scores = pending[number].get()[0]
        if one.request.states:
            found["teacher_states"] = [score.states for score in scores]
        else:
            tops = [score.top_k for score in scores if score.top_k is not None]
            found["teacher_logprobs"] = [top.logprobs for top in tops]
            found["teacher_ids"] = [top.ids for top in tops]
    return _joined(found)


def _joined(found: Mapping[str, Sequence[np.ndarray | None]]) -> dict[str, np.ndarray]:
    present = {name: [value for value in values if value is not None] for name, values in found.items()}
    return {name: np.concatenate(values) for name, values in present.items() if values}


def _advantages(columns: Columns, plan: RunPlan) -> Floats:
    """Return the advantages [T], with the importance correction of the run."""
    assert plan.algorithm.advantages is not None
    advantages, settings = plan.algorithm.advantages(columns), plan.run.algorithm
    if settings.importance_correction == "none":
        return advantages
    return advantages * truncated_importance(columns, settings.importance_correction, settings.importance_cap)


# --- weights -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    """The weights besides the prompt weight: of rollouts [S], of tokens [T] (None: 1), and of tokens in single terms, [T]
    each."""

    rollouts: Floats
    tokens: Floats | None
    terms: tuple[Floats, ...]


def _weights(
    batch: RolloutBatch, update: int, part: int, columns: Columns, plan: RunPlan
) -> tuple[_Weights, Totals]:
    """Return the weights of a part and what the reduction of its optimizer step divides by. `columns`: of the part.
    Demonstrations have weight 0."""
    totals, parts = batch.totals(update), batch.updates[update]
    given = batch.is_demonstration(parts[part].start)
    if not plan.algorithm.whole_updates:
        return _nothing(columns, plan) if given else _weights_of(columns, plan), totals
    numbers = [
        number
        for number, one in zip(batch.part_numbers(update), parts, strict=True)
        if not batch.is_demonstration(one.start)
    ]
    whole = _columns(batch, numbers, plan)
    weights = _weights_of(whole, plan)
    totals = _with_sums(totals, weights, whole.lengths)
    if given:
        return _nothing(columns, plan), totals
    first = sum(map(len, parts[:part]))
    ends = np.cumsum([0, *whole.lengths])
    tokens = slice(ends[first], ends[first + len(parts[part])])
    return _Weights(
        rollouts=weights.rollouts[first : first + len(parts[part])],
        tokens=None if weights.tokens is None else weights.tokens[tokens],
        terms=tuple(one[tokens] for one in weights.terms),
    ), totals


def _weights_of(columns: Columns, plan: RunPlan) -> _Weights:
    of_rollouts, of_tokens = plan.algorithm.rollout_weight, plan.algorithm.token_weight
    return _Weights(
        rollouts=np.ones(len(columns.lengths)) if of_rollouts is None else of_rollouts(columns),
        tokens=None if of_tokens is None else of_tokens(columns),
        terms=tuple(weight(columns) for weight in plan.weighted_terms),
    )


def _nothing(columns: Columns, plan: RunPlan) -> _Weights:
    none = np.zeros(columns.lengths.sum())
    terms = (none,) * len(plan.weighted_terms)
    return _Weights(rollouts=np.zeros(len(columns.lengths)), tokens=None, terms=terms)


def _with_sums(totals: Totals, weights: _Weights, lengths: np.ndarray) -> Totals:
    """Return the counts with the sums of the rollout weights and of the token weights, of all rollouts of a step."""
    tokens = expand(weights.rollouts, lengths)
    if weights.tokens is not None:
        tokens = tokens * weights.tokens
    return replace(totals, rollout_weights=float(weights.rollouts.sum()), token_weights=float(tokens.sum()))
