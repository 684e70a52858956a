"""Token weights: pure functions of the rollouts to a factor of every response token's coefficient. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

import numpy as np

from tasks.errors import UserError
from training.algorithms.advantages import of_tokens
from training.algorithms.base import Columns, Floats

ImportanceKind = Literal["none", "token", "sequence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionWeight:
    """w = w_min + (1 - w_min) sigmoid((r - tau) / s) at the relative position r = (t - 1/2) / L of token t = 1 .. L of a response
    (PW-OPSD). It rises from `w_min` to 1: the later part of a response counts in full. `tau`: where it is half-way; `s`: the
    width of the rise, both as shares of the response."""

    w_min: float
    tau: float
    s: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.w_min <= 1.0:
            raise UserError(f"the position weight's w_min is {self.w_min}: give a number from 0 to 1")
        if not isfinite(self.tau):
            raise UserError(f"the position weight's tau is {self.tau}: give a finite number")
        if not isfinite(self.s) or self.s <= 0.0:
            raise UserError(f"the position weight's s is {self.s}: give a finite number above 0")

    def __call__(self, columns: Columns) -> Floats:
        starts = np.cumsum(columns.lengths) - columns.lengths
        places = np.arange(columns.lengths.sum()) - np.repeat(starts, columns.lengths)
        relative = (places + 0.5) / np.repeat(columns.lengths, columns.lengths)
        rise = 0.5 * (1.0 + np.tanh(0.5 * (relative - self.tau) / self.s))  # sigmoid without overflow
        return self.w_min + (1.0 - self.w_min) * rise


SCHEDULES = {
    "mild": PositionWeight(w_min=0.50, tau=0.20, s=0.20),
    "moderate": PositionWeight(w_min=0.25, tau=0.30, s=0.10),
    "sharp": PositionWeight(w_min=0.10, tau=0.40, s=0.05),
    "aggressive": PositionWeight(w_min=0.05, tau=0.50, s=0.05),
}
"""The schedules of PW-OPSD; the paper's default is `moderate`."""


def truncated_importance(columns: Columns, kind: ImportanceKind, cap: float) -> Floats:
    """Return min(p_student / p_engine, cap) of each sampled token, which corrects for rollouts that an engine sampled with other
    probabilities than the trainer's (truncated importance sampling; as `vllm_importance_sampling_correction` in TRL).

    p_student is from `old_logprobs`, p_engine from `rollout_logprobs`. `token`: the ratio of the token itself. `sequence`: the
    product of the ratios of its response, for all tokens of the response. `none`: 1. Raises `UserError` for a cap that is not
    above 0, `ValueError` if log-probabilities are missing.
    """
    if kind == "none":
        return np.ones(columns.lengths.sum())
    if not cap > 0.0:
        raise UserError(f"the cap of the importance ratio is {cap}: give a number above 0")
    old, engine = of_tokens(columns, "old_logprobs"), of_tokens(columns, "rollout_logprobs")
    differences = np.subtract(old, engine, out=np.zeros_like(old), where=old != engine)  # -inf - -inf is 0
    if kind == "sequence":
        numbers = np.repeat(np.arange(len(columns.lengths)), columns.lengths)
        differences = np.bincount(numbers, weights=differences, minlength=len(columns.lengths))[numbers]
    return np.exp(np.minimum(differences, np.log(cap)))
