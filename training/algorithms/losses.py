"""The losses that algorithms choose from, by their settings: no torch until `build` is called.

Each settings class raises `UserError` for values outside its range, so that a run is refused before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Literal

from tasks.errors import UserError
from training.algorithms.base import Term

if TYPE_CHECKING:
    from training.losses.base import TokenLoss

TopKForm = Literal["teacher_renormalised", "tail_bucket", "unnormalised"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopKCrossEntropy:
    """Cross-entropy with the teacher's k most probable tokens, or with all (see `training.losses.token_losses`).

    `temperature` divides the logits of both sides; only the form `teacher_renormalised` has one. `as_kl`: the divergence, that
    is, the cross-entropy without the teacher's entropy.
    """

    form: TopKForm = "teacher_renormalised"
    temperature: float = 1.0
    as_kl: bool = False

    def __post_init__(self) -> None:
        _check_positive("the cross-entropy's temperature", self.temperature)
        if self.temperature != 1.0 and self.form != "teacher_renormalised":
            raise UserError(
                f"the cross-entropy has temperature {self.temperature} with form {self.form}: a temperature other than 1 needs"
                " form teacher_renormalised"
            )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"teacher_logprobs"})

    def build(self) -> TokenLoss:
        from training.losses import token_losses

        return token_losses.TopKCrossEntropy(form=self.form, temperature=self.temperature, as_kl=self.as_kl)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralisedJSD:
    """The generalised Jensen-Shannon divergence from the teacher's full distribution (see `training.losses.divergences`).

    `beta` 0: forward KL, 1: reverse KL. `temperature` divides the logits of both sides. `entry_clip`, in nats: the largest value
    that a vocabulary entry may add to a forward KL; None: no bound.
    """

    beta: float
    temperature: float = 1.0
    entry_clip: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.beta <= 1.0:
            raise UserError(
                f"the divergence's beta is {self.beta}: give a number from 0 (forward KL) to 1 (reverse KL)"
            )
        _check_positive("the divergence's temperature", self.temperature)
        if self.entry_clip is not None:
            _check_positive("the divergence's entry_clip", self.entry_clip)
            if self.beta != 0.0:
                raise UserError(
                    f"the divergence has an entry_clip with beta {self.beta}: only forward KL (beta 0) has one; remove it"
                )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"teacher_logprobs"})

    def build(self) -> TokenLoss:
        from training.losses import divergences

        return divergences.GeneralisedJSD(
            beta=self.beta, temperature=self.temperature, entry_clip=self.entry_clip
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NegativeLogLikelihood:
    """-log p of the token in the response (supervised fine-tuning)."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def build(self) -> TokenLoss:
        from training.losses import sampled_losses

        return sampled_losses.FromSampled(loss=sampled_losses.NegativeLogLikelihood())


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyGradient:
    """The clipped policy gradient of PPO (see `training.losses.sampled_losses`).

    The ratio of policies counts from 1 - `clip_low` to 1 + `clip_high`; None: no bound on that side. Its denominator is
    `old_logprobs` where the loop provides them, else `rollout_logprobs`. `shaping` c adds min(c H, |A| / 2) to the advantages,
    with H the student's entropy.
    """

    clip_low: float | None = 0.2
    clip_high: float | None = 0.2
    shaping: float | None = None

    def __post_init__(self) -> None:
        if self.shaping is not None:
            _check_positive("the policy gradient's shaping", self.shaping)
        if self.clip_low is not None and not 0.0 < self.clip_low <= 1.0:
            raise UserError(
                f"the policy gradient's clip_low is {self.clip_low}: give a number above 0, up to 1"
            )
        if self.clip_high is not None:
            _check_positive("the policy gradient's clip_high", self.clip_high)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"advantages", "rollout_logprobs"})

    def build(self) -> TokenLoss:
        from training.losses import sampled_losses

        return sampled_losses.FromSampled(
            loss=sampled_losses.PolicyGradient(
                clip_low=self.clip_low, clip_high=self.clip_high, shaping=self.shaping
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageLikelihood:
    """-A log p of the sampled token, with A its advantage: a policy gradient without ratio and clip."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"advantages"})

    def build(self) -> TokenLoss:
        from training.losses import sampled_losses

        return sampled_losses.FromSampled(loss=sampled_losses.AdvantageLikelihood())


@dataclass(frozen=True, slots=True, kw_only=True)
class NegativeEntropy:
    """The negative entropy of the student, whose coefficient, the weight of its term, is that of an entropy bonus."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def build(self) -> TokenLoss:
        from training.losses import entropy

        return entropy.NegativeEntropy()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceKL:
    """An estimate of the student's KL divergence from its initial weights; its coefficient is the weight of its term."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reference_logprobs"})

    def build(self) -> TokenLoss:
        from training.losses import sampled_losses

        return sampled_losses.FromSampled(loss=sampled_losses.ReferenceKL())


def build_loss(terms: Sequence[Term], *, has_sequence_loss: bool = False, mixed: bool = False) -> TokenLoss:
    """Return the weighted sum of the terms' losses; a single term of weight 1 is that loss itself. The n-th term that has token
    weights reads the n-th column of `LossInputs.term_weights`. `has_sequence_loss`: in the form that a sequence loss beside them
    needs, or without terms alone. `mixed`: against several teachers (`training.losses.mixture`).

    Raises `UserError` without any loss, and for a weight that is 0 or not finite.
    """
    if has_sequence_loss:
        from training.losses.combined import WithSequenceLoss

        return WithSequenceLoss(inner=build_loss(terms, mixed=mixed) if terms else None)
    if mixed:
        from training.losses.mixture import OfTeachers

        return OfTeachers(inner=build_loss(terms))
    if not terms:
        raise UserError("the algorithm has no loss: give at least one term, or a sequence loss")
    for term in terms:
        if not isfinite(term.weight) or term.weight == 0.0:
            raise UserError(
                f"the loss {term.loss} has weight {term.weight}: give a finite number other than 0, or remove the term"
            )
    built = _built(terms)
    if len(terms) == 1 and terms[0].weight == 1.0:
        return built[0]
    from training.losses.combined import Combined

    return Combined(terms=tuple((term.weight, loss) for term, loss in zip(terms, built, strict=True)))


def _built(terms: Sequence[Term]) -> list[TokenLoss]:
    """Return the torch code of every term, without its weight."""
    weighted = [term for term in terms if term.token_weight is not None]
    if not weighted:
        return [term.loss.build() for term in terms]
    from training.losses.combined import OnSomeTokens

    return [
        term.loss.build()
        if term.token_weight is None
        else OnSomeTokens(inner=term.loss.build(), column=weighted.index(term))
        for term in terms
    ]


def _check_positive(name: str, value: float) -> None:
    if not isfinite(value) or value <= 0.0:
        raise UserError(f"{name} is {value}: give a finite number above 0")
