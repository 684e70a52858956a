"""The plan of a run: what it will send, spend and store.

Computed in seconds from settings and local files, without a model and without reading a data set of the hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prompts import Prompt, all_prompts, load_prompt
from prompts.schemas import EQUIVALENCE_SCHEMA, QUALITY_SCHEMA
from tasks.config import PROJECT_ROOT, Config, Source, load_config
from tasks.errors import UserError, attempt
from tasks.llm.token_counts import Counter, token_counter
from tasks.problems.evolution_plan import planned_totals, with_target
from tasks.rows import Problem, Tier
from tasks.runtime.estimate import (
    CHARS_PER_TOKEN,
    MESSAGE_MARKS,
    REPLY_MARKS,
    UNREAD,
    Lengths,
    Plan,
    PlannedSource,
    PlannedTier,
    Rollouts,
    make_plan,
    tier_counts,
)
from tasks.runtime.preflight import check_run, output_folder
from tasks.runtime.source_preflight import is_pinned
from tasks.runtime.training_run import run_config, trains_on_source
from tasks.seeds.intake import curated_first, duplicates, too_long
from tasks.seeds.kinds import KindSettings
from tasks.seeds.registry import load, resolve
from tasks.storage.artifacts import atomic_write
from training.config import DatasetSettings


def write_plan(profile: str, overrides: Mapping[str, Any] | None) -> tuple[Path, Plan]:
    """Resolve the settings, plan the run and write `plan.json` into its output folder; return its path and the plan.

    Raises `UserError` for invalid settings, and for a source of unknown size. Whatever else would end a build is in the plan's
    `errors` (see `tasks.runtime.preflight`).
    """
    config = resolve(load_config(profile, overrides))
    root = output_folder(config)
    found = replace(planned(config, root), errors=tuple(check_run(config, "build")))
    atomic_write(root / "plan.json", json.dumps(found.as_json(), indent=2, ensure_ascii=False) + "\n")
    return root / "plan.json", found


def planned(config: Config, root: Path) -> Plan:
    """Return the plan of a run with the output folder `root`."""
    notes: list[str] = []
    problems, counts = read_sources(config, notes)
    roles = {name: getattr(config.models, name) for name in type(config.models).model_fields}
    models = {name: (role.model, role.revision) for name, role in roles.items()}
    rollouts = None
    if config.distill is not None:
        run = run_config(config.distill, root / "dataset", root / "distill")
        prompts = run.batches.total_prompts or run.batches.epochs * (config.select.target or 0)
        rollouts = Rollouts(
            number=prompts * run.rollouts.group_size,
            max_tokens=run.lengths.max_response_tokens,
        )
        models["student"] = (run.student.model, None)
        notes.append("distill: counts the student's rollouts only, not scoring and training")
    texts = Texts(problems=problems, counts=tuple(counts), chars_unread=config.plan.problem_chars)
    lengths = {"chars": texts.lengths(lambda found: [len(text) for text in found], 1.0, "")}
    absent: list[str] = []
    unread: list[str] = []  # `errors` of the plan names them
    for role, (model, revision) in models.items():
        counter = attempt(unread, lambda m=model, r=revision: token_counter(m, r, PROJECT_ROOT))
        absent += [model] if counter is None else []
        lengths[role] = texts.lengths(counter or estimated_tokens, 1 / CHARS_PER_TOKEN, FRAMES.get(role, ""))
    if absent:
        notes.append(
            f"not on this machine: {', '.join(dict.fromkeys(absent))}; their tokens are estimated at four characters each,"
            " and their weights are not included in the disk space"
        )
    notes += benchmark_notes(config)
    if config.distill is not None:
        notes.append(training_rows_note(config, problems, counts))
    notes.append(assumptions(config))
    return make_plan(config, counts, lengths, rollouts=rollouts, notes=tuple(dict.fromkeys(notes)))


def estimated_tokens(texts: Sequence[str]) -> list[int]:
    """Estimate the number of tokens of each text, at four characters per token."""
    return [round(len(text) / CHARS_PER_TOKEN) for text in texts]


def assumptions(config: Config) -> str:
    """Return the assumptions behind the numbers, as one line."""
    plan = config.plan
    solution = "unknown" if plan.solution_tokens is None else f"{plan.solution_tokens:,} tokens"
    rates = ", ".join(f"{role} {rate.prompt:,g} and {rate.output:,g}" for role, rate in plan.rates.items())
    return (
        f"assumptions: an unread problem has {plan.problem_chars} characters, a child {plan.growth:g} times the length of its"
        f" parent, a solution {solution}; prompt and output tokens per second and GPU:"
        f" {rates or 'not given (set plan.rates to get GPU-hours)'}"
    )


# --- sources -----------------------------------------------------------------------------------------------------


def read_sources(config: Config, notes: list[str]) -> tuple[list[Problem], list[PlannedSource]]:
    """Return the problems of all local sources, as stage aggregate would keep them, and the count of every source."""
    rows, unread, loose = [], {}, []
    missing: list[str] = []  # `errors` of the plan names them
    for source in curated_first(config.aggregate):
        if source.is_remote:
            unread[source.name] = declared(source, "declared, not read from the hub")
            loose += [] if is_pinned(source) else [source.name]
            continue
        found = attempt(missing, lambda one=source: load(one))
        if found is None:
            unread[source.name] = declared(source, "declared, its file is not here")
        else:
            rows.extend(found.outcomes)
    if loose:
        notes.append(
            f"sources read at the latest commit, since their revisions are not pinned: {', '.join(loose)}"
        )
    leaving = too_long(rows) | duplicates(rows)
    problems = [row for place, row in enumerate(rows) if isinstance(row, Problem) and place not in leaving]
    counts = [unread.get(source.name) or read_count(source, problems) for source in config.aggregate.sources]
    return problems, counts


def read_count(source: Source, problems: Sequence[Problem]) -> PlannedSource:
    """Count the problems of a source that was read, by tier."""
    tiers = [row.tier for row in problems if row.source == source.name]
    counts: dict[PlannedTier, int] = {tier: tiers.count(tier) for tier in Tier if tier in tiers}
    return PlannedSource(name=source.name, role=source.role, problems=counts, basis="read")


def declared(source: KindSettings, basis: str) -> PlannedSource:
    """Return the count that a source's settings declare. Raises `UserError` if they declare none."""
    if source.declared is None:
        raise UserError(
            f"Source {source.name}: its size is unknown, since a plan does not read it: give its tier and target (limit,"
            " for a file), or a local copy as `path`"
        )
    tier, count = source.declared
    return PlannedSource(name=source.name, role=source.role, problems={tier or UNREAD: count}, basis=basis)


