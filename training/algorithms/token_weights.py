"""Token weights: pure functions of the rollouts to a factor of every response token's coefficient. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

import numpy as np

from tasks.errors import UserError
from training.algorithms.advantages import of_tokens, teacher_advantage
from training.algorithms.base import Columns, Floats, TokenWeight

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


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherUncertain:
    """1 where the entropy of the teacher's full distribution is above `threshold` nats, else 0 (EOPD)."""

    threshold: float = 0.8

    def __post_init__(self) -> None:
        if not isfinite(self.threshold):
            raise UserError(
                f"the threshold of the teacher's entropy is {self.threshold}: give a finite number"
            )

    def __call__(self, columns: Columns) -> Floats:
        return (of_tokens(columns, "teacher_entropy") > self.threshold).astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomTokens:
    """1 for each token with probability `share`, else 0. The draw depends on the rollout's seed and the place of the token in its
    response alone, not on the batch or the rank. Raises `ValueError` without seeds."""

    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise UserError(f"the share of random tokens is {self.share}: give a number above 0, up to 1")

    def __call__(self, columns: Columns) -> Floats:
        if columns.seeds is None:
            raise ValueError("random tokens need the rollouts' seeds")
        starts = np.cumsum(columns.lengths) - columns.lengths
        places = np.arange(columns.lengths.sum()) - np.repeat(starts, columns.lengths)
        seeds = np.repeat(columns.seeds.astype(np.uint64), columns.lengths)
        return (_uniform(seeds, places.astype(np.uint64)) < self.share).astype(np.float64)


def _uniform(seeds: np.ndarray, places: np.ndarray) -> Floats:
    """Return numbers in [0, 1): output `places` of the generator SplitMix64 that starts at a mixed `seeds`, both uint64."""
    with np.errstate(over="ignore"):
        state = _mixed(seeds) + (places + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        return (_mixed(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoPhases:
    """The tokens of REOPOLD: in the first `switch_step` rollout batches 1 where `teacher_advantage` is at least `floor`, else 0;
    later 1 for the share `share` of the tokens whose student entropy is highest, else 0. Tokens are compared with all of those
    that it is called with, which must be an update's; of equal entropies all are chosen."""

    floor: float
    switch_step: int
    share: float

    def __post_init__(self) -> None:
        if not isfinite(self.floor):
            raise UserError(f"the floor of the first phase is {self.floor}: give a finite number")
        if self.switch_step < 0:
            raise UserError(f"the step of the second phase is {self.switch_step}: give 0 or more")
        if not 0.0 < self.share <= 1.0:
            raise UserError(
                f"the share of tokens of the second phase is {self.share}: give a number above 0, up to 1"
            )

    def __call__(self, columns: Columns) -> Floats:
        if columns.step < self.switch_step:
            return (teacher_advantage(columns) >= self.floor).astype(np.float64)
        entropy = of_tokens(columns, "student_entropy")
        if not len(entropy):
            return entropy
        return (entropy >= np.quantile(entropy, 1.0 - self.share)).astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """The product of two token weights."""

    first: TokenWeight
    second: TokenWeight

    def __call__(self, columns: Columns) -> Floats:
        return self.first(columns) * self.second(columns)


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
