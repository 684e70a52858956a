"""GRPO: policy gradients whose advantages compare the verified answers of a prompt's rollouts. No teacher."""

from __future__ import annotations

from training.algorithms.advantages import group_normalised
from training.algorithms.base import Algorithm, Term
from training.algorithms.losses import PolicyGradient

ALGORITHM = Algorithm(
    summary="Policy gradients, advantages by comparing the verified answers of a prompt's rollouts",
    formula="mean over rollouts of 1 / |y| sum_t -min(r_t A, clip(r_t, 1 - eps, 1 + eps) A), A = (R - mean) / std in the group",
    source="DeepSeekMath (arXiv:2402.03300), Eq. 3; settings of EOPD's GRPO rows",
    reward=True,
    advantages=group_normalised,
    loss=(Term(loss=PolicyGradient(clip_low=0.2, clip_high=0.2)),),
    updates_per_batch=4,
    defaults={
        "rollouts": {"group_size": 8},
        "batches": {"size": 128, "unit": "prompts", "draw": "epochs", "epochs": 3, "total_prompts": None},
    },
    deviations=(
        "no KL penalty unless algorithm.reference_kl_coefficient is set",
        "the ratio is taken to the probabilities of the rollout engine",
    ),
)
