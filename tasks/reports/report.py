"""The dataset report: one self-contained HTML page that works offline, with all problems, and readable without scripts."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from markupsafe import Markup

from tasks.reports import report_figures as figures
from tasks.reports.explorer import Cluster, Packed, Pool, by_problem, clusters, pack
from tasks.reports.mathml import Typesetter
from tasks.reports.pages import render_page
from tasks.reports.results import Results, render_results
from tasks.reports.text_pages import text_pages
from tasks.rows import Example, Finding, FindingKind, Problem, Reject, Response, Strategy, Tier, Verdict
from tasks.storage.cards import CARDS
from tasks.storage.dataset import last_strategy
from tasks.storage.disk import atomic_write, whole_folder
from tasks.storage.manifest import BenchmarkCount, StageCount
from tasks.uncertainty.auroc import Area, auroc_if_defined

Row = TypeVar("Row")
MAX_FAMILY = 40  # most members of a family that is drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """A finding with the texts of its two problems."""

    finding: Finding
    text: str
    benchmark_text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the answers of one model cost."""

    model: str  # its roles and identity
    requests: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Input of the report."""

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
    num_problems: int = 10  # shown where scripts are off
    others: Sequence[Problem] = ()  # seeds and rejected problems
    rejects: Sequence[Reject] = ()
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)  # problem id -> the quality judge's verdict
    findings: Sequence[Finding] = ()  # about exported rows
    cost: Sequence[Spent] = ()
    results: Results = field(default_factory=Results)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """How well semantic entropy detects wrong majority answers, on the problems with a known answer."""

    scores: list[float]
    wrong: list[bool]
    result: Area | None  # None if all majorities are correct, or all wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One response of a problem, as shown on the page."""

    response: Response
    style: str
    mean_logprob: float | None  # nats per token


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A problem that is shown with its samples."""

    text: Markup
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
    """Write the page, and beside it a folder of its name with the texts that it truncates, replacing existing ones. Each is
    whole or absent; the page comes last. The same data give the same bytes."""
    path, typeset = Path(path), Typesetter()
    packed = pack(_pool(data), typeset)
    with whole_folder(path.with_suffix(""), replace=True) as folder:
        for name, page in text_pages(data.name, data.examples, data.responses, packed.beside, typeset):
            (folder / name).write_text(page, encoding="utf-8", newline="\n")
    atomic_write(path, _page(data, packed, typeset))


def render_report(data: ReportData) -> str:
    """Return the page as HTML. Texts of models and sources are escaped, and truncated to 4,000 characters with a note."""
    typeset = Typesetter()
    return _page(data, pack(_pool(data), typeset), typeset)


def _pool(data: ReportData) -> Pool:
    return Pool(
        examples=data.examples, responses=data.responses, truths=data.truths or {}, others=data.others,
        rejects=data.rejects, verdicts=data.verdicts, findings=data.findings,
    )  # fmt: skip


def _page(data: ReportData, packed: Packed, typeset: Typesetter) -> str:
    script = (CARDS / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")

    def whole(text: str) -> Markup:
        return typeset.text(figures.shown(text))

    values = {
        "data": data,
        "headline": _headline(data),
        "evidence": evidence(data),
        "figures": figures,
        "entropies": _entropies(data.examples),
        "tiers": _tiers(data),
        "funnel": _funnel(data.stages),
        "heat": _heat(data.examples),
        "problems": _problems(data, whole),
        "flagged": sum(row.benchmark_overlap for row in data.examples),
        "family": family_tree(data.family[:MAX_FAMILY], data.examples),
        "max_family": MAX_FAMILY,
        "longest": max(data.timings.values(), default=0.0),
        "typeset": whole,
        "packed": replace(packed, scripts={name: Markup(value) for name, value in packed.scripts.items()}),
        "results": Markup(render_results(data.results)),
        "script": Markup(script),
        "script_hash": Markup(f"sha256-{digest}"),
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


def _problems(data: ReportData, whole: Callable[[str], Markup]) -> list[Shown]:
    picked = pick_problems(data.examples, data.num_problems)
    wanted = {row.id for row in picked}
    samples = by_problem(response for response in data.responses if response.problem_id in wanted)
    truths = data.truths or {}
    return [_shown(row, samples.get(row.id, ()), truths.get(row.id), whole) for row in picked]


def _shown(
    row: Example, responses: Sequence[Response], right: bool | None, whole: Callable[[str], Markup]
) -> Shown:
    found = clusters(row)
    styles = {cluster.label: cluster.style for cluster in found}
    segments = [
        (c.style, f"{c.answer or 'no readable answer'}: {c.probability:.3f}", c.probability) for c in found
    ]
    samples = [
        Sample(
            response=response,
            style=styles.get(row.cluster_labels[response.index], "unread"),
            mean_logprob=response.logprob_sum / response.token_count if response.token_count else None,
        )
        for response in responses
    ]
    return Shown(
        text=whole(row.problem), example=row, clusters=found, samples=samples,
        bar=figures.stacked_bar(segments, 1.0), right=right,
    )  # fmt: skip
