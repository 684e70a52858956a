"""The quality judge: every criterion can reject a problem, and verdicts by earlier criteria are not used again."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from prefect import flow

from prompts import load_prompt
from tasks.config import PROJECT_ROOT, load_config
from tasks.errors import UserError
from tasks.llm.chat import Completion, Failure
from tasks.rows import QUALITY_CRITERIA, Problem, Reason, Reject, Role, Tier, Verdict
from tasks.runtime.driver import Run, Stage
from tasks.runtime.pending import Pending
from tasks.runtime.summaries import funnel_table
from tasks.stages.judge import PROMPT, VERSION, collect, judge, judged
from tasks.storage.artifacts import Artifact, Store, digest
from tasks.storage.manifest import StageCount
from tests.scripted_server import running

GOOD = dict.fromkeys(QUALITY_CRITERIA, True)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictOfVersion2:
    """The row that stage version 2 wrote."""

    problem_id: str
    clear: bool
    complete: bool
    consistent: bool
    single_answer: bool
    nontrivial: bool
    passed: bool
    reply: str
    model: str
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectOfVersion2:
    """Like `Reject`, with a reason that no longer exists."""

    problem_id: str
    stage: str
    reason: str
    detail: str = ""
    text: str = ""


def problem(number: int) -> Problem:
    return Problem(
        id=f"p{number}", text=f"A train of {number} carriages leaves. How long is it?", tier=Tier.EASY, source="s",
        source_id=str(number), licence="none", role=Role.EVOLVED, root_id="root", parent_id="root", round=1,
    )  # fmt: skip


def completion(text: str) -> Completion:
    return Completion(key="k", text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(config=load_config("pocket"), store=Store(tmp_path), identities={"quality_judge": "judge@1"})


@pytest.mark.parametrize("criterion", QUALITY_CRITERIA)
def test_each_criterion_alone_rejects_a_problem_with_its_own_reason(run: Run, criterion: str) -> None:
    reply = completion(json.dumps(GOOD | {criterion: False}))
    row, verdict, reject = judged(problem(1), reply, run)
    assert reject is not None and verdict is not None and not verdict.passed
    assert (reject.problem_id, reject.stage, reject.reason) == (row.id, "judge", f"not_{criterion}")
    assert reject.detail == f"does not hold: {criterion.replace('_', ' ')}" and reject.text == row.text
    assert {name: asdict(verdict)[name] for name in QUALITY_CRITERIA} == GOOD | {criterion: False}


def test_the_first_criterion_that_fails_is_the_reason_and_the_detail_names_all(run: Run) -> None:
    reply = completion(json.dumps(GOOD | {"self_contained": False, "multi_step": False}))
    _, _, reject = judged(problem(1), reply, run)
    assert reject is not None and reject.reason is Reason.NOT_MULTI_STEP
    assert reject.detail == "does not hold: multi step, self contained"


def test_the_reasons_of_a_shard_are_shown_in_words(run: Run) -> None:
    replies = [completion(json.dumps(GOOD | {criterion: False})) for criterion in QUALITY_CRITERIA]
    replies += [completion(json.dumps(GOOD)), completion("all five hold")]
    results = [judged(problem(number), reply, run) for number, reply in enumerate(replies)]
    shard = collect([*results, judged(problem(9), Failure(key="k", reason="HTTP 500", attempts=3), run)])
    counts = shard.counts("problems")
    assert [row.id for row in shard.tables["problems"][1]] == ["p5"]
    assert len(shard.tables["verdicts"][1]) == 6  # none without a valid reply
    count = StageCount(stage="judge", rows_in=8, kept=counts["kept"], rejected=counts["rejected"])
    assert funnel_table([count])[0]["reasons"] == (
        "malformed reply: 1, model error: 1, not closed form: 1, not multi step: 1, not self contained: 1, "
        "not unambiguous: 1, not well formed: 1"
    )


def test_the_documentation_lists_every_criterion_with_its_reason() -> None:
    page = (PROJECT_ROOT / "docs" / "factory.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)` \|.*\| `(not_\w+)` \|$", page, re.MULTILINE)
    assert table == [(criterion, Reason(f"not_{criterion}")) for criterion in QUALITY_CRITERIA]


def stored(store: Store, rows: list[Problem]) -> Artifact:
    counts = {"in": len(rows), "kept": len(rows), "rejected": {}}
    store.write_shard(store.folder("copies", "0" * 64), 0, {"problems": (Problem, rows)}, {"counts": counts})
    return store.finish("copies", "0" * 64, 1, {"build": "first"})


def verdicts_of_version_2(run: Run, candidates: Artifact, rows: list[Problem]) -> Artifact:
    """Write what stage version 2 made of two problems: the first is kept, the second rejected."""
    stage = Stage(
        name="judge", version=2, inputs=(candidates,), prompts=(load_prompt(PROMPT).fingerprint,), models=("judge@1",),
        settings={"judge": run.config.judge.identity(), "model": run.config.models.quality_judge.identity()},
    )  # fmt: skip
    verdicts = [
        VerdictOfVersion2(
            problem_id=row.id, clear=True, complete=True, consistent=True, single_answer=True, nontrivial=passed,
            passed=passed, reply="{}", model="judge@1", prompt="judge/quality@1:0",
        )
        for row, passed in zip(rows, (True, False), strict=True)
    ]  # fmt: skip
    lost = [RejectOfVersion2(problem_id=rows[1].id, stage="judge", reason="judged_unfit")]
    pending = Pending(run.store, stage, lambda index: run.store.table_digest(candidates, index, "problems"))
    record = {"counts": {"in": 2, "kept": 1, "rejected": {"judged_unfit": 1}}, "key": pending.key(0)}
    tables = {
        "problems": (Problem, rows[:1]),
        "verdicts": (VerdictOfVersion2, verdicts),
        "rejects": (RejectOfVersion2, lost),
    }
    run.store.write_shard(run.store.folder("judge", stage.fingerprint), 0, tables, record)
    return run.store.finish("judge", stage.fingerprint, 1, {})


def test_the_verdicts_of_an_earlier_version_are_refused_in_one_sentence(run: Run) -> None:
    rows = [problem(0), problem(1)]
    old = verdicts_of_version_2(run, stored(run.store, rows), rows)
    with pytest.raises(UserError, match=r"^[^\n]*well_formed[^\n]*$"):
        list(run.store.rows(old, "verdicts", Verdict))
    with pytest.raises(UserError, match=r"^[^\n]*judged_unfit[^\n]*$"):
        list(run.store.rows(old, "rejects", Reject))


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_folder_with_verdicts_of_an_earlier_version_is_judged_again(tmp_path: Path) -> None:
    rows = [problem(0), problem(1)]
    asked = [load_prompt(PROMPT).render(problem=row.text)[-1]["content"] for row in rows]
    replies = [json.dumps(GOOD | {"closed_form": False}), json.dumps(GOOD)]
    script = {content: [f"ok:{reply}"] for content, reply in zip(asked, replies, strict=True)}
    with running(script) as server:
        role = {"model": "scripted", "base_url": server.base_url, "serve": None}
        config = load_config("pocket", {"models.quality_judge": role})
        run = Run(config=config, store=Store(tmp_path), identities={"quality_judge": "judge@1"})
        candidates = stored(run.store, rows)
        old = verdicts_of_version_2(run, candidates, rows)
        before = digest(old.path)

        @flow
        def judging() -> Artifact:
            return judge(run, candidates)

        new = judging()
        assert server.counts == dict.fromkeys(asked, 1)
    assert VERSION > 2 and new.path != old.path and digest(old.path) == before
    assert [row.id for row in run.store.rows(new, "problems", Problem)] == ["p1"]
    assert [row.passed for row in run.store.rows(new, "verdicts", Verdict)] == [False, True]
    assert run.store.record(new)["counts"]["rejected"] == {"not_closed_form": 1}
