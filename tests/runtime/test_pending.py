"""Shards that an earlier run made from the same rows are linked; only the shards of changed rows are made again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from prefect import flow

from tasks.config import Config, load_config
from tasks.rows import Problem, Reject, Role, Strategy, Tier
from tasks.runtime.chunks import cut, row_hashes, shard_rows, shard_sizes
from tasks.runtime.driver import Run, Shard, Stage, run_shards
from tasks.runtime.pending import Pending, rows_digest
from tasks.seeds.registry import resolve
from tasks.stages.aggregate import aggregate
from tasks.stages.deduplicate import deduplicate
from tasks.stages.rules import apply_rules
from tasks.stages.select import select
from tasks.storage.artifacts import Artifact, Store, digest

SEEDS, SHARD_ROWS, SHARDS = 80, 12, 6


def seeds(folder: Path, changed: int | None = None) -> Path:
    """Write a file of problems; the text of problem `changed` is different."""
    path = folder / f"seeds-{changed}.jsonl"
    rows = [
        {
            "question": f"{word(n)} has {n + 3} apples and eats {'none' if n == changed else n} of them. How many are left?"
        }
        for n in range(SEEDS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def word(number: int) -> str:
    """Words that make every problem different from the others."""
    return " ".join(f"{letter}{number * 31 % 97}{number}" for letter in "abcdefghij")


def config(path: Path) -> Config:
    source = {
        "kind": "file", "name": "seeds", "path": str(path), "columns": {"text": "question"}, "tier": "easy",
        "licence": "mit",
    }  # fmt: skip
    overrides = {
        "aggregate.sources": [source], "aggregate.test_problems": 0, "run.shard_rows": SHARD_ROWS, "select.target": 20,
    }  # fmt: skip
    return resolve(load_config("pocket", overrides))


def evolved(run: Run, sources: Artifact) -> Artifact:
    """Evolve every seed into its words in reverse order, shard by shard."""
    stage = Stage(name="evolve-1", version=1, settings={}, inputs=(sources,))

    def work(index: int, _on_progress: object) -> Shard:
        rows = shard_rows(run.store, sources, index, "problems", Problem)
        children = [
            Problem(
                id=f"child-{row.id}", text=" ".join(row.text.split()[::-1]), tier=row.tier, source="s", source_id=row.id,
                licence="l", role=Role.EVOLVED, root_id=row.id, parent_id=row.id, strategy=Strategy.HARDER,
            )
            for row in rows
        ]  # fmt: skip
        return Shard(incoming=len(rows), tables={"problems": (Problem, children), "rejects": (Reject, [])})

    pending = Pending(run.store, stage, lambda index: run.store.table_digest(sources, index, "problems"))
    return run_shards(run, stage, lambda: shard_sizes(run.store, sources), work, pending)


@flow
def stages_without_models(path: Path, root: Path) -> tuple[Artifact, ...]:
    run = Run(config=config(path), store=Store(root), identities={})
    sources = aggregate(run)
    children = evolved(run, sources)
    kept = apply_rules(run, (children,))
    unique = deduplicate(run, sources, kept)
    return sources, children, kept, unique, select(run, unique, sources)


def taken(store: Store, artifact: Artifact) -> int:
    """Return the number of reused shards."""
    records = [store.finished_shard(one.folder, one.index) or {} for one in store.shards(artifact)]
    return sum("taken_from" in record for record in records)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_only_the_shards_of_a_changed_seed_are_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "both")
    first = stages_without_models(seeds(tmp_path), store.root)
    assert [taken(store, artifact) for artifact in first] == [0] * 5
    again = stages_without_models(seeds(tmp_path, changed=77), store.root)
    alone = stages_without_models(seeds(tmp_path, changed=77), tmp_path / "alone")
    for old, new, fresh in zip(first, again, alone, strict=True):
        assert new.fingerprint != old.fingerprint
        assert digest(new.path) == digest(fresh.path) != digest(old.path)
        made = len(store.shards(new)) - taken(store, new)
        assert len(store.shards(new)) >= SHARDS
        # the shard of the seed, the first shard of deduplicate with the total counts, and shards with another selection
        assert 1 <= made <= 3, new.name
    before = [digest(artifact.path) for artifact in again]
    for artifact in first:
        store.discard(artifact)
    assert stages_without_models(seeds(tmp_path, changed=77), store.root) == again
    assert [digest(artifact.path) for artifact in again] == before


class Letters:
    """A stage with one letter per shard and a choice of recipe; `made` lists the computed letters."""

    def __init__(self, store: Store) -> None:
        self.run, self.made = Run(config=load_config("pocket"), store=store, identities={}), []

    def stage(self, text: str, recipe: str = "a") -> Artifact:
        stage = Stage(name="letters", version=1, settings={"recipe": recipe}, data={"text": text})

        def work(index: int, _on_progress: object) -> Shard:
            self.made.append(text[index])
            row = Problem(
                id=text[index], text=text[index], tier=Tier.EASY, source="s", source_id="1", licence="l", role=Role.SEED,
                root_id="r",
            )  # fmt: skip
            return Shard(incoming=1, tables={"problems": (Problem, [row])}, notes={"letter": text[index]})

        pending = Pending(self.run.store, stage, lambda index: rows_digest([text[index]]))

        @flow
        def letters() -> Artifact:
            return run_shards(self.run, stage, lambda: (1,) * len(text), work, pending)

        return letters()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
class TestLetters:
    def test_shards_are_reused_by_content_independent_of_position_and_run(self, tmp_path: Path) -> None:
        letters = Letters(Store(tmp_path))
        letters.stage("abcd")
        letters.made.clear()
        found = letters.stage("dxba")
        assert letters.made == ["x"]
        store = letters.run.store
        assert [row.text for row in store.rows(found, "problems", Problem)] == list("dxba")
        records = [store.finished_shard(found.path, index) or {} for index in range(4)]
        assert [record["notes"] for record in records] == [{"letter": letter} for letter in "dxba"]
        assert records[0]["taken_from"].endswith("shard-00003") and records[0]["shard"] == 0
        assert store.record(found)["counts"] == {"in": 4, "kept": 4, "rejected": {}}

    def test_nothing_is_reused_with_another_recipe(self, tmp_path: Path) -> None:
        letters = Letters(Store(tmp_path))
        letters.stage("ab")
        letters.stage("ab", recipe="b")
        assert letters.made == list("abab")

    def test_a_damaged_shard_is_not_reused(self, tmp_path: Path) -> None:
        letters = Letters(Store(tmp_path))
        first = letters.stage("ab")
        with (first.path / "shard-00001" / "problems.parquet").open("ab") as file:
            file.write(b"x")
        letters.stage("bc")
        assert letters.made == list("abbc")

    def test_files_are_copied_where_hard_links_fail(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError("no links here")

        letters = Letters(Store(tmp_path))
        first = letters.stage("ab")
        monkeypatch.setattr(os, "link", refuse)
        found = letters.stage("ba")
        assert letters.made == list("ab")
        shutil.rmtree(first.path)
        assert [row.text for row in letters.run.store.rows(found, "problems", Problem)] == ["b", "a"]


def test_the_digest_of_rows_depends_on_order_and_boundaries() -> None:
    digests = [
        rows_digest(rows) for rows in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["ab", "c", ""], [("ab", "c")])
    ]
    assert len(set(digests)) == 5 and rows_digest(iter(["ab", "c"])) == digests[0]


def test_the_seeds_of_these_tests_are_cut_into_enough_shards() -> None:
    assert len(cut(row_hashes(map(str, range(SEEDS))), SHARD_ROWS)) >= SHARDS
