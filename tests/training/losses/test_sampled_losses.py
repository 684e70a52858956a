"""Losses of the sampled token: hand-computed values, the papers' formulas in float64, and the losses of TRL's GRPO and SFT."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.losses.evaluating import ByGraph, through_the_head, with_gradient
from tests.training.losses.naive import relative_error
from training.losses.base import LossInputs, TokenLoss
from training.losses.combined import Combined
from training.losses.reductions import Totals, expand, per_sequence_mean, token_mean
from training.losses.sampled_losses import (
    AdvantageLikelihood,
    FromSampled,
    NegativeLogLikelihood,
    PolicyGradient,
    ReferenceKL,
)

T, V = 40, 50
LN2, INF = math.log(2), math.inf
NLL, PG, KL = NegativeLogLikelihood(), PolicyGradient(clip_low=0.2, clip_high=0.3), ReferenceKL()
AL, SHAPED = AdvantageLikelihood(), PolicyGradient(clip_low=0.2, clip_high=0.3, shaping=0.4)
LOSSES = [
    NLL,
    AL,
    PG,
    SHAPED,
    PolicyGradient(clip_low=None, clip_high=None),
    PolicyGradient(clip_low=None),
    KL,
]
WRAPS: list[Callable[[TokenLoss], TokenLoss]] = [lambda loss: loss, ByGraph]
BOTH = pytest.mark.parametrize("wrap", WRAPS)


def drawn(dtype: torch.dtype = torch.float64, *, distance: float = 0.5) -> tuple[Tensor, LossInputs]:
    """Logits, and inputs whose old and reference log-probabilities are those of logits at that distance."""
    draw = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(T, V, generator=draw, dtype=torch.float64)
    sampled = torch.randint(V, (T,), generator=draw)
    noise = distance * torch.randn(2, T, V, generator=draw, dtype=torch.float64)
    old, reference = ((logits + one).log_softmax(-1)[torch.arange(T), sampled] for one in noise)
    advantages = torch.randn(T, generator=draw, dtype=torch.float64)
    inputs = LossInputs(
        sampled_ids=sampled, old_logprobs=old, reference_logprobs=reference, advantages=advantages
    )
    return logits.to(dtype), inputs


def naive(loss: Any, logits: Tensor, inputs: LossInputs) -> Tensor:
    """The papers' formulas [T] on full float64 logits, position by position."""
    rows = []
    for t, row in enumerate(logits.double()):
        logp = row[inputs.sampled_ids[t]] - torch.log(torch.exp(row).sum())
        if isinstance(loss, NegativeLogLikelihood):
            rows.append(-logp)
        elif isinstance(loss, ReferenceKL):
            assert inputs.reference_logprobs is not None
            ratio = torch.exp(inputs.reference_logprobs[t].double() - logp)
            rows.append(ratio - torch.log(ratio) - 1)
        elif isinstance(loss, AdvantageLikelihood):
            assert inputs.advantages is not None
            rows.append(-inputs.advantages[t].double() * logp)
        else:
            assert inputs.old_logprobs is not None and inputs.advantages is not None
            ratio, gain = torch.exp(logp - inputs.old_logprobs[t].double()), inputs.advantages[t].double()
            if loss.shaping is not None:
                probs = row.detach().softmax(-1)
                gain = gain + min(-loss.shaping * torch.xlogy(probs, probs).sum(), gain.abs() / 2)
            bounds = (
                -INF if loss.clip_low is None else 1 - loss.clip_low,
                INF if loss.clip_high is None else 1 + loss.clip_high,
            )
            low, high = torch.tensor(bounds, dtype=torch.float64)
            bounded = min(max(ratio, low), high)
            rows.append(-min(ratio * gain, bounded * gain))
    return torch.stack(rows)


# --- by hand -----------------------------------------------------------------------------------------------------

