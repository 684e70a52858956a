"""Prompt weights: pure functions of the dataset's columns, without torch.

Only prompts that are `kept` are drawn, so that no rollouts are spent on the others. A kept prompt with weight 0 is drawn, counts
in every denominator and has a gradient of exactly zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptColumns:
    """Columns of P prompts in the same order; None if the dataset does not have the column.

    `entropy`: semantic entropy H in nats. `weight`: 1 - H / log N, in [0, 1]. `pass_rate`: share of correct responses.
    """

    ids: Sequence[str]
    entropy: Sequence[float] | Floats | None = None
    weight: Sequence[float] | Floats | None = None
    pass_rate: Sequence[float] | Floats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptWeights:
    """`kept` bool [P] and `weight` float64 [P] of P prompts; the weight is 0 if a prompt is not kept."""

    kept: NDArray[np.bool_]
    weight: Floats


class PromptWeight(Protocol):
    """Columns of P prompts -> their weights. Raises `UserError`, naming the row, if a required column is missing or invalid."""

    def __call__(self, prompts: PromptColumns, /) -> PromptWeights: ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """Weight 1 for every prompt; requires no column."""

    def __call__(self, prompts: PromptColumns) -> PromptWeights:
        return _all_kept(np.ones(len(prompts.ids)))


@dataclass(frozen=True, slots=True)
class Soft:
    """The column `weight` unchanged: w = 1 - H / log N (UOPD)."""

    def __call__(self, prompts: PromptColumns) -> PromptWeights:
        return _all_kept(_weights(prompts))


@dataclass(frozen=True, slots=True)
class Binary:
    """Weight 1 for prompts with entropy of at most `tau`; the others are removed before sampling.

    `raw` compares H in nats (the paper discards H > tau), `normalised` compares H / log N = 1 - weight.
    """

    tau: float
    scale: Literal["raw", "normalised"] = "raw"

    def __post_init__(self) -> None:
        if not isfinite(self.tau) or self.tau < 0:
            raise UserError(
                f"the binary prompt weight has tau {self.tau}: give a finite number of at least 0"
            )

    def __call__(self, prompts: PromptColumns) -> PromptWeights:
        raw = self.scale == "raw"
        kept = _entropies(prompts) <= self.tau if raw else _weights(prompts) >= 1.0 - self.tau
        if not kept.any():
            raise UserError(
                f"the binary prompt weight ({self.scale}, tau {self.tau}) keeps none of {len(kept)} prompts: raise tau"
            )
        return PromptWeights(kept=kept, weight=kept.astype(np.float64))


@dataclass(frozen=True, slots=True)
class PassRate:
    """p (1 - p) with p the column `pass_rate`; largest, 0.25, for prompts that are solved half of the time."""

    def __call__(self, prompts: PromptColumns) -> PromptWeights:
        rate = _column(prompts, "pass_rate", prompts.pass_rate, 1.0)
        return _all_kept(rate * (1.0 - rate))


@dataclass(frozen=True, slots=True)
class Permuted:
    """Control: the soft weights randomly permuted among the prompts, which preserves only their distribution.

    Depends only on the ids and `seed`, not on the order of the rows.
    """

    seed: int = 0

    def __call__(self, prompts: PromptColumns) -> PromptWeights:
        weight = _weights(prompts)
        order = np.array(sorted(range(len(weight)), key=prompts.ids.__getitem__), dtype=np.intp)
        dealt = np.empty_like(weight)
        dealt[order] = np.random.default_rng(self.seed).permutation(weight[order])
        return _all_kept(dealt)


@dataclass(frozen=True, slots=True)
class Constant:
    """Control: the mean of the soft weights for every prompt, that is, uniform weights with a smaller step size."""

    def __call__(self, prompts: PromptColumns) -> PromptWeights:
        weight = _weights(prompts)
        return _all_kept(np.full_like(weight, weight.mean()))


def _all_kept(weight: Floats) -> PromptWeights:
    return PromptWeights(kept=np.ones(len(weight), dtype=np.bool_), weight=weight)


def _weights(prompts: PromptColumns) -> Floats:
    return _column(prompts, "weight", prompts.weight, 1.0)


def _entropies(prompts: PromptColumns) -> Floats:
    return _column(prompts, "semantic_entropy", prompts.entropy, inf)


def _column(
    prompts: PromptColumns, name: str, column: Sequence[float] | Floats | None, highest: float
) -> Floats:
    """Return the column as float64 [P], with every value checked to be between 0 and `highest`."""
    if column is None:
        raise UserError(
            f"the dataset has no column {name}, which this prompt weight requires: annotate the problems (make annotate FILE=...)"
            " and train on the dataset that it writes, or choose algorithm.prompt_weight uniform"
        )
    values = np.asarray(column, dtype=np.float64)
    if values.shape != (len(prompts.ids),) or not len(values):
        raise UserError(
            f"the column {name} has {values.size} values for {len(prompts.ids)} prompts: it must have one per prompt"
        )
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0.0) & (values <= highest)))
    if len(bad):
        bounds = "of at least 0" if highest == inf else f"from 0 to {highest:g}"
        raise UserError(
            f"prompt {prompts.ids[bad[0]]!r} has {name} {values[bad[0]]} instead of a finite number {bounds}: annotate it again"
        )
    return values
