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
from operator import itemgetter

import numpy as np

from training.algorithms.base import Source
from training.data.batches import TokenSequence
from training.data.demonstrations import Demonstration
from training.data.packing import pack
from training.data.routing import Routing
from training.data.sampler import PromptGroup
from training.generated import generated_demonstrations, unsolved
from training.loss_inputs import part_inputs
from training.losses.reductions import Totals
from training.plan import ScoringPass
from training.preflight.check import Prepared
from training.preflight.sampling import sampling
from training.rollouts.engine import INITIAL_VERSION, Generation, RolloutRequest
from training.rollouts.sequences import sequence
from training.scorers.routed import Pending, RoutedScores
from training.student.messages import MicroBatch
from training.worker_set import Workers

__all__ = ["RolloutBatch", "generate_batch", "micro_batches"]

SCORING_PARTS = 4
"""Number of parts of a rollout batch. A part is sent to the scorers as soon as its last rollout has finished, so that scoring
overlaps with generation, and training on the first parts with scoring of the others. A part is contiguous in the order of the
draws, so that its content does not depend on timing."""


@dataclass(frozen=True, kw_only=True)
class RolloutBatch:
    """A rollout batch of S = prompts x K rollouts, followed by the D demonstrations of its prompts.

    `updates`: the indices of each part of each optimizer step; its demonstrations are its last part. `sequences`, `generations`
    [S + D]. `weights` [S + D] float64: the prompt weights. `scores[pass][part]`: the pending scores of each part by each scoring
    pass. `rows` [S + D]: the row of each sequence, and `routing`: the teachers of all rows, with several teachers.
    `asked_teacher`: the number of prompts to which the teacher generated responses. `grades`, `answer_shares` [S]: pending
    rewards and probabilities of the answers, empty without. `rollout_seconds`: seconds of generation. `generated`: whether the
    rollouts were generated now, and are not those of a checkpoint or the dataset. `demonstrations` [D]: the number of the group
    and the source of each. `old_logprobs`, `student_entropy`: the student's before the first update, if the algorithm uses them.
    `sequence_slopes`: by index, the derivative of a sequence loss with respect to the log-probability of a sequence.
    """

    step: int
    groups: tuple[PromptGroup, ...]
    sequences: tuple[TokenSequence, ...]
    generations: tuple[Generation, ...]
    updates: tuple[tuple[range, ...], ...]
    weights: np.ndarray
    rollout_seconds: float
    generated: bool = True
    asked_teacher: int = 0
    scores: Mapping[ScoringPass, tuple[Pending, ...]] = field(default_factory=dict)
    rows: tuple[int, ...] = ()
    routing: Routing | None = None
    grades: tuple[Future[float], ...] = ()
    answer_shares: tuple[Future[float], ...] = ()
    demonstrations: tuple[tuple[int, Source], ...] = ()
    old_logprobs: Sequence[np.ndarray] | None = None
    student_entropy: Sequence[np.ndarray] | None = None
    sequence_slopes: Mapping[int, float] = field(default_factory=dict)

    @property
    def rollouts(self) -> tuple[Generation, ...]:
        """The rollouts [S], without the demonstrations."""
        return self.generations[: len(self.generations) - len(self.demonstrations)]

    @property
    def parts(self) -> list[range]:
        """The indices of each part, over all updates."""
        return [part for update in self.updates for part in update]

    def part_numbers(self, update: int) -> range:
        """Return the numbers of an update's parts in `parts`."""
        first = sum(len(one) for one in self.updates[:update])
        return range(first, first + len(self.updates[update]))

    def is_demonstration(self, index: int) -> bool:
        """Whether the sequence is none of the rollouts."""
        return index >= len(self.generations) - len(self.demonstrations)

    @cached_property
    def group_numbers(self) -> np.ndarray:
        """The number of each sequence's group, int64 [S + D]."""
        numbers = np.repeat(np.arange(len(self.groups)), [len(group.seeds) for group in self.groups])
        return np.append(numbers, [group for group, _ in self.demonstrations]).astype(np.int64)

    @cached_property
    def seeds(self) -> np.ndarray:
        """The seed of each rollout, uint64 [S]."""
        return np.array([seed for group in self.groups for seed in group.seeds], dtype=np.uint64)

    @cached_property
    def rewards(self) -> np.ndarray | None:
        """The rewards [S] float64. Waits for the grades; None without a reward."""
        return np.array([one.result() for one in self.grades]) if self.grades else None

    @cached_property
    def shares(self) -> np.ndarray | None:
        """The teacher's probability of each rollout's answer [S] float64. Waits for the grades; None without."""
        return np.array([one.result() for one in self.answer_shares]) if self.answer_shares else None

    def shares_of(self, indices: Sequence[int]) -> np.ndarray:
        """Return the shares [sequences, teachers] of several teachers in the loss of some sequences."""
        if self.routing is None:
            raise ValueError("this batch has one teacher")
        return self.routing.shares[[self.rows[index] for index in indices]]

    def scoring_seconds(self) -> dict[str, float]:
        """Return the seconds of scoring by each frozen model. Waits for the scores."""
        seconds: dict[str, float] = {}
        for one, pending in self.scores.items():
            seconds[one.worker] = seconds.get(one.worker, 0.0) + sum(part.get()[1] for part in pending)
        return seconds

    def totals(self, update: int) -> Totals:
        """Return what the reductions of an optimizer step divide by: its counts of rollouts."""
        chosen = self.rollouts_of(update)
        tokens = sum(len(self.generations[index].tokens) for index in chosen)
        return Totals(sequences=len(chosen), tokens=tokens)

    def rollouts_of(self, update: int) -> list[int]:
        """Return the indices of the rollouts of an optimizer step."""
        return [i for part in self.updates[update] for i in part if not self.is_demonstration(i)]