# The student gives (1/2, 1/4, 1/8, 1/8) and token 1 was sampled: log q = -2 log 2, d log q / d logits = e_1 - q.
HAND = [
    # -log(1/4); slope -1
    (NLL, {}, 2 * LN2, -1.0),
    # reference 1/2: d = log 2, exp(d) - d - 1 = 1 - log 2; slope 1 - exp(d) = -1
    (KL, {"reference_logprobs": 1 / 2}, 1 - LN2, -1.0),
    # reference 1/8: d = -log 2, 1/2 + log 2 - 1; slope 1 - 1/2
    (KL, {"reference_logprobs": 1 / 8}, LN2 - 1 / 2, 1 / 2),
    # old 5/18: r = 0.9 is inside; -0.9 x 2
    (PG, {"old_logprobs": 5 / 18, "advantages": 2.0}, -1.8, -1.8),
    # old 1/8: r = 2 is above 1.3; A > 0: the clip is active, -1.3 x 2; A < 0: it is not, 2 x 3
    (PG, {"old_logprobs": 1 / 8, "advantages": 2.0}, -2.6, 0.0),
    (PG, {"old_logprobs": 1 / 8, "advantages": -3.0}, 6.0, 6.0),
    # old 1/2: r = 1/2 is below 0.8; A > 0: it is not active, -1/2 x 2; A < 0: it is, 0.8 x 3
    (PG, {"old_logprobs": 1 / 2, "advantages": 2.0}, -1.0, -1.0),
    (PG, {"old_logprobs": 1 / 2, "advantages": -3.0}, 2.4, 0.0),
    # no bound above: -2 x 2
    (PolicyGradient(clip_high=None), {"old_logprobs": 1 / 8, "advantages": 2.0}, -4.0, -4.0),
    # no bound below: 1/2 x 3
    (PolicyGradient(clip_low=None), {"old_logprobs": 1 / 2, "advantages": -3.0}, 1.5, 1.5),
    (PG, {"old_logprobs": 1 / 8, "advantages": 0.0}, 0.0, 0.0),
    # the entropy is 1.75 log 2, times 0.4: 0.4852; r = 1: -(2 + 0.4852); -(-3 + 0.4852); half of |0.5| is less: -(0.5 + 0.25)
    (SHAPED, {"old_logprobs": 1 / 4, "advantages": 2.0}, -2 - 0.7 * LN2, -2 - 0.7 * LN2),
    (SHAPED, {"old_logprobs": 1 / 4, "advantages": -3.0}, 3 - 0.7 * LN2, 3 - 0.7 * LN2),
    (SHAPED, {"old_logprobs": 1 / 4, "advantages": 0.5}, -0.75, -0.75),
    # -3 log(1/4)
    (AL, {"advantages": 3.0}, 6 * LN2, -3.0),
    (AL, {"advantages": -1.0}, -2 * LN2, 1.0),
]


@BOTH
@pytest.mark.parametrize(("loss", "given", "value", "slope"), HAND)
def test_one_token_by_hand(wrap, loss, given: dict[str, float], value: float, slope: float) -> None:
    q = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    numbers = {
        name: torch.tensor([number if name == "advantages" else math.log(number)], dtype=torch.float64)
        for name, number in given.items()
    }
    inputs = LossInputs(sampled_ids=torch.tensor([1]), **numbers)
    values, gradient = with_gradient(wrap(FromSampled(loss=loss)), (q.log() + 3.0)[None], inputs)
    assert values.losses.item() == pytest.approx(value, abs=1e-14)
    one_hot = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert gradient[0].tolist() == pytest.approx((slope * (one_hot - q)).tolist(), abs=1e-14)
    assert values.diagnostics["entropy"].item() == pytest.approx(1.75 * LN2)
    assert values.diagnostics["sampled_logprob"].item() == pytest.approx(-2 * LN2)
    assert not any(seen.requires_grad for seen in values.diagnostics.values())


def test_diagnostics_of_the_policy_gradient_by_hand() -> None:
    # r = 2, 2, 1/2, 1/2, 1 against the bounds 0.8 and 1.3
    inputs = LossInputs(
        sampled_ids=torch.zeros(5, dtype=torch.int64),
        old_logprobs=torch.tensor([1 / 4, 1 / 4, 1, 1, 1 / 2], dtype=torch.float64).log(),
        advantages=torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]),
    )
    seen = FromSampled(loss=PG)(torch.zeros(5, 2, dtype=torch.float64), inputs).diagnostics
    assert seen["ratio"].tolist() == pytest.approx([2, 2, 0.5, 0.5, 1])
    assert seen["clipped"].tolist() == [1, 0, 0, 1, 0]
    assert seen["ratio_outside"].tolist() == [1, 1, 1, 1, 0]


