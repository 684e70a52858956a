"""What two models say of each token of a response, and its summary over responses: entropies, forward KL, mass of the top k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.uncertainty.bootstrap import LEVEL, percentile_interval, resampled

__all__ = ["Bins", "TokenScores", "pair_scores", "ratio", "summarise"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """One rollout of a student, by token: entropies of teacher and student (nats, full softmax at temperature 1), the forward KL
    KL(teacher || student), and the teacher's probability of its k most probable tokens, the values of k one after another.
    `reason`: why there is no rollout (`text_too_long`, `control_token`, `prompt_too_long`)."""

    problem_id: str
    number: int
    reason: str | None
    teacher_entropy: tuple[float, ...]
    student_entropy: tuple[float, ...]
    forward_kl: tuple[float, ...]
    mass: tuple[float, ...]


def pair_scores(
    teacher: tuple[Any, Any], student: tuple[Any, Any], top_ks: Sequence[int], chunk: int = 256
) -> dict[str, Floats]:
    """Return `teacher_entropy`, `student_entropy` and `forward_kl` [T] and `mass` [T, len(top_ks)], given hidden states [T, H]
    and head weights [V, H] of each model, which share their V ids."""
    import torch

    parts: list[tuple[Any, ...]] = []
    with torch.inference_mode():
        for start in range(0, len(teacher[0]), chunk):
            span = slice(start, start + chunk)
            first, second = (
                (hidden[span] @ head.T).float().log_softmax(-1) for hidden, head in (teacher, student)
            )
            probs = first.exp()
            sums = probs.topk(max(top_ks), dim=-1).values.cumsum(-1)
            parts.append(
                (
                    -(probs * first).sum(-1), -(second.exp() * second).sum(-1), (probs * (first - second)).sum(-1),
                    sums[:, [k - 1 for k in top_ks]],
                )
            )  # fmt: skip
    names = ("teacher_entropy", "student_entropy", "forward_kl", "mass")
    return {
        name: torch.cat(values).double().cpu().numpy()
        for name, values in zip(names, zip(*parts, strict=True), strict=True)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Bins:
    """Bins of an entropy: [0, width), [width, 2 width), ..., and the last one from `largest` on."""

    width: float
    largest: float

    @property
    def edges(self) -> list[float]:
        """The lower edges."""
        return [float(one) for one in np.arange(round(self.largest / self.width) + 1) * self.width]

    def of(self, values: Floats) -> NDArray[np.intp]:
        """Return the bin of each value."""
        return np.clip((values / self.width + 1e-9).astype(np.intp), 0, len(self.edges) - 1)


def summarise(
    rows: Sequence[TokenScores],
    *,
    top_ks: Sequence[int],
    bins: Bins,
    high: float,
    threshold: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Return the numbers of one student. Means are over all tokens; intervals are the bootstrap over problems, whose rollouts
    stay together."""
    teacher, student, divergence = (
        np.array([value for row in rows for value in getattr(row, name)], dtype=np.float64)
        for name in ("teacher_entropy", "student_entropy", "forward_kl")
    )
    mass = np.array([value for row in rows for value in row.mass], dtype=np.float64).reshape(-1, len(top_ks))
    owner = np.unique([row.problem_id for row in rows for _ in row.teacher_entropy], return_inverse=True)[1]

    def over(values: Floats, chosen: NDArray[np.bool_] | None = None) -> dict[str, float] | None:
        weights = np.ones(len(values)) if chosen is None else chosen.astype(np.float64)
        return ratio(values * weights, weights, owner, resamples=resamples, seed=seed)

    uncertain, places = teacher >= threshold, bins.of(teacher)
    counts = np.bincount(places, minlength=len(bins.edges))
    return {
        "rollouts": sum(row.reason is None for row in rows), "tokens": len(teacher),
        "teacher_entropy": over(teacher), "policy_entropy": over(student),
        "teacher_high": over((teacher >= high).astype(np.float64)),
        "student_high": over((student >= high).astype(np.float64)),
        "uncertain": over(uncertain.astype(np.float64)),
        "forward_kl": over(divergence), "forward_kl_uncertain": over(divergence, uncertain),
        "forward_kl_certain": over(divergence, ~uncertain),
        "histograms": {
            "teacher": counts.tolist(), "student": np.bincount(bins.of(student), minlength=len(bins.edges)).tolist(),
        },
        "mass": {str(k): _by_bin(mass[:, place], places, counts) for place, k in enumerate(top_ks)},
    }  # fmt: skip


def _by_bin(values: Floats, places: NDArray[np.intp], counts: NDArray[np.intp]) -> list[float | None]:
    """Return the mean value in each bin; None for an empty one."""
    sums = np.bincount(places, weights=values, minlength=len(counts))
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]


def ratio(
    values: Floats, weights: Floats, owner: NDArray[np.intp], *, resamples: int, seed: int
) -> dict[str, float] | None:
    """Return the sum of values over that of weights, with its bootstrap interval over owners; None without weight."""
    if not weights.sum() > 0:
        return None
    above, below = (np.bincount(owner, weights=one) for one in (values, weights))

    def of(indices: NDArray[np.int64]) -> Floats:
        total = below[indices].sum(axis=1)
        return np.divide(above[indices].sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)

    drawn = resampled(of, len(above), resamples=resamples, seed=seed)
    low, high = percentile_interval(drawn, LEVEL)
    return {"value": float(above.sum() / below.sum()), "low": low, "high": high}
