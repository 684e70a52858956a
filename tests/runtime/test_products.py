"""Products are described by the records of their stages, and the lineage is Markdown without markup of others."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.runtime.products import (
    dataset_product,
    evaluation_product,
    lineage_markdown,
    made_by,
    placed,
    release_product,
    seeds_product,
    student_product,
)
from tasks.storage.artifacts import Artifact, Store
from tasks.storage.checksums import sealed
from tasks.storage.lineage import Kind, Maker, Product
from tasks.storage.manifest import read_manifest
from tests.release.small_release import write_small

RESULT: dict[str, Any] = {
    "dataset": "cd" * 32, "algorithm": "uopd", "steps": 1200, "teacher": "teacher:1",
    "student": {"from": "tiny:0123", "to": "student:89abcdef01234567"}, "held_out": {"gain": {"value": 0.125}},
}  # fmt: skip
METRICS: dict[str, Any] = {
    "model": {"name": "student", "identity": "student:89abcdef01234567"}, "main": "avg@16",
    "benchmark": {"title": "AIME <2025>", "problems": 30}, "scores": {"avg@16": {"value": 0.5}},
}  # fmt: skip


def test_the_products_of_a_chain_name_each_other(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.folder("aggregate", "ab" * 32)
    counts = {"in": 1, "kept": 0, "rejected": {"echo": 1}}
    store.write_shard(folder, 0, {}, {"counts": counts})
    settings = {"settings": {"sources": {"pocket": "pocket:0123456789abcdef"}}}
    (folder / "record.json").write_text(
        json.dumps(
            sealed(
                {
                    "name": "aggregate", "fingerprint": "ab" * 32, "num_shards": 1, "num_rows": 450, "primary": "problems",
                    "counts": counts, "tables": {}, "inputs": [], "finished_at": "", "versions": {}, **settings,
                }
            )
        )
    )  # fmt: skip
    seeds = seeds_product(store, Artifact(name="aggregate", fingerprint="ab" * 32, path=folder, num_rows=450))
    assert (seeds.kind, seeds.digest, seeds.folder) == (Kind.SEEDS, "ab" * 32, f"artifacts/{folder.name}")
    assert seeds.facts == {"problems": "450", "sources": "pocket (0123456789ab)"}

    dataset = dataset_product(tmp_path, write_small(tmp_path / "dataset"), [seeds.key])
    assert dataset.digest == read_manifest(tmp_path / "dataset").fingerprint and dataset.folder == "dataset"
    assert dataset.made_from == (seeds.key,) and dataset.facts["split train"] == "6 problems"

    run = tmp_path / "distill" / "abc"
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps(sealed(RESULT)))
    student = student_product(tmp_path, run)
    assert (student.digest, student.folder) == ("89abcdef01234567", "distill/abc")
    assert student.made_from == (f"dataset:{'cd' * 32}",)
    assert student.facts["steps"] == "1,200" and student.facts["gain"] == "+12.5 points"

    grades = tmp_path / "student-1" / "aime2025" / "avg16"
    grades.mkdir(parents=True)
    (grades / "metrics.json").write_text(json.dumps(METRICS))
    evaluation = evaluation_product(tmp_path, grades)
    assert evaluation.made_from == (student.key,) and evaluation.name == "aime2025/avg16"
    assert evaluation.facts["avg@16"] == "50.00%"


def test_a_release_is_identified_by_the_names_and_bytes_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("1")
    first = release_product(tmp_path, tmp_path, "dataset", {"version": "1.0.0"}, ["dataset:1"])
    assert first.facts == {"of": "dataset", "files": "1", "version": "1.0.0"} and first.folder == "."
    (tmp_path / "data" / "a").write_text("2")
    second = release_product(tmp_path, tmp_path, "dataset", {}, [])
    (tmp_path / "data" / "a").rename(tmp_path / "data" / "b")
    third = release_product(tmp_path, tmp_path, "dataset", {}, [])
    assert len({first.digest, second.digest, third.digest}) == 3


def test_a_folder_elsewhere_has_its_whole_path(tmp_path: Path) -> None:
    assert placed(tmp_path / "a" / "b", tmp_path / "a") == "b"
    assert placed(tmp_path / "b", tmp_path / "a") == str(tmp_path / "b")


@pytest.mark.parametrize("text", ["<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "a | b\nc", "`x` *y*"])  # fmt: skip
def test_no_text_of_others_is_markup_in_the_lineage(text: str) -> None:
    one = Product(
        kind=Kind.DATASET, digest="d" * 64, folder=text, facts={"name": text}, maker=Maker(run=text, run_id=text)
    )  # fmt: skip
    page = lineage_markdown({one.key: one}, [one.key])
    header, rule, row, *rest = page.splitlines()
    assert not rest and header.startswith("| product") and set(rule) <= set("|-")
    assert row.replace("\\|", "").count("|") == 6 and "**dataset**" in row
    assert "<" not in row and not any(mark in row.replace(f"\\{mark}", "") for mark in ("`", "[", "]"))


def test_the_run_is_a_link_and_what_is_not_recorded_here_is_named() -> None:
    run_id = str(uuid.uuid4())
    student = Product(
        kind=Kind.STUDENT, digest="0" * 16, folder="distill/a", made_from=("dataset:" + "d" * 64,)
    )
    made = made_by(student, Maker(flow="sure-math-distill", run="pocket distill", run_id=run_id))
    assert made.finished_at and made.software.startswith("sure-math")
    page = lineage_markdown({made.key: made}, [])
    assert f"[pocket distill](/runs/flow-run/{run_id})" in page and "| student |" in page
    assert "made from dataset dddddddddddd (recorded elsewhere)" in page
    assert lineage_markdown({student.key: replace(student)}, []).count("| unknown |") == 1
