"""Optimizer steps of a rollout batch: mini-batches with whole groups, denominators of each, advantages and their correction, and
the dataset's responses in the place of rollouts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from tests.training.small_run import example, response, small_run, write_small_dataset
from training.algorithms.base import Scorer
from training.algorithms.token_weights import SCHEDULES
from training.batch import RolloutBatch, generate_batch, micro_batches, split_updates
from training.data.batches import TokenSequence
from training.data.sampler import PromptGroup
from training.losses.reductions import token_mean
from training.metrics import step_metrics
from training.plan import RunPlan, ScoringPass
from training.preflight.check import Prepared, prepare
from training.rollouts.engine import Generation, RolloutRequest
from training.scorers.scores import Scores
from training.student.group import Update
from training.student.messages import MicroBatch
from training.worker_set import Workers

# --- the split into updates and parts ----------------------------------------------------------------------------


def groups_of(count: int, size: int = 3) -> list[PromptGroup]:
    return [
        PromptGroup(index=n, row=n, row_id=str(n), seeds=tuple(range(n * size, (n + 1) * size))) for n in range(count)
    ]  # fmt: skip


def test_one_update_has_four_parts_of_equal_size_that_may_cut_a_group() -> None:
    assert split_updates(groups_of(4), 1, whole_groups=False) == (
        (range(3), range(3, 6), range(6, 9), range(9, 12)),
    )
    assert split_updates(groups_of(3), 1, whole_groups=False) == (  # 9 rollouts in parts of 3
        (range(3), range(3, 6), range(6, 9)),
    )
    assert split_updates(groups_of(1, 2), 1, whole_groups=False) == ((range(1), range(1, 2)),)


def test_advantages_need_parts_of_whole_groups() -> None:
    # 15 rollouts in parts of 4 would be cut at 4, 8 and 12: at the ends of the groups before
    assert split_updates(groups_of(5), 1, whole_groups=True) == (
        (range(3), range(3, 6), range(6, 12), range(12, 15)),
    )
    assert split_updates(groups_of(1), 1, whole_groups=True) == ((range(3),),)


def test_two_updates_have_two_parts_each_and_four_or_more_have_one() -> None:
    assert split_updates(groups_of(4), 2, whole_groups=True) == (
        (range(3), range(3, 6)), (range(6, 9), range(9, 12)),
    )  # fmt: skip
    assert split_updates(groups_of(8), 4, whole_groups=True) == tuple(
        (range(6 * n, 6 * n + 6),) for n in range(4)
    )
    assert split_updates(groups_of(2), 8, whole_groups=True) == ((range(3),), (range(3, 6),))


@pytest.mark.parametrize("count", range(1, 14))
@pytest.mark.parametrize("updates", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("whole_groups", [False, True])
def test_every_split_is_complete_ordered_and_even(count: int, updates: int, whole_groups: bool) -> None:
    split = split_updates(groups_of(count), updates, whole_groups=whole_groups)
    assert [index for update in split for part in update for index in part] == list(range(3 * count))
    sizes = [sum(map(len, update)) for update in split]
    assert len(split) == min(updates, count) and max(sizes) - min(sizes) in (0, 3)
    assert all(part for update in split for part in update)
    assert all(len(update) <= max(1, 4 // len(split)) for update in split)
    ends = [part.stop for update in split for part in (update if whole_groups else update[-1:])]
    assert all(end % 3 == 0 for end in ends)


# --- coefficients and signals by hand ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    rows = [example(n, answer=str(n)) for n in range(6)]
    folder = write_small_dataset(tmp_path_factory.mktemp("data") / "dataset", rows)
    return prepare(
        small_run(
            folder, algorithm={"name": "grpo", "updates_per_batch": 2}, rollouts={"group_size": 2},
            batches={"size": 4, "total_prompts": 8, "draw": "with_replacement"}, teacher=None,
        )
    )  # fmt: skip


def done(reward: float) -> Future[float]:
    future: Future[float] = Future()
    future.set_result(reward)
    return future


LENGTHS = (2, 4, 1, 3, 2, 2, 5, 1)
REWARDS = (1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0)
WEIGHTS = (0.5, 0.5, 1.0, 1.0, 0.0, 0.0, 0.25, 0.25)
HALF = (1.0 - 0.5) / (math.sqrt(0.5) + 1e-4)
"""The advantage of the right one of two rollouts: the sample standard deviation of 1 and 0 is sqrt(1/2)."""


def batch_of(prepared: Prepared, weights: Sequence[float] = WEIGHTS) -> RolloutBatch:
    """Return four groups of two rollouts; token t of rollout i has log-probability -(i + t / 10) at the engine."""
    generations = tuple(
        Generation(
            tokens=np.full(n, i, np.int32), logprobs=-(i + np.arange(n, dtype=np.float32) / 10), finish_reason="stop",
            version=0,
        )
        for i, n in enumerate(LENGTHS)
    )  # fmt: skip
    groups = prepared.schedule.step(0)
    return RolloutBatch(
        step=0,
        groups=groups,
        sequences=tuple(
            TokenSequence(tokens=np.concatenate([np.zeros(3, np.int32), one.tokens]), prompt_length=3)
            for one in generations
        ),
        generations=generations,
        updates=split_updates(groups, 2, whole_groups=True),
        weights=np.array(weights),
        rollout_seconds=2.0,
        grades=tuple(done(reward) for reward in REWARDS),
    )


def tokens_of(batch: RolloutBatch, update: int, prepared: Prepared, name: str = "") -> dict[int, list[float]]:
    """Return the coefficients, or the signal of that name, of each trained rollout of an update."""
    found = {}
    for part in range(len(batch.updates[update])):
        for made in (one for rank in micro_batches(batch, update, part, prepared) for one in rank):
            values, start = made.signals[name] if name else made.coefficients, 0
            for one in made.sequences:
                end = start + len(one.response)
                found[int(one.response[0])] = values[start:end].tolist()
                start = end
    return found


def changed(prepared: Prepared, **parts: Any) -> Prepared:
    """Return the run with other parts of its algorithm."""
    plan = RunPlan(run=prepared.run, algorithm=replace(prepared.plan.algorithm, **parts))
    return replace(prepared, plan=plan)


def corrected(prepared: Prepared, kind: str, cap: float = 2.0) -> Prepared:
    """Return the run with an importance correction."""
    settings = prepared.run.algorithm.model_copy(
        update={"importance_correction": kind, "importance_cap": cap}
    )
    run = prepared.run.model_copy(update={"algorithm": settings})
    return replace(prepared, plan=RunPlan(run=run, algorithm=prepared.plan.algorithm))


def test_each_update_divides_by_its_own_rollouts_and_leaves_out_those_of_weight_0(prepared: Prepared) -> None:
    batch = batch_of(prepared)
    assert [len(update) for update in batch.updates] == [2, 2]
    first, second = (tokens_of(batch, update, prepared) for update in (0, 1))
    # w / (|y| x 4): an update has four rollouts, those of weight 0 included
    assert first == {
        0: pytest.approx([0.5 / 8] * 2), 1: pytest.approx([0.5 / 16] * 4), 2: pytest.approx([1 / 4]),
        3: pytest.approx([1 / 12] * 3),
    }  # fmt: skip
    assert second == {6: pytest.approx([0.25 / 20] * 5), 7: pytest.approx([0.25 / 4])}


def test_the_mean_over_tokens_divides_by_the_tokens_of_its_update(prepared: Prepared) -> None:
    batch, run = batch_of(prepared), changed(prepared, reduction=token_mean)
    assert [batch.totals(update).tokens for update in (0, 1)] == [2 + 4 + 1 + 3, 2 + 2 + 5 + 1]
    first, second = (tokens_of(batch, update, run) for update in (0, 1))
    assert first == {
        0: pytest.approx([0.05] * 2), 1: pytest.approx([0.05] * 4), 2: pytest.approx([0.1]), 3: pytest.approx([0.1] * 3),
    }  # fmt: skip
    assert second == {6: pytest.approx([0.025] * 5), 7: pytest.approx([0.025])}


def test_a_token_weight_multiplies_the_coefficients(prepared: Prepared) -> None:
    batch, weight = batch_of(prepared), SCHEDULES["sharp"]
    plain, weighted = (tokens_of(batch, 1, one) for one in (prepared, changed(prepared, token_weight=weight)))
    by_hand = [0.1 + 0.9 / (1 + math.exp(-((t - 0.5) / 5 - 0.4) / 0.05)) for t in range(1, 6)]
    assert weighted[6] == pytest.approx([a * b for a, b in zip(plain[6], by_hand, strict=True)], rel=1e-6)


def test_advantages_compare_the_rollouts_of_a_group_also_those_that_are_not_trained_on(
    prepared: Prepared,
) -> None:
    batch = batch_of(prepared, weights=(1.0, 0.0, *WEIGHTS[2:]))
    first, second = (tokens_of(batch, update, prepared, "advantages") for update in (0, 1))
    # groups (1, 0), (1, 1), (0, 1), (0, 0)
    assert first == {0: pytest.approx([HALF] * 2, rel=1e-6), 2: [0.0], 3: [0.0] * 3}
    assert second == {6: [0.0] * 5, 7: [0.0]}
    everyone = tokens_of(batch_of(prepared, weights=[1.0] * 8), 1, prepared, "advantages")
    assert everyone[4] == pytest.approx([-HALF] * 2, rel=1e-6)
    assert everyone[5] == pytest.approx([HALF] * 2, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "cap", "factors"),
    [
        ("none", 2.0, [1.0, 1.0]),
        ("token", 2.0, [math.exp(-0.5), 2.0]),  # exp(-0.5), min(exp(1), 2)
        ("token", 5.0, [math.exp(-0.5), math.e]),
        ("sequence", 2.0, [math.exp(0.5), math.exp(0.5)]),
        ("sequence", 1.5, [1.5, 1.5]),
    ],
)
def test_an_importance_correction_multiplies_the_advantages(
    prepared: Prepared, kind: str, cap: float, factors: list[float]
) -> None:
    batch = batch_of(prepared)
    old = [one.logprobs.copy() for one in batch.generations]
    old[0] = old[0] + np.array([-0.5, 1.0], np.float32)
    batch, run = replace(batch, old_logprobs=old), corrected(prepared, kind, cap)
    found = tokens_of(batch, 0, run, "advantages")
    assert found[0] == pytest.approx([HALF * factor for factor in factors], rel=1e-5)
    assert found[1] == pytest.approx([-HALF] * 4, rel=1e-5)  # as the engine had it
    assert tokens_of(batch, 0, run, "old_logprobs")[0] == pytest.approx([-0.5, 0.9])
    assert tokens_of(batch, 0, run, "rollout_logprobs")[0] == pytest.approx([0.0, -0.1])


def test_every_rollout_is_trained_on_in_exactly_one_update(prepared: Prepared) -> None:
    batch = batch_of(prepared, weights=[1.0] * 8)
    found = [set(tokens_of(batch, update, prepared)) for update in (0, 1)]
    assert found == [{0, 1, 2, 3}, {4, 5, 6, 7}]


def updated(batch: RolloutBatch, number: int, prepared: Prepared, **values: float) -> Update:
    parts = [
        one
        for part in range(len(batch.updates[number]))
        for rank in micro_batches(batch, number, part, prepared)
        for one in rank
    ]
    seen = [{"sampled_logprob": one.signals["rollout_logprobs"] - np.float32(number)} for one in parts]
    given = {
        "step": number,
        "loss": 0.0,
        "learning_rate": 1e-3,
        "gradient_norm": 1.0,
        "seconds": 1.0,
        "memory": 10**9,
    }
    return Update(**cast(Any, given | values), trained=tuple(zip(parts, seen, strict=True)))


def test_the_metrics_of_two_updates_and_their_rewards_by_hand(prepared: Prepared) -> None:
    batch = batch_of(prepared)
    updates = [
        updated(batch, 0, prepared, loss=1.0, gradient_norm=3.0, learning_rate=1e-3),
        updated(batch, 1, prepared, loss=2.0, gradient_norm=1.0, learning_rate=5e-4, memory=2_000_000_000),
    ]
    row = step_metrics(batch, updates, staleness=0, sync=0.5, wall=4.0)
    assert (row["loss"], row["gradient_norm"], row["learning_rate"]) == (1.5, 2.0, 5e-4)
    assert (row["reward_mean"], row["agreeing_groups"]) == (0.5, 0.5)
    assert (row["seconds_student"], row["student_memory_gb"]) == (2.0, 2.0)
    assert row["mismatch_mean"] == 0.0  # of the first update: after it the student is ahead of the engines
    assert "seconds_teacher" not in row and "seconds_reference" not in row
    assert row["overlap"] == (2.0 + 2.0 + 0.5) / 4.0


# --- scores of several passes ------------------------------------------------------------------------------------


class Ready:
    def __init__(self, scores: list[Scores]) -> None:
        self.get = lambda: (scores, 1.0)


def test_passes_of_two_views_fill_their_own_inputs(prepared: Prepared) -> None:
    scorers = (
        Scorer(role="teacher", view="answer", outputs=("sampled", "entropy")),
        Scorer(role="reference"),
    )
    run = changed(prepared, scorers=scorers)
    batch = batch_of(run, weights=[1.0] * 8)

    def scores(one: ScoringPass, part: range) -> Any:
        sign = 1 if one.worker == "teacher" else -1
        values = [np.full(LENGTHS[i], sign * i, np.float32) for i in part]
        has_entropy = one.request.entropy
        return Ready([Scores(sampled=v, entropy=v + 100 if has_entropy else None) for v in values])

    given = {one: tuple(scores(one, part) for part in batch.parts) for one in run.plan.passes}
    batch = replace(batch, scores=given)
    for update, rollouts in ((0, range(4)), (1, range(4, 8))):
        for name, sign, offset in (
            ("teacher_sampled_logprobs", 1, 0), ("teacher_entropy", 1, 100), ("reference_logprobs", -1, 0),
        ):  # fmt: skip
            found = tokens_of(batch, update, run, name)
            assert found == {i: [sign * i + offset] * LENGTHS[i] for i in rollouts}
    assert batch.scoring_seconds() == {"teacher": 4.0, "reference": 4.0}


# --- where rollouts come from ------------------------------------------------------------------------------------


class Asked:
    """Workers that record what they are asked for: engines that finish in reverse order, scorers and graders."""

    def __init__(self) -> None:
        self.engines = self
        self.prompts: list[tuple[int, ...]] = []
        self.graded: list[tuple[int, tuple[int, ...]]] = []
        self.scored: list[tuple[str, int, list[int]]] = []

    def stream(
        self, requests: Sequence[RolloutRequest], _sampling: object
    ) -> Iterator[tuple[int, Generation]]:
        self.prompts = [tuple(one.prompt) for one in requests]
        for index in reversed(range(len(requests))):
            tokens = np.full(1 + index % 3, index, np.int32)
            logprobs = np.zeros(len(tokens), np.float32)
            yield index, Generation(tokens=tokens, logprobs=logprobs, finish_reason="stop", version=0)

    def score(self, one: ScoringPass, sequences: Sequence[TokenSequence], part: int) -> Any:
        self.scored.append((one.view, part, [given.prompt_length for given in sequences]))
        return Ready([Scores(sampled=np.zeros(len(given.response), np.float32)) for given in sequences])

    def grade(self, _prepared: Prepared, row: int, tokens: np.ndarray) -> Future[float]:
        self.graded.append((row, tuple(tokens.tolist())))
        return done(float(tokens[0] % 2))

    def answer_share(self, _prepared: Prepared, row: int, tokens: np.ndarray) -> Future[float]:
        return done(float(tokens[0]) / 100)


def generated(run: Prepared) -> tuple[Asked, RolloutBatch]:
    asked = Asked()
    return asked, generate_batch(cast(Workers, asked), run, np.ones(len(run.rows)), 0)


def test_every_rollout_is_graded_for_its_row_and_rewards_are_in_the_order_of_the_draws(
    prepared: Prepared,
) -> None:
    asked, batch = generated(prepared)
    rows = [group.row for group in batch.groups for _ in group.seeds]
    assert asked.prompts == [prepared.rows[row].prompt_ids for row in rows]
    assert sorted(asked.graded) == sorted((rows[i], (i,) * (1 + i % 3)) for i in range(8))
    assert batch.rewards is not None and batch.rewards.tolist() == [i % 2 for i in range(8)]
    assert batch.group_numbers.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch.updates == split_updates(batch.groups, 2, whole_groups=True)


def test_a_scorer_sees_the_prompts_of_its_view_and_the_student_its_own(prepared: Prepared) -> None:
    scorers = (Scorer(role="start", view="solution"), Scorer(role="reference"))
    longer = tuple((*row.prompt_ids, 1, 2) for row in prepared.rows)
    run = replace(changed(prepared, scorers=scorers), views={"solution": longer})
    asked, batch = generated(run)
    rows = [group.row for group in batch.groups for _ in group.seeds]
    for view, part, lengths in asked.scored:
        more = 2 if view == "solution" else 0
        assert lengths == [len(run.rows[rows[i]].prompt_ids) + more for i in batch.parts[part]]
    assert len(asked.scored) == 2 * len(batch.parts)
    assert [one.prompt_length for one in batch.sequences] == [len(run.rows[row].prompt_ids) for row in rows]


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A run of SFT in which row n has n finished responses with answers of their own; the first row has none."""
    rows = [example(n) for n in range(4)]
    given = [
        response(row, index, answer=str(10 * n + index), finish_reason="stop" if index < n else "length")
        for n, row in enumerate(rows)
        for index in range(4)
    ]
    folder = write_small_dataset(tmp_path_factory.mktemp("data") / "dataset", rows, responses=given)
    batches = {"size": 3, "draw": "epochs", "epochs": 4}
    return prepare(small_run(folder, algorithm={"name": "sft"}, batches=batches, teacher=None))


