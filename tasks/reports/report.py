"""The dataset report: one self-contained HTML page, readable offline and without scripts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from markupsafe import Markup

from tasks.reports import report_figures as figures
from tasks.reports.pages import render_page
from tasks.rows import Example, Finding, FindingKind, Problem, Response, Strategy, Tier
from tasks.storage.dataset import last_strategy
from tasks.storage.disk import atomic_write
from tasks.storage.manifest import BenchmarkCount, StageCount
from tasks.uncertainty.auroc import Area, auroc_if_defined

Row = TypeVar("Row")
MAX_FAMILY = 40  # most members of a family that is drawn
CLUSTER_COLOURS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """A finding with the texts of its two problems."""

    finding: Finding
    text: str
    benchmark_text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Input of the report. `responses` need only contain those of `pick_problems(examples, num_problems)`."""

    name: str
    profile: str
    fingerprint: str
    examples: Sequence[Example]
    responses: Sequence[Response]
    stages: Sequence[StageCount]
    timings: Mapping[str, float] = field(default_factory=dict)  # stage -> seconds
    models: Mapping[str, str] = field(default_factory=dict)  # role -> identity
    truths: Mapping[str, bool] | None = (
        None  # problem id -> whether the majority answer is correct, for problems with a known answer
    )
    family: Sequence[Problem] = ()  # a seed and its evolved descendants
    benchmarks: Sequence[BenchmarkCount] = ()
    overlaps: Sequence[Overlap] = ()
    num_problems: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """How well semantic entropy detects wrong majority answers, on the problems with a known answer."""

    scores: list[float]
    wrong: list[bool]
    result: Area | None  # None if all majorities are correct, or all wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One answer cluster of a problem, as drawn on the page."""

    style: str
    answer: str | None
    probability: float
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One response of a problem, as shown on the page."""

    response: Response
    style: str
    mean_logprob: float | None  # nats per token


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A problem that is shown with its samples."""

    example: Example
    clusters: list[Cluster]
    samples: list[Sample]
    bar: Markup
    right: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyNode:
    """A member of a family in the tree of evolved problems."""

    problem: Problem
    example: Example | None
    children: list[FamilyNode]


def write_report(path: Path, data: ReportData) -> None:
    """Write the page atomically, replacing an existing file. The same data give the same bytes."""
    atomic_write(Path(path), render_report(data))


def render_report(data: ReportData) -> str:
    """Return the page as HTML. Texts of models and sources are escaped, and truncated to 4,000 characters with a note."""
    values = {
        "data": data,
        "headline": _headline(data),
        "evidence": evidence(data),
        "figures": figures,
        "entropies": _entropies(data.examples),
        "tiers": _tiers(data),
        "funnel": _funnel(data.stages),
        "heat": _heat(data.examples),
        "problems": _problems(data),
        "flagged": sum(row.benchmark_overlap for row in data.examples),
        "family": family_tree(data.family[:MAX_FAMILY], data.examples),
        "max_family": MAX_FAMILY,
        "longest": max(data.timings.values(), default=0.0),
    }
    return render_page("report.html.j2", values)


# --- what to show ------------------------------------------------------------------------------------------------


def pick_problems(examples: Sequence[Example], count: int) -> list[Example]:
    """Pick `count` problems, split evenly over the tiers; within a tier evenly spaced from lowest to highest entropy."""
    by_tier = {tier: _by_entropy(examples, tier) for tier in Tier}
    shares = dict.fromkeys(Tier, 0)
    while sum(shares.values()) < min(count, len(examples)):
        open_tiers = [tier for tier in Tier if shares[tier] < len(by_tier[tier])]
        shares[min(open_tiers, key=lambda tier: shares[tier])] += 1
    return [row for tier in Tier for row in _evenly(by_tier[tier], shares[tier])]


