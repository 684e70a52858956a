"""OPD by the reverse KL of the sampled token: a clipped policy gradient whose advantage is the teacher's log-ratio."""

from __future__ import annotations

from dataclasses import dataclass

from training.algorithms.advantages import TeacherAdvantage
from training.algorithms.base import Algorithm, Scorer, Term
from training.algorithms.losses import PolicyGradient
from training.losses.reductions import token_mean


@dataclass(frozen=True, kw_only=True)
class Options:
    """`discount`: how much the advantages of later tokens count for a token, from 0 (not at all) to 1. `clip`: eps."""

    discount: float = 0.0
    clip: float = 0.2


def variant(options: Options) -> Algorithm:
    """Return the algorithm with these options."""
    return Algorithm(
        summary="On-policy distillation by the reverse KL of the sampled tokens, as a clipped policy gradient",
        formula=f"mean over tokens of {clipped(options.clip)}, {_advantage(options.discount)}",
        source="EOPD, its baseline OPD",
        scorers=(Scorer(role="teacher", outputs=("sampled",)),),
        advantages=TeacherAdvantage(discount=options.discount),
        loss=(Term(loss=PolicyGradient(clip_low=options.clip, clip_high=options.clip)),),
        reduction=token_mean,
        updates_per_batch=4,
        defaults={
            "rollouts": {"group_size": 1},
            "optimizer": {"learning_rate": 3e-6},
            "batches": {"size": 128, "unit": "prompts", "draw": "epochs", "epochs": 3, "total_prompts": None},
        },
        deviations=(
            "the paper gives no value for eps: 0.2 is that of PPO",
            "q_old is the rollout engine's, unless algorithm.importance_correction is set",
        ),
    )


def clipped(clip: float) -> str:
    """Return the clipped policy gradient of a token as a formula."""
    return f"max(-r_t A_t, -clip(r_t, 1 - {clip:g}, 1 + {clip:g}) A_t)"


def _advantage(discount: float) -> str:
    own = "log p(y_t) - log q_old(y_t)"
    if discount == 0.0:
        return f"A_t = {own}"
    return f"A_t = R_t + {discount:g} A_(t+1), R_t = {own}"


ALGORITHM = variant(Options())
