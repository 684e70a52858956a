"""The losses of methods under ZeRO, on two ranks and in parts: the gradient of autograd through their formulas, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.tiny_model import write_tiny_model
from tests.training.student.running import exported, relative, sequences, students
from training.algorithms.losses import build_loss
from training.data.batches import TokenSequence
from training.student.adapters import AdapterSettings
from training.student.messages import MicroBatch

pytestmark = [
    pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900), pytest.mark.usefixtures("ray_session"),
]  # fmt: skip

BARE = {
    "learning_rate": 1e8, "epsilon": 1e4, "clip": 1e9, "total_steps": 10**9, "gradient_checkpointing": False, "dtype": "float32",
}  # fmt: skip
"""With a large epsilon the weights move by the scaled gradient itself."""
PARTS = [[0, 3, 5], [1, 7], [2, 4, 6], []]
"""Of eight sequences; the ranks take them in turn."""
VOCABULARY, K = 512, 16

Signals = dict[str, np.ndarray]
"""The loss inputs [T, ...] of one sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """The loss inputs of a sequence of n tokens whose log-probabilities are known, its formula for logits [n, V], and its
    reduction: the coefficient of each token of a sequence, given its length, the number of sequences and that of tokens."""

    signals: Callable[[np.random.Generator, np.ndarray], Signals]
    losses: Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]
    coefficient: Callable[[int, int, int], float]


def sequence_mean(length: int, count: int, _tokens: int) -> float:
    return 1 / (length * count)


def token_mean(_length: int, _count: int, tokens: int) -> float:
    return 1 / tokens


def sampled(logits: Tensor, ids: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1)


def of_policy(random: np.random.Generator, logprobs: np.ndarray) -> Signals:
    """Return ratios from about 0.6 to 1.6, and one advantage, positive or negative, for all tokens."""
    drift = random.normal(0, 0.25, len(logprobs))
    return {
        "advantages": np.full(len(logprobs), random.choice([-1.5, -0.5, 1.0]), dtype=np.float32),
        "rollout_logprobs": (logprobs - drift).astype(np.float32),
    }


def clipped(logits: Tensor, ids: Tensor, signals: Mapping[str, Tensor]) -> Tensor:
    """-min(r A, clip(r, 0.8, 1.2) A)."""
    ratio = (sampled(logits, ids) - signals["rollout_logprobs"]).exp()
    gain = signals["advantages"]
    return -torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)


def of_teacher(random: np.random.Generator, logprobs: np.ndarray) -> Signals:
    logits = torch.from_numpy(random.normal(0, 2, (len(logprobs), VOCABULARY)))
    return {"teacher_logprobs": logits.log_softmax(-1).float().numpy()}


def of_top_k(random: np.random.Generator, logprobs: np.ndarray) -> Signals:
    kept = torch.from_numpy(of_teacher(random, logprobs)["teacher_logprobs"]).topk(K)
    return {"teacher_logprobs": kept.values.numpy(), "teacher_ids": kept.indices.int().numpy()}


def half_and_half(logits: Tensor, ids: Tensor, signals: Mapping[str, Tensor]) -> Tensor:
    """-0.5 log q(y) - 0.5 sum over the top k of p / m log q."""
    teacher = signals["teacher_logprobs"].softmax(-1)
    entries = logits.log_softmax(-1).gather(-1, signals["teacher_ids"].long())
    return -0.5 * sampled(logits, ids) - 0.5 * (teacher * entries).sum(-1)


def clipped_by_entry(logits: Tensor, _ids: Tensor, signals: Mapping[str, Tensor]) -> Tensor:
    """sum_v min(p log(p / q), 0.05), both at temperature 1.1."""
    teacher, student = (signals["teacher_logprobs"] / 1.1).log_softmax(-1), (logits / 1.1).log_softmax(-1)
    return (teacher.exp() * (teacher - student)).clamp(max=0.05).sum(-1)


METHODS = {
    "grpo": Method(signals=of_policy, losses=clipped, coefficient=sequence_mean),
    "kd": Method(signals=of_top_k, losses=half_and_half, coefficient=token_mean),
    "sft": Method(
        signals=lambda _random, _logprobs: {},
        losses=lambda logits, ids, _signals: -sampled(logits, ids),
        coefficient=token_mean,
    ),
    "opsd": Method(signals=of_teacher, losses=clipped_by_entry, coefficient=token_mean),
}