# --- against the formulas ----------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_loss_and_gradient_equal_the_formula(wrap, loss, dtype: torch.dtype, tolerance: float) -> None:
    logits, inputs = drawn(dtype)
    coefficients = torch.linspace(-1, 2, T, dtype=dtype)
    leaf = logits.double().requires_grad_()
    exact = naive(loss, leaf, inputs)
    (expected,) = torch.autograd.grad((exact * coefficients.double()).sum(), leaf)
    values, gradient = with_gradient(wrap(FromSampled(loss=loss)), logits, inputs, coefficients)
    assert (values.losses.dtype, gradient.dtype) == (dtype, dtype)
    assert relative_error(values.losses, exact) < tolerance
    assert relative_error(gradient, expected) < tolerance


@BOTH
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-6), (torch.bfloat16, 3e-2)]
)
def test_the_chunked_head_gives_the_result_of_full_logits(wrap, loss, dtype, tolerance: float) -> None:
    draw = torch.Generator().manual_seed(2)
    hidden = torch.randn(T, 64, generator=draw).to(dtype)
    weight = (torch.randn(V, 64, generator=draw) / 9).to(dtype)
    own = (hidden.double() @ weight.double().T).log_softmax(-1)
    _, inputs = drawn()
    at = own[torch.arange(T), inputs.sampled_ids]
    behind = torch.tensor([-0.6, -0.1, 0.1, 0.6]).double().repeat(T // 4)  # no ratio is close to a bound
    inputs = replace(inputs, old_logprobs=at + behind, reference_logprobs=at - behind)
    coefficients = torch.linspace(0, 1, T) / T
    leaves = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    exact = naive(loss, leaves[0] @ leaves[1].T, inputs)
    total = (exact * coefficients.double()).sum()
    expected = torch.autograd.grad(total, leaves)
    result, *got = through_the_head(wrap(FromSampled(loss=loss)), hidden, weight, inputs, coefficients)
    assert relative_error(result.loss, total) < tolerance
    assert all(relative_error(one, other) < tolerance for one, other in zip(got, expected, strict=True))
    assert result.diagnostics["sampled_logprob"][0].isnan()  # coefficient 0: skipped
    assert relative_error(result.diagnostics["sampled_logprob"][1:], at[1:]) < tolerance


def test_on_policy_the_gradient_is_that_of_reinforce_and_the_clip_has_no_effect() -> None:
    logits, inputs = drawn(distance=0.0)
    assert inputs.advantages is not None
    _, gradient = with_gradient(FromSampled(loss=PG), logits, inputs)
    _, plain = with_gradient(FromSampled(loss=NLL), logits, inputs, inputs.advantages)
    assert relative_error(gradient, plain) < 1e-12


def test_the_rollouts_log_probabilities_are_the_denominators_without_others() -> None:
    logits, inputs = drawn()
    engine = replace(inputs, old_logprobs=None, rollout_logprobs=inputs.old_logprobs)
    other = replace(inputs, rollout_logprobs=torch.full((T,), -9.0))
    for one in (engine, other):
        assert torch.equal(
            FromSampled(loss=PG)(logits, one).losses, FromSampled(loss=PG)(logits, inputs).losses
        )


def test_over_the_students_own_samples_the_mean_of_the_reference_kl_is_the_divergence() -> None:
    """Every token once, weighted by the student's probability: the mean is KL(q || p), the mean gradient that of KL(p || q)."""
    draw = torch.Generator().manual_seed(3)
    logits, start = 2 * torch.randn(2, 12, generator=draw, dtype=torch.float64)
    q, p = logits.softmax(-1), start.softmax(-1)
    inputs = LossInputs(sampled_ids=torch.arange(12), reference_logprobs=p.log())
    values, gradient = with_gradient(FromSampled(loss=KL), logits.expand(12, 12), inputs, q)
    assert (q * values.losses).sum().item() == pytest.approx((q * (q / p).log()).sum().item(), rel=1e-12)
    assert torch.allclose(gradient.sum(0), q - p, rtol=0, atol=1e-14)


def test_the_initial_student_has_no_reference_kl() -> None:
    logits, inputs = drawn(distance=0.0)
    values, gradient = with_gradient(FromSampled(loss=KL), logits, inputs)
    assert values.losses.abs().max() < 1e-28  # quadratic in the rounding of d
    assert gradient.abs().max() < 1e-14


# --- limits ------------------------------------------------------------------------------------------------------


def with_padded_vocabulary() -> tuple[Tensor, LossInputs]:
    """Four positions with logits of -inf for the last five tokens, none of which is sampled."""
    logits, inputs = drawn()
    padded = logits[:4].clone()
    padded[:, V - 5 :] = -INF
    return padded, replace(inputs, sampled_ids=inputs.sampled_ids % (V - 5)).rows(slice(0, 4))


@BOTH
@pytest.mark.parametrize("loss", LOSSES)
def test_tokens_that_the_student_excludes_give_no_nan(wrap, loss) -> None:
    padded, narrow = with_padded_vocabulary()
    expected, grad = with_gradient(FromSampled(loss=loss), padded[:, : V - 5], narrow)
    values, gradient = with_gradient(wrap(FromSampled(loss=loss)), padded, narrow)
    assert torch.allclose(values.losses, expected.losses, rtol=1e-12)
    assert torch.allclose(gradient[:, : V - 5], grad, atol=1e-14) and (gradient[:, V - 5 :] == 0).all()
    assert all(seen.isfinite().all() for seen in values.diagnostics.values())


@BOTH
@pytest.mark.parametrize("loss", LOSSES[:-1])
def test_a_sampled_token_that_the_student_excludes_has_a_finite_gradient(wrap, loss) -> None:
    padded, narrow = with_padded_vocabulary()
    excluded = replace(narrow, sampled_ids=torch.tensor([0, 1, 2, V - 1]))
    values, gradient = with_gradient(wrap(FromSampled(loss=loss)), padded, excluded)
    assert values.losses[:3].isfinite().all() and not values.losses.isnan().any()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_no_positions_one_position_and_only_skipped_positions(loss) -> None:
    logits, inputs = drawn()
    token_loss = FromSampled(loss=loss)
    values, gradient = with_gradient(token_loss, logits[:0], inputs.rows(slice(0, 0)))
    assert len(values.losses) == 0 and gradient.shape == (0, V)
    whole, all_gradients = with_gradient(token_loss, logits, inputs)
    for place in (0, T - 1):
        part = slice(place, place + 1)
        values, gradient = with_gradient(token_loss, logits[part], inputs.rows(part))
        assert torch.allclose(values.losses, whole.losses[part], rtol=1e-14)
        assert torch.allclose(gradient, all_gradients[part], rtol=1e-12, atol=1e-15)
    hidden, weight = torch.randn(T, 6, dtype=torch.float64), torch.randn(V, 6, dtype=torch.float64)
    nan = torch.full((T,), math.nan)
    broken = replace(inputs, old_logprobs=nan, advantages=nan, reference_logprobs=nan)
    result, *gradients = through_the_head(token_loss, hidden, weight, broken, torch.zeros(T))
    assert result.loss == 0 and all((one == 0).all() for one in gradients)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", [per_sequence_mean, token_mean])
def test_cutting_the_batch_changes_neither_loss_nor_gradient(loss, reduction) -> None:
    lengths = np.array([7, 1, 20, 12])
    _, inputs = drawn()
    draw = torch.Generator().manual_seed(4)
    hidden = torch.randn(T, 6, generator=draw, dtype=torch.float64)
    weight = torch.randn(V, 6, generator=draw, dtype=torch.float64) / 2
    ends = [0, *np.cumsum(lengths).tolist()]

    def of(first: int, last: int) -> list[Tensor]:
        chosen, rows = slice(first, last), slice(ends[first], ends[last])
        weights = np.array([0.5, 1.0, 0.25, 1.0])[chosen]
        per_sequence = reduction(weights, lengths[chosen], Totals(sequences=4, tokens=T))
        coefficients = torch.from_numpy(expand(per_sequence, lengths[chosen]))
        result, _, gradient = through_the_head(
            FromSampled(loss=loss), hidden[rows], weight, inputs.rows(rows), coefficients
        )
        return [result.loss.detach(), gradient]

    whole = of(0, 4)
    for cuts in ([(0, 1), (1, 4)], [(0, 3), (3, 4)], [(n, n + 1) for n in range(4)]):
        parts = [of(*cut) for cut in cuts]
        for got, expected in zip(zip(*parts, strict=True), whole, strict=True):
            assert relative_error(torch.stack(got).sum(0), expected) < 1e-13


def test_positions_slice_and_check_the_new_fields() -> None:
    inputs = drawn()[1]
    part = inputs.rows(torch.tensor([3, 1])).to("cpu")
    assert part.advantages is not None and inputs.advantages is not None
    assert part.advantages.tolist() == inputs.advantages[[3, 1]].tolist()
    for name in (
        "old_logprobs",
        "advantages",
        "teacher_sampled_logprobs",
        "teacher_entropy",
        "reference_logprobs",
    ):
        with pytest.raises(ValueError, match=f"{name} has 3 rows for {T}"):
            replace(inputs, **{name: torch.zeros(3)})


@BOTH
@pytest.mark.parametrize(
    ("loss", "missing", "message"),
    [
        (PG, "advantages", "the policy gradient needs advantages and old_logprobs or rollout_logprobs"),
        (PG, "old_logprobs", "the policy gradient needs advantages and old_logprobs or rollout_logprobs"),
        (KL, "reference_logprobs", "the reference KL needs reference_logprobs"),
        (AL, "advantages", "the likelihood needs advantages: the positions have none"),
    ],
)
def test_positions_without_what_a_loss_needs_are_rejected(wrap, loss, missing: str, message: str) -> None:
    logits, inputs = drawn()
    with pytest.raises(ValueError, match=message):
        with_gradient(wrap(FromSampled(loss=loss)), logits, replace(inputs, **{missing: None}))


# --- TRL ---------------------------------------------------------------------------------------------------------


def trl_method(module: str, name: str, **names: Any) -> Callable[..., Any]:
    """Return a method of a trainer of TRL, compiled from its source on its own: importing its module loads vLLM."""
    folder = find_spec("trl")
    assert folder is not None and folder.origin is not None
    path = Path(folder.origin).parent / "trainer" / f"{module}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    method = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)
    found: dict[str, Any] = {"torch": torch, **names}
    exec(compile(ast.Module([method], []), str(path), "exec"), found)
    return found[name]


def trl_grpo_loss(**settings: Any) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    """Return TRL's GRPO loss as a function of a batch and log-probabilities [S, L].

    Its trainer is a stand-in that holds the settings and drops the metrics.
    """
    compute = trl_method("grpo_trainer", "_compute_loss", nanmin=MagicMock(), nanmax=MagicMock())
    trainer = MagicMock()
    for name, value in {
        "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "importance_sampling_level": "token",
        "use_vllm": False, "_entropy_bonus_enabled": False, "aux_loss_enabled": False,
        "current_gradient_accumulation_steps": 1, **settings,
    }.items():  # fmt: skip
        setattr(trainer, name, value)
    trainer.args.delta, trainer.args.use_bias_correction_kl, trainer.model.training = None, False, True

    def loss(batch: dict[str, Tensor], logprobs: Tensor) -> Tensor:
        trainer._get_per_token_logps_and_entropies.return_value = (
            logprobs,
            torch.zeros_like(logprobs),
            None,
        )
        return compute(trainer, None, batch)

    return loss


@pytest.mark.parametrize(("loss_type", "reduction"), [("grpo", per_sequence_mean), ("bnpo", token_mean)])
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_it_equals_the_loss_of_trls_grpo_trainer(loss_type: str, reduction, beta: float) -> None:
    lengths = torch.tensor([7, 1, 20, 12])
    logits, inputs = drawn()
    assert inputs.old_logprobs is not None and inputs.reference_logprobs is not None
    advantages = torch.tensor([0.7, -1.2, 0.0, 0.5], dtype=torch.float64).repeat_interleave(lengths)
    inputs = replace(inputs, advantages=advantages)
    mask = torch.arange(20) < lengths[:, None]

    def padded(values: Tensor) -> Tensor:
        return torch.zeros(4, 20, dtype=values.dtype).masked_scatter(mask, values)

    leaf = logits.clone().requires_grad_()
    sampled = leaf.log_softmax(-1)[torch.arange(T), inputs.sampled_ids]
    assert inputs.old_logprobs is not None and inputs.reference_logprobs is not None
    batch = {
        "prompt_ids": torch.zeros(4, 1), "prompt_mask": torch.ones(4, 1), "completion_ids": torch.zeros(4, 20),
        "completion_mask": mask, "advantages": advantages[lengths.cumsum(0) - 1],
        "old_per_token_logps": padded(inputs.old_logprobs), "ref_per_token_logps": padded(inputs.reference_logprobs),
    }  # fmt: skip
    theirs = trl_grpo_loss(loss_type=loss_type, beta=beta, epsilon_low=0.2, epsilon_high=0.3)(
        batch, padded(sampled)
    )
    (expected,) = torch.autograd.grad(theirs, leaf)
    per_sequence = reduction(np.ones(4), lengths.numpy(), Totals(sequences=4, tokens=T))
    coefficients = torch.from_numpy(expand(per_sequence, lengths.numpy()))
    terms = ((1.0, FromSampled(loss=PG)), *([(beta, FromSampled(loss=KL))] if beta else []))
    values, gradient = with_gradient(Combined(terms=terms), logits, inputs, coefficients)
    assert values.diagnostics["clipped"].sum() > 3
    assert (values.losses * coefficients).sum().item() == pytest.approx(theirs.item(), rel=1e-12)
    assert relative_error(gradient, expected) < 1e-12


@pytest.mark.parametrize("tokens", [None, T])
def test_it_equals_the_loss_of_trls_sft_trainer(tokens: int | None) -> None:
    """TRL divides the sum over the responses by the number of tokens, its own count or that of all micro-batches."""
    logits, inputs = drawn()
    leaf = logits.clone().requires_grad_()
    mask = torch.ones(T, dtype=torch.bool)
    log_probs = leaf.log_softmax(-1)[torch.arange(T), inputs.sampled_ids]
    outputs = SimpleNamespace(log_probs=log_probs, label_mask=mask, entropy=torch.zeros(T), is_top1=mask)
    trainer = MagicMock(
        aux_loss_enabled=False, compute_loss_func=None, label_smoother=None, _tp_size=1, _total_train_tokens=0
    )
    trainer.args.loss_type, trainer.args.average_tokens_across_devices = "nll", False
    trainer.accelerator.parallelism_config, trainer.accelerator.gather_for_metrics = None, lambda value: value
    package = SimpleNamespace(__version__="9")
    compute = trl_method("sft_trainer", "compute_loss", accelerate=package, transformers=package, Version=str)
    batch = {"attention_mask": mask[None], "labels": inputs.sampled_ids[None]}
    theirs = compute(trainer, lambda **_: outputs, batch, num_items_in_batch=tokens)
    (expected,) = torch.autograd.grad(theirs, leaf)
    lengths = np.array([7, 1, 20, 12])
    per_sequence = token_mean(np.ones(4), lengths, Totals(sequences=4, tokens=T))
    coefficients = torch.from_numpy(expand(per_sequence, lengths))
    values, gradient = with_gradient(FromSampled(loss=NegativeLogLikelihood()), logits, inputs, coefficients)
    assert (values.losses * coefficients).sum().item() == pytest.approx(theirs.item(), rel=1e-12)
    assert relative_error(gradient, expected) < 1e-12
