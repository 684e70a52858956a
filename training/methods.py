"""Build a run's objective from its settings: the preset and the parts that an ablation changes."""

from __future__ import annotations

from dataclasses import replace

from tasks.errors import UserError
from training.config import RunConfig
from training.data.rows import prompt_weight
from training.losses.token_losses import TopKCrossEntropy
from training.objectives.ablations import with_divergence, with_form, with_reference_kl, with_top_k
from training.objectives.base import Needs, Objective
from training.objectives.presets import load_preset

__all__ = ["compose"]


def compose(run: RunConfig) -> Objective:
    """Return the objective of a run. Raises `UserError` for an unknown preset, or one that the training loop cannot run."""
    settings = run.objective
    objective = load_preset(settings.preset)
    lacking = _not_provided(objective.needs)
    if lacking is not None:
        raise UserError(
            f"objective.preset {settings.preset!r} needs {lacking}, which the training loop does not support: choose another"
            " preset"
        )
    if isinstance(objective.token_loss, TopKCrossEntropy):
        objective = with_form(with_top_k(objective, settings.top_k), settings.top_k_form)
    if settings.divergence_beta is not None:
        objective = with_divergence(objective, settings.divergence_beta)
    chosen = prompt_weight(run)
    if chosen is not None:
        objective = replace(objective, prompt_weight=chosen)
    return with_reference_kl(objective, settings.reference_kl_coefficient)


def _not_provided(needs: Needs) -> str | None:
    """Return the first of these needs that `training.batch` does not support, or None."""
    if needs.rollouts != "student":
        return "the dataset's responses (rollouts 'dataset')"
    if needs.teacher == "none":
        return "a loop without a teacher (teacher 'none')"
    if needs.teacher == "sampled":
        return "teacher log-probabilities of the sampled tokens only (teacher 'sampled')"
    if needs.reward:
        return "verified answers (reward)"
    return "a teacher that sees the solution (privileged)" if needs.privileged else None
