"""KD: distillation on the teacher's responses, half cross-entropy with them, half KL to the teacher's top 16."""

from __future__ import annotations

from training.algorithms.base import Algorithm, Scorer, Term
from training.algorithms.losses import NegativeLogLikelihood, TopKCrossEntropy
from training.losses.reductions import token_mean

ALGORITHM = Algorithm(
    summary="Distillation on the teacher's responses: cross-entropy with their tokens and with the teacher's top k",
    formula="mean over tokens of 0.5 (-log q(y_t)) + 0.5 (-sum_{j in top k} p_j / m log q_j)",
    source="EOPD, the rows KD",
    rollouts="dataset",
    scorers=(Scorer(role="teacher", outputs=("top_k",), top_k=16),),
    loss=(
        Term(loss=NegativeLogLikelihood(), weight=0.5),
        Term(loss=TopKCrossEntropy(form="teacher_renormalised"), weight=0.5),
    ),
    reduction=token_mean,
    defaults={
        "rollouts": {"group_size": 1},
        "optimizer": {"learning_rate": 1e-5},
        "batches": {"size": 128, "unit": "prompts", "draw": "epochs", "epochs": 3, "total_prompts": None},
    },
    deviations=(
        "the KL to the top 16 is written as a cross-entropy: the entropy of the teacher has no gradient",
    ),
)
