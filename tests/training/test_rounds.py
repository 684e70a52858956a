"""From rollouts to micro-batches: order, coefficients, and what a step tells of itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tasks.core.errors import UserError
from tests.training.small_run import example, small_run, write_small_dataset
from training.check import Prepared, prepare
from training.engine.batches import TokenSequence
from training.engine.group import Update
from training.engine.student import MicroBatch, StepReport
from training.measures import gap, step_row
from training.methods import compose
from training.rollout.engine import Generation
from training.rollout.teacher import TopK
from training.rounds import Round, micro_batches
from training.self_tests import check_mass

K, V = 3, 50
SECONDS = {"rollout": 2.0, "teacher": 0.5, "student": 1.0, "sync": 0.5}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = write_small_dataset(tmp_path_factory.mktemp("data") / "dataset", [example(n) for n in range(6)])
    return prepare(small_run(folder, batches={"size": 2, "draws": 4}, rollouts={"per_prompt": 2}))


def made_up(prepared: Prepared, weights: list[float], lengths: list[int]) -> Round:
    random = np.random.default_rng(0)
    generations = [
        Generation(
            tokens=random.integers(0, V, n).astype(np.int32), logprobs=-random.random(n).astype(np.float32),
            finish_reason="length" if n > 6 else "stop", version=0,
        )
        for n in lengths
    ]  # fmt: skip
    return Round(
        step=0,
        draws=prepared.schedule.step(0),
        sequences=tuple(
            TokenSequence(tokens=np.concatenate([np.arange(4, dtype=np.int32), one.tokens]), prompt_length=4)
            for one in generations
        ),
        generations=tuple(generations),
        scores=tuple(
            TopK(
                logprobs=np.log(random.dirichlet(np.ones(K + 1), n)[:, :K]).astype(np.float32),
                ids=np.stack([random.permutation(V)[:K] for _ in range(n)]).astype(np.int32),
            )
            for n in lengths
        ),
        weights=np.array(weights),
        seconds={"rollout": 2.0, "teacher": 0.5},
    )


def by_hand(weights: list[float], lengths: list[int]) -> list[float]:
    return [w / (n * len(lengths)) for w, n in zip(weights, lengths, strict=True) for _ in range(n)]


def test_coefficients_are_those_of_equations_8_and_9_and_prompts_of_weight_0_go_no_further(
    prepared: Prepared,
) -> None:
    weights, lengths = [0.25, 0.25, 0.0, 1.0], [3, 8, 5, 2]
    ((only,),) = micro_batches(made_up(prepared, weights, lengths), compose(prepared.run), prepared)
    assert [len(one.response) for one in only.sequences] == [3, 8, 2]
    expected = [value for value in by_hand(weights, lengths) if value > 0]
    np.testing.assert_allclose(only.coefficients, expected, rtol=1e-6)
    assert only.signals["teacher_logprobs"].shape == (13, K)
    assert only.signals["teacher_ids"].shape == (13, K)
    assert only.signals["rollout_logprobs"].shape == (13,)


def test_however_the_round_is_cut_every_token_keeps_its_coefficient_and_its_teacher(
    prepared: Prepared,
) -> None:
    weights, lengths = [0.3, 0.3, 0.9, 0.9], [5, 8, 2, 7]
    round_ = made_up(prepared, weights, lengths)
    cut = prepared.run.model_copy(
        update={
            "engine": prepared.run.engine.model_copy(update={"micro_batch_tokens": 16}),
            "placement": prepared.run.placement.model_copy(update={"students": 2}),
        }
    )
    ranks = micro_batches(round_, compose(cut), replace(prepared, run=cut))
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
    assert len(found) == 4
    expected = iter(by_hand(weights, lengths))
    for one, score in zip(round_.sequences, round_.scores, strict=True):
        coefficients, ids = found[tuple(one.response)]
        np.testing.assert_allclose(coefficients, [next(expected) for _ in one.response], rtol=1e-6)
        np.testing.assert_array_equal(ids, score.ids)


def test_a_round_without_any_weight_is_one_empty_micro_batch(prepared: Prepared) -> None:
    ((only,),) = micro_batches(made_up(prepared, [0.0] * 4, [3, 3, 3, 3]), compose(prepared.run), prepared)
    assert only.sequences == () and only.coefficients.shape == (0,)
    assert only.signals["teacher_logprobs"].shape == (0, K)


def report(batches: list[MicroBatch], noted: list[dict[str, np.ndarray]]) -> Update:
    one = StepReport(
        step=1,
        loss=0.5,
        learning_rate=1e-3,
        gradient_norm=2.0,
        tokens=0,
        seconds=1.0,
        diagnostics=tuple(noted),
    )
    assert len(batches) == len(noted)
    return Update(step=1, loss=0.5, learning_rate=1e-3, gradient_norm=2.0, reports=(one,))


def test_a_steps_row_by_hand(prepared: Prepared) -> None:
    round_ = made_up(prepared, [0.5, 0.5, 0.0, 1.0], [2, 8, 4, 2])
    ((batch,),) = micro_batches(round_, compose(prepared.run), prepared)
    sampled = batch.signals["rollout_logprobs"] + np.float32(0.25)
    sampled[3] = np.nan  # a skipped position
    noted = {"entropy": np.full(12, 0.75), "teacher_mass": np.linspace(0, 1, 12), "sampled_logprob": sampled}
    row = step_row(round_, [[batch]], report([batch], [noted]), staleness=0, seconds=SECONDS, wall=2.5)
    assert row["weight_mean"] == 0.5 and row["weight_zero_share"] == 0.25
    assert row["response_tokens_mean"] == 4.0 and row["response_tokens_max"] == 8
    assert row["truncated_share"] == 0.25
    assert row["entropy"] == 0.75 and row["teacher_mass"] == pytest.approx(0.5)
    assert row["gap_mean"] == pytest.approx(0.25, rel=1e-5)
    assert row["tokens"] == 16 + 4 * 4 and row["tokens_per_second"] == 32 / 2.5
    assert row["seconds"] == 2.5 and row["overlap"] == 4.0 / 2.5 and row["seconds_teacher"] == 0.5
    assert row["share_rollout"] == 0.5 and sum(row[f"share_{name}"] for name in SECONDS) == pytest.approx(1.0)
    assert "sampled_logprob" not in row


def test_without_the_students_log_probabilities_there_is_no_gap(prepared: Prepared) -> None:
    ((batch,),) = micro_batches(made_up(prepared, [1.0] * 4, [2] * 4), compose(prepared.run), prepared)
    assert gap([(batch, {})]) == (0.0, 0.0)


@pytest.mark.parametrize("mass", [[0.9, 1.5], [0.9, float("nan")], [0.9, 0.0]])
def test_a_teacher_that_gives_no_distribution_stops_the_run(mass: list[float]) -> None:
    check_mass(np.array([0.9, 1.0]))
    with pytest.raises(UserError, match="probabilities that sum to"):
        check_mass(np.array(mass))