def generate_batch(
    workers: Workers, prepared: Prepared, weights: np.ndarray, step: int, *, saved: Sequence[Generation] = ()
) -> RolloutBatch:
    """Get the rollouts of a step, and request their scores and grades.

    `weights` [rows] float64: for each of `prepared.rows`. `saved`: the rollouts of the step if a checkpoint has them.
    """
    plan, groups = prepared.plan, prepared.schedule.step(step)
    drawn, plain = [group.row for group in groups for _ in group.seeds], prepared.prompts("plain")
    updates = split_updates(groups, prepared.schedule.updates_per_batch, whole_groups=plan.in_groups)
    started = time.perf_counter()
    pending = _Collector(workers, prepared, drawn, updates)
    for index, generation in _rollouts(workers, prepared, groups, drawn, saved):
        pending.add_rollout(index, generation)
    shown = _demonstrations(prepared, groups)
    asked = unsolved(groups, shown, pending.rewards) if plan.generates else []
    shown = sorted([*shown, *generated_demonstrations(workers, prepared, groups, asked)], key=itemgetter(0))
    rows = drawn + [groups[number].row for number, _ in shown]
    updates = with_demonstrations(updates, groups, [number for number, _ in shown])
    pending.expect(rows, updates)
    for index, (_, one) in enumerate(shown, start=len(drawn)):
        pending.add(index, _given(one.tokens))
    generations = tuple(pending.found[index] for index in range(len(rows)))
    return RolloutBatch(
        step=step,
        groups=groups,
        sequences=tuple(sequence(plain[row], one) for row, one in zip(rows, generations, strict=True)),
        generations=generations,
        updates=updates,
        weights=weights[rows],
        rollout_seconds=time.perf_counter() - started,
        generated=plan.samples and not saved,
        scores=pending.scores(updates),
        asked_teacher=len(asked),
        rows=tuple(rows),
        routing=prepared.routing,
        grades=_in_order(pending.rewards),
        answer_shares=_in_order(pending.shares),
        demonstrations=tuple((number, one.source) for number, one in shown),
    )


