"""GRPO with the prompt weights of UOPD on its advantages. Not from a paper."""

from __future__ import annotations

from dataclasses import replace

from training.algorithms import grpo
from training.losses.prompt_weights import Soft

ALGORITHM = replace(
    grpo.ALGORITHM,
    summary="GRPO, the advantages of each prompt's rollouts weighted by the teacher's semantic certainty",
    formula="mean over rollouts of 1 / |y| sum_t -min(r_t w A, clip(r_t, 1 - eps, 1 + eps) w A), A = (R - mean) / std in the"
    " group, w = 1 - H / log N",
    source="ours: GRPO with the prompt weight of UOPD",
    prompt_weight=Soft(),
)