class Case:
    """Eight sequences with the loss inputs of a method, and its loss and gradient by autograd through transformers' logits, one
    sequence at a time."""

    def __init__(self, folder: Path, method: Method) -> None:
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
        self.chosen, random = sequences(8, seed=5), np.random.default_rng(2)
        tokens, losses = sum(len(one.response) for one in self.chosen), list[Tensor]()
        self.signals, self.coefficients = list[Signals](), list[np.ndarray]()
        for one in self.chosen:
            ids = torch.from_numpy(one.tokens).long()
            logits, answer = model(ids[None]).logits[0, one.prompt_length - 1 : -1], ids[one.prompt_length :]
            self.signals.append(method.signals(random, sampled(logits, answer).detach().numpy()))
            factor = method.coefficient(len(answer), len(self.chosen), tokens)
            self.coefficients.append(np.full(len(answer), factor))
            inputs = {name: torch.from_numpy(values) for name, values in self.signals[-1].items()}
            doubles = {
                name: value.double() if value.is_floating_point() else value for name, value in inputs.items()
            }
            losses.append(factor * method.losses(logits, answer, doubles).sum())
        total = torch.stack(losses).sum()
        total.backward()
        self.loss = float(total.detach())
        self.gradient = {
            name: one.grad.float() for name, one in model.named_parameters() if one.grad is not None
        }

    def micro_batch(self, part: Sequence[int]) -> MicroBatch:
        chosen: tuple[TokenSequence, ...] = tuple(self.chosen[index] for index in part)
        names = self.signals[0] if part else {}
        return MicroBatch(
            sequences=chosen,
            coefficients=np.concatenate([np.zeros(0), *(self.coefficients[index] for index in part)]),
            signals={name: np.concatenate([self.signals[index][name] for index in part]) for name in names},
        )

    def parts(self) -> list[list[MicroBatch]]:
        return [[self.micro_batch(part) for part in PARTS[rank::2]] for rank in range(2)]


def loss_of(name: str) -> Any:
    """Return the loss that the method's own file declares."""
    return build_loss(import_module(f"training.algorithms.{name}").ALGORITHM.loss)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("student") / "tiny")


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_in_parts_have_the_gradient_of_the_formula(
    folder: Path, name: str, stage: int, tmp_path: Path
) -> None:
    case = Case(folder, METHODS[name])
    start = {key: value.float() for key, value in load_file(folder / "model.safetensors").items()}
    with students(folder, ranks=2, loss=loss_of(name), zero_stage=stage, **BARE) as group:
        done = group.step(case.parts())
        weights = exported(group, tmp_path / "export")
    assert done.loss == pytest.approx(case.loss, rel=1e-4, abs=1e-6)
    scale = done.learning_rate / BARE["epsilon"]
    expected = {key: start[key] - scale * case.gradient[key] for key in start}
    assert relative(weights, expected, start) < 1e-3


@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_with_an_adapter_have_the_gradient_of_the_formula(
    folder: Path, stage: int, tmp_path: Path
) -> None:
    """With W + s B A and B = 0, an update moves B alone, by -c s G A^T with G the gradient of W; merged: W - c s^2 G A^T A."""
    case, lora = (
        Case(folder, METHODS["opsd"]),
        AdapterSettings(rank=4, alpha=8.0, targets=("q_proj", "down_proj")),
    )
    start = {key: value.float() for key, value in load_file(folder / "model.safetensors").items()}
    with students(folder, ranks=2, loss=loss_of("opsd"), zero_stage=stage, lora=lora, **BARE) as group:
        exported(group, tmp_path / "before")
        done = group.step(case.parts())
        weights = exported(group, tmp_path / "after")
    assert done.loss == pytest.approx(case.loss, rel=1e-4)
    adapter = load_file(tmp_path / "before/adapter/adapter_model.safetensors")
    scale, expected = done.learning_rate / BARE["epsilon"] * (lora.alpha / lora.rank) ** 2, dict(start)
    for key, down in adapter.items():
        if "lora_A" in key:
            name = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
            expected[name] = start[name] - scale * case.gradient[name] @ down.float().T @ down.float()
    changed = {key for key in start if not torch.equal(expected[key], start[key])}
    assert len(changed) == 4 and all(
        torch.equal(weights[key].float(), start[key]) for key in start.keys() - changed
    )
    assert relative(weights, expected, start) < 1e-3