def test_the_finished_responses_of_the_dataset_are_trained_on_with_their_end_token(
    supervised: Prepared,
) -> None:
    assert supervised.left_out == {"rows without a finished response to train on": 1}
    assert [row.id for row in supervised.rows] == [example(n).id for n in (1, 2, 3)]
    end, tokenizer = supervised.end_tokens[0], supervised.student.tokenizer
    seen: dict[str, set[str]] = {}
    for step in range(supervised.schedule.steps):
        batch = generate_batch(cast(Workers, None), supervised, np.ones(3), step)
        assert sorted(group.row for group in batch.groups) == [0, 1, 2]  # an epoch
        for group, one in zip(batch.groups, batch.generations, strict=True):
            assert one.tokens[-1] == end and one.finish_reason == "stop"
            seen.setdefault(group.row_id, set()).add(tokenizer.decode(one.tokens[:-1].tolist()))
    texts = {example(n).id: {f"So \\boxed{{{10 * n + index}}}" for index in range(n)} for n in (1, 2, 3)}
    assert all(seen[row] <= texts[row] for row in texts) and seen.keys() == texts.keys()
    assert len(set.union(*seen.values())) > 3  # a row's responses take turns


def test_without_an_engine_there_are_no_log_probabilities_and_no_metrics_of_them(
    supervised: Prepared,
) -> None:
    batch = generate_batch(cast(Workers, None), supervised, np.ones(3), 0)
    ((micro,),) = [
        one for part in range(len(batch.parts)) for one in micro_batches(batch, 0, part, supervised)
    ][:1]
    assert micro.signals == {}
    lengths = [len(one.tokens) for one in batch.generations]
    total = [tokens_of_dataset(batch, part, supervised) for part in range(len(batch.parts))]
    # SFT is the mean over all response tokens of the update
    assert sum(map(sum, total)) == pytest.approx(1.0)
    assert all(value == pytest.approx(1 / sum(lengths)) for part in total for value in part)
    update = Update(
        step=0, loss=1.0, learning_rate=1.0, gradient_norm=1.0, seconds=1.0, memory=0,
        trained=((micro, {"sampled_logprob": np.zeros(len(micro.coefficients))}),),
    )  # fmt: skip
    row = step_metrics(batch, [update], staleness=0, sync=0.0, wall=1.0)
    assert not {"mismatch_mean", "mismatch_max", "rollout_logprob_mean", "reward_mean"} & row.keys()
    assert row["response_tokens"] == sum(lengths)


