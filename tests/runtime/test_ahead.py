"""The stages without a model write the same bytes in one process, in several and on Ray, and skip finished shards."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect import flow

from tasks.config import load_config
from tasks.processes.ray_session import RaySession
from tasks.rows import Edge, Finding, Problem, Reject, Role, Selected, Strategy, Tier
from tasks.runtime import ahead
from tasks.runtime.driver import Run
from tasks.stages.decontaminate import decontaminate
from tasks.stages.deduplicate import deduplicate
from tasks.stages.rules import apply_rules
from tasks.storage.artifacts import Artifact, Store, digest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

WORDS = [f"{a}{b}" for a in "ba ke li mo nu pa re si".split() for b in "ra le mi no tu".split()]


def texts(count: int) -> list[str]:
    """Problems of which some break a rule, and every second one is a near-duplicate of the one before."""
    rng = random.Random(0)
    found = []
    for number in range(count):
        words = rng.choices(WORDS, k=40) if number % 2 == 0 else [*found[-1].split()[3:-3], rng.choice(WORDS)]
        text = " ".join(words)
        found.append(f"Prove that {text}." if number % 22 == 4 else f"Some of the {text} How many left?")
    return found


def artifact(store: Store, name: str, tables: dict[str, tuple[type, Sequence[Any]]], size: int) -> Artifact:
    total = len(tables["problems"][1])
    for index, start in enumerate(range(0, total, size)):
        part = {table: (row, rows[start : start + size]) for table, (row, rows) in tables.items()}
        kept = len(part["problems"][1])
        counts = {"counts": {"in": kept, "kept": kept, "rejected": {}}, "build": f"{name} {index}"}
        store.write_shard(store.folder(name, name), index, part, counts)
    return store.finish(name, name, -(-total // size), {"build": name})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(
        config=load_config("pocket", {"decontam.checks": ["ngram", "jaccard"]}),
        store=Store(tmp_path),
        identities={},
    )


def problem(number: int, text: str, role: Role = Role.EVOLVED) -> Problem:
    root = f"s{number % 30}"
    evolved = {"round": 1, "strategy": Strategy.HARDER, "parent_id": root} if role is Role.EVOLVED else {}
    return Problem(
        id=f"{role.value[0]}{number}", text=text, tier=Tier.EASY, source="s", source_id=str(number), licence="l", role=role,
        root_id=root, **evolved,
    )  # fmt: skip


def made(run: Run) -> dict[str, str]:
    """Run rules, deduplicate and decontaminate on 400 candidates; return the digests of their artifacts."""
    written = texts(430)
    seeds = [problem(number, text, Role.SEED) for number, text in enumerate(written[400:])]
    rows = [problem(number, text) for number, text in enumerate(written[:400])]
    chosen = [Selected(problem_id=row.id, split="train") for row in rows]
    sources = artifact(run.store, "sources", {"problems": (Problem, seeds)}, 20)
    evolved = artifact(run.store, "evolve-1", {"problems": (Problem, rows)}, 90)
    selected = artifact(
        run.store, "selected", {"problems": (Problem, rows), "selected": (Selected, chosen)}, 130
    )
    exam = [replace(row, source="exam", id=f"x{row.id}") for row in seeds[:7]]
    benchmarks = artifact(run.store, "exams", {"problems": (Problem, exam)}, 50)

    @flow
    def three_stages() -> list[Artifact]:
        kept = apply_rules(run, [evolved])
        return [
            kept,
            deduplicate(run, sources, kept),
            decontaminate(run, selected, sources, [evolved], benchmarks),
        ]

    return {one.name: digest(one.path) for one in three_stages()}


def elsewhere(run: Run, root: Path, **settings: object) -> Run:
    config = load_config("pocket", {"decontam.checks": ["ngram", "jaccard"], **settings})
    return replace(run, store=Store(root), config=config)


def test_processes_and_ray_write_the_same_bytes_as_one_process(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = made(run)
    rows = {name: list(_rows(run.store, name)) for name in ("rules", "deduplicate", "decontaminate")}
    assert [len(found) for found in rows.values()] == [2, 3, 1] and all(map(all, rows.values()))
    monkeypatch.setattr(ahead, "WORTH_PROCESSES", 0)
    monkeypatch.setattr("tasks.processes.mapper.available_cores", lambda: 2)
    assert made(elsewhere(run, tmp_path / "processes")) == alone
    with RaySession(2):
        assert made(elsewhere(run, tmp_path / "ray", **{"ray.address": "auto"})) == alone


def _rows(store: Store, name: str) -> list[int]:
    """Numbers of kept rows, rejects, edges and findings of a stage, for those tables that it has."""
    folder = next((store.root / "artifacts").glob(f"{name}-*"))
    found = Artifact(name=name, fingerprint="", path=folder, num_rows=0)
    tables = {"problems": Problem, "rejects": Reject, "edges": Edge, "findings": Finding}
    there = store.record(found)["tables"]
    return [len(list(store.rows(found, table, row))) for table, row in tables.items() if table in there]


def test_finished_shards_are_not_computed_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    kept = ahead.ahead

    def noted(mapper: Any, function: Any, item: Any, count: Any, pending: Any) -> Any:
        def seen(thing: Any) -> Any:
            asked.append(thing.path)
            return function(thing)

        return kept(mapper, seen, item, count, pending)

    monkeypatch.setattr("tasks.stages.rules.ahead", noted)
    first = made(run)
    assert len(asked) == 5
    folder = next((run.store.root / "artifacts").glob("rules-*"))
    (folder / "record.json").unlink()
    for file in (folder / "shard-00003").iterdir():
        file.unlink()
    asked.clear()
    assert made(run) == first
    assert [path.parent.name for path in asked] == ["shard-00003"]
