"""DPO between rollouts: by hand, and its two passes against autograd through the whole loss."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from training.algorithms.base import Sequences
from training.algorithms.losses import NegativeLogLikelihood, Term, build_loss
from training.algorithms.preferences import Preference
from training.losses.base import LossInputs
from training.losses.head import chunked_head


def sequences(
    logprobs: list[float], reference: list[float], groups: list[int], rewards: list[float]
) -> Sequences:
    return Sequences(
        logprobs=np.array(logprobs),
        reference=np.array(reference),
        groups=np.array(groups),
        lengths=np.full(len(groups), 3),
        rewards=np.array(rewards),
    )


def outputs(loss: Preference, given: Sequences) -> tuple[float, np.ndarray]:
    found = loss(given)
    return found.loss, found.slopes


def test_one_pair_by_hand() -> None:
    # m_right = -1 - -2 = 1, m_wrong = -3 - -1 = -2, difference 0.5 x 3 = 1.5
    # loss log(1 + e^-1.5) = 0.2014; slope 0.5 / (1 + e^1.5) = 0.0912
    value, slopes = outputs(Preference(beta=0.5), sequences([-1, -3], [-2, -1], [0, 0], [1, 0]))
    assert value == pytest.approx(math.log1p(math.exp(-1.5)))
    assert slopes == pytest.approx([-0.5 / (1 + math.exp(1.5)), 0.5 / (1 + math.exp(1.5))])


def test_pairs_are_formed_within_groups_with_the_first_right_rollout() -> None:
    found = sequences([0] * 7, [0] * 7, [0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 0, 0, 1, 1])
    # one pair, (1, 0): group 1 has no right one, group 2 no wrong one
    value, slopes = outputs(Preference(beta=0.1), found)
    assert value == pytest.approx(math.log(2))
    assert slopes == pytest.approx([0.05, -0.05, 0, 0, 0, 0, 0])


def test_without_pairs_the_loss_is_zero() -> None:
    value, slopes = outputs(Preference(), sequences([-1, -2], [-1, -2], [0, 0], [1, 1]))
    assert value == 0.0
    assert not slopes.any()


def test_the_slopes_are_the_derivatives() -> None:
    rng = np.random.default_rng(0)
    given = sequences(
        list(rng.normal(size=8)), list(rng.normal(size=8)), [0, 0, 0, 0, 1, 1, 1, 1], [1, 0, 0, 1, 0, 0, 1, 0]
    )
    assert given.reference is not None and given.rewards is not None
    loss = Preference(beta=0.7, weight=2.0)
    _, slopes = outputs(loss, given)
    for index in range(8):
        ends = []
        for step in (1e-6, -1e-6):
            moved = given.logprobs.copy()
            moved[index] += step
            ends.append(loss(replace(given, logprobs=moved)).loss)
        assert slopes[index] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-8)


@pytest.mark.parametrize("with_tokens", [False, True])
def test_two_passes_have_the_gradient_of_the_whole_loss(with_tokens: bool) -> None:
    torch.manual_seed(1)
    lengths, groups, rewards = [3, 1, 4, 2], [0, 0, 1, 1], [1.0, 0.0, 0.0, 1.0]
    total = sum(lengths)
    hidden = torch.randn(total, 5, dtype=torch.float64)
    head = torch.randn(11, 5, dtype=torch.float64)
    ids = torch.randint(11, (total,))
    reference = torch.randn(4, dtype=torch.float64)
    coefficients = torch.rand(total, dtype=torch.float64)
    ends = np.cumsum(lengths)

    def sums(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = (states @ head.T).log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        return torch.stack([part.sum() for part in logprobs.split(lengths)]), logprobs

    whole = hidden.clone().requires_grad_()
    student, logprobs = sums(whole)
    margins = student - reference
    expected = (
        -(
            torch.nn.functional.logsigmoid(0.3 * (margins[0] - margins[1]))
            + torch.nn.functional.logsigmoid(0.3 * (margins[3] - margins[2]))
        )
        / 2
    )
    if with_tokens:
        expected = expected - (coefficients * logprobs).sum()
    expected.backward()

    value, slopes = outputs(
        Preference(beta=0.3), sequences(sums(hidden)[0].tolist(), reference.tolist(), groups, rewards)
    )
    terms = (Term(loss=NegativeLogLikelihood()),) if with_tokens else ()
    cuts = [slice(0, ends[1]), slice(ends[1], None)]  # the update in two micro-batches
    gradient, linear = torch.zeros_like(hidden), 0.0
    per_token = torch.from_numpy(np.repeat(slopes, lengths))
    for cut in cuts:
        states = hidden[cut].clone().requires_grad_()
        inputs = LossInputs(
            sampled_ids=ids[cut], sequence_slopes=per_token[cut], token_coefficients=coefficients[cut]
        )
        found = chunked_head(
            states,
            head,
            build_loss(terms, has_sequence_loss=True),
            inputs,
            torch.ones(len(states), dtype=torch.float64),
            chunk_size=2,
        )
        found.loss.backward()
        assert states.grad is not None
        gradient[cut], linear = states.grad, linear + float(found.loss.detach())
    assert whole.grad is not None
    torch.testing.assert_close(gradient, whole.grad, rtol=1e-9, atol=1e-12)
    own = value + linear - float((slopes * sums(hidden)[0].numpy()).sum())
    assert own == pytest.approx(float(expected), rel=1e-9)
