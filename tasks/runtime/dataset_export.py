"""The exported dataset: its rows, overlaps and manifest from the tables of all stages, and the data of its report."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompts import all_prompts, load_prompt
from tasks.llm.ledger import Ledger
from tasks.reports.report import Overlap, ReportData, Spent, pick_family, pick_findings
from tasks.reports.results import read_results
from tasks.rows import Example, Finding, FindingKind, Flag, Problem, Response, Selected, Uncertainty, Verdict
from tasks.runtime.annotation_identity import annotation_recipe, teacher_of
from tasks.runtime.decontamination import benchmark_problems
from tasks.runtime.driver import Run
from tasks.runtime.models import batch_invariance
from tasks.runtime.spending import model_roles
from tasks.runtime.summaries import rejects_of
from tasks.seeds.truth import majority_is_right, pocket_sources
from tasks.storage.artifacts import Artifact, Store, versions
from tasks.storage.checksums import unsealed
from tasks.storage.dataset import strategy_counts
from tasks.storage.examples import Annotated
from tasks.storage.manifest import BenchmarkCount, Manifest, StageCount, StrategyCount, damage, read_manifest
from tasks.storage.tables import read_table
from tasks.storage.versions import LATEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The finished artifacts that the export reads."""

    sources: Artifact
    rounds: tuple[Artifact, ...]
    rules: Artifact
    deduplicated: Artifact
    judged: Artifact
    selected: Artifact
    decontaminated: Artifact
    sampled: Artifact
    clustered: Artifact
    benchmarks: Artifact

    def in_order(self) -> tuple[Artifact, ...]:
        """Return the artifacts in the order of the stages, without the benchmarks, which are not part of the dataset."""
        return (
            self.sources, *self.rounds, self.rules, self.deduplicated, self.judged, self.selected,
            self.decontaminated, self.sampled, self.clustered,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlaps:
    """Findings about exported rows, the texts of these rows by id, and the benchmark problems by id."""

    findings: Sequence[Finding]
    texts: Mapping[str, str]
    benchmarks: Mapping[str, Problem]


def is_written(root: Path, latest: Mapping[str, Any], warn: Callable[[str], None]) -> bool:
    """Whether dataset and report exist and were written from the same artifacts. A damaged dataset is named by `warn`."""
    try:
        seen = unsealed((root / LATEST).read_bytes())
    except (OSError, ValueError):
        return False
    same = all(seen.get(key) == value for key, value in latest.items())
    report, manifest = root / "report.html", root / "dataset" / "manifest.json"
    if not (same and report.is_file() and report.with_suffix("").is_dir() and manifest.is_file()):
        return False
    if (wrong := damage(root / "dataset")) is not None:
        warn(f"{wrong}; the dataset is written again")
        return False
    return read_manifest(root / "dataset").fingerprint == latest["fingerprint"]


def gather(run: Run, stages: Stages) -> Annotated:
    """Read all tables, by problem id."""
    store = run.store
    selected = list(store.rows(stages.selected, "problems", Problem))
    ancestors = {
        row.id: row
        for artifact in (stages.sources, *stages.rounds)
        for row in store.rows(artifact, "problems", Problem)
    }
    responses: dict[str, list[Response]] = defaultdict(list)
    for response in store.rows(stages.sampled, "responses", Response):
        responses[response.problem_id].append(response)
    return Annotated(
        problems=selected,
        splits={row.problem_id: row.split for row in store.rows(stages.selected, "selected", Selected)},
        ancestors=ancestors,
        verdicts={row.problem_id: row for row in store.rows(stages.judged, "verdicts", Verdict)},
        responses=responses,
        uncertainties={
            row.problem_id: row for row in store.rows(stages.clustered, "uncertainties", Uncertainty)
        },
        flags={row.problem_id: row for row in store.rows(stages.decontaminated, "flags", Flag)},
        recipe=annotation_recipe(run),
    )


def gather_overlaps(store: Store, stages: Stages, examples: Mapping[str, Sequence[Example]]) -> Overlaps:
    """Read the findings about the exported rows, and the benchmark problems that they were compared with."""
    exported = {row.id: row.problem for found in examples.values() for row in found}
    against = benchmark_problems(store, stages.selected, stages.sources, stages.benchmarks)
    findings = store.rows(stages.decontaminated, "findings", Finding)
    return Overlaps(
        findings=[finding for finding in findings if finding.problem_id in exported],
        texts=exported,
        benchmarks={row.id: row for row in against},
    )


def benchmark_counts(overlaps: Overlaps) -> tuple[BenchmarkCount, ...]:
    """Count the flagged problems of every benchmark, by name; benchmarks without any overlap are included."""
    sizes = Counter(row.source for row in overlaps.benchmarks.values())
    flagged: defaultdict[tuple[str, FindingKind | None], set[str]] = defaultdict(set)
    for finding in overlaps.findings:
        flagged[finding.benchmark, finding.kind].add(finding.problem_id)
        flagged[finding.benchmark, None].add(finding.problem_id)
    names = sorted({*sizes, *(name for name, _ in flagged)})
    return tuple(
        BenchmarkCount(
            benchmark=name,
            problems=sizes[name],
            flagged=len(flagged[name, None]),
            kinds={kind.value: len(flagged[name, kind]) for kind in FindingKind if flagged[name, kind]},
        )
        for name in names
    )


def evolution_counts(store: Store, rounds: Sequence[Artifact]) -> tuple[StrategyCount, ...]:
    """Count what the evolver wrote, by round, tier and strategy."""
    paths = [
        store.shard_path(artifact, shard.index, "problems")
        for artifact in rounds
        for shard in store.shards(artifact)
    ]
    tables = (read_table(path, Problem, ("round", "tier", "strategy")) for path in paths)
    return strategy_counts(
        (row["round"], row["tier"], row["strategy"]) for table in tables for row in table.to_pylist()
    )


def describe_run(
    run: Run,
    identity: str,
    counts: tuple[StageCount, ...],
    seconds: Mapping[str, float],
    benchmarks: tuple[BenchmarkCount, ...],
    evolution: tuple[StrategyCount, ...],
) -> Manifest:
    """Build the manifest: models, prompts, settings and counts behind the dataset."""
    config = run.config
    return Manifest(
        name=config.export.name,
        licence=config.export.licence,
        profile=config.profile,
        fingerprint=identity,
        stages=counts,
        models=dict(run.identities),
        prompts={name: load_prompt(name).fingerprint for name in all_prompts()},
        settings=json.loads(json.dumps(config.identity())),
        teacher=teacher_of(run),
        seeds={"evolve": config.evolve.seed, "dedup": config.dedup.seed, "select": config.select.seed},
        evolution=evolution,
        benchmarks=benchmarks,
        annotation=annotation_recipe(run).fingerprints,
        batch_invariance=batch_invariance(run),
        versions=versions(),
        timings=dict(seconds),
    )


def report_data(
    run: Run,
    stages: Stages,
    rows: Annotated,
    examples: Mapping[str, Sequence[Example]],
    overlaps: Overlaps,
    manifest: Manifest,
) -> ReportData:
    """Collect the data of the report."""
    shown = [row for found in examples.values() for row in found]
    exported = {row.id for row in shown}
    return ReportData(
        name=manifest.name,
        profile=manifest.profile,
        fingerprint=manifest.fingerprint,
        examples=shown,
        responses=[response for row in shown for response in rows.responses[row.id]],
        stages=manifest.stages,
        timings=manifest.timings,
        models=manifest.models,
        truths=majority_truths(shown, manifest.settings),
        family=pick_family(rows.ancestors.values()),
        num_problems=run.config.export.report_problems,
        benchmarks=manifest.benchmarks,
        overlaps=[shown_overlap(finding, overlaps) for finding in pick_findings(overlaps.findings)],
        others=[row for row in rows.ancestors.values() if row.id not in exported],
        rejects=rejects_of(run.store, [one for one in stages.in_order() if one != stages.decontaminated]),
        verdicts=rows.verdicts,
        findings=overlaps.findings,
        cost=spent_by_model(run),
        results=read_results(run.store.root, run.store.root / "report.html", manifest.fingerprint),
    )


def spent_by_model(run: Run) -> list[Spent]:
    """Return what the answers in the output folder cost, by model, over all of its runs."""
    with Ledger(run.ledger_path) as ledger:
        spent = ledger.spent()
    return [
        Spent(
            model=f"{model_roles(run, model)} ({model})", requests=found.requests,
            prompt_tokens=found.prompt_tokens, output_tokens=found.completion_tokens,
        )
        for model, found in spent.items()
    ]  # fmt: skip


def shown_overlap(finding: Finding, overlaps: Overlaps) -> Overlap:
    """Return a finding together with the texts of both problems."""
    benchmark = overlaps.benchmarks[finding.benchmark_problem_id]
    return Overlap(finding=finding, text=overlaps.texts[finding.problem_id], benchmark_text=benchmark.text)


def majority_truths(examples: Sequence[Example], settings: Mapping[str, Any]) -> dict[str, bool] | None:
    """Return whether the majority answer is right, by id, for the rows with a known truth; None if there are none.

    `settings` are those of the manifest.
    """
    pocket = pocket_sources(settings)
    known = {row.id: majority_is_right(row, pocket) for row in examples}
    return {row_id: right for row_id, right in known.items() if right is not None} or None
