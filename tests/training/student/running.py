"""Helpers of the tests with real engines: a local Ray session, student ranks, and synthetic updates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from tasks.processes.ray_session import RaySession
from training.data.batches import TokenSequence
from training.losses.base import TokenLoss
from training.losses.token_losses import TopKCrossEntropy
from training.student.group import StudentGroup
from training.student.messages import MicroBatch, RankSettings
from training.workers.placement import make_placement, reserve

K = 8


@contextmanager
def ray_running() -> Iterator[RaySession]:
    with RaySession(4) as session:
        yield session


@contextmanager
def students(
    folder: Path, *, ranks: int = 1, loss: TokenLoss | None = None, **settings: Any
) -> Iterator[StudentGroup]:
    """Yield connected student ranks of the model in `folder` and close them at the end of the block."""
    from ray.util.placement_group import remove_placement_group

    plan = make_placement("cpu", students=ranks, engines=1)
    place = reserve(plan)
    defaults: dict[str, Any] = {
        "model": folder, "total_steps": 10, "warmup_steps": 0, "learning_rate": 1e-3, "threads": 1, "head_chunk": 16,
    }  # fmt: skip
    group = StudentGroup(plan, place, RankSettings(**defaults | settings), loss or TopKCrossEntropy())
    try:
        group.connect()
        yield group
    finally:
        group.close()
        remove_placement_group(place)


def sequences(count: int, *, vocabulary: int = 512, seed: int = 0) -> list[TokenSequence]:
    random = np.random.default_rng(seed)
    lengths = random.integers(4, 40, size=count)
    return [
        TokenSequence(
            tokens=random.integers(0, vocabulary, size=length).astype(np.int32),
            prompt_length=int(random.integers(1, length - 1)),
        )
        for length in lengths
    ]


def update(
    chosen: Sequence[TokenSequence], parts: Sequence[Sequence[int]], *, seed: int = 0
) -> list[MicroBatch]:
    """Return the micro-batches of an update over `chosen`, split into `parts`: per-sequence means with weights 0.1, 0.2, ... and
    a random teacher.

    Coefficients and teacher depend only on the sequence, so the same update can be split in any way.
    """
    own = [_made_up(one, 0.1 * (index + 1) / len(chosen), seed + index) for index, one in enumerate(chosen)]
    return [
        MicroBatch(
            sequences=tuple(chosen[index] for index in part),
            coefficients=np.concatenate([np.zeros(0), *(own[index][0] for index in part)]),
            signals={
                "teacher_logprobs": np.concatenate([own[index][1] for index in part]),
                "teacher_ids": np.concatenate([own[index][2] for index in part]),
            }
            if part
            else {},
        )
        for part in parts
    ]


def _made_up(sequence: TokenSequence, weight: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    length = len(sequence.response)
    logits = torch.randn(length, 512, generator=torch.Generator().manual_seed(seed)) * 2
    kept = logits.log_softmax(-1).topk(K)
    return np.full(length, weight / length), kept.values.numpy(), kept.indices.int().numpy()


def exported(group: StudentGroup, folder: Path) -> dict[str, torch.Tensor]:
    group.export(folder)
    return load_file(folder / "model.safetensors")


def relative(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], start: dict[str, torch.Tensor]
) -> float:
    """Return |found - expected| / |expected - start| over all weights, in float64."""

    def flat(values: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([values[name].double().flatten() for name in sorted(start)])

    return float((flat(found) - flat(expected)).norm() / (flat(expected) - flat(start)).norm())


def naive_gradient(folder: Path, chosen: Sequence[TokenSequence]) -> dict[str, torch.Tensor]:
    """Return the gradient of `update(chosen, ...)` from transformers' logits, one sequence at a time, by autograd in float32."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    batches = update(chosen, [[index] for index in range(len(chosen))])
    for one, batch in zip(chosen, batches, strict=True):
        ids = torch.from_numpy(one.tokens).long()
        logprobs = model(ids[None]).logits[0, one.prompt_length - 1 : -1].log_softmax(-1)
        teacher = torch.from_numpy(batch.signals["teacher_logprobs"]).softmax(-1)  # renormalised over the k
        entries = logprobs.gather(-1, torch.from_numpy(batch.signals["teacher_ids"]).long())
        losses = -(teacher * entries).sum(-1)
        (losses * torch.from_numpy(batch.coefficients)).sum().backward()
    return {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }
