"""The whole flow in the pocket world with real vLLM: uninterrupted, and repeated."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from flows.build import build
from tasks.errors import UserError
from tasks.rows import Example
from tasks.runtime.plan import write_plan
from tasks.storage.artifacts import digest
from tasks.storage.manifest import read_manifest
from tests.reports.page import Page
from tests.small_build import SMALL, STAGES, Builder, sent_requests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


MODEL_START = re.compile(
    r"(starting|connecting to) the (evolver|quality judge|equivalence judge) server|starting the teacher"
)


def test_the_counts_of_every_stage_add_up_and_the_dataset_loads(undisturbed: tuple[Builder, str]) -> None:
    builder, _ = undisturbed
    manifest = read_manifest(builder.output / "dataset")
    assert tuple(stage.stage for stage in manifest.stages) == STAGES
    by_name = {stage.stage: stage for stage in manifest.stages}
    assert by_name["evolve-1"].rows_in == 24 and by_name["evolve-2"].rows_in <= 12
    evolved = by_name["evolve-1"].kept + by_name["evolve-2"].kept
    assert by_name["rules"].rows_in == evolved >= 18
    assert by_name["deduplicate"].rows_in == by_name["rules"].kept
    assert by_name["judge"].rows_in == by_name["deduplicate"].kept
    assert by_name["select"].rows_in == by_name["judge"].kept + 8
    assert by_name["sample"].rows_in == by_name["select"].kept

    dataset: Any = load_dataset(str(builder.output / "dataset"))
    responses: Any = load_dataset(str(builder.output / "dataset"), "responses")
    assert len(dataset["test"]) == 4 and all(
        row["role"] == "curated" and row["answer"] for row in dataset["test"]
    )
    assert len(dataset["train"]) == by_name["cluster"].kept - 4
    assert len(responses["train"]) == 8 * len(dataset["train"])
    assert set(dataset["train"].column_names) == set(Example.__dataclass_fields__)
    assert all(0.0 <= row["weight"] <= 1.0 for row in dataset["train"])
    page = Page((builder.output / "report.html").read_text())
    assert page.foreign_scripts == [] and page.broken == [] and "rows rejected" in page.words


def test_no_descendant_of_a_benchmark_problem_is_in_the_config_decontaminated(
    undisturbed: tuple[Builder, str],
) -> None:
    folder = undisturbed[0].output / "dataset"
    whole: Any = load_dataset(str(folder), split="train")
    clean: Any = load_dataset(str(folder), "decontaminated", split="train")
    flagged = {row["id"] for row in whole if row["benchmark_overlap"]}
    exam = {
        row["id"]
        for row in whole
        if row["source"] == "pocket" and int(row["source_id"].rpartition("/")[2]) < 2  # tests/small_build.py
    }
    assert 0 < len(exam) < len(whole) - 4 and exam <= flagged
    assert set(clean["id"]) == set(whole["id"]) - flagged
    assert all("exam" in row["overlap_benchmarks"] for row in whole if row["id"] in exam)
    counted = {count.benchmark: count for count in read_manifest(folder).benchmarks}
    assert counted["exam"].problems == 8 and counted["exam"].flagged >= len(exam)
    assert "exam" in (undisturbed[0].output / "report.html").read_text()


def test_a_second_run_starts_no_model_and_writes_nothing(undisturbed: tuple[Builder, str]) -> None:
    builder, first_log = undisturbed
    before = builder.shard_files(), digest(builder.output / "dataset")
    log = builder.run()
    assert len(MODEL_START.findall(first_log)) >= 3 and not MODEL_START.search(log)
    assert (builder.shard_files(), digest(builder.output / "dataset")) == before


@pytest.mark.long
def test_deleting_one_stage_repeats_it_and_the_following_stages(undisturbed: tuple[Builder, str]) -> None:
    builder, _ = undisturbed
    before, bytes_before = builder.shard_files(), digest(builder.output / "dataset")
    folder = next((builder.output / "artifacts").glob("judge-*"))
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    folder.rmdir()
    log = builder.run()
    after = builder.shard_files()
    repeated = {
        Path(file).parents[1].name.rsplit("-", 1)[0] for file in after if after[file] != before.get(file)
    }
    assert repeated == {"judge", "select", "decontaminate", "sample", "cluster"}
    assert digest(builder.output / "dataset") == bytes_before
    assert sent_requests(log) == 0


def test_the_plan_bounds_the_requests_and_bytes_of_the_build(
    undisturbed: tuple[Builder, str], tmp_path: Path
) -> None:
    builder, log = undisturbed
    _, plan = write_plan("pocket", {**SMALL, "run.output": str(tmp_path)})
    planned = {line.stage: line for line in plan.lines}
    sent = {stage.stage: stage.rows_in for stage in read_manifest(builder.output / "dataset").stages}
    assert planned["evolve-1"].requests == sent["evolve-1"]
    assert all(line.requests >= sent[stage] for stage, line in planned.items() if stage != "cluster")
    prompts, replies = (
        int(number.replace(",", ""))
        for number in re.search(r"evolve: .* ([\d,]+) prompt and ([\d,]+) completion", log).groups()  # type: ignore[union-attr]
    )
    rounds = [planned["evolve-1"], planned["evolve-2"]]
    assert prompts == pytest.approx(sum(line.prompt_tokens for line in rounds), rel=0.2)
    assert replies <= sum(line.most for line in rounds)
    written = [builder.output / name for name in ("artifacts", "dataset", "ledger.sqlite", "report.html")]
    files = [file for place in written for file in (place, *place.rglob("*")) if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 2 * sum(plan.disk.values())


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"models.teacher.model": "pocket/nobody"}, r"pocket/nobody does not exist"),
        ({"models.evolver.serve": {"port": 0, "gpus": 1}}, r"models.evolver.serve.gpus: unknown key"),
        (
            {"aggregate.sources": [{"kind": "file", "name": "x", "path": "none.jsonl", "tier": "easy"}]},
            r"none\.jsonl",
        ),
        ({"aggregate.test_problems": 9}, r"curated sources have only 8"),
    ],
)
def test_bad_settings_are_reported_before_any_model_starts(
    prefect_server: str,
    tmp_path: Path,
    overrides: dict[str, object],
    sentence: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(UserError, match=sentence):
        build("pocket", {**SMALL, "run.output": str(tmp_path / "bad"), **overrides})
    assert not MODEL_START.search(caplog.text) and not (tmp_path / "bad" / "artifacts").exists()
