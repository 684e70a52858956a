"""OPD: on-policy distillation from the teacher's top k with equal prompt weights, that is, UOPD with uniform weights."""

from __future__ import annotations

from dataclasses import replace

from training.losses.prompt_weights import Uniform
from training.objectives.presets import uopd

OBJECTIVE = replace(uopd.OBJECTIVE, prompt_weight=Uniform())