def _by_entropy(examples: Sequence[Example], tier: Tier) -> list[Example]:
    return sorted(
        (row for row in examples if row.tier == tier), key=lambda row: (row.semantic_entropy, row.id)
    )


def pick_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Pick for every kind the finding with the lowest score, closest to the threshold, and the one with the highest."""
    order = sorted(findings, key=lambda found: (found.score, found.problem_id, found.benchmark_problem_id))
    by_kind = ([found for found in order if found.kind == kind] for kind in FindingKind)
    return [found for rows in by_kind for found in _evenly(rows, min(2, len(rows)))]


def _evenly(rows: list[Row], count: int) -> list[Row]:
    if count <= 1:
        return rows[len(rows) // 2 :][:count]
    return [rows[round(place * (len(rows) - 1) / (count - 1))] for place in range(count)]


def pick_family(problems: Iterable[Problem]) -> list[Problem]:
    """Pick the family to draw: the one with most rounds, then strategies, then members (at most `MAX_FAMILY` if possible)."""
    families: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        families[problem.root_id].append(problem)

    def worth(members: list[Problem]) -> tuple[bool, int, int, int, str]:
        strategies = {member.strategy for member in members if member.strategy}
        rounds = max(member.round for member in members)
        return len(members) <= MAX_FAMILY, rounds, len(strategies), len(members), members[0].root_id

    best = max(families.values(), key=worth, default=[])
    return sorted(best, key=lambda problem: (problem.round, problem.id))


def family_tree(family: Sequence[Problem], examples: Sequence[Example]) -> list[FamilyNode]:
    """Return the roots of the family's tree. A member whose parent is not in the family is a root too."""
    wanted = {problem.id for problem in family}
    exported = {row.id: row for row in examples if row.id in wanted}
    nodes = {
        problem.id: FamilyNode(problem=problem, example=exported.get(problem.id), children=[])
        for problem in family
    }
    roots = []
    for node in sorted(nodes.values(), key=lambda node: (node.problem.round, node.problem.id)):
        parent = nodes.get(node.problem.parent_id or "")
        older = parent is not None and parent.problem.round < node.problem.round
        (parent.children if parent is not None and older else roots).append(node)
    return roots


def evidence(data: ReportData) -> Evidence | None:
    """Compute the AUROC of semantic entropy as a detector of wrong majority answers; None if no answer is known."""
    if not data.truths:
        return None
    known = [row for row in data.examples if row.id in data.truths]
    scores = [row.semantic_entropy for row in known]
    wrong = [not data.truths[row.id] for row in known]
    return Evidence(scores=scores, wrong=wrong, result=auroc_if_defined(scores, wrong)) if known else None


# --- tables ------------------------------------------------------------------------------------------------------


def _headline(data: ReportData) -> dict[str, Any]:
    rows = data.examples
    samples = sum(row.num_samples for row in rows)
    return {
        "problems": len(rows),
        "responses": samples,
        "weight": fmean(row.weight for row in rows) if rows else None,
        "rejected": sum(stage.dropped for stage in data.stages),
        "readable": sum(row.num_valid for row in rows) / samples if samples else None,
        "seconds": sum(data.timings.values()) if data.timings else None,
    }


def _funnel(stages: Sequence[StageCount]) -> list[tuple[StageCount, Markup]]:
    widest = max((stage.rows_in for stage in stages), default=0)
    return [
        (
            stage,
            figures.stacked_bar(
                [("kept", f"kept: {stage.kept:,}", stage.kept)]
                + [
                    (f"rejected r{rank % 4}", f"{why}: {count:,}", count)
                    for rank, (why, count) in enumerate(stage.reasons)
                ],
                widest,
            ),
        )
        for stage in stages
    ]