def benchmark_notes(config: Config) -> list[str]:
    """Return notes on the benchmarks that the dataset will be compared with, and on those not pinned to a commit."""
    benchmarks = config.decontam.benchmarks
    if not benchmarks:
        return [
            "decontam.benchmarks is empty: problems are compared only with seeds that are benchmark problems and with"
            " the test split"
        ]
    names = ", ".join(one.name for one in benchmarks)
    notes = [f"compared with {len(benchmarks)} benchmarks, besides the seeds and the test split: {names}"]
    remote = [one for one in benchmarks if isinstance(one, KindSettings) and one.is_remote]
    if loose := [one.name for one in remote if not is_pinned(one)]:
        notes.append(
            f"benchmarks read at the latest commit, since their revisions are not pinned: {', '.join(loose)}"
        )
    return notes


def training_rows_note(config: Config, problems: Sequence[Problem], counts: Sequence[PlannedSource]) -> str:
    """Return a note on the rows that the student trains on, and on those that config `decontaminated` leaves out.

    Descendants of seeds that are problems of an evaluated benchmark are counted; overlaps of the texts are known after the
    build only.
    """
    assert config.distill is not None
    if trains_on_source(config.distill):
        return "distill trains on the problems of distill.run.dataset.source, not on this dataset"
    chosen = config.distill.run.get("dataset", {}).get(
        "config", DatasetSettings.model_fields["config"].default
    )
    seeds = evaluated_seeds(config, problems, counts)
    every = tier_counts(counts, "seed")
    evolve = with_target(every, config.evolve)
    candidates, leaving = (
        sum(sum(planned_totals(tiers, evolve).values()) for tiers in part)
        for part in ([every], seeds.values())
    )
    names = ", ".join(f"{name} {sum(tiers.values()):,}" for name, tiers in seeds.items())
    selected = candidates if config.select.target is None else min(config.select.target, candidates)
    share = round(selected * leaving / candidates) if candidates else 0
    descent = (
        f"what descends from evaluated benchmarks ({names}: {leaving:,} of {candidates:,} candidates, about {share:,} of"
        f" {selected:,} selected problems) and "
    )
    kept = ", ".join(config.decontam.not_evaluated)
    return (
        f"distill trains on config {chosen} (distill.run.dataset.config); config decontaminated leaves out"
        f" {descent if seeds else ''}what overlaps with a benchmark by its text"
        + (f"; not evaluated, so kept: {kept} (decontam.not_evaluated)" if kept else "")
    )


