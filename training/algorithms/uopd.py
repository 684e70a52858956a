"""UOPD: on-policy distillation with prompts weighted by the teacher's semantic certainty, w = 1 - H / log N."""

from __future__ import annotations

from training.algorithms.base import Algorithm, Scorer, Term
from training.algorithms.losses import TopKCrossEntropy
from training.losses.prompt_weights import Soft

ALGORITHM = Algorithm(
    summary="On-policy distillation, each prompt weighted by the teacher's semantic certainty",
    formula="mean over prompts and K rollouts of w / |y| sum_t -sum_{j in top k} p_j / m log q_j, w = 1 - H / log N",
    source="UOPD (SURE-Math), Eq. 7 to 9",
    scorers=(Scorer(role="teacher", outputs=("top_k",), top_k=512),),
    loss=(Term(loss=TopKCrossEntropy(form="teacher_renormalised")),),
    prompt_weight=Soft(),
)
