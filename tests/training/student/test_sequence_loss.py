"""DPO between sequences under ZeRO, on two ranks and in parts: the gradient of autograd through the whole loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_model import write_tiny_model
from tests.training.student.running import exported, relative, sequences, students
from training.algorithms.base import Sequences, Term
from training.algorithms.losses import NegativeLogLikelihood, build_loss
from training.algorithms.preferences import Preference
from training.data.batches import TokenSequence
from training.student.messages import MicroBatch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("ray_session")]

BARE = {
    "learning_rate": 1e8, "epsilon": 1e4, "clip": 1e9, "total_steps": 10**9, "gradient_checkpointing": False, "dtype": "float32",
}  # fmt: skip
"""With a large epsilon the weights move by the scaled gradient itself."""
BETA, NLL = 0.5, 0.02
REWARDS = np.array([1.0, 0, 0, 0, 1, 1, 0, 1])
GROUPS = np.repeat([0, 1], 4)
PAIRS = [(0, 1), (0, 2), (0, 3), (4, 6)]
PARTS = [[0, 3, 5], [1, 7], [2, 4, 6], []]


def reference(chosen: Sequence[TokenSequence]) -> np.ndarray:
    return np.random.default_rng(1).normal(-3.0, 2.0, len(chosen)) * [len(one.response) for one in chosen]


def expected_gradient(folder: Path, chosen: Sequence[TokenSequence]) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss and the gradient of transformers' logits, one sequence at a time, by autograd in float32."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sums = []
    for one in chosen:
        ids = torch.from_numpy(one.tokens).long()
        logprobs = model(ids[None]).logits[0, one.prompt_length - 1 : -1].log_softmax(-1)
        sums.append(logprobs.gather(-1, ids[one.prompt_length :, None]).sum())
    margins = torch.stack(sums) - torch.from_numpy(reference(chosen)).float()
    terms = [-torch.nn.functional.logsigmoid(BETA * (margins[good] - margins[bad])) for good, bad in PAIRS]
    loss = torch.stack(terms).mean() - NLL * torch.stack(sums).sum()
    loss.backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return float(loss.detach()), gradients


def micro_batches(chosen: Sequence[TokenSequence], slopes: np.ndarray, part: Sequence[int]) -> MicroBatch:
    lengths = [len(chosen[index].response) for index in part]
    return MicroBatch(
        sequences=tuple(chosen[index] for index in part),
        coefficients=np.ones(sum(lengths)),
        signals={
            "sequence_slopes": np.repeat(slopes[list(part)], lengths).astype(np.float32),
            "token_coefficients": np.full(sum(lengths), NLL, dtype=np.float32),
        }
        if part
        else {},
    )


@pytest.mark.long
@pytest.mark.parametrize("stage", [2, 3])
def test_pairs_have_the_gradient_of_the_whole_loss_for_every_cut(stage: Any, tmp_path: Path) -> None:
    folder, chosen = write_tiny_model(tmp_path / "tiny"), sequences(8, seed=5)
    start = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    loss = build_loss((Term(loss=NegativeLogLikelihood()),), has_sequence_loss=True)
    expected_loss, gradient = expected_gradient(folder, chosen)
    with students(folder, ranks=2, loss=loss, zero_stage=stage, **BARE) as group:
        logprobs = np.array([one.astype(np.float64).sum() for one in group.logprobs(chosen)])
        lengths = np.array([len(one.response) for one in chosen])
        found = Preference(beta=BETA)(
            Sequences(
                logprobs=logprobs,
                groups=GROUPS,
                lengths=lengths,
                reference=reference(chosen),
                rewards=REWARDS,
            )
        )
        scores = group.scores(chosen)  # log p and entropy in one pass
        done = group.step(
            [[micro_batches(chosen, found.slopes, part) for part in PARTS[rank::2]] for rank in range(2)]
        )
        weights = exported(group, tmp_path / "export")
    for one, values in zip(scores, chosen, strict=True):
        assert one.sampled is not None and one.entropy is not None
        assert len(one.entropy) == len(values.response) and (one.entropy > 0).all()
    np.testing.assert_allclose(
        [one.sampled.astype(np.float64).sum() for one in scores if one.sampled is not None],
        logprobs,
        rtol=1e-6,
    )
    total = done.loss + found.loss - float((found.slopes * logprobs).sum())
    assert total == pytest.approx(expected_loss, rel=1e-4)
    scale = done.learning_rate / BARE["epsilon"]
    moved = {name: start[name] - scale * gradient[name] for name in start}
    assert relative(weights, moved, start) < 1e-3
