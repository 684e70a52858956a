"""OPD: on-policy distillation from the teacher's top k with equal prompt weights, that is, UOPD with w = 1."""

from __future__ import annotations

from dataclasses import replace

from training.algorithms import uopd
from training.losses.prompt_weights import Uniform

ALGORITHM = replace(
    uopd.ALGORITHM,
    summary="On-policy distillation, all prompts with equal weight",
    formula="mean over prompts and K rollouts of 1 / |y| sum_t -sum_{j in top k} p_j / m log q_j",
    source="UOPD (SURE-Math) 4.2, with w = 1",
    prompt_weight=Uniform(),
)
