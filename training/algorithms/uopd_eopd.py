"""EOPD with the prompt weights of UOPD. Not from a paper."""

from __future__ import annotations

from dataclasses import replace

from training.algorithms import eopd
from training.losses.prompt_weights import Soft

ALGORITHM = replace(
    eopd.ALGORITHM,
    summary="EOPD, each prompt weighted by the teacher's semantic certainty",
    formula="mean over tokens of w (max(-r_t A_t, -clip(r_t, 1 - eps, 1 + eps) A_t) + [H(p_t) > 0.8] sum_{j in top 16} p_j / m"
    " log(p_j / (m q_j))), w = 1 - H / log N",
    source="ours: EOPD with the prompt weight of UOPD",
    prompt_weight=Soft(),
)
