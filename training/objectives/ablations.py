"""The parts of an objective that an ablation changes, one function each; a new prompt weight is `dataclasses.replace`."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from tasks.core.errors import UserError
from training.objectives.base import AnalyticTokenLoss, Objective
from training.objectives.divergences import GeneralisedJSD
from training.objectives.token_losses import AnalyticReferenceKL, ReferenceKL, TopKCrossEntropy, TopKForm


def with_top_k(objective: Objective, top_k: int | Literal["full"]) -> Objective:
    """The objective with another k, or with the teacher's full distribution; `UserError` if it has no top-k loss."""
    _check_top_k(objective, "top_k")
    if top_k == "full":
        return replace(objective, needs=replace(objective.needs, teacher="full", top_k=None))
    return replace(objective, needs=replace(objective.needs, teacher="topk", top_k=top_k))


def with_form(objective: Objective, form: TopKForm) -> Objective:
    """The objective with another form of its top-k cross-entropy; `UserError` if it has none."""
    loss = _check_top_k(objective, "the top-k form")
    return replace(objective, token_loss=replace(loss, form=form))


def with_divergence(objective: Objective, beta: float) -> Objective:
    """The objective with the generalised Jensen-Shannon divergence in place of its top-k cross-entropy, and with the teacher's
    full distribution, which that needs; `UserError` if it has no top-k loss, and for a beta outside of 0 to 1."""
    _check_top_k(objective, "divergence_beta")
    full = replace(objective.needs, teacher="full", top_k=None)
    return replace(objective, token_loss=GeneralisedJSD(beta=beta), needs=full)


def with_reference_kl(objective: Objective, coefficient: float) -> Objective:
    """The objective with a penalty of that weight on the student's distance from its start; at 0 the objective as it is."""
    if not coefficient:
        return objective
    inner = objective.token_loss
    if isinstance(inner, AnalyticTokenLoss):
        penalised = AnalyticReferenceKL(inner=inner, coefficient=coefficient)
    else:
        penalised = ReferenceKL(inner=inner, coefficient=coefficient)
    return replace(objective, token_loss=penalised, needs=replace(objective.needs, reference_model=True))


def _check_top_k(objective: Objective, part: str) -> TopKCrossEntropy:
    if not isinstance(objective.token_loss, TopKCrossEntropy):
        raise UserError(f"{part} is set for an objective without a top-k cross-entropy: leave it out")
    return objective.token_loss
