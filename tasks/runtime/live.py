"""Tables of the Prefect UI that show a run while it works, each an artifact that is updated in place."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.llm.chat import Usage
from tasks.rows import QUALITY_CRITERIA, Problem, Response, Verdict
from tasks.runtime.live_tables import (
    FILTERS,
    RoleCost,
    ShardFacts,
    count_so_far,
    judge_table,
    strategy_table,
    total_usage,
)
from tasks.runtime.progress import LiveTable, Progress
from tasks.runtime.spending import cost_table
from tasks.runtime.stage import Stage
from tasks.runtime.summaries import funnel_table
from tasks.storage.artifact_records import table_path
from tasks.storage.artifacts import Artifact, shard_folder
from tasks.storage.tables import read_table

if TYPE_CHECKING:
    from tasks.runtime.driver import Run

ROLES = {
    "evolve": "evolver",
    "judge": "quality_judge",
    "sample": "teacher",
    "cluster": "equivalence_judge",
}
"""The role that a stage uses, by its name without the round."""
DESCRIPTIONS = {
    "funnel": "Rows per stage: in = kept + rejected",
    "strategies": "Evolved problems by strategy, and how many the filters have kept",
    "judge": "Why the quality judge rejects",
    "cost": "Requests, tokens and cost by role and model, time by stage",
}
ASIDE = "benchmarks"
"""A stage that reads no rows of the dataset."""


@dataclass(slots=True)
class _State:
    """A stage that has begun: its finished shards, and its progress unless it was finished before."""

    progress: Progress | None = None
    shards: dict[int, ShardFacts] = field(default_factory=dict)
    made: int = 0  # rows of the shards that this run has made

    @property
    def worked(self) -> int:
        """Rows that this run has worked on."""
        return self.made + (0 if self.progress is None else self.progress.done - self.progress.base)

    @property
    def left(self) -> int:
        """Rows that are left."""
        return 0 if self.progress is None else max(0, self.progress.total - self.progress.done)

    def line(self, stage: str) -> str:
        """Return how the stage goes on: rows done, rate and time left."""
        if self.progress is None or not self.left:
            return "done"
        return self.progress.line().removeprefix(f"{stage}: ")


class Live:
    """The tables of one run. May be used from several threads. `prefix` is that of the artifacts' keys."""

    def __init__(self, prefix: str = "") -> None:
        self._tables = {name: LiveTable(f"{prefix}{name}", text) for name, text in DESCRIPTIONS.items()}
        self._lock = threading.RLock()
        self._began = time.time()
        self._stages: dict[str, _State] = {}
        self._usages: dict[str, list[Usage]] = {}
        self._sampled = Usage()  # by offline engines in this run

    def uses(self, role: str, usage: Usage) -> None:
        """Count the usage of a role's model, which grows while the model works."""
        with self._lock:
            known = self._usages.setdefault(role, [])
            if all(one is not usage for one in known):
                known.append(usage)

    def begins(self, stage: Stage, progress: Progress) -> None:
        """Add a stage that begins."""
        with self._lock:
            self._stages[stage.name] = _State(progress)

    def shard_done(self, run: Run, stage: Stage, index: int) -> None:
        """Add a finished shard."""
        with self._lock:
            self._add(run, stage.name, run.store.folder(stage.name, stage.fingerprint), index)

    def is_built(self, run: Run, artifact: Artifact) -> None:
        """Add a stage that was finished before."""
        with self._lock:
            self._stages[artifact.name] = _State()
            for shard in run.store.shards(artifact):
                self._add(run, artifact.name, artifact.path, shard.index)

    def show(self, run: Run, *, last: bool = False) -> None:
        """Update the tables that are due, or all of them. May be called at any frequency."""
        with self._lock:
            rows = {
                "funnel": self._funnel,
                "strategies": lambda: strategy_table({name: one.shards for name, one in self._stages.items()}),
                "judge": lambda: judge_table(self._stages["judge"].shards) if "judge" in self._stages else [],
                "cost": lambda: self._cost(run),
            }  # fmt: skip
            for name, table in self._tables.items():
                table.show(rows[name], last=last)

    def publish(self, run: Run, artifacts: Sequence[Artifact]) -> None:
        """Show the tables of a run that has ended in these artifacts."""
        with self._lock:
            for artifact in artifacts:
                if artifact.name not in self._stages:
                    self.is_built(run, artifact)
            self._stages = {artifact.name: self._stages[artifact.name] for artifact in artifacts}
            self.show(run, last=True)

    def _add(self, run: Run, stage: str, folder: Path, index: int) -> None:
        record = run.store.finished_shard(folder, index)
        if record is None:
            return  # the end of the stage reports it
        place, state = shard_folder(folder, index), self._stages[stage]
        state.shards[index] = facts_of(stage, place, record)
        if "taken_from" in record or record["started_at"] < self._began:
            return  # made by an earlier run
        state.made += record["counts"]["in"]
        if stage == "sample" and "teacher" not in self._usages:
            tokens = read_table(table_path(place, "responses"), Response, ("token_count",))["token_count"]
            self._sampled.completions += len(tokens)
            self._sampled.completion_tokens += sum(tokens.to_pylist())

    def _funnel(self) -> list[dict[str, Any]]:
        stages = {name: state for name, state in self._stages.items() if name != ASIDE}
        rows = funnel_table([count_so_far(name, state.shards) for name, state in stages.items()])
        return [
            {**row, "state": state.line(name)}
            for row, (name, state) in zip(rows, stages.items(), strict=True)
        ]

    def _cost(self, run: Run) -> list[dict[str, str]]:
        seconds = {
            name: sum(facts.seconds for facts in state.shards.values())
            for name, state in self._stages.items()
        }
        return cost_table(run, [self._role(run, role) for role in self._roles()], seconds)

    def _roles(self) -> list[str]:
        offline = ["teacher"] if self._sampled.completions else []
        return [role for role in ROLES.values() if role in (*self._usages, *offline)]

    def _role(self, run: Run, role: str) -> RoleCost:
        states = [state for name, state in self._stages.items() if ROLES.get(name.split("-")[0]) == role]
        return RoleCost(
            role=role, model=run.identities[role], prices=getattr(run.config.models, role).prices,
            usage=total_usage(self._usages[role]) if role in self._usages else self._sampled,
            counts_prompts=role in self._usages,
            worked=sum(state.worked for state in states), left=sum(state.left for state in states),
        )  # fmt: skip


def facts_of(stage: str, place: Path, record: Mapping[str, Any]) -> ShardFacts:
    """Return what the tables need of the shard in folder `place`."""
    strategies, verdicts, failed = Counter[str](), 0, dict[str, int]()
    if stage.startswith("evolve-") or stage in FILTERS:
        names = read_table(table_path(place, "problems"), Problem, ("strategy",))["strategy"].to_pylist()
        strategies = Counter(name for name in names if name is not None)
    if stage == "judge":
        table = read_table(table_path(place, "verdicts"), Verdict, QUALITY_CRITERIA)
        verdicts = len(table)
        failed = {name: table[name].to_pylist().count(False) for name in QUALITY_CRITERIA}
    return ShardFacts(
        counts=record["counts"], seconds=record["seconds"], strategies=strategies, verdicts=verdicts, failed=failed
    )  # fmt: skip
