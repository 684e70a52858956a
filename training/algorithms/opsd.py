"""OPSD: on-policy distillation of a model from itself, where the frozen start sees the reference solution."""

from __future__ import annotations

from training.algorithms.base import Algorithm, Scorer, Term
from training.algorithms.losses import GeneralisedJSD
from training.losses.reductions import token_mean

ALGORITHM = Algorithm(
    summary="On-policy distillation of a student from its frozen start, which sees a solution",
    formula="mean over tokens of sum_v min(p_v log(p_v / q_v), 0.05), p and q at temperature 1.1, p of the start given x and s*",
    source="OPSD, as the baseline of PW-OPSD",
    scorers=(Scorer(role="start", view="solution", outputs=("full",)),),
    loss=(Term(loss=GeneralisedJSD(beta=0.0, temperature=1.1, entry_clip=0.05)),),
    reduction=token_mean,
    defaults={
        "rollouts": {"group_size": 1, "temperature": 1.1, "top_p": 0.95, "top_k": 20},
        "lengths": {"max_response_tokens": 1024, "thinking": False},
        "optimizer": {"learning_rate": 5e-6, "max_gradient_norm": 0.1},
        "batches": {"size": 32, "unit": "prompts", "total_prompts": 3200, "draw": "epochs"},
        "trainer": {"lora": {"rank": 64, "alpha": 128.0, "dropout": 0.05}},
        "seed": 42,
    },
    deviations=(
        "an end token that is also the padding token is not masked",
        "the prompt of the privileged view is ours",
    ),
)
