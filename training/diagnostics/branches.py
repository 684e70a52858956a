"""Branch viability, the pure part: entropies over valid tokens, candidate positions, measures of MC dropout, and labels.

Positions of a spine of L tokens count from 0. A candidate at position t branches before the token t: its children replace it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Branch", "Drop", "Label", "Limits", "Measures", "Position", "choose", "label_of", "measures", "positions_of", "relative",
    "usable_tokens",
]  # fmt: skip

Floats = NDArray[np.float64]
LEAST_PRECISION = 1e-6
_LEAST_VARIANCE = 1e-12  # of passes that do not differ, whose precision is infinite


# --- phases B and C ----------------------------------------------------------------------------------------------


def usable_tokens(tokenizer: Any, size: int) -> NDArray[np.bool_]:
    """Return which of the ids below `size` can be a branch: no special or added token, and no junk, which is a token without a
    visible character, or with a part of one or a control character."""
    added = frozenset(tokenizer.get_added_vocab().values()) | frozenset(tokenizer.all_special_ids)
    texts = tokenizer.batch_decode([[token] for token in range(size)], skip_special_tokens=False)
    return np.array([token not in added and _is_text(text) for token, text in enumerate(texts)])


def _is_text(text: str) -> bool:
    shown = text.strip()
    return bool(shown) and "\ufffd" not in shown and shown.isprintable()


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The teacher at one position: its valid tokens among the most probable ones, by descending probability (of the full
    softmax), and their truncated entropy, that of these probabilities renormalised (nats)."""

    ids: tuple[int, ...]
    probs: tuple[float, ...]
    entropy: float


def positions_of(
    logprobs: Floats, ids: NDArray[np.int32], usable: NDArray[np.bool_], min_second: float
) -> list[Position]:
    """Return the positions of a spine from the k most probable tokens [T, k]. Where the second valid token has less than
    `min_second`, so that the position is no candidate, only the first two are kept, which saves memory."""
    found = []
    for row, tokens in zip(np.exp(logprobs.astype(np.float64)), ids, strict=True):
        valid = usable[tokens]
        probs, chosen = row[valid], tokens[valid]
        kept = 2 if len(probs) < 2 or probs[1] < min_second else len(probs)
        found.append(
            Position(
                ids=tuple(chosen[:kept].tolist()),
                probs=tuple(probs[:kept].tolist()),
                entropy=_entropy(probs),
            )
        )
    return found


def _entropy(weights: Floats) -> float:
    total = weights.sum()
    if total <= 0:
        return 0.0
    probs = weights / total
    return float(-(probs[probs > 0] * np.log(probs[probs > 0])).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The filters of phase C; see `BranchSettings`."""

    min_second: float
    min_ratio: float
    spacing: int
    max_positions: int


class Drop(StrEnum):
    """Why a position is no candidate: the first reason that holds."""

    AFTER_BOX = "after_box"
    INVALID_TOKEN = "invalid_token"
    LOW_SECOND = "low_second"
    LOW_RATIO = "low_ratio"
    TOO_CLOSE = "too_close"
    BEYOND_MAXIMUM = "beyond_maximum"


def choose(
    positions: Sequence[Position], spine: Sequence[int], box: int, usable: NDArray[np.bool_], limits: Limits
) -> tuple[list[int], Counter[str]]:
    """Return the candidates of a spine in order, and the number of other positions by reason. The box begins at token `box`.

    Among the positions that pass the filters those of highest truncated entropy are taken first, each at least `spacing` tokens
    from those taken before; of equal entropies the earlier one.
    """
    dropped: Counter[str] = Counter()
    passing = []
    for place, one in enumerate(positions):
        reason = Drop.AFTER_BOX if place >= box else _reason(one, usable[spine[place]], limits)
        if reason is None:
            passing.append(place)
        else:
            dropped[reason.value] += 1
    chosen: list[int] = []
    for place in sorted(passing, key=lambda place: (-positions[place].entropy, place)):
        if len(chosen) >= limits.max_positions:
            dropped[Drop.BEYOND_MAXIMUM.value] += 1
        elif any(abs(place - other) < limits.spacing for other in chosen):
            dropped[Drop.TOO_CLOSE.value] += 1
        else:
            chosen.append(place)
    return sorted(chosen), dropped


def _reason(position: Position, usable: bool, limits: Limits) -> Drop | None:
    if not usable or len(position.probs) < 2:
        return Drop.INVALID_TOKEN
    first, second = position.probs[:2]
    if second < limits.min_second:
        return Drop.LOW_SECOND
    return Drop.LOW_RATIO if second / first < limits.min_ratio else None


def relative(position: int, length: int) -> float:
    """Return (t - 0.5) / L of token t = position + 1, as in the position weights of PW-OPSD."""
    return (position + 0.5) / length


# --- phase D -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Of S passes with dropout: entropy of the mean distribution, mutual information (that entropy minus the mean entropy of a
    pass), both in nats, and log max(kappa, 1e-6) of a Dirichlet distribution with the same moments."""

    entropy: float
    mutual_information: float
    log_precision: float


def measures(passes: Floats) -> Measures:
    """Return the measures of distributions [S, V], S >= 2.

    kappa is the precision by which a Dirichlet distribution with mean m has the summed variance v of the passes (divided by
    S - 1): sum_i m_i (1 - m_i) / (kappa + 1) = v.
    """
    mean = passes.mean(axis=0)
    entropy = _entropy(mean)
    within = float(np.mean([_entropy(one) for one in passes]))
    variance = float(passes.var(axis=0, ddof=1).sum())
    precision = float((mean * (1 - mean)).sum()) / max(variance, _LEAST_VARIANCE) - 1.0
    return Measures(
        entropy=entropy,
        mutual_information=max(0.0, entropy - within),
        log_precision=float(np.log(max(precision, LEAST_PRECISION))),
    )


# --- phase F -----------------------------------------------------------------------------------------------------


class Label(StrEnum):
    """What a candidate is: `diversity`, several of its children end correctly; `real_uncertain`, hardly any does; else `gray`."""

    DIVERSITY = "diversity"
    REAL_UNCERTAIN = "real_uncertain"
    GRAY = "gray"


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """The thresholds of phase F; see `BranchSettings`."""

    diverse_children: int
    diverse_rate: float
    uncertain_rate: float


def label_of(rates: Sequence[float], thresholds: Branch) -> Label:
    """Return the label of a candidate, given each child's share of correct continuations (at least one)."""
    if sum(rate >= thresholds.diverse_rate for rate in rates) >= thresholds.diverse_children:
        return Label.DIVERSITY
    low = thresholds.uncertain_rate
    if all(rate < low for rate in rates) and sum(rates) / len(rates) < low:
        return Label.REAL_UNCERTAIN
    return Label.GRAY
