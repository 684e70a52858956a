"""The tables of a run at work, from shards on disk: each number is the one that the finished artifacts have."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.config import load_config
from tasks.llm.chat import Usage
from tasks.llm.ledger import Ledger, Spent
from tasks.rows import Problem, Reason, Reject, Response, Role, Strategy, Tier, Verdict
from tasks.runtime import live
from tasks.runtime.driver import Run, Shard
from tasks.runtime.live import Live
from tasks.runtime.stage import Stage
from tasks.runtime.summaries import stage_counts
from tasks.storage.artifacts import Artifact, Store

PRICES = {"prompt": 1.0, "output": 100.0}


class Table:
    """A table in memory in place of an artifact."""

    def __init__(self, key: str, _description: str) -> None:
        self.key, self.rows = key, list[dict[str, Any]]()

    def show(self, rows: Callable[[], Sequence[dict[str, Any]]], *, last: bool = False) -> None:
        self.rows = list(rows())


class Working:
    """A `Progress` at a number of rows."""

    def __init__(self, total: int) -> None:
        self.total, self.base, self.done = total, 0, 0

    def line(self) -> str:
        return f"judge: {self.done} of {self.total} rows"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(live, "LiveTable", Table)
    config = load_config("pocket", {"models.quality_judge.prices": PRICES})
    roles = ("evolver", "quality_judge", "teacher", "equivalence_judge")
    return Run(
        config=config, store=Store(tmp_path), identities={role: f"{role}@1" for role in roles}, live=Live()
    )


def rows(run: Run, name: str) -> list[dict[str, Any]]:
    return run.live._tables[name].rows  # type: ignore[attr-defined]


def problem(number: int, strategy: Strategy) -> Problem:
    return Problem(
        id=f"p{number}", text=f"text {number}", tier=Tier.EASY, source="s", source_id="1", licence="mit", role=Role.EVOLVED,
        root_id="r", round=1, strategy=strategy,
    )  # fmt: skip


def verdict(number: int, **criteria: bool) -> Verdict:
    holds = {
        "well_formed": True,
        "unambiguous": True,
        "multi_step": True,
        "closed_form": True,
        "self_contained": True,
    }
    holds |= criteria
    return Verdict(
        **holds, problem_id=f"p{number}", passed=all(holds.values()), reply="", model="m", prompt="p"
    )


def reject(number: int, reason: Reason, stage: str = "judge") -> Reject:
    return Reject(problem_id=f"p{number}", stage=stage, reason=reason)


def stage(name: str) -> Stage:
    return Stage(name=name, version=1, settings={})


def write(
    run: Run, name: str, index: int, tables: dict[str, tuple[type, list[Any]]], started: float = 0.0
) -> None:
    incoming = sum(len(tables.get(table, (None, []))[1]) for table in ("problems", "rejects"))
    shard = Shard(incoming=incoming, tables=tables)
    record = {
        "counts": shard.counts("problems"), "seconds": 1.5, "notes": {}, "started_at": started or time.time() + 1,
    }  # fmt: skip
    run.store.write_shard(run.store.folder(name, stage(name).fingerprint), index, tables, record)


def finish(run: Run, name: str, shards: int) -> Artifact:
    return run.store.finish(name, stage(name).fingerprint, shards, {})


EVOLVED = [problem(0, Strategy.APPLY), problem(1, Strategy.APPLY), problem(2, Strategy.HARDER)]
MORE = [problem(3, Strategy.HARDER)]


def judged(run: Run, index: int) -> None:
    """Write a shard of the judge: p0 is kept, p1 fails two criteria; of the second shard nothing is kept."""
    tables = [
        {
            "problems": (Problem, EVOLVED[:1]),
            "verdicts": (Verdict, [verdict(0), verdict(1, multi_step=False, closed_form=False)]),
            "rejects": (Reject, [reject(1, Reason.NOT_MULTI_STEP), reject(2, Reason.MODEL_ERROR)]),
        },
        {
            "problems": (Problem, []), "verdicts": (Verdict, [verdict(3, closed_form=False)]),
            "rejects": (Reject, [reject(3, Reason.NOT_CLOSED_FORM)]),
        },
    ]  # fmt: skip
    write(run, "judge", index, tables[index])


def evolved(run: Run, started: float = 0.0) -> None:
    for name in ("evolve-1", "rules", "deduplicate"):
        for index, part in enumerate((EVOLVED, MORE)):
            write(run, name, index, {"problems": (Problem, part), "rejects": (Reject, [])}, started)


def test_a_run_is_shown_while_it_works_and_ends_with_the_counts_of_its_artifacts(run: Run) -> None:
    evolved(run)
    before = [finish(run, name, 2) for name in ("evolve-1", "rules", "deduplicate")]
    for artifact in before:
        run.live.is_built(run, artifact)
    working = Working(4)
    run.live.begins(stage("judge"), working)  # type: ignore[arg-type]
    judged(run, 0)
    working.done = working.base = 3
    run.live.shard_done(run, stage("judge"), 0)
    run.live.show(run)
    assert [(row["stage"], row["in"], row["kept"], row["state"]) for row in rows(run, "funnel")] == [
        ("evolve-1", 4, 4, "done"), ("rules", 4, 4, "done"), ("deduplicate", 4, 4, "done"), ("judge", 3, 1, "3 of 4 rows"),
    ]  # fmt: skip
    found = {row["strategy"]: (row["evolved"], row["accepted"]) for row in rows(run, "strategies")}
    assert found == {"apply": ("2", "50.0%"), "harder": ("2", "0.0%")}
    judge = {row["reason"]: row for row in rows(run, "judge")}
    assert (judge["not multi step"]["rejected for it"], judge["not closed form"]["does not hold"]) == (
        "1",
        "1",
    )

    judged(run, 1)
    working.done = working.base = 4
    run.live.shard_done(run, stage("judge"), 1)
    artifacts = [*before, finish(run, "judge", 2)]
    run.live.publish(run, artifacts)
    counts = stage_counts(run.store, artifacts)
    assert [(row["stage"], row["in"], row["kept"], row["rejected"]) for row in rows(run, "funnel")] == [
        (one.stage, one.rows_in, one.kept, one.dropped) for one in counts
    ]
    assert {row["state"] for row in rows(run, "funnel")} == {"done"}
    judge = {row["reason"]: row["rejected for it"] for row in rows(run, "judge")}
    assert {reason: int(number) for reason, number in judge.items() if number != "0"} == dict(
        counts[-1].reasons
    )
    assert rows(run, "cost")[-1] | {"what": "stage judge", "time": "3 s"} == rows(run, "cost")[-1]


def test_the_cost_is_that_of_the_rows_so_far_and_of_those_that_are_left(run: Run) -> None:
    with Ledger(run.ledger_path) as ledger:
        ledger.put(
            "k",
            {},
            model="quality_judge@1",
            spent=Spent(requests=2, prompt_tokens=10_000, completion_tokens=600),
        )
    working, usage = Working(9), Usage()
    run.live.uses("quality_judge", usage)
    run.live.uses("quality_judge", usage)  # the same model, used again
    run.live.begins(stage("judge"), working)  # type: ignore[arg-type]
    run.live.show(run)
    assert rows(run, "cost")[0]["projected cost"] == ""
    judged(run, 0)
    working.done = working.base = 3
    usage.completions, usage.prompt_tokens, usage.completion_tokens = 3, 9_000, 600
    run.live.shard_done(run, stage("judge"), 0)
    run.live.show(run)
    own, all_runs, time_spent = rows(run, "cost")
    assert own["what"] == "quality judge, this run (quality\\_judge@1)"
    assert (own["cost"], own["projected cost"], own["projected tokens"]) == ("0.07", "0.21", "28,800")
    assert (all_runs["requests"], all_runs["prompt tokens"], all_runs["cost"]) == ("2", "10,000", "0.07")
    assert (time_spent["what"], time_spent["time"]) == ("stage judge", "2 s")


def test_shards_of_earlier_runs_are_counted_but_not_as_work_of_this_run(run: Run) -> None:
    responses = [
        Response(
            problem_id="p0", index=index, text="", token_count=5, logprob_sum=-1.0, finish_reason="stop", answer=None, model="m",
            prompt="p", sampling="", seed=0,
        )
        for index in range(3)
    ]  # fmt: skip
    tables = {"problems": (Problem, EVOLVED[:1]), "responses": (Response, responses), "rejects": (Reject, [])}
    working = Working(3)
    run.live.begins(stage("sample"), working)  # type: ignore[arg-type]
    for index, started in enumerate((1.0, 0.0)):
        write(run, "sample", index, tables, started)
        working.done = working.base = index + 1
        run.live.shard_done(run, stage("sample"), index)
    run.live.show(run)
    assert [row["in"] for row in rows(run, "funnel")] == [2]
    teacher = rows(run, "cost")[0]
    assert teacher["what"].startswith("teacher, this run") and teacher["prompt tokens"] == ""
    assert (teacher["requests"], teacher["output tokens"], teacher["projected tokens"]) == ("3", "15", "30")


def test_benchmarks_are_no_part_of_the_funnel(run: Run) -> None:
    for name in ("aggregate", "benchmarks"):
        run.live.begins(stage(name), Working(0))  # type: ignore[arg-type]
    run.live.show(run)
    assert [row["stage"] for row in rows(run, "funnel")] == ["aggregate"]