def tokens_of_dataset(batch: RolloutBatch, part: int, prepared: Prepared) -> list[float]:
    made: list[MicroBatch] = [one for rank in micro_batches(batch, 0, part, prepared) for one in rank]
    return [value for one in made for value in one.coefficients.tolist()]


def test_the_response_that_a_seed_draws_does_not_depend_on_the_step_at_which_a_run_continues(
    supervised: Prepared,
) -> None:
    first, again = (generate_batch(cast(Workers, None), supervised, np.ones(3), 2) for _ in range(2))
    assert [one.tokens.tolist() for one in first.generations] == [
        one.tokens.tolist() for one in again.generations
    ]


# --- demonstrations, answer shares and weights of whole updates --------------------------------------------------


@pytest.fixture(scope="module")
def contrasted(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A run of CORE on six rows: 0 and 3 have a right response of the teacher, 1 and 4 too long a one, 2 and 5 a wrong one."""
    rows = [example(n, answer=str(n)) for n in range(6)]
    texts = ["So \\boxed{%d}", "So " + "1 + 1 = 2, " * 400 + "\\boxed{%d}", "So \\boxed{99%d}"]
    given = [
        response(row, index, answer=str(n) if n % 3 < 2 else f"99{n}", text=texts[n % 3] % n)
        for n, row in enumerate(rows)
        for index in range(4)
    ]
    folder = write_small_dataset(tmp_path_factory.mktemp("data") / "dataset", rows, responses=given)
    return prepare(
        small_run(
            folder, algorithm={"name": "core", "updates_per_batch": 2, "rollout_weight": "answer_share"},
            rollouts={"group_size": 3}, batches={"size": 6, "draw": "epochs", "epochs": 1, "total_prompts": None},
        )
    )  # fmt: skip


def test_demonstrations_and_clusters_are_read_where_rows_have_them(contrasted: Prepared) -> None:
    assert contrasted.demonstrations is not None
    sources = [None if one is None else one.source for one in contrasted.demonstrations.rows]
    assert sources == ["teacher", None, None, "teacher", None, None]
    assert {
        reason: count for reason, count in contrasted.left_out.items() if "max_response_tokens" in reason
    } == {"solutions as demonstrations: more than lengths.max_response_tokens (448)": 2}
    assert [one.probs for one in contrasted.clusters] == [(0.5, 0.5)] * 6
    assert contrasted.clusters[2].answers == ("1", "6")


def test_a_demonstration_is_the_last_part_of_the_update_of_its_prompt(contrasted: Prepared) -> None:
    asked, batch = generated(contrasted)
    rows = [group.row for group in batch.groups]
    with_one = [number for number, row in enumerate(rows) if row in (0, 3)]
    assert [group for group, _ in batch.demonstrations] == with_one
    assert len(batch.rollouts) == 18 and len(batch.generations) == 20
    for update, groups in enumerate((range(3), range(3, 6))):
        indices = [index for part in batch.updates[update] for index in part]
        expected = [18 + place for place, number in enumerate(with_one) if number in groups]
        assert indices == [*range(9 * update, 9 * update + 9), *expected]
        own = [rows[number] for number in batch.group_numbers[indices]]
        assert own == [rows[g] for g in groups for _ in range(3)] + [
            rows[batch.group_numbers[i]] for i in expected
        ]
    assert contrasted.demonstrations is not None
    for index in (18, 19):
        shown = contrasted.demonstrations.rows[rows[batch.group_numbers[index]]]
        assert shown is not None and batch.generations[index].tokens.tolist() == shown.tokens.tolist()
        assert batch.sequences[index].prompt_length == len(
            contrasted.rows[rows[batch.group_numbers[index]]].prompt_ids
        )
    assert (
        len(asked.prompts) == 18 and len(asked.graded) == 18
    )  # a demonstration is neither generated nor graded
    assert len(asked.scored) == 2 * len(batch.parts)  # but scored, by teacher and reference
    assert batch.totals(0).sequences == 9
    assert sum(len(batch.updates[update]) for update in (0, 1)) == len(batch.parts)


def test_a_saved_batch_has_its_rollouts_alone_and_gives_the_same_batch(contrasted: Prepared) -> None:
    _, batch = generated(contrasted)
    again = generate_batch(cast(Workers, Asked()), contrasted, np.ones(6), 0, saved=batch.rollouts)
    for one, other in zip(batch.generations, again.generations, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
    assert again.updates == batch.updates and again.demonstrations == batch.demonstrations


def test_the_mean_over_right_rollouts_divides_by_their_shares_in_the_whole_update(
    contrasted: Prepared,
) -> None:
    _, batch = generated(contrasted)
    slopes = dict.fromkeys(range(20), 0.0) | {18: -1.0, 0: 1.0}
    batch = replace(batch, sequence_slopes=slopes)
    # rollout i is right if i is odd and has the share i / 100; its length is 1 + i % 3
    right = [i for i in range(9) if i % 2]
    total = sum(i / 100 for i in right)
    found = tokens_of(batch, 0, contrasted, "token_coefficients")
    trained = {i: [i / 100 / ((1 + i % 3) * total)] * (1 + i % 3) for i in right}
    assert {i: found[i] for i in right} == {i: pytest.approx(value) for i, value in trained.items()}
    assert found[0] == [0.0]  # wrong, but in a pair
    assert set(found) >= {*right, 0} and not {2, 4, 6, 8} & set(found)


def test_the_metrics_count_rollouts_alone_and_show_the_pairs(contrasted: Prepared) -> None:
    _, batch = generated(contrasted)
    batch = replace(batch, sequence_slopes=dict.fromkeys(range(20), 1.0))
    updates = [
        replace(
            updated(batch, n, contrasted), diagnostics={"pairs": 4.0 + n, **({"preferred": 0.5} if n else {})}
        )
        for n in (0, 1)
    ]
    row = step_metrics(batch, updates, staleness=0, sync=0.0, wall=1.0)
    assert (row["pairs"], row["preferred"]) == (4.5, 0.5)
    assert row["response_tokens"] == sum(1 + i % 3 for i in range(18))
    assert row["reward_mean"] == 0.5 and row["answer_share_mean"] == pytest.approx(sum(range(18)) / 1800)
    assert row["mismatch_mean"] == 0.0 and math.isfinite(row["rollout_logprob_mean"])


def test_the_clip_of_the_last_update_is_shown_beside_the_mean(prepared: Prepared) -> None:
    batch = batch_of(prepared)
    updates = [updated(batch, number, prepared) for number in (0, 1)]
    updates = [
        replace(
            one,
            trained=tuple(
                (made, {"clipped": np.full(len(made.coefficients), float(n))}) for made, _ in one.trained
            ),
        )
        for n, one in enumerate(updates)
    ]
    row = step_metrics(batch, updates, staleness=0, sync=0.0, wall=1.0)
    assert row["clipped_last"] == 1.0 and 0.0 < row["clipped"] < 1.0
    assert "clipped_last" not in step_metrics(batch, updates[:1], staleness=0, sync=0.0, wall=1.0)