def _entropies(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """One histogram per tier, all on the same scale."""
    by_tier = {tier: [row.semantic_entropy for row in examples if row.tier == tier] for tier in Tier}
    top = entropy_ceiling(examples)
    tallest = max(max(figures.bin_shares(values, top)) for values in by_tier.values())
    return [
        {
            "tier": tier.value,
            "n": len(values),
            "mean": fmean(values),
            "figure": figures.histogram(
                values,
                top=top,
                tallest=tallest,
                style=f"tier-{tier.value}",
                title=f"Semantic entropy, tier {tier.value}",
            ),
        }
        for tier, values in by_tier.items()
        if values
    ]


def entropy_ceiling(examples: Sequence[Example]) -> float:
    """Return ln N for the largest number of samples N of the dataset, the upper bound of semantic entropy (nats)."""
    return math.log(max((row.num_samples for row in examples), default=2))


def _tiers(data: ReportData) -> dict[str, Any]:
    truths = data.truths or {}
    rows = []
    for tier in Tier:
        found = [row for row in data.examples if row.tier == tier]
        if not found:
            continue
        mean, low, high = figures.mean_interval([row.weight for row in found])
        known = [truths[row.id] for row in found if row.id in truths]
        right = (sum(known), len(known)) if known else None
        rows.append(
            {"tier": tier.value, "n": len(found), "mean": mean, "low": low, "high": high, "right": right}
        )
    picture = figures.interval_rows(
        [(f"tier-{r['tier']}", r["tier"], r["mean"], r["low"], r["high"]) for r in rows]
    )
    return {"rows": rows, "figure": picture, "ceiling": entropy_ceiling(data.examples)}


def _heat(examples: Sequence[Example]) -> dict[str, Any]:
    """Heat map of tiers by last strategies: the number of problems, their mean weight, and a shade of 0 to 60 (percent)."""
    weights: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for row in examples:
        weights[row.tier.value, last_strategy(row)].append(row.weight)
    used = {strategy for _, strategy in weights}
    columns = [name for name in [*(strategy.value for strategy in Strategy), "none"] if name in used]
    most = max(map(len, weights.values()), default=1)

    def cell(tier: str, strategy: str) -> dict[str, Any] | None:
        found = weights.get((tier, strategy))
        if not found:
            return None
        return {"n": len(found), "weight": fmean(found), "shade": round(60 * len(found) / most)}

    tiers = [tier.value for tier in Tier if any((tier.value, column) in weights for column in columns)]
    return {
        "columns": columns,
        "rows": [(tier, [cell(tier, column) for column in columns]) for tier in tiers],
    }


def _problems(data: ReportData) -> list[Shown]:
    picked = pick_problems(data.examples, data.num_problems)
    samples: dict[str, list[Response]] = {row.id: [] for row in picked}
    for response in data.responses:
        if response.problem_id in samples:
            samples[response.problem_id].append(response)
    return [_shown(row, samples[row.id], (data.truths or {}).get(row.id)) for row in picked]


def _shown(row: Example, responses: list[Response], right: bool | None) -> Shown:
    sizes = Counter(row.cluster_labels)
    order = sorted(range(len(row.cluster_probs)), key=lambda label: (-row.cluster_probs[label], label))
    answered = [label for label in order if row.cluster_answers[label] is not None]
    styles = {label: f"k{rank % CLUSTER_COLOURS}" for rank, label in enumerate(answered)}
    clusters = [
        Cluster(
            style=styles.get(label, "unread"),
            answer=row.cluster_answers[label],
            probability=row.cluster_probs[label],
            size=sizes[label],
        )
        for label in order
    ]
    segments = [
        (c.style, f"{c.answer or 'no readable answer'}: {c.probability:.3f}", c.probability) for c in clusters
    ]
    samples = [
        Sample(
            response=response,
            style=styles.get(row.cluster_labels[response.index], "unread"),
            mean_logprob=response.logprob_sum / response.token_count if response.token_count else None,
        )
        for response in sorted(responses, key=lambda response: response.index)
    ]
    return Shown(
        example=row, clusters=clusters, samples=samples, bar=figures.stacked_bar(segments, 1.0), right=right
    )
