"""The loss inputs and the coefficients of a rollout batch's tokens, from its rollouts, scores and grades. NumPy only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from training.algorithms.base import Columns, Floats, Sequences, Source
from training.algorithms.token_weights import truncated_importance
from training.losses.by_teacher import BY_TEACHER
from training.losses.reductions import Totals, check_sequences, expand
from training.plan import RunPlan, ScoringPass
from training.scorers.routed import RoutedScores
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
    number, indices = batch.part_numbers(update)[part], list(batch.updates[update][part])
    by_teacher = [_columns(batch, [number], plan, teacher) for teacher in _teachers(batch, plan)]
    weights, totals = _weights(batch, update, part, by_teacher, plan)
    coefficients, of_sequences = list[Floats](), np.zeros(len(indices))
    for columns, one in zip(by_teacher, weights, strict=True):
        own = batch.weights[indices] * one.rollouts
        check_sequences(own, columns.lengths)
        expanded = expand(plan.algorithm.reduction(own, columns.lengths, totals), columns.lengths)
        coefficients.append(expanded if one.tokens is None else expanded * one.tokens)
        of_sequences += own
    lengths = by_teacher[0].lengths
    signals = _signals(batch, number, by_teacher, weights, plan)
    total, trained = sum(coefficients[1:], start=coefficients[0]), of_sequences > 0
    if plan.mixes:
        factors = np.stack(coefficients, axis=1)
        shares = np.repeat(batch.shares_of(indices), lengths, axis=0)  # for the metrics of untrained tokens
        np.divide(factors, total[:, None], out=shares, where=total[:, None] > 0)
        signals["teacher_factors"] = shares.astype(np.float32)
    if plan.algorithm.sequence_loss is not None:
        slopes = np.array([batch.sequence_slopes[index] for index in indices])
        signals["sequence_slopes"] = expand(slopes, lengths).astype(np.float32)
        signals["token_coefficients"] = total.astype(np.float32)
        total, trained = np.ones(len(total)), trained | (slopes != 0)
    return PartInputs(signals=signals, coefficients=total, trained=trained)


def _teachers(batch: RolloutBatch, plan: RunPlan) -> Sequence[int | None]:
    """Return the numbers of the teachers whose losses are added up; None: there is one, or each prompt has its own."""
    return range(len(plan.teachers)) if plan.mixes else (None,)


def _signals(
    batch: RolloutBatch,
    number: int,
    by_teacher: Sequence[Columns],
    weights: Sequence[_Weights],
    plan: RunPlan,
) -> dict[str, np.ndarray]:
    """Return the signals of a part; of several teachers, those that each of them has are stacked."""
    found = list[dict[str, np.ndarray]]()
    for teacher, columns, one in zip(_teachers(batch, plan), by_teacher, weights, strict=True):
        own = {name: values for name, values in columns.values.items() if name not in _COLUMNS_ONLY}
        own |= _distributions(batch, number, teacher)
        if plan.algorithm.advantages is not None:
            own["advantages"] = _advantages(columns, plan).astype(np.float32)
        if one.terms:
            own["term_weights"] = np.stack(one.terms, axis=1).astype(np.float32)
        found.append(own)
    if not plan.mixes:
        return found[0]
    return {
        name: np.stack([own[name] for own in found], axis=1) if name in BY_TEACHER else values
        for name, values in found[0].items()
    }


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


def _columns(
    batch: RolloutBatch, numbers: Sequence[int], plan: RunPlan, teacher: int | None = None
) -> Columns:
    """Return what is known of the sequences of some parts, with the scores of the teacher of that number, or without one of each
    sequence's own. Waits for their scores and grades."""
    indices = [index for number in numbers for index in batch.parts[number]]
    values: dict[str, np.ndarray] = {}
    if plan.samples:
        values["rollout_logprobs"] = np.concatenate([batch.generations[i].logprobs for i in indices])
    for name, own in (("old_logprobs", batch.old_logprobs), ("student_entropy", batch.student_entropy)):
        if own is not None:
            values[name] = np.concatenate([own[index] for index in indices])
    for one in batch.scores:
        scores = [score for number in numbers for score in _scores(batch, one, number, teacher)]
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