def evaluated_seeds(
    config: Config, problems: Sequence[Problem], counts: Sequence[PlannedSource]
) -> dict[str, dict[Tier, int]]:
    """Return the seeds that are problems of an evaluated benchmark, by source and tier. Of a source that was not read, they are
    known if all of its parts are benchmarks."""
    found: dict[str, dict[Tier, int]] = {}
    for source, count in zip(config.aggregate.sources, counts, strict=True):
        if source.role != "seed" or source.name in config.decontam.not_evaluated:
            continue
        if count.basis == "read":
            marked = [row.tier for row in problems if row.source == source.name and row.benchmark_root]
            tiers = {tier: marked.count(tier) for tier in Tier if tier in marked}
        else:
            parts = getattr(source, "parts", ())
            whole = bool(parts) and all(part.benchmark for part in parts)
            tiers = {tier: count.problems[tier] for tier in Tier if whole and tier in count.problems}
        if tiers:
            found[source.name] = tiers
    return found


# --- lengths -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The problems that were read, and the counts of all sources; unread problems have an assumed length."""

    problems: Sequence[Problem]
    counts: tuple[PlannedSource, ...]
    chars_unread: int

    def lengths(self, counter: Counter, per_char: float, frame: str) -> Lengths:
        """Return the lengths of all texts in one unit.

        `counter` measures the texts that were read, `per_char` is the number of units per character for the others, and
        `frame` is the fixed part of a reply.
        """
        numbers = counter([row.text for row in self.problems])
        seeds = {
            tier: self._mean("seed", tier, numbers, per_char)
            for tier in Tier
            if any(one.role == "seed" and one.problems.get(tier) for one in self.counts)
        }
        prompts = {name: prompt_length(load_prompt(name), counter) for name in all_prompts()}
        return Lengths(
            seeds=seeds,
            curated=self._mean("curated", None, numbers, per_char),
            prompts=prompts,
            frame=counter([frame])[0],
        )

    def _mean(self, role: str, tier: Tier | None, numbers: Sequence[int], per_char: float) -> float:
        """Return the mean length of the problems of a role in a tier (None: in all tiers)."""
        read = [
            number
            for row, number in zip(self.problems, numbers, strict=True)
            if row.role == role and tier in (None, row.tier)
        ]
        unread = sum(
            count
            for source in self.counts
            for one, count in source.problems.items()
            if source.role == role and source.basis != "read" and tier in (None, one)
        )
        total = len(read) + unread
        return (sum(read) + unread * self.chars_unread * per_char) / total if total else 0.0


def prompt_length(prompt: Prompt, counter: Counter) -> float:
    """Return the length of the fixed text of a prompt, including the special tokens of the chat template."""
    messages = [message["content"] for message in prompt.render(**dict.fromkeys(prompt.variables, ""))]
    return sum(counter(messages)) + MESSAGE_MARKS * len(messages) + REPLY_MARKS


def shortest_reply(schema: Mapping[str, Any]) -> str:
    """Return the shortest JSON object that matches a schema of booleans and strings."""
    values = {"boolean": True, "string": ""}
    return json.dumps({name: values[one["type"]] for name, one in schema["properties"].items()})


FRAMES = {
    "evolver": "<evolved>\n\n</evolved>",
    "quality_judge": shortest_reply(QUALITY_SCHEMA),
    "equivalence_judge": shortest_reply(EQUIVALENCE_SCHEMA),
}
"""The fixed part of every reply of a role, without the problem or the answers."""
