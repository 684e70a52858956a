"""Flow "sure-math": build a dataset with semantic entropies from seed problems (and distil a student on it)."""

from __future__ import annotations

from typing import Any

from tasks.stages.aggregate import aggregate
from tasks.stages.benchmarks import read_benchmarks
from tasks.stages.chain import announce_dataset
from tasks.stages.decontaminate import decontaminate
from tasks.stages.deduplicate import deduplicate
from tasks.stages.distill import distill_in_build
from tasks.stages.engines import sharing_engines
from tasks.stages.evolve import evolve
from tasks.stages.export import Stages, export
from tasks.stages.flow_runs import flow
from tasks.stages.judge import judge
from tasks.stages.limits import within_limits
from tasks.stages.neighbours import judge_neighbours
from tasks.stages.opening import Run, open_run
from tasks.stages.plan import plan
from tasks.stages.rules import apply_rules
from tasks.stages.sample_and_cluster import sample_and_cluster
from tasks.stages.select import select


@flow(name="sure-math", what="build")
def build(
    profile: str = "pocket",
    overrides: dict[str, Any] | None = None,
    dry_run: bool = False,
    chain: bool = False,
) -> str:
    """Build SURE-Math and, with `distill.in_build`, distil the profile's student on it.

    Args:
        profile: name of a file in configs/, without its extension.
        overrides: settings that override the profile, nested or dotted: {"select.target": 50}.
        dry_run: only estimate the requests, tokens and disk space of the run.
        chain: leave the student to the flow sure-math-distill, which a trigger of prefect.yaml starts after this run.

    Returns the path of the dataset folder, or of `plan.json`.
    """
    if dry_run:
        return plan(profile, overrides)
    with open_run(profile, overrides) as run, within_limits(run.config, "build"):
        dataset = build_dataset(run)
        if not chain:
            distill_in_build(run, dataset)
    if chain:
        announce_dataset(run.config, overrides, dataset)
    return dataset


def build_dataset(run: Run) -> str:
    """Run the stages of a build and return the path of the dataset folder."""
    sources = aggregate(run)
    benchmarks = read_benchmarks(run)
    with sharing_engines(run) as sharing:
        rounds = evolve(sharing, sources)
        candidates = apply_rules(sharing, rounds)
        unique = deduplicate(sharing, sources, candidates)
        judged = judge(sharing, unique)
        selected = select(sharing, judged, sources)
        neighbours = judge_neighbours(sharing, selected, sources, rounds, benchmarks)
        flagged = decontaminate(sharing, selected, sources, rounds, benchmarks, neighbours)
        sampled, clustered = sample_and_cluster(sharing, selected)
    stages = Stages(
        sources=sources, rounds=rounds, rules=candidates, deduplicated=unique, judged=judged,
        selected=selected, sampled=sampled, clustered=clustered, benchmarks=benchmarks, decontaminated=flagged,
    )  # fmt: skip
    return export(run, stages)
