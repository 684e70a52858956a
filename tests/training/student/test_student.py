"""Real DeepSpeed engines in Ray actors: gradients do not depend on the split or the ranks, and resuming is bitwise exact."""

from __future__ import annotations

import filecmp
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tasks.errors import UserError
from tests.tiny_model import write_tiny_model
from tests.training.student.running import exported, naive_gradient, relative, sequences, students, update
from training.data.batches import TokenSequence
from training.student.adapters import AdapterSettings
from training.student.checkpoints import latest
from training.student.group import StudentGroup
from training.workers.actors import ActorLost

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("ray_session")]

# With a large epsilon an AdamW update is -rate * gradient / epsilon, so weights move by the scaled gradient itself.
BARE = {
    "learning_rate": 1e8,
    "epsilon": 1e4,
    "clip": 1e9,
    "total_steps": 10**9,
    "gradient_checkpointing": False,
}
ALL = list(range(8))
# Each stage is tested in one dtype with `make test`, in both with `make test-all`.
LONG_0, LONG_1, LONG_2, LONG_3 = (pytest.param(stage, marks=pytest.mark.long) for stage in range(4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("student") / "tiny")


@pytest.fixture(scope="module")
def start(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


Fresh = Callable[[], StudentGroup]
"""Returns running ranks with the weights and optimizer state of their start."""


@contextmanager
def fresh_students(folder: Path, checkpoints: Path, **settings: Any) -> Iterator[Fresh]:
    with students(folder, **settings) as group:
        group.save(checkpoints, 0, {}, keep=1)
        first = latest(checkpoints)
        assert first is not None

        def fresh() -> StudentGroup:
            assert group.load(first) == 0
            return group

        yield fresh


@pytest.fixture(scope="module")
def float32(folder: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[Fresh]:
    """One rank, ZeRO 0, float32."""
    place = tmp_path_factory.mktemp("float32")
    with fresh_students(folder, place, zero_stage=0, dtype="float32", **BARE) as fresh:
        yield fresh


@pytest.fixture(scope="module")
def whole(float32: Fresh, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The reference for every split: the update in a single micro-batch."""
    group = float32()
    done = group.step([update(sequences(8), [ALL])])
    return {"update": done, "weights": exported(group, tmp_path_factory.mktemp("whole") / "export")}


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[Fresh]:
    """One rank, ZeRO 2, bf16."""
    with fresh_students(folder, tmp_path_factory.mktemp("alone"), zero_stage=2, **BARE) as fresh:
        yield fresh


@pytest.fixture(scope="module")
def whole_bf16(alone: Fresh, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The reference update in bf16."""
    group = alone()
    done = group.step([update(sequences(8), [ALL])])
    return {"update": done, "weights": exported(group, tmp_path_factory.mktemp("bf16") / "export")}


@pytest.fixture(scope="module")
def pair(folder: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[Fresh]:
    """Two ranks, ZeRO 2, bf16."""
    with fresh_students(folder, tmp_path_factory.mktemp("pair"), ranks=2, zero_stage=2, **BARE) as fresh:
        yield fresh


def test_an_update_applies_the_gradient_of_plain_autograd(
    folder: Path, start: dict[str, torch.Tensor], whole: dict[str, Any]
) -> None:
    gradient = naive_gradient(folder, sequences(8))
    norm = torch.cat([value.flatten() for value in gradient.values()]).norm()
    assert whole["update"].gradient_norm == pytest.approx(float(norm), rel=1e-4)
    scale = whole["update"].learning_rate / BARE["epsilon"]
    expected = {name: start[name].float() - scale * gradient[name] for name in start}
    floats = {name: value.float() for name, value in start.items()}
    assert relative(whole["weights"], expected, floats) < 1e-3


@pytest.mark.parametrize("parts", [[[0, 1, 2, 3], [4, 5, 6, 7]], [[7], [0, 2], [1, 3, 4], [5, 6]]])
def test_splitting_an_update_does_not_change_the_gradient(
    float32: Fresh,
    start: dict[str, torch.Tensor],
    whole: dict[str, Any],
    parts: list[list[int]],
    tmp_path: Path,
) -> None:
    group = float32()
    done = group.step([update(sequences(8), parts)])
    weights = exported(group, tmp_path / "export")
    assert relative(weights, whole["weights"], start) < 1e-6
    assert done.loss == pytest.approx(whole["update"].loss, rel=1e-6)
    assert done.gradient_norm == pytest.approx(whole["update"].gradient_norm, rel=1e-6)


@pytest.mark.parametrize("stage", [0, LONG_1, LONG_2, 3])
def test_two_ranks_with_an_update_in_parts_equal_one_rank_for_every_zero_stage(
    folder: Path, start: dict[str, torch.Tensor], whole: dict[str, Any], stage: int, tmp_path: Path
) -> None:
    with students(folder, ranks=2, zero_stage=stage, dtype="float32", **BARE) as group:
        first, second = update(sequences(8), [[0, 5], [3]]), update(sequences(8), [[1, 2, 4], [6, 7]])
        done = group.step_in_parts(
            [partial(list, [[one], [two]]) for one, two in zip(first, second, strict=True)]
        )
        weights = exported(group, tmp_path / "export")
    assert relative(weights, whole["weights"], start) < 1e-6
    assert done.loss == pytest.approx(whole["update"].loss, rel=1e-6)
    assert done.gradient_norm == pytest.approx(whole["update"].gradient_norm, rel=1e-6)


@pytest.mark.parametrize("stage", [LONG_0, 1, 2, LONG_3])
def test_in_bf16_two_ranks_equal_one_rank_up_to_rounding(
    folder: Path,
    start: dict[str, torch.Tensor],
    whole: dict[str, Any],
    whole_bf16: dict[str, Any],
    stage: int,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    one = whole_bf16
    with ExitStack() as stack:
        if stage == 2:
            group = request.getfixturevalue("pair")()
        else:
            group = stack.enter_context(students(folder, ranks=2, zero_stage=stage, **BARE))
        done = group.step([update(sequences(8), part) for part in ([[0, 5], [3]], [[1, 2, 4], [6, 7]])])
        weights = exported(group, tmp_path / "export")
    assert relative(weights, one["weights"], start) < 5e-3
    assert (
        relative(weights, whole["weights"], start) < 3e-2
    )  # the same step in float32, equal to plain autograd's
    assert done.loss == pytest.approx(one["update"].loss, rel=5e-3)
    assert done.gradient_norm == pytest.approx(one["update"].gradient_norm, rel=5e-3)


def test_an_update_with_zero_weights_or_without_sequences_changes_nothing_and_does_not_hang(
    pair: Fresh, start: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    zero = [
        replace(batch, coefficients=batch.coefficients * 0)
        for batch in update(sequences(8), [ALL[:4], ALL[4:]])
    ]
    empty = update(sequences(8), [[], []])
    group = pair()
    done = group.step([zero, empty])
    assert (done.loss, done.gradient_norm, done.step) == (0.0, 0.0, 1)
    weights = exported(group, tmp_path / "export")
    assert all(torch.equal(weights[name], start[name]) for name in start)


def test_a_sequence_with_weight_zero_contributes_exactly_nothing(float32: Fresh, tmp_path: Path) -> None:
    chosen = sequences(8)
    with_zero = [
        replace(batch, coefficients=batch.coefficients * (index != 2))
        for index, batch in enumerate(update(chosen, [[index] for index in ALL]))
    ]
    without = [batch for index, batch in enumerate(with_zero) if index != 2]
    weights = []
    for number, batches in enumerate((with_zero, without)):
        group = float32()
        group.step([batches])
        weights.append(exported(group, tmp_path / str(number)))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def naive_logprobs(folder: Path, sequence: TokenSequence) -> np.ndarray:
    """Return log p [T, V] of the response's positions from a plain forward pass of one sequence."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.from_numpy(sequence.tokens).long()[None]).logits[0]
    return logits[sequence.prompt_length - 1 : -1].log_softmax(-1).numpy()


def test_the_gradient_is_clipped_and_log_probabilities_follow_the_weights(folder: Path) -> None:
    chosen = sequences(8)
    with students(folder, zero_stage=2, dtype="float32", learning_rate=1e-2, token_budget=64) as group:
        before = group.logprobs(chosen)
        given = [one.response[:, None] + np.arange(3, dtype=np.int32) for one in chosen]
        given = [np.minimum(ids, 511) for ids in given]
        for ids, values, own, one in zip(
            given, group.logprobs(chosen, ids=given), before, chosen, strict=True
        ):
            np.testing.assert_array_equal(values[:, 0], own)
            np.testing.assert_allclose(
                values, np.take_along_axis(naive_logprobs(folder, one), ids, -1), atol=1e-4
            )
        for packed, single in zip(group.logprobs(chosen, training=True), before, strict=True):
            np.testing.assert_allclose(packed, single, rtol=1e-4, atol=1e-4)
        done = group.step([update(chosen, [ALL[:3], ALL[3:]])])
        noted = np.concatenate([seen["sampled_logprob"] for _, seen in done.trained])
        after = group.logprobs(chosen)
        assert group.self_divergence(max(chosen, key=lambda one: len(one.tokens))) < 1e-5
    np.testing.assert_allclose(noted, np.concatenate(before), rtol=1e-4, atol=1e-4)
    assert max(np.abs(a - b).max() for a, b in zip(before, after, strict=True)) > 1e-2
    assert [len(batch.sequences) for batch, _ in done.trained] == [3, 5]
    assert done.memory > 100e6


@pytest.mark.parametrize("stage", [LONG_2, 3])
def test_a_killed_run_resumes_bitwise_exactly(folder: Path, tmp_path: Path, stage: int) -> None:
    steps = [update(sequences(8, seed=step), [ALL[:4], ALL[4:]], seed=step) for step in range(6)]

    def run(group: Any, chosen: list[Any]) -> None:
        for one in chosen:
            group.step([[one[0]], [one[1]]])

    with students(folder, ranks=2, zero_stage=stage) as group:
        run(group, steps[:3])
        group.save(tmp_path / "checkpoints", 3, {"draws": 24}, keep=2)
        run(group, steps[3:])  # lost
        group.export(tmp_path / "undisturbed")
        os.kill(group.processes()[1], signal.SIGKILL)
        with pytest.raises(ActorLost):
            run(group, steps[:1])
    with students(folder, ranks=2, zero_stage=stage) as group:
        checkpoint = latest(tmp_path / "checkpoints")
        assert checkpoint is not None and group.load(checkpoint) == 3
        run(group, steps[3:])
        group.export(tmp_path / "resumed")
    same = [tmp_path / name / "model.safetensors" for name in ("undisturbed", "resumed")]
    assert filecmp.cmp(*same, shallow=False)


def test_a_checkpoint_of_another_number_of_students_is_refused(
    alone: Fresh, pair: Fresh, tmp_path: Path
) -> None:
    group = alone()
    group.step([update(sequences(8), [ALL])])
    group.save(tmp_path, 1, {}, keep=1)
    checkpoint = latest(tmp_path)
    assert checkpoint is not None
    with pytest.raises(UserError, match=r"placement\.students 1, but this run has 2"):
        pair().load(checkpoint)


@pytest.mark.parametrize("stage", [LONG_2, 3])
def test_an_adapter_is_trained_and_merged_into_the_export(folder: Path, tmp_path: Path, stage: int) -> None:
    lora = AdapterSettings(rank=4, alpha=8.0, targets=("q_proj", "down_proj"))
    start = load_file(folder / "model.safetensors")
    with students(folder, ranks=2, zero_stage=stage, lora=lora, learning_rate=3e-2) as group:
        for _ in range(2):
            group.step([update(sequences(8), [ALL[:4]]), update(sequences(8), [ALL[4:]])])
        weights = exported(group, tmp_path / "export")
    adapter = load_file(tmp_path / "export" / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 2 * 2 * 2 and all(
        tensor.numel() for tensor in adapter.values()
    )  # A and B of two in two layers
    changed = {name for name in start if not torch.equal(start[name], weights[name])}
    assert changed and changed <= {name for name in start if "q_proj" in name or "down_proj" in name}


def test_an_id_outside_of_the_vocabulary_is_refused(alone: Fresh) -> None:
    chosen = sequences(1)
    chosen[0].tokens[0] = 600
    with pytest.raises(UserError, match="token id 600"):
        alone().step([update(chosen, [[0]])])
