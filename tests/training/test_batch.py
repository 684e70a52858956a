"""Rollout batches: order and coefficients of micro-batches, metrics of a step, and sanity checks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.errors import UserError
from tests.training.small_run import example, small_run, write_small_dataset
from training.batch import RolloutBatch, micro_batches
from training.data.batches import TokenSequence
from training.metrics import mismatch, phase_seconds, step_metrics
from training.plan import resolve
from training.preflight.check import Prepared, prepare
from training.preflight.self_tests import check_divergence, check_mass, check_reference, check_scores
from training.rollouts.engine import Generation
from training.scorers.scores import Scores, TopK
from training.student.group import Update
from training.student.messages import MicroBatch
from training.weight_sync.weights import to_bits
from training.worker_set import PendingScores

K, V = 3, 50
PHASES = ("rollout", "teacher", "student", "sync")


class Scored(PendingScores):
    """Scores that are ready, and took half a second in total."""

    def __init__(self, found: list[Scores], parts: int) -> None:
        self._found = (found, 0.5 / parts)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = write_small_dataset(tmp_path_factory.mktemp("data") / "dataset", [example(n) for n in range(6)])
    return prepare(small_run(folder, batches={"size": 2, "total_prompts": 4}, rollouts={"group_size": 2}))


@pytest.fixture(scope="module")
def penalised(prepared: Prepared) -> Prepared:
    """The same run with a KL penalty."""
    folder = prepared.run.dataset.folder
    assert folder is not None
    run = small_run(
        folder, batches={"size": 2, "total_prompts": 4}, rollouts={"group_size": 2},
        algorithm={"reference_kl_coefficient": 0.1},
    )  # fmt: skip
    return replace(prepared, plan=resolve(run))


def made_up(prepared: Prepared, weights: list[float], lengths: list[int]) -> RolloutBatch:
    random = np.random.default_rng(0)
    generations = [
        Generation(
            tokens=random.integers(0, V, n).astype(np.int32), logprobs=-random.random(n).astype(np.float32),
            finish_reason="length" if n > 6 else "stop", version=0,
        )
        for n in lengths
    ]  # fmt: skip
    scores = [
        Scores(
            top_k=TopK(
                logprobs=np.log(random.dirichlet(np.ones(K + 1), n)[:, :K]).astype(np.float32),
                ids=np.stack([random.permutation(V)[:K] for _ in range(n)]).astype(np.int32),
            )
        )
        for n in lengths
    ]
    (teacher,) = prepared.plan.passes[:1]
    return RolloutBatch(
        step=0,
        groups=prepared.schedule.step(0),
        sequences=tuple(
            TokenSequence(tokens=np.concatenate([np.arange(4, dtype=np.int32), one.tokens]), prompt_length=4)
            for one in generations
        ),
        generations=tuple(generations),
        updates=(tuple(range(n, n + 1) for n in range(len(lengths))),),
        scores={teacher: tuple(Scored([score], len(lengths)) for score in scores)},
        weights=np.array(weights),
        rollout_seconds=2.0,
    )


def with_reference(penalised: Prepared, weights: list[float], lengths: list[int]) -> RolloutBatch:
    """Return a batch with reference log-probabilities: -(i + t / 100) for token t of rollout i."""
    made = made_up(penalised, weights, lengths)
    own = [-(i + np.arange(n, dtype=np.float32) / 100) for i, n in enumerate(lengths)]
    _, reference = penalised.plan.passes
    pending = tuple(Scored([Scores(sampled=values)], len(own)) for values in own)
    return replace(made, scores={**made.scores, reference: pending})


def all_parts(rollout_batch: RolloutBatch, prepared: Prepared) -> list[list[MicroBatch]]:
    """Return the micro-batches of every rank, in the order of the parts of the only update."""
    (update,) = rollout_batch.updates
    parts = [micro_batches(rollout_batch, 0, part, prepared) for part in range(len(update))]
    return [[batch for part in parts for batch in part[rank]] for rank in range(len(parts[0]))]


def by_hand(weights: list[float], lengths: list[int]) -> list[float]:
    return [w / (n * len(lengths)) for w, n in zip(weights, lengths, strict=True) for _ in range(n)]


def test_coefficients_follow_equations_8_and_9_and_prompts_of_weight_0_are_left_out(
    prepared: Prepared,
) -> None:
    weights, lengths = [0.25, 0.25, 0.0, 1.0], [3, 8, 5, 2]
    (batches,) = all_parts(made_up(prepared, weights, lengths), prepared)
    assert [len(one.response) for batch in batches for one in batch.sequences] == [3, 8, 2]
    expected = [value for value in by_hand(weights, lengths) if value > 0]
    np.testing.assert_allclose(np.concatenate([one.coefficients for one in batches]), expected, rtol=1e-6)
    shapes = {name: [one.signals[name].shape for one in batches] for name in batches[0].signals}
    assert shapes["teacher_logprobs"] == shapes["teacher_ids"] == [(3, K), (8, K), (0, K), (2, K)]
    assert shapes["rollout_logprobs"] == [(3,), (8,), (0,), (2,)]


def test_tokens_keep_coefficient_and_teacher_scores_for_any_split_of_the_batch(
    prepared: Prepared,
) -> None:
    weights, lengths = [0.3, 0.3, 0.9, 0.9], [5, 8, 2, 7]
    rollout_batch = made_up(prepared, weights, lengths)
    cut = prepared.run.model_copy(
        update={
            "trainer": prepared.run.trainer.model_copy(update={"micro_batch_tokens": 16}),
            "placement": prepared.run.placement.model_copy(update={"students": 2}),
        }
    )
    ranks = all_parts(rollout_batch, replace(prepared, plan=resolve(cut)))
    assert len(ranks) == 2 and len({len(batches) for batches in ranks}) == 1
    found = {}
    for batch in (batch for batches in ranks for batch in batches):
        start = 0
        for one in batch.sequences:
            end = start + len(one.response)
            found[tuple(one.response)] = (
                batch.coefficients[start:end],
                batch.signals["teacher_ids"][start:end],
            )
            start = end
    assert len(found) == 4 and not any("reference_logprobs" in one.signals for one in ranks[0])
    expected = iter(by_hand(weights, lengths))
    (pending,) = rollout_batch.scores.values()
    scores = [score.top_k for part in pending for score in part.get()[0]]
    for one, score in zip(rollout_batch.sequences, scores, strict=True):
        assert score is not None
        coefficients, ids = found[tuple(one.response)]
        np.testing.assert_allclose(coefficients, [next(expected) for _ in one.response], rtol=1e-6)
        np.testing.assert_array_equal(ids, score.ids)


def test_every_token_gets_its_reference_logprob(penalised: Prepared) -> None:
    weights, lengths = [0.25, 0.25, 0.0, 1.0], [3, 8, 5, 2]
    (batches,) = all_parts(with_reference(penalised, weights, lengths), penalised)
    reference = [one.signals["reference_logprobs"] for one in batches]
    assert [len(one) for one in reference] == [3, 8, 0, 2] and {one.dtype for one in reference} == {
        np.dtype(np.float32)
    }
    np.testing.assert_array_equal(reference[1], np.float32(-1) - np.arange(8, dtype=np.float32) / 100)
    np.testing.assert_array_equal(reference[3], [-3.0, np.float32(-3.01)])


def test_a_part_without_any_weight_is_one_empty_micro_batch(prepared: Prepared) -> None:
    ((only,),) = micro_batches(made_up(prepared, [0.0] * 4, [3, 3, 3, 3]), 0, 2, prepared)
    assert only.sequences == () and only.coefficients.shape == (0,)
    assert only.signals["teacher_logprobs"].shape == (0, K)


def updated(batches: list[MicroBatch], noted: list[dict[str, np.ndarray]]) -> Update:
    return Update(
        step=1, loss=0.5, learning_rate=1e-3, gradient_norm=2.0, seconds=1.0, memory=2_500_000_000,
        trained=tuple(zip(batches, noted, strict=True)),
    )  # fmt: skip


def test_the_metrics_of_a_step_by_hand(prepared: Prepared) -> None:
    rollout_batch = made_up(prepared, [0.5, 0.5, 0.0, 1.0], [2, 8, 4, 2])
    (batches,) = all_parts(rollout_batch, prepared)
    noted = []
    for batch, mass in zip(batches, ([0.0, 0.0], [0.75] * 8, [], [0.0, 0.0]), strict=True):
        sampled = batch.signals["rollout_logprobs"] + np.float32(0.25)
        sampled[:1] = np.nan  # a skipped position
        noted.append(
            {"entropy": np.full(len(mass), 0.75), "teacher_mass": np.array(mass), "sampled_logprob": sampled}
        )
    row = step_metrics(rollout_batch, [updated(batches, noted)], staleness=0, sync=0.5, wall=2.5)
    assert row["weight_mean"] == 0.5 and row["weight_zero_share"] == 0.25
    assert row["response_tokens_mean"] == 4.0 and row["response_tokens_max"] == 8
    assert row["truncated_share"] == 0.25
    assert row["entropy"] == 0.75 and row["teacher_mass"] == pytest.approx(0.5)
    assert row["mismatch_mean"] == pytest.approx(0.25, rel=1e-5)
    assert row["tokens"] == 16 + 4 * 4 and row["tokens_per_second"] == 32 / 2.5
    assert row["rollout_tokens_per_second"] == 16 / 2.0  # all responses, also those of weight 0
    trained = 2 + 8 + 2 + 3 * 4  # without the rollout of weight 0, with prompts
    assert row["trained_tokens_per_second"] == trained / 1.0
    known = step_metrics(
        replace(rollout_batch, generated=False), [updated(batches, noted)], staleness=0, sync=0.5, wall=2.5
    )
    assert row.keys() - known.keys() == {"rollout_tokens_per_second"}
    assert row["seconds"] == 2.5 and row["overlap"] == 4.0 / 2.5 and row["seconds_teacher"] == 0.5
    assert row["share_rollout"] == 0.5 and sum(row[f"share_{name}"] for name in PHASES) == pytest.approx(1.0)
    assert "sampled_logprob" not in row and "seconds_reference" not in row


def test_with_a_reference_the_metrics_include_its_divergence_and_its_phase(penalised: Prepared) -> None:
    rollout_batch = with_reference(penalised, [0.5, 0.5, 0.0, 1.0], [2, 8, 4, 2])
    (batches,) = all_parts(rollout_batch, penalised)
    noted = [{"reference_kl": np.full(len(one.coefficients), 0.25)} for one in batches]
    noted[0]["reference_kl"][:] = [np.nan, 0.5]  # a skipped position
    row = step_metrics(rollout_batch, [updated(batches, noted)], staleness=0, sync=0.5, wall=2.5)
    assert row["reference_kl"] == pytest.approx((0.5 + 10 * 0.25) / 11)
    assert row["seconds_reference"] == row["seconds_teacher"] == 0.5 and row["overlap"] == 4.5 / 2.5
    shares = [row[f"share_{name}"] for name in (*PHASES, "reference")]
    assert sum(shares) == pytest.approx(1.0)
    spent = phase_seconds([row, row])
    assert spent["reference"] == 1.0 and sum(spent.values()) == pytest.approx(9.0)


def test_the_mismatch_is_0_without_the_students_logprobs(prepared: Prepared) -> None:
    ((batch,),) = micro_batches(made_up(prepared, [1.0] * 4, [2] * 4), 0, 0, prepared)
    assert mismatch([(batch, {})]) == (0.0, 0.0)


@pytest.mark.parametrize("nats", [0.02, float("nan"), float("inf")])
def test_a_nonzero_self_divergence_stops_the_run(nats: float) -> None:
    check_divergence(0.001)
    with pytest.raises(UserError, match="the divergence of the student from itself is"):
        check_divergence(nats)


def test_a_reference_that_differs_from_the_initial_student_stops_the_run() -> None:
    check_reference(0.02)
    with pytest.raises(UserError, match=r"from the untrained student's by 0\.200 nats"):
        check_reference(0.2)


def test_the_teachers_scores_are_checked_and_described() -> None:
    logprobs = np.log(np.array([[0.5, 0.25], [0.9, 0.05]], dtype=np.float32))
    top = TopK(logprobs=logprobs, ids=np.array([[1, 2], [3, 4]], dtype=np.int32))
    described = ["the teacher's top 2 tokens have 85.0% of its probability mass"]
    assert check_scores([Scores(top_k=top)]) == described
    states = Scores(states=to_bits(torch.ones(3, 16)))
    assert check_scores([states]) == ["the teacher sends its full distribution as 16 numbers per token"]
    with pytest.raises(UserError, match="hidden states contain NaN or infinity"):
        check_scores([states, Scores(states=to_bits(torch.full((2, 16), float("nan"))))])
    sampled = np.array([-0.5, 0.0], dtype=np.float32)
    assert check_scores([Scores(sampled=sampled)]) == []
    for broken in (0.01, float("nan"), -float("inf")):
        with pytest.raises(UserError, match="test the model in transformers"):
            check_scores([Scores(sampled=sampled), Scores(sampled=np.array([-0.5, broken], np.float32))])


@pytest.mark.parametrize("mass", [[0.9, 1.5], [0.9, float("nan")], [0.9, 0.0]])
def test_scores_that_are_not_a_distribution_stop_the_run(mass: list[float]) -> None:
    check_mass(np.array([0.9, 1.0]))
    with pytest.raises(UserError, match="top-k probabilities sum to"):
        check_mass(np.array(mass))
