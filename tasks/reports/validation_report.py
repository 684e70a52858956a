"""The validation report: quality of the annotation of a dataset, as one self-contained HTML page and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tasks.reports import report_figures as figures
from tasks.reports.pages import render_page
from tasks.rows import Example, Strategy, Tier
from tasks.storage.dataset import last_strategy
from tasks.storage.disk import whole_folder
from tasks.uncertainty import bootstrap
from tasks.uncertainty import validation as statistics
from tasks.uncertainty.validation import (
    Agreement,
    Checked,
    Kind,
    Reliability,
    SizePair,
    Spread,
    Target,
    TierResult,
)

PAGE, NUMBERS = "report.html", "validation.json"
NAMES: Mapping[Kind, str] = {"majority": "majorities", "sample": "samples"}
STARTS = (0.0, 0.2, 0.6)  # possible starts of an axis that ends at 1: its quarters are round numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationData:
    """Input of the validation report: all `examples` of a dataset, and the `checked` ones, with a known answer (at least one).

    `agreement` is None if the judge's verdicts are not available; `stored_difference` is the largest difference between a
    stored measure and its value recomputed from the stored responses.
    """

    name: str
    profile: str
    fingerprint: str  # of the dataset
    examples: Sequence[Example]
    checked: Sequence[Checked]
    agreement: Agreement | None
    stored_difference: float
    models: Mapping[str, str] = field(default_factory=dict)  # role -> identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """All numbers of the report, as stored in the JSON file."""

    name: str
    profile: str
    dataset: str
    models: Mapping[str, str]
    problems: int
    known: int
    bootstrap: Mapping[str, Any]
    majority: Target
    sample: Target
    tiers: tuple[TierResult, ...]
    reliability: Reliability
    stability: tuple[SizePair, ...]
    judge: Agreement | None
    entropy: Mapping[str, tuple[Spread, ...]]  # by tier, strategy, source
    stored_difference: float


def write_validation(folder: Path, data: ValidationData) -> Validation:
    """Write `report.html` and `validation.json` into `folder` atomically, replacing an existing folder, and return the numbers.
    The same data give the same bytes."""
    found = validate(data)
    page = render_validation(found, data)
    with whole_folder(Path(folder), replace=True) as place:
        (place / PAGE).write_text(page, encoding="utf-8", newline="\n")
        (place / NUMBERS).write_text(to_json(found), encoding="utf-8", newline="\n")
    return found


def validate(data: ValidationData) -> Validation:
    """Compute all numbers of the report."""
    return Validation(
        name=data.name,
        profile=data.profile,
        dataset=data.fingerprint,
        models=dict(sorted(data.models.items())),
        problems=len(data.examples),
        known=len(data.checked),
        bootstrap={
            "level": bootstrap.LEVEL, "resamples": bootstrap.RESAMPLES, "seed": bootstrap.SEED, "unit": "problems",
        },
        majority=statistics.detect(data.checked, "majority"),
        sample=statistics.detect(data.checked, "sample"),
        tiers=statistics.by_tier(data.checked, [tier.value for tier in Tier]),
        reliability=statistics.reliability(data.checked),
        stability=statistics.stability(data.examples),
        judge=data.agreement,
        entropy={
            by: tuple(statistics.spread(group, values) for group, values in groups.items())
            for by, groups in entropies(data.examples).items()
        },
        stored_difference=data.stored_difference,
    )  # fmt: skip


def entropies(examples: Sequence[Example]) -> dict[str, dict[str, list[float]]]:
    """Group semantic entropies (nats) by tier (easy first), by last strategy, and by source (largest first)."""
    sources = [row.source for row in examples]
    orders = {
        "tier": ([tier.value for tier in Tier], lambda row: row.tier.value),
        "strategy": ([*(strategy.value for strategy in Strategy), "none"], last_strategy),
        "source": (
            sorted(set(sources), key=lambda name: (-sources.count(name), name)),
            lambda row: row.source,
        ),
    }
    return {
        by: {
            name: found
            for name in names
            if (found := [r.semantic_entropy for r in examples if key(r) == name])
        }
        for by, (names, key) in orders.items()
    }


def to_json(found: Validation) -> str:
    """Return indented JSON; an area under a curve is an object with value, low, high and n."""
    return json.dumps(_plain(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


# --- the page ----------------------------------------------------------------------------------------------------


def render_validation(found: Validation, data: ValidationData) -> str:
    """Return the page as HTML. Texts of models and sources are escaped and truncated."""
    bins = found.reliability.bins
    values = {
        "found": found,
        "labels": statistics.MEASURES,
        "targets": [_target("majority", found.majority, data), _target("sample", found.sample, data)],
        "reliability_figure": figures.reliability_curve(
            [(b.mean_weight, b.majority, b.majority_low, b.majority_high, b.sample, b.problems) for b in bins]
        ),
        "distributions": _distributions(found, data.examples),
    }
    return render_page("validation.html.j2", values)


def _target(kind: Kind, target: Target, data: ValidationData) -> dict[str, Any]:
    """One detection section: the numbers, the figures, and the measure with the highest AUROC."""
    own = [row.scores[statistics.OWN] for row in data.checked]
    wrong, totals = statistics.errors(data.checked, kind)
    ranked = [one for one in target.detections if one.auroc is not None]
    return {
        "kind": kind,
        "target": target,
        "best": max(ranked, key=lambda one: one.auroc.value if one.auroc else 0.0, default=None),
        "forest": _forest(target),
        "roc": figures.roc_curve(*_members(own, wrong, totals), NAMES[kind]) if ranked else None,
        "risk": figures.risk_coverage(own, wrong, totals),
    }


def _members(
    scores: Sequence[float], wrong: Sequence[int], totals: Sequence[int]
) -> tuple[list[float], list[bool]]:
    """Expand rows of (score, number wrong, total) to one score and one label (wrong or not) per member."""
    rows = list(zip(scores, wrong, totals, strict=True))
    return (
        [score for score, _, total in rows for _ in range(total)],
        [index < bad for _, bad, total in rows for index in range(total)],
    )


def _forest(target: Target) -> Markup | None:
    rows = [
        (
            "kept" if one.measure == statistics.OWN else "rival",
            statistics.MEASURES[one.measure],
            *one.auroc[:3],
        )
        for one in target.detections
        if one.auroc is not None
    ]
    if not rows:
        return None
    lowest = max(start for start in STARTS if start <= min(low for _, _, _, low, _ in rows))
    title = "AUROC of every measure with 95% intervals"
    return figures.interval_rows(rows, title=title, axis=(lowest, 1.0))


def _distributions(found: Validation, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Histograms by tier, strategy and source, all on the same scale."""
    groups = entropies(examples)
    ceiling = math.log(max(row.num_samples for row in examples))
    tallest = max(
        max(figures.bin_shares(values, ceiling)) for part in groups.values() for values in part.values()
    )

    def picture(by: str, spread: Spread) -> Markup:
        style = f"tier-{spread.group}" if by == "tier" else "kept"
        title = f"Semantic entropy, {by} {spread.group}"
        return figures.histogram(
            groups[by][spread.group], top=ceiling, tallest=tallest, style=style, title=title
        )

    return [
        {"by": by, "groups": [(spread, picture(by, spread)) for spread in spreads]}
        for by, spreads in found.entropy.items()
    ]
