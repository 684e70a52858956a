"""UOPD with the token weights of PW-OPSD. Not from a paper."""

from __future__ import annotations

from dataclasses import replace

from training.algorithms import uopd
from training.algorithms.token_weights import SCHEDULES

ALGORITHM = replace(
    uopd.ALGORITHM,
    summary="UOPD, each token also weighted by its relative position in the response",
    formula="mean over prompts and K rollouts of w / |y| sum_t w_t (-sum_{j in top k} p_j / m log q_j), w = 1 - H / log N,"
    " w_t = w0 + (1 - w0) sigmoid((r_t - tau) / s)",
    source="ours: the prompt weight of UOPD with the token weight of PW-OPSD",
    token_weight=SCHEDULES["moderate"],
)
