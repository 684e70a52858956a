"""The passes of the student before an update: what the algorithm reads of it, and the slopes of a sequence loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tests.training.algorithms.made_up_update import batch_of, plan_of, world
from training.data.batches import TokenSequence
from training.loop import _with_sequence_loss, _with_student_outputs
from training.loss_inputs import sequences_of
from training.plan import RunPlan
from training.preflight.check import Prepared
from training.scorers.scores import Scores
from training.worker_set import Workers


class Students:
    """Student ranks whose log-probability of token n is -n / 10 and whose entropy is n / 20. Calls are recorded."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def logprobs(self, sequences: Sequence[TokenSequence]) -> list[np.ndarray]:
        self.calls.append("logprobs")
        return [-one.response.astype(np.float32) / 10 for one in sequences]

    def scores(self, sequences: Sequence[TokenSequence]) -> list[Scores]:
        self.calls.append("scores")
        return [
            Scores(
                sampled=-one.response.astype(np.float32) / 10, entropy=one.response.astype(np.float32) / 20
            )
            for one in sequences
        ]


def given(plan: RunPlan) -> tuple[Students, Workers, Prepared]:
    students = Students()
    return (
        students,
        cast(Workers, SimpleNamespace(students=students)),
        cast(Prepared, SimpleNamespace(plan=plan)),
    )


@pytest.mark.parametrize(
    ("name", "settings", "calls"),
    [
        ("uopd", {"top_k": 8}, []),
        ("eopd", {"top_k": 8}, []),
        ("eopd", {"importance_correction": "token", "top_k": 8}, ["logprobs"]),
        ("reopold", {}, ["scores"]),
        ("core", {"top_k": 8}, []),
    ],
)
def test_the_student_is_asked_once_and_only_for_what_is_used(
    name: str, settings: dict[str, Any], calls: list[str]
) -> None:
    plan = plan_of(name, **settings)
    students, workers, prepared = given(plan)
    batch = replace(batch_of(world(), plan), old_logprobs=None, student_entropy=None)
    known = _with_student_outputs(workers, prepared, batch)
    assert students.calls == calls
    if not calls:
        assert known is batch
        return
    assert known.old_logprobs is not None and (known.student_entropy is not None) == (calls == ["scores"])
    for one, old in zip(batch.generations, known.old_logprobs, strict=True):
        assert old == pytest.approx(-one.tokens / 10)
    if known.student_entropy is not None:
        assert known.student_entropy[0] == pytest.approx(batch.generations[0].tokens / 20)


def test_a_sequence_loss_gets_its_slopes_before_the_update_and_its_value_is_added_to_the_linear_loss() -> (
    None
):
    plan = plan_of("core", top_k=8)
    students, workers, prepared = given(plan)
    made = world(rewards=[1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1, 1], shown=[(1, "teacher")])
    batch = batch_of(made, plan)
    known, diagnostics, offset = _with_sequence_loss(workers, prepared, batch, 0)
    assert students.calls == ["logprobs"]
    # right rollouts of groups 0 and 2, the teacher's response of group 1, and all of group 3 right
    assert diagnostics["pairs"] == 2 + 3 + 2
    own = [-one.tokens.astype(np.float64) / 10 for one in batch.generations]
    _, sequences = sequences_of(batch, 0, plan, own)
    assert plan.algorithm.sequence_loss is not None
    expected = plan.algorithm.sequence_loss(sequences)
    assert list(known.sequence_slopes) == list(range(13))
    assert list(known.sequence_slopes.values()) == pytest.approx(expected.slopes, rel=1e-6)
    linear = sum(slope * one.sum() for slope, one in zip(expected.slopes, own, strict=True))
    assert offset == pytest.approx(expected.loss - linear, rel=1e-5)


def test_without_a_sequence_loss_nothing_is_asked() -> None:
    plan = plan_of("uopd", top_k=8)
    students, workers, prepared = given(plan)
    batch = batch_of(world(), plan)
    assert _with_sequence_loss(workers, prepared, batch, 0) == (batch, {}, 0.0)
    assert students.calls == []
