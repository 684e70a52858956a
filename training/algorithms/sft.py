"""SFT: supervised fine-tuning on the dataset's responses."""

from __future__ import annotations

from training.algorithms.base import Algorithm, Term
from training.algorithms.losses import NegativeLogLikelihood
from training.losses.reductions import token_mean

ALGORITHM = Algorithm(
    summary="Supervised fine-tuning on the dataset's responses",
    formula="mean over tokens of -log q(y_t)",
    source="the standard baseline; settings of EOPD's KD rows",
    rollouts="dataset",
    loss=(Term(loss=NegativeLogLikelihood()),),
    reduction=token_mean,
    defaults={
        "rollouts": {"group_size": 1},
        "optimizer": {"learning_rate": 1e-5},
        "batches": {"size": 128, "unit": "prompts", "draw": "epochs", "epochs": 3, "total_prompts": None},
    },
)
