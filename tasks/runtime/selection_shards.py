"""The shards to select from, the split of every selected problem, and the tables of a shard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks.config import Config, SelectSettings
from tasks.problems.selection import Candidate, split_curated
from tasks.problems.selection import select as select_candidates
from tasks.rows import Problem, Reason, Reject, Role, Selected, Strategy, Tier
from tasks.runtime.shard_work import REJECT_CHARS, Tables
from tasks.storage.artifacts import Artifact, Store
from tasks.storage.tables import read_table

COLUMNS = ("id", "tier", "strategy", "root_id", "role")  # used by the selection


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionShard:
    """One shard of the sources (`curated`: only its curated problems are used) or of the judged problems."""

    artifact: Artifact
    shard: int
    path: Path
    curated: bool
    rows: int


def parts_of(store: Store, sources: Artifact, judged: Artifact) -> list[SelectionShard]:
    """Return the parts to select from: curated problems first, then the judged ones. There is always at least one."""
    found = [
        SelectionShard(
            artifact=artifact, shard=shard.index, path=store.shard_path(artifact, shard.index, "problems"),
            curated=artifact is sources, rows=0,
        )
        for artifact in (sources, judged)
        for shard in store.shards(artifact)
    ]  # fmt: skip
    counted = [replace(part, rows=len(read_part(part, ("id",)))) for part in found]
    return [part for part in counted if part.rows] or counted[-1:]


def read_part(part: SelectionShard, names: Sequence[str] | None = None) -> pa.Table:
    """Read the problems of a part, or some of their columns."""
    if not part.curated:
        return read_table(part.path, Problem, names)
    whole = read_table(part.path, Problem, None if names is None else tuple({*names, "role"}))
    return whole.filter(pc.equal(whole["role"], Role.CURATED.value))  # pyright: ignore[reportAttributeAccessIssue]


def columns(parts: Sequence[SelectionShard]) -> pa.Table:
    """Read the columns that the selection needs, of all problems; the texts stay on disk."""
    return pa.concat_tables([read_part(part, COLUMNS).select(COLUMNS) for part in parts])


def split_of(rows: pa.Table, config: Config) -> dict[str, str]:
    """Return the split ("train" or "test") of every selected row by id.

    Evolved problems are in train; curated ones are split. `rows` has the columns `COLUMNS`.
    """
    candidates, tiers = [], {}
    for name, tier, strategy, root_id, role in zip(*_lists(rows, COLUMNS), strict=True):
        if role == Role.CURATED:
            tiers[name] = Tier(tier)
        elif strategy is not None:
            candidates.append(
                Candidate(id=name, tier=Tier(tier), strategy=Strategy(strategy), root_id=root_id)
            )
    chosen = dict.fromkeys(select_candidates(candidates, config.select), "train")
    held_out = split_curated(list(tiers), config.aggregate.test_problems, config.aggregate.split_seed, tiers)
    return chosen | held_out


def divided(rows: pa.Table, splits: dict[str, str], settings: SelectSettings) -> Tables:
    """Keep the rows that have a split and reject the others."""
    stays = [name in splits for name in rows["id"].to_pylist()]
    kept = rows.filter(pa.array(stays, type=pa.bool_()))
    left = rows.filter(pa.array([not one for one in stays], type=pa.bool_()))
    rejects = [
        Reject(
            problem_id=name, stage="select", reason=Reason.NOT_SELECTED, text=text[:REJECT_CHARS],
            detail=_excess(tier, strategy, settings),
        )
        for name, text, tier, strategy in zip(*_lists(left, ("id", "text", "tier", "strategy")), strict=True)
    ]  # fmt: skip
    selected = [Selected(problem_id=name, split=splits[name]) for name in kept["id"].to_pylist()]
    return {"problems": (Problem, kept), "selected": (Selected, selected), "rejects": (Reject, rejects)}


def _excess(tier: str, strategy: str, settings: SelectSettings) -> str:
    if settings.target is None:
        return f"more than {settings.per_root} problems of one seed"
    whole = {"none": "the problems", "tier": tier, "tier_strategy": f"{tier}/{strategy}"}
    return f"over the share of {whole[settings.stratify]} in a target of {settings.target}"


def _lists(table: pa.Table, names: Sequence[str]) -> Iterable[list[str]]:
    return (table[name].to_pylist() for name in names)
