"""All scores of one benchmark under one protocol, from the grades of its samples. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metrics import mean_estimate
from training.evaluation.statistics import (
    Values,
    average_values,
    majority_values,
    mean_stable_values,
    pass_values,
    spread,
    stable_values,
    wilson,
)

TAUS = (0.25, 0.5, 0.75, 1.0)
Array = NDArray[Any]


def scores(correct: Array, labels: Array) -> dict[str, Any]:
    """Return the scores of `correct` [problems, seeds, samples] (bool) with clusters `labels` (-1: no answer), by name.

    pass@k and G-Pass@k use the samples of all seeds, maj@N those of each seed. Intervals are Wilson's for a single sample per
    problem, else percentile bootstrap over problems. With several seeds, `seeds` has mean and sample standard deviation.
    """
    problems, _, samples = correct.shape
    flat = correct.reshape(problems, -1)
    found: dict[str, Any] = {main_name(samples): main_score(flat)}
    if samples > 1:
        found |= {f"pass@{k}": estimate(pass_values(flat, k)) for k in powers(samples)}
        found |= {f"g-pass@{samples}_{tau:g}": estimate(stable_values(flat, samples, tau)) for tau in TAUS}
        found[f"mg-pass@{samples}"] = estimate(mean_stable_values(flat, samples))
        found[f"maj@{samples}"] = estimate(
            np.mean(
                [majority_values(labels[:, seed], correct[:, seed]) for seed in range(correct.shape[1])],
                axis=0,
            )
        )
    return found | ({"seeds": seed_scores(correct, labels)} if correct.shape[1] > 1 else {})


def main_name(samples: int) -> str:
    """Return the name of the main score: pass@1 for one sample per problem and seed, else avg@N."""
    return "pass@1" if samples == 1 else f"avg@{samples}"


def main_score(correct: Array) -> dict[str, Any]:
    """Return the main score of `correct` [problems, samples], with its interval."""
    return estimate(average_values(correct), correct.shape[1])


def seed_scores(correct: Array, labels: Array) -> dict[str, Any]:
    """Return the scores of each evaluation seed, with mean and sample standard deviation."""
    samples, seeds = correct.shape[2], range(correct.shape[1])
    each = {main_name(samples): [float(correct[:, seed].mean()) for seed in seeds]}
    if samples > 1:
        each[f"pass@{samples}"] = [float(correct[:, seed].any(axis=1).mean()) for seed in seeds]
        each[f"maj@{samples}"] = [
            float(majority_values(labels[:, seed], correct[:, seed]).mean()) for seed in seeds
        ]
    return {name: spread(values)._asdict() for name, values in each.items()}


def estimate(values: Values, samples: int = 0) -> dict[str, Any]:
    """Return the mean of one value per problem with its interval: Wilson's if they are of one sample each, else bootstrap."""
    if samples == 1:
        return {**wilson(round(float(values.sum())), len(values))._asdict(), "interval": "wilson"}
    return {**mean_estimate(values.tolist())._asdict(), "interval": "bootstrap"}


def powers(samples: int) -> list[int]:
    """Return the powers of two up to the number of samples, and that number."""
    return sorted({1 << place for place in range(samples.bit_length())} | {samples})


def lengths(tokens: Sequence[int]) -> dict[str, Any]:
    """Return mean and quantiles of the numbers of tokens of responses; None for none."""
    if not tokens:
        return {"responses": 0, "total": 0, "mean": None, "median": None, "p95": None, "max": None}
    median, high = (float(value) for value in np.quantile(tokens, [0.5, 0.95]))
    return {
        "responses": len(tokens), "total": int(sum(tokens)), "mean": float(np.mean(tokens)), "median": median,
        "p95": high, "max": max(tokens),
    }  # fmt: skip
