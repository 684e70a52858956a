"""UOPD: on-policy distillation with prompts weighted by the teacher's semantic certainty, w = 1 - H / log N (Eq. 7 to 9)."""

from __future__ import annotations

from training.losses.prompt_weights import Soft
from training.losses.reductions import per_sequence_mean
from training.losses.token_losses import TopKCrossEntropy
from training.objectives.base import Needs, Objective

OBJECTIVE = Objective(
    needs=Needs(rollouts="student", teacher="topk", top_k=512),
    token_loss=TopKCrossEntropy(form="teacher_renormalised"),
    prompt_weight=Soft(),
    reduction=per_sequence_mean,
)
