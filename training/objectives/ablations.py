"""Ablations of an objective, one function per changed part. To change the prompt weight, use `dataclasses.replace`."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from tasks.errors import UserError
from training.algorithms import losses
from training.losses.combined import Combined
from training.losses.sampled_losses import FromSampled, ReferenceKL
from training.losses.token_losses import TopKCrossEntropy, TopKForm
from training.objectives.base import Objective


def with_top_k(objective: Objective, top_k: int | Literal["full"]) -> Objective:
    """Return the objective with another k, or the teacher's full distribution. Raises `UserError` if it has no top-k loss."""
    _check_top_k(objective, "top_k")
    if top_k == "full":
        return replace(objective, needs=replace(objective.needs, teacher="full", top_k=None))
    return replace(objective, needs=replace(objective.needs, teacher="topk", top_k=top_k))


def with_form(objective: Objective, form: TopKForm) -> Objective:
    """Return the objective with another form of its top-k cross-entropy. Raises `UserError` if it has no top-k loss."""
    loss = _check_top_k(objective, "the top-k form")
    return replace(objective, token_loss=replace(loss, form=form))


def with_divergence(objective: Objective, beta: float) -> Objective:
    """Return the objective with its top-k cross-entropy replaced by the generalised Jensen-Shannon divergence, which needs the
    teacher's full distribution. Raises `UserError` if it has no top-k loss, or for a beta outside [0, 1]."""
    _check_top_k(objective, "divergence_beta")
    full = replace(objective.needs, teacher="full", top_k=None)
    divergence = losses.GeneralisedJSD(beta=beta).build()
    return replace(objective, token_loss=divergence, needs=full)


def with_reference_kl(objective: Objective, coefficient: float) -> Objective:
    """Return the objective with a KL penalty towards the student's initial weights; unchanged if `coefficient` is 0."""
    if not coefficient:
        return objective
    penalty = FromSampled(loss=ReferenceKL())
    penalised = Combined(terms=((1.0, objective.token_loss), (coefficient, penalty)))
    return replace(objective, token_loss=penalised, needs=replace(objective.needs, reference_model=True))


def _check_top_k(objective: Objective, part: str) -> TopKCrossEntropy:
    if not isinstance(objective.token_loss, TopKCrossEntropy):
        raise UserError(f"{part} is set for an objective without a top-k cross-entropy: remove it")
    return objective.token_loss