def _scores(batch: RolloutBatch, one: ScoringPass, number: int, teacher: int | None) -> Sequence[Scores]:
    """Return the scores of a part's sequences by a pass, see `_columns`."""
    pending = batch.scores[one][number]
    if teacher is not None and isinstance(pending, RoutedScores):
        return pending.of(teacher)
    return pending.get()[0]


def _distributions(batch: RolloutBatch, number: int, teacher: int | None) -> dict[str, np.ndarray]:
    """Return the loss inputs [T, ...] that represent the teacher's distributions, of a part."""
    found: dict[str, list[np.ndarray | None]] = {}
    for one in batch.scores:
        if not any({"top_k", "full"} & set(scorer.outputs) for scorer in one.scorers):
            continue
        scores = _scores(batch, one, number, teacher)
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
    batch: RolloutBatch, update: int, part: int, by_teacher: Sequence[Columns], plan: RunPlan
) -> tuple[list[_Weights], Totals]:
    """Return the weights of a part for each teacher, and what the reduction of its optimizer step divides by. `by_teacher`: the
    columns of the part. Demonstrations have weight 0."""
    totals, parts = batch.totals(update), batch.updates[update]
    given = batch.is_demonstration(parts[part].start)
    if not plan.algorithm.whole_updates:
        if given:
            return [_nothing(one, plan) for one in by_teacher], totals
        return _shared(batch, parts[part], [_weights_of(one, plan) for one in by_teacher], plan), totals
    numbers = [
        number
        for number, one in zip(batch.part_numbers(update), parts, strict=True)
        if not batch.is_demonstration(one.start)
    ]
    whole = [_columns(batch, numbers, plan, teacher) for teacher in _teachers(batch, plan)]
    indices = [index for number in numbers for index in batch.parts[number]]
    weights = _shared(batch, indices, [_weights_of(one, plan) for one in whole], plan)
    totals = _with_sums(totals, weights, whole[0].lengths)
    if given:
        return [_nothing(one, plan) for one in by_teacher], totals
    first = sum(map(len, parts[:part]))
    return [_cut(one, first, len(parts[part]), whole[0].lengths) for one in weights], totals


def _shared(
    batch: RolloutBatch, indices: Sequence[int], weights: Sequence[_Weights], plan: RunPlan
) -> list[_Weights]:
    """Return the weights of each teacher times its shares in the loss of the sequences."""
    if not plan.mixes:
        return list(weights)
    shares = batch.shares_of(indices)
    return [replace(one, rollouts=one.rollouts * shares[:, teacher]) for teacher, one in enumerate(weights)]


def _cut(weights: _Weights, first: int, count: int, lengths: np.ndarray) -> _Weights:
    """Return the weights of `count` sequences from `first` on."""
    ends = np.cumsum([0, *lengths])
    tokens = slice(ends[first], ends[first + count])
    return _Weights(
        rollouts=weights.rollouts[first : first + count],
        tokens=None if weights.tokens is None else weights.tokens[tokens],
        terms=tuple(one[tokens] for one in weights.terms),
    )


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


def _with_sums(totals: Totals, weights: Sequence[_Weights], lengths: np.ndarray) -> Totals:
    """Return the counts with the sums of the rollout weights and of the token weights, of all rollouts of a step and teachers."""
    of_rollouts, of_tokens = 0.0, 0.0
    for one in weights:
        tokens = expand(one.rollouts, lengths)
        of_tokens += float((tokens if one.tokens is None else tokens * one.tokens).sum())
        of_rollouts += float(one.rollouts.sum())
    return replace(totals, rollout_weights=of_rollouts, token_weights=of_tokens)
