"""Rows of the phases of branch viability, one dataclass and one Parquet file each."""

from __future__ import annotations

from dataclasses import dataclass

from training.diagnostics.branches import Label, Position

__all__ = ["Candidate", "Continuation", "Labelled", "Pass", "Scored", "Spine", "Uncertainty"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spine:
    """Phase A: a problem and its response. `reason` says why it is left out: `text_too_long`, `control_token`,
    `prompt_too_long`, `no_box`, `wrong`. `box`: number of tokens before the content of the answer's box."""

    problem_id: str
    source: str
    reason: str | None
    sampled: bool  # at `fallback_temperature`, since greedy decoding had no box
    answer: str
    box: int
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Phase B: the privileged teacher on a correct spine. `reason`: `text_too_long`, `control_token` or `prompt_too_long`.

    The lists have all positions one after another; `sizes` is the number of valid tokens of each.
    """

    problem_id: str
    reason: str | None
    prompt: tuple[int, ...]
    entropies: tuple[float, ...]
    sizes: tuple[int, ...]
    ids: tuple[int, ...]
    probs: tuple[float, ...]

    def positions(self) -> list[Position]:
        """Return the positions."""
        found, start = [], 0
        for size, entropy in zip(self.sizes, self.entropies, strict=True):
            end = start + size
            found.append(Position(ids=self.ids[start:end], probs=self.probs[start:end], entropy=entropy))
            start = end
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Phase C: a position where the spine could branch. `support`: the valid tokens among the most probable ones, of which the
    first are the `children`."""

    problem_id: str
    position: int
    relative: float
    length: int  # of the spine
    teacher_entropy: float
    support: tuple[int, ...]
    probs: tuple[float, ...]
    children: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """Phase D: the measures of MC dropout at a candidate."""

    problem_id: str
    position: int
    entropy: float
    mutual_information: float
    log_precision: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """Phase E: a continuation of the student after a child. `reason`: `context_full` if there is none."""

    problem_id: str
    position: int
    child: int
    number: int
    reason: str | None
    tokens: int
    finish_reason: str | None
    answer: str | None
    correct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Phase F: the share of correct continuations of each child that has any, and the label. `reason`: `gray`, or `no_child`,
    without a label."""

    problem_id: str
    position: int
    rates: tuple[float, ...]
    label: Label | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Phase G: a labelled candidate with its scores, all of which grow with the expected unreliability."""

    problem_id: str
    position: int
    label: Label
    earliness: float  # 1 - relative position
    teacher_entropy: float
    entropy: float
    mutual_information: float
    imprecision: float  # - log precision
