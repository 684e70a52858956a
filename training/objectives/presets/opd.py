"""OPD: on-policy distillation from the teacher's top k with equal prompt weights, that is, UOPD with uniform weights."""

from __future__ import annotations

from dataclasses import replace

from training.objectives.presets import uopd
from training.objectives.prompt_weights import Uniform

OBJECTIVE = replace(uopd.OBJECTIVE, prompt_weight=Uniform())
