"""The selection does not depend on how the input is cut into shards, and every row that is not selected has a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect import flow

from tasks.config import load_config
from tasks.problems.selection import Candidate, split_curated
from tasks.problems.selection import select as plain
from tasks.rows import Problem, Reject, Role, Selected, Strategy, Tier
from tasks.runtime.chunks import overlaps
from tasks.runtime.driver import Run
from tasks.stages.select import select
from tasks.storage.artifacts import Artifact, Store


def problem(number: int, role: Role) -> Problem:
    tier, strategy = list(Tier)[number % 4], list(Strategy)[number % 5]
    return Problem(
        id=f"{role.value[0]}{number * 7919 % 1000:03}", text=f"How many are {number} and 1?" * (1 + number % 90),
        tier=tier, source="s", source_id=str(number), licence="l", role=role, root_id=f"r{number % 9}",
        strategy=strategy if role is Role.EVOLVED else None,
    )  # fmt: skip


def artifact(store: Store, name: str, rows: list[Problem], sizes: list[int]) -> Artifact:
    start = 0
    for index, size in enumerate(sizes):
        counts = {"in": size, "kept": size, "rejected": {}}
        part = {"problems": (Problem, rows[start : start + size])}
        store.write_shard(store.folder(name, name), index, part, {"counts": counts})
        start += size
    return store.finish(name, name, len(sizes), {"build": name})


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(("target", "curated", "shards"), [(30, 10, 5), (None, 10, 5), (5, 0, 3)])
def test_the_selection_does_not_depend_on_the_shards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, target: int | None, curated: int, shards: int
) -> None:
    overrides = {
        "select.target": target,
        "select.stratify": "tier_strategy",
        "aggregate.test_problems": min(4, curated),
    }
    run = Run(config=load_config("pocket", overrides), store=Store(tmp_path), identities={})
    fixed = [problem(number, Role.CURATED if number < curated else Role.SEED) for number in range(25)]
    rows = [problem(number, Role.EVOLVED) for number in range(100)]
    sources = artifact(run.store, "sources", fixed, [8, 17])
    judged = artifact(run.store, "judged", rows, [13, 0, 60, 27])

    @flow
    def selecting() -> Artifact:
        return select(run, judged, sources)

    found = selecting()
    candidates = [
        Candidate(id=row.id, tier=row.tier, strategy=row.strategy, root_id=row.root_id)
        for row in rows
        if row.strategy is not None
    ]
    whole = [*fixed[:curated], *rows]
    splits = dict.fromkeys(plain(candidates, run.config.select), "train") | split_curated(
        [row.id for row in fixed[:curated]], min(4, curated), 0, {row.id: row.tier for row in fixed}
    )
    assert list(run.store.rows(found, "problems", Problem)) == [row for row in whole if row.id in splits]
    selected = {row.problem_id: row.split for row in run.store.rows(found, "selected", Selected)}
    assert selected == splits and list(selected) == [row.id for row in whole if row.id in splits]
    rejects = list(run.store.rows(found, "rejects", Reject))
    left = [row for row in whole if row.id not in splits]
    assert [(one.problem_id, one.text) for one in rejects] == [(row.id, row.text[:2000]) for row in left]
    for row, reject in zip(left, rejects, strict=True):
        assert reject.detail == f"over the share of {row.tier}/{row.strategy} in a target of {target}"
    costs = [
        record.getMessage() for record in caplog.records if "select.target is null" in record.getMessage()
    ]
    assert len(costs) == (target is None)
    assert all("annotating all 110 problems takes 880 responses" in cost for cost in costs)
    assert (
        run.store.record(found)["num_shards"] == shards
    )  # those of the sources with curated problems, and of the judged problems


def test_every_row_is_in_one_part() -> None:
    counts = [4, 0, 3, 1]
    whole = [(part, row) for part, count in enumerate(counts) for row in range(count)]
    for start in range(9):
        for stop in range(start, 10):
            found = [
                (part, row) for part, low, high in overlaps(counts, start, stop) for row in range(low, high)
            ]
            assert found == whole[start:stop]
