"""From a run's settings to its objective: the preset, with the parts that an ablation changes."""

from __future__ import annotations

from dataclasses import replace

from training.config import RunConfig
from training.data import prompt_weight
from training.objectives.ablations import with_form, with_top_k
from training.objectives.base import Objective
from training.objectives.presets import load_preset
from training.objectives.token_losses import TopKCrossEntropy

__all__ = ["compose"]


def compose(run: RunConfig) -> Objective:
    """The objective of a run. `UserError` for an unknown preset."""
    objective = load_preset(run.objective.preset)
    if isinstance(objective.token_loss, TopKCrossEntropy):
        objective = with_form(with_top_k(objective, run.objective.top_k), run.objective.top_k_form)
    chosen = prompt_weight(run)
    return objective if chosen is None else replace(objective, prompt_weight=chosen)
