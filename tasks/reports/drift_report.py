"""The drift report: changes caused by a re-annotation of a dataset, and its cost, as one HTML page and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks.reports import report_figures as figures
from tasks.reports.pages import render_page
from tasks.rows import Reject
from tasks.storage.disk import atomic_write
from tasks.storage.versions import Shared
from tasks.uncertainty.annotation import Cause
from tasks.uncertainty.drift import FAR, Move, by_tier, drift, largest_movers

PAGE, NUMBERS = "drift.html", "drift.json"
MOVERS = 20  # largest movers shown
MOST_POINTS = 2_000  # most points drawn; the numbers cover all rows
_CAUSES = {
    Cause.NEW: "new problems",
    Cause.UNKNOWN: "unknown annotation",
    Cause.TEACHER: "changed teacher",
    Cause.TEACHER_PROMPT: "changed teacher prompt",
    Cause.SAMPLING: "changed sampling settings or code",
    Cause.JUDGE: "changed judge",
    Cause.JUDGE_PROMPT: "changed judge prompt",
    Cause.CLUSTERING: "changed clustering settings or code",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of a re-annotation.

    `sampled` is the number of problems that needed new samples, `sent` the number of answers added to the ledger by this run
    (answers from earlier runs do not count). `tokens` are the tokens of `responses`; the judge's tokens are those of the
    prompts and replies for `judged_pairs`.
    """

    sampled: int
    responses: int
    tokens: int
    judged_pairs: int
    judge_prompt_tokens: int
    judge_completion_tokens: int
    sent: int
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftData:
    """Input of the drift report.

    `moves` are the re-annotated rows that are in both versions; `causes` counts the reasons for annotating rows, new problems
    included; `rejects` are rows that could not be annotated.
    """

    name: str
    profile: str
    old: str  # fingerprint of the old version
    new: str
    problems: int  # rows of the new version
    added: int
    moves: Sequence[Move]
    causes: Mapping[Cause, int]
    rejects: Sequence[Reject]
    cost: Cost
    files: Shared
    models: Mapping[str, str] = field(default_factory=dict)  # role -> identity


def write_drift(folder: Path, data: DriftData) -> None:
    """Write `drift.html` and `drift.json` into `folder`. The same data give the same bytes."""
    atomic_write(folder / PAGE, render_drift(data))
    atomic_write(folder / NUMBERS, json.dumps(drift_numbers(data), indent=2, ensure_ascii=False) + "\n")


def drift_numbers(data: DriftData) -> dict[str, Any]:
    """Return all numbers of the report as plain JSON data, with the largest of the moves."""
    numbers = drift(data.moves)
    return {
        "name": data.name,
        "profile": data.profile,
        "old": data.old,
        "new": data.new,
        "problems": data.problems,
        "annotated_again": len(data.moves),
        "added": data.added,
        "causes": {cause.value: data.causes[cause] for cause in Cause if data.causes.get(cause)},
        "rejected": dict(sorted(Counter(str(reject.reason) for reject in data.rejects).items())),
        "rejects": [
            {"problem_id": row.problem_id, "reason": str(row.reason), "detail": row.detail[:500]}
            for row in data.rejects
        ],
        "drift": None if numbers is None else asdict(numbers),
        "drift_by_tier": {tier.value: asdict(found) for tier, found in by_tier(data.moves).items()},
        "largest_movers": [_plain(move) for move in largest_movers(data.moves, MOVERS)],
        "cost": asdict(data.cost) | {"seconds": dict(data.cost.seconds)},
        "files": asdict(data.files),
        "models": dict(sorted(data.models.items())),
    }


def _plain(move: Move) -> dict[str, Any]:
    return asdict(move) | {"tier": move.tier.value, "cause": move.cause.value, "change": move.change}


def render_drift(data: DriftData) -> str:
    """Return the page as HTML."""
    shown = data.moves[:: -(-len(data.moves) // MOST_POINTS)] if data.moves else []
    points = [
        (move.old_weight, move.new_weight, f"tier-{move.tier.value}", f"{move.id}: {move.change:+.3f}")
        for move in shown
    ]
    values = {
        "data": data,
        "drift": drift(data.moves),
        "far": FAR,
        "tiers": [(tier.value, found) for tier, found in by_tier(data.moves).items()],
        "movers": largest_movers(data.moves, MOVERS),
        "causes": [(_CAUSES[cause], data.causes[cause]) for cause in Cause if data.causes.get(cause)],
        "reasons": sorted(Counter(str(reject.reason) for reject in data.rejects).items()),
        "drawn": len(points),
        "scatter": figures.weight_scatter(points),
        "histogram": figures.change_histogram([move.change for move in data.moves]),
    }
    return render_page("drift.html.j2", values)
