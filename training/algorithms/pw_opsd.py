"""PW-OPSD: OPSD whose token weights rise with the relative position in the response."""

from __future__ import annotations

from dataclasses import replace

from training.algorithms import opsd
from training.algorithms.token_weights import SCHEDULES
from training.losses.reductions import per_sequence_mean

ALGORITHM = replace(
    opsd.ALGORITHM,
    summary="OPSD, each token weighted by its relative position in the response",
    formula="mean over sequences of 1 / |y| sum_t w_t sum_v min(p_v log(p_v / q_v), 0.05),"
    " w_t = w0 + (1 - w0) sigmoid((r_t - tau) / s)",
    source="PW-OPSD",
    token_weight=SCHEDULES["moderate"],
    reduction=per_sequence_mean,
)
