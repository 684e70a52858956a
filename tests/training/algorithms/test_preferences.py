"""DPO between rollouts: by hand, and its two passes against autograd through the whole loss."""

from __future__ import annotations

import ast
import math
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from tasks.errors import UserError
from training.algorithms.base import Sequences, Source
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


# --- sources of the chosen response ------------------------------------------------------------------------------

# group 0: a wrong and a right rollout, and a solution; 1: wrong ones and a response of the teacher; 2: wrong ones alone
SOURCES: tuple[Source, ...] = ("rollout",) * 6 + ("solution", "teacher")
GROUPS, REWARDS = [0, 0, 1, 1, 2, 2, 0, 1], [0.0, 1, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("chosen", "pairs", "shares"),
    [
        (
            ("solution", "rollout", "teacher"),
            [(6, 0), (7, 2), (7, 3)],
            {"chosen_solution": 1 / 3, "chosen_teacher": 2 / 3},
        ),
        (
            ("rollout", "teacher"),
            [(1, 0), (7, 2), (7, 3)],
            {"chosen_rollout": 1 / 3, "chosen_teacher": 2 / 3},
        ),
        (("solution", "rollout"), [(6, 0)], {"chosen_solution": 1.0}),
        (("rollout",), [(1, 0)], {"chosen_rollout": 1.0}),
        (
            ("teacher", "rollout"),
            [(1, 0), (7, 2), (7, 3)],
            {"chosen_rollout": 1 / 3, "chosen_teacher": 2 / 3},
        ),
    ],
)
def test_the_first_source_that_a_prompt_has_is_chosen(
    chosen: tuple[Source, ...], pairs: list[tuple[int, int]], shares: dict[str, float]
) -> None:
    draw = np.random.default_rng(3)
    given = replace(
        sequences(list(draw.normal(size=8)), list(draw.normal(size=8)), GROUPS, REWARDS), sources=SOURCES
    )
    assert given.reference is not None
    margins = given.logprobs - given.reference
    losses = [math.log1p(math.exp(-0.1 * (margins[good] - margins[bad]))) for good, bad in pairs]
    found = Preference(chosen=chosen)(given)
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-12)
    preferred = np.mean([margins[good] > margins[bad] for good, bad in pairs])
    assert found.diagnostics == {"pairs": len(pairs), "preferred": pytest.approx(preferred), **shares}
    assert set(np.flatnonzero(found.slopes)) == {index for pair in pairs for index in pair}


def test_a_pair_counts_by_the_weight_of_its_prompt_and_weight_0_takes_no_part() -> None:
    given = sequences([0.0] * 4, [0.0] * 4, [0, 0, 1, 1], [1, 0, 1, 0])
    found = Preference(beta=0.4)(replace(given, weights=np.array([0.0, 0.0, 0.5, 0.5])))
    # two pairs; the second has half its loss log 2: 0.5 log 2 / 2, and slopes 0.5 x 0.4 x 1/2 / 2
    assert found.loss == pytest.approx(math.log(2) / 4)
    assert found.slopes == pytest.approx([0, 0, -0.05, 0.05])


def test_excluded_tokens_and_far_margins_stay_finite() -> None:
    inf = -math.inf
    for logprobs, reference in (
        ([inf, -1.0], [-1.0, -1.0]),
        ([inf, -1], [inf, -1]),
        ([-1, -1e5], [-1e5, -1]),
    ):
        found = Preference()(sequences(logprobs, reference, [0, 0], [1, 0]))
        assert math.isfinite(found.loss) and np.isfinite(found.slopes).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beta": 0.0}, "the preference's beta is 0.0: give a number above 0"),
        ({"chosen": ()}, "the preference chooses among nothing: give at least one source"),
        (
            {"chosen": ("rollout", "rollout")},
            "chooses among rollout, rollout: give at least one source, each once",
        ),
    ],
)
def test_invalid_preferences_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preference(**given)


# --- TRL ---------------------------------------------------------------------------------------------------------


def trl_dpo_loss(beta: float) -> Any:
    """Return TRL's DPO loss as a function of log-probabilities [2 S, L] of the student and the reference, chosen ones first.

    The method is compiled from TRL's source on its own, with a stand-in for its trainer, as in `test_sampled_losses`.
    """
    folder = find_spec("trl")
    assert folder is not None and folder.origin is not None
    path = Path(folder.origin).parent / "trainer" / "dpo_trainer.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    method = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "_compute_loss")
    names: dict[str, Any] = {
        "torch": torch, "F": torch.nn.functional, "math": math, "is_peft_model": lambda _: False,
        "disable_gradient_checkpointing": lambda *_: nullcontext(),
    }  # fmt: skip
    exec(compile(ast.Module([method], []), str(path), "exec"), names)
    trainer = MagicMock(
        aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=False, f_divergence_type="reverse_kl", beta=beta,
        loss_types=["sigmoid"], loss_weights=[1.0], use_weighting=False, label_smoothing=0.0, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    trainer.accelerator.gather_for_metrics = trainer.accelerator.gather = lambda value: value

    def loss(student: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        def model_of(values: torch.Tensor) -> Any:
            zeros = torch.zeros_like(values)
            outputs = MagicMock(log_probs=values, entropy=zeros, mean_logits=zeros, is_top1=zeros > 0)
            return MagicMock(return_value=outputs)

        trainer.ref_model = model_of(reference)
        mask = torch.ones(len(student), student.shape[1] + 1, dtype=torch.int64)
        inputs = {"input_ids": torch.zeros_like(mask), "attention_mask": mask, "completion_mask": mask}
        return names["_compute_loss"](trainer, model_of(student), inputs, False)

    return loss


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_it_equals_trls_dpo_loss_and_gradients(beta: float) -> None:
    """Five prompts with a right and a wrong rollout of seven tokens each."""
    draw = torch.Generator().manual_seed(0)
    student, reference = -2 * torch.rand(2, 10, 7, generator=draw, dtype=torch.float64)
    leaf = student.clone().requires_grad_()
    expected = trl_dpo_loss(beta)(leaf, reference)
    expected.backward()
    given = sequences(
        student.sum(1).tolist(), reference.sum(1).tolist(), [*range(5), *range(5)], [1.0] * 5 + [0.0] * 5
    )
    found = Preference(beta=beta)(given)
    assert found.loss == pytest.approx(float(expected.detach()), rel=1e-12)
    assert leaf.grad is not None
    assert np.repeat(found.slopes, 7) == pytest.approx(leaf.grad.flatten().numpy(), rel=1e-12)
