"""Sampling of a shard that is killed halfway: finished problems are kept and not sampled again."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
import zlib
from pathlib import Path

from tasks.config import PROJECT_ROOT, load_config
from tasks.llm.ledger import Ledger
from tasks.llm.sampler import Sampled, TeacherSampler
from tasks.rows import Problem, Response, Role, Tier
from tasks.runtime.driver import Lazy, Run
from tasks.runtime.sampling import pack, sample_prompt, sampled, unpack
from tasks.storage.artifacts import Store
from tests.scripted_server import running

PROBLEMS = 6
SLOW = 2  # this problem gets no samples in the first run


def problems() -> list[Problem]:
    return [
        Problem(
            id=f"p{number}", text=f"What is {number} + 1?", tier=Tier.EASY, source="s", source_id=str(number), licence="l",
            role=Role.EVOLVED, root_id="r",
        )
        for number in range(PROBLEMS)
    ]  # fmt: skip


def content(number: int) -> str:
    """The message that the server receives for a problem."""
    return str(sample_prompt(problems()[number], "recipe").messages[-1]["content"])


def sample_all(base_url: str, folder: Path) -> tuple[dict[str, Sampled], int]:
    """Sample every problem with the stage's ledger; the teacher itself has no ledger here."""
    teacher = {"model": "scripted", "base_url": base_url, "serve": None}
    run = Run(
        config=load_config("pocket", {"models.teacher": teacher, "sample.num_samples": 3}),
        store=Store(folder),
        identities={"teacher": "scripted@1"},
    )
    sampler = TeacherSampler(run.config.models.teacher, root=PROJECT_ROOT, identity="scripted@1")
    with Ledger(folder / "ledger.sqlite") as ledger, Lazy(lambda: sampler) as lazy:
        return sampled(problems(), run, "recipe", lazy, ledger, lambda _done: None)


def finished(folder: Path) -> int:
    """The number of problems in a ledger that another process writes."""
    with Ledger(folder / "ledger.sqlite") as ledger:
        return len(ledger)


def test_a_killed_shard_continues_with_the_unfinished_problems(tmp_path: Path) -> None:
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    with running({content(SLOW): ["silent"] * 3 + ["ok"]}) as server:
        code = f"from tests.stages.test_sample import *; sample_all({server.base_url!r}, Path({str(disturbed)!r}))"
        with subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT_ROOT) as owner:
            deadline = time.monotonic() + 120.0
            while finished(disturbed) < PROBLEMS - 1 and time.monotonic() < deadline:
                assert owner.poll() is None
                time.sleep(0.1)
            owner.kill()
        assert finished(disturbed) == PROBLEMS - 1
        before = dict(server.counts)
        rows, known = sample_all(server.base_url, disturbed)
        assert known == PROBLEMS - 1
        again = {text: count - before[text] for text, count in server.counts.items()}
        assert again == {content(number): 3 if number == SLOW else 0 for number in range(PROBLEMS)}
    with running() as server:
        whole, known = sample_all(server.base_url, undisturbed)
    assert known == 0 and whole == rows
    assert [row.index for group in rows.values() for row in group if isinstance(row, Response)] == [
        0,
        1,
        2,
    ] * 6
    assert sorted(rows) == [problem.id for problem in problems()]


def test_a_ledger_entry_that_cannot_be_used_is_sampled_again_once(tmp_path: Path) -> None:
    with running() as server:
        rows, _ = sample_all(server.base_url, tmp_path)
        (first, *_), group = rows.values(), pack(rows["p0"])
        assert unpack("p0", json.loads(json.dumps(group))) == first
        poison = [
            5, {}, {"responses": [], "failures": []}, {"responses": [{}], "failures": []},
            *({**group, "responses": [{**group["responses"][0], **wrong}]} for wrong in (
                {"logprob_sum": -1e17}, {"logprob_sum": 1.0}, {"token_count": 2**63}, {"token_count": 0}, {"text": 5},
                {"text": "half \ud83d"}, {"index": -1}, {"seed": 2**63}, {"answer_token_count": 99}, {"problem_id": "p1"},
                {"extra": 1}, {"answer_logprob_sum": "x"})),
            {**group, "failures": [{"reason": "none of ours", "detail": "", "index": 0}]},
        ]  # fmt: skip
        assert [unpack("p0", json.loads(json.dumps(value))) for value in poison] == [[]] * len(poison)
        connection = sqlite3.connect(tmp_path / "ledger.sqlite")
        with connection:
            packed = zlib.compress(json.dumps(poison[4]).encode())
            connection.execute("UPDATE entries SET value = ?", (packed,))
        connection.close()
        before = server.counts.total()
        assert sample_all(server.base_url, tmp_path) == (rows, 0)
        assert server.counts.total() == before + 3 * PROBLEMS
        assert sample_all(server.base_url, tmp_path) == (rows, PROBLEMS)
        assert server.counts.total() == before + 3 * PROBLEMS