class _Collector:
    """The sequences of a batch as they come, in any order, with what is requested of them: the scores of each part as soon as it
    is complete, and the grades of each rollout."""

    def __init__(
        self,
        workers: Workers,
        prepared: Prepared,
        rows: Sequence[int],
        updates: Sequence[Sequence[range]],
    ) -> None:
        self._workers, self._prepared = workers, prepared
        self._parts: list[range] = []
        self.expect(rows, updates)
        self._scores: dict[ScoringPass, dict[range, Pending]] = {one: {} for one in prepared.plan.passes}
        self.found: dict[int, Generation] = {}
        self.rewards: dict[int, Future[float]] = {}
        self.shares: dict[int, Future[float]] = {}

    def expect(self, rows: Sequence[int], updates: Sequence[Sequence[range]]) -> None:
        """Set the row of each sequence and the parts, which may only be more than before."""
        self._rows = rows
        self._parts += [part for update in updates for part in update if part not in self._parts]

    def add_rollout(self, index: int, generation: Generation) -> None:
        """Add a rollout, whose answer is graded if the algorithm uses that."""
        algorithm, row = self._prepared.plan.algorithm, self._rows[index]
        if algorithm.reward:
            self.rewards[index] = self._workers.grade(self._prepared, row, generation.tokens)
        if algorithm.answer_shares:
            self.shares[index] = self._workers.answer_share(self._prepared, row, generation.tokens)
        self.add(index, generation)

    def add(self, index: int, generation: Generation) -> None:
        """Add a sequence."""
        self.found[index] = generation
        for number, part in enumerate(self._parts):
            if index in part and all(place in self.found for place in part):
                for one, pending in self._scores.items():
                    prompts = self._prepared.prompts(one.view)
                    ended = [sequence(prompts[self._rows[place]], self.found[place]) for place in part]
                    pending[part] = self._scored(one, ended, number)

    def _scored(self, one: ScoringPass, ended: Sequence[TokenSequence], number: int) -> Pending:
        """Request the scores of a part, of several teachers each those of the sequences that it teaches."""
        routing = self._prepared.routing
        if routing is None or one.worker != "teacher":
            return self._workers.score(one, ended, number)
        shares = routing.shares[[self._rows[place] for place in self._parts[number]]]
        places = [np.flatnonzero(shares[:, teacher]).tolist() for teacher in range(shares.shape[1])]
        calls = [
            self._workers.score(one, [ended[place] for place in chosen], number, teacher) if chosen else None
            for teacher, chosen in enumerate(places)
        ]
        return RoutedScores(tuple(zip(places, calls, strict=True)), len(ended))

    def scores(self, updates: Sequence[Sequence[range]]) -> dict[ScoringPass, tuple[Pending, ...]]:
        """Return the pending scores of all parts by each scoring pass."""
        return {
            one: tuple(pending[part] for update in updates for part in update)
            for one, pending in self._scores.items()
        }


def _in_order(pending: Mapping[int, Future[float]]) -> tuple[Future[float], ...]:
    return tuple(pending[index] for index in sorted(pending))


def _demonstrations(prepared: Prepared, groups: Sequence[PromptGroup]) -> list[tuple[int, Demonstration]]:
    """Return the demonstrations of some groups, each with the number of its group: not the dataset's responses if the teacher
    generates new ones."""
    if prepared.demonstrations is None:
        return []
    of_groups = (prepared.demonstrations.rows[group.row] for group in groups)
    new = prepared.plan.generates
    return [
        (number, one)
        for number, one in enumerate(of_groups)
        if one is not None and not (new and one.source == "teacher")
    ]


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
    return _given(prepared.responses.drawn(prepared.rows[row].id, seed))


def _given(tokens: np.ndarray) -> Generation:
    """Return a response that no engine sampled, whose log-probabilities are not known."""
    unknown = np.full(len(tokens), np.nan, dtype=np.float32)
    return Generation(tokens=tokens, logprobs=unknown, finish_reason="stop", version=INITIAL_VERSION)


def micro_batches(batch: RolloutBatch, update: int, part: int, prepared: Prepared) -> list[list[MicroBatch]]:
    """Build the micro-batches of one part of an optimizer step for every student rank: `result[rank][i]`.

    Waits until the part is scored and graded. Rollouts of weight 0 count in the denominators but are not trained on.
    """
    run, ranks, indices = prepared.run, prepared.run.placement.students, batch.updates[update][part]
    made = part_inputs(batch, update, part, prepared.plan)
    starts = np.cumsum([0, *(len(batch.generations[index].tokens) for index in indices)])
    kept = np.flatnonzero(made.trained).tolist()
    lengths = [len(batch.sequences[indices[place]].tokens) for place in kept]
    cut = pack(lengths, budget=run.trainer.micro_batch_tokens, ranks=ranks)

    def taken(chosen: Sequence[int]) -> MicroBatch:
        tokens = np.concatenate(
            [np.zeros(0, dtype=np.int64), *(np.arange(starts[place], starts[place + 1]) for place in chosen)]
        )
        return MicroBatch(
            sequences=tuple(batch.sequences[indices[place]] for place in chosen),
            coefficients=made.coefficients[tokens].astype(np.float32),
            signals={name: values[tokens] for name, values in made.signals.items()},
        )

    return [[taken([kept[place] for place in chosen]) for chosen in batches] for batches in cut]


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


def with_demonstrations(
    updates: Sequence[Sequence[range]], groups: Sequence[PromptGroup], shown: Sequence[int]
) -> tuple[tuple[range, ...], ...]:
    """Return the updates, each with one more part if it has demonstrations. `shown`: the groups that have one, ascending; their
    indices follow those of the rollouts."""
    ends = np.cumsum([len(group.seeds) for group in groups])
    found, start = list[tuple[range, ...]](), int(ends[-1])
    for update in updates:
        stop = start + sum(update[0].start < ends[group] <= update[-1].stop for group in shown)
        found.append((*update, *([range(start, stop)] if stop > start else [])))
        start = stop
    return tuple(found)
