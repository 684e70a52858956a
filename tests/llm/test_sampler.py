"""The teacher's samples: same seeds, same rows; log-probabilities by closed form; nothing outlives its owner.

Real vLLM engines, started twice in all: here, and in a process that is killed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks.answers.token_spans import TokenSpans
from tasks.config import ModelRole, Sampling, Serve
from tasks.errors import UserError
from tasks.llm.ledger import Ledger
from tasks.llm.offline_engine import SampleOutput
from tasks.llm.sampler import SampleFailure, SamplePrompt, TeacherSampler
from tasks.processes.ray_session import last_error_line
from tasks.rows import Reason, Response
from tests.llm.test_servers import gone_within
from tests.scripted_server import LOGPROBS, running
from tests.tiny_model import CHAT_TEMPLATE, write_tiny_model

PROJECT = Path(__file__).resolve().parents[2]
SAMPLING = Sampling(temperature=0.7, top_p=0.95, max_tokens=24)


def prompt(number: int, words: int = 3) -> SamplePrompt:
    text = f"Solve {number} plus 4" + " plus 4" * words
    return SamplePrompt(
        problem_id=f"p{number}", prompt="teacher/solve", values={"problem": text}, seed=1000 * number
    )


# --- a remote teacher, scripted ----------------------------------------------------------------------------------


def remote(base_url: str, ledger: Ledger | None = None) -> TeacherSampler:
    return TeacherSampler(
        ModelRole(model="scripted", base_url=base_url), root=PROJECT, identity="scripted@1", ledger=ledger
    )


def test_a_remote_teacher_gives_the_same_rows() -> None:
    text = prompt(1).messages[0]["content"]
    with running({text: [r"ok:so \boxed{7}"]}) as server, remote(server.base_url) as sampler:
        rows = sampler.sample([prompt(1)], 2, SAMPLING, "prompt-print")
    assert rows == [
        Response(
            problem_id="p1",
            index=index,
            text=r"so \boxed{7}",
            token_count=3,
            logprob_sum=sum(LOGPROBS),
            after_think_token_count=3,
            after_think_logprob_sum=sum(LOGPROBS),
            answer_token_count=1,
            answer_logprob_sum=LOGPROBS[1],
            finish_reason="stop",
            answer="7",
            model="scripted@1",
            prompt="prompt-print",
            sampling='{"logprobs":"raw","max_tokens":24,"temperature":0.7,"template":null,"thinking":false,"top_p":0.95}',
            seed=1000 + index,
        )
        for index in range(2)
    ]
    assert sorted(body["seed"] for body in server.bodies) == [1000, 1001]


def test_a_remote_teacher_is_not_asked_twice(tmp_path: Path) -> None:
    with running() as server, Ledger(tmp_path / "ledger.sqlite") as ledger:
        with remote(server.base_url, ledger) as sampler:
            first = sampler.sample([prompt(1), prompt(2)], 3, SAMPLING, "f")
            assert sampler.sample([prompt(1), prompt(2)], 3, SAMPLING, "f") == first
            assert all(isinstance(row, Response) and row.after_think_token_count == 3 for row in first)
        assert server.counts.total() == 6


def test_a_refused_remote_prompt_fails_its_problem_only() -> None:
    bad = prompt(2).messages[0]["content"]
    with running({bad: ["400"]}) as server, remote(server.base_url) as sampler:
        rows = sampler.sample([prompt(1), prompt(2), prompt(3)], 2, SAMPLING, "f")
    assert [row.problem_id for row in rows] == ["p1", "p1", "p2", "p3", "p3"]
    failure = rows[2]
    assert isinstance(failure, SampleFailure) and failure.reason == Reason.MODEL_ERROR
    assert "scripted 400" in failure.detail


def test_tempered_log_probabilities_need_an_engine_of_our_own() -> None:
    role = ModelRole(model="m", base_url="http://127.0.0.1:9/v1")
    sampler = TeacherSampler(role, root=PROJECT, identity="m", logprobs="tempered")
    with pytest.raises(UserError, match="set it to 'raw'"), sampler:
        pass


# --- rules of a row ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "count"), [(math.nan, 3), (0.5, 3), (-math.inf, 3), (-1.0, 0)])
def test_an_impossible_log_probability_costs_its_sample_and_no_other(total: float, count: int) -> None:
    sampler = TeacherSampler(ModelRole(model="m", serve=Serve()), root=PROJECT, identity="m")
    spans = TokenSpans(after_think_token_count=2, after_think_logprob_sum=-1.0)
    good = SampleOutput(text="a", token_count=2, logprob_sum=-1.0, finish_reason="stop", spans=spans)
    bad = SampleOutput(
        text="b", token_count=count, logprob_sum=total, finish_reason="stop", spans=TokenSpans()
    )
    first, lost, last = sampler._rows(prompt(4), [good, bad, good], "f", "{}")
    assert isinstance(lost, SampleFailure)
    assert (lost.problem_id, lost.index, lost.reason) == ("p4", 1, Reason.INVALID_LOGPROB)
    assert lost.detail.startswith("sample 1: ")
    assert isinstance(first, Response) and isinstance(last, Response)
    assert (first.index, last.index, last.seed, last.after_think_logprob_sum) == (0, 2, 4002, -1.0)


def test_many_samples_at_temperature_zero_are_refused() -> None:
    refused = pytest.raises(UserError, match="8 samples at temperature 0 are all the same")
    with running() as server, remote(server.base_url) as sampler, refused:
        sampler.sample([prompt(1)], 8, Sampling(temperature=0.0), "f")
    assert server.counts.total() == 0


def test_a_missing_model_is_named_before_an_engine_starts(tmp_path: Path) -> None:
    role = ModelRole(model="./nowhere", serve=Serve())
    with pytest.raises(UserError, match="does not exist"), TeacherSampler(role, root=tmp_path, identity="m"):
        pass


def test_the_cause_of_an_engines_death_is_found_in_rays_report() -> None:
    report = "ray::OfflineEngine.__init__() ValueError: x\n  File 'a'\nValueError: too little memory for the cache\n"
    assert last_error_line(report) == "ValueError: too little memory for the cache"
    killed = "2 worker(s) were killed due to the node running low on memory. Memory was 22.8GB\nRefer to the documentation"
    assert last_error_line(killed).startswith("the machine ran out of memory")


# --- the real engine ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeacherSampler]:
    root = tmp_path_factory.mktemp("sampler")
    model = write_tiny_model(root / "tiny")
    (model / "chat_template.jinja").rename(root / "given.jinja")
    serve = Serve(kv_cache_gib=1, max_num_seqs=32, health_timeout_s=400.0)
    role = ModelRole(
        model="tiny", dtype="float32", max_model_len=128, serve=serve, chat_template=Path("given.jinja")
    )
    before = set(psutil.Process().children(recursive=True))
    with TeacherSampler(role, root=root, identity="tiny@0") as sampler:
        started = set(psutil.Process().children(recursive=True)) - before
        yield sampler
    assert started and gone_within(list(started), 10.0) == []


@pytest.mark.slow
def test_the_same_seeds_give_identical_rows_in_any_order_and_company(engine: TeacherSampler) -> None:
    assert engine.invariance is not None and engine.invariance.verified
    given = hashlib.sha256(CHAT_TEMPLATE.encode()).hexdigest()[:16]
    prompts = [prompt(number, words=number) for number in range(1, 13)]
    seen: list[tuple[int, int]] = []
    finished: list[list[Response | SampleFailure]] = []
    rows = engine.sample(
        prompts, 4, SAMPLING, "f", on_problem=finished.append, on_progress=lambda *counts: seen.append(counts)
    )
    assert sorted((row for group in finished for row in group), key=repr) == sorted(rows, key=repr)
    assert [len(group) for group in finished] == [4] * 12
    assert {json.loads(row.sampling)["template"] for row in rows if isinstance(row, Response)} == {given}
    assert [(row.problem_id, getattr(row, "index", None)) for row in rows] == [
        (one.problem_id, index) for one in prompts for index in range(4)
    ]
    assert len({row.text for row in rows if isinstance(row, Response)}) == 48
    assert engine.sample(prompts, 4, SAMPLING, "f") == rows
    backwards = engine.sample(prompts[::-1], 4, SAMPLING, "f")
    assert sorted(backwards, key=repr) == sorted(rows, key=repr)
    assert engine.sample(prompts[5:6], 4, SAMPLING, "f") == rows[20:24]
    assert seen[-1] == (48, 48)


@pytest.mark.slow
def test_a_prompt_that_does_not_fit_is_a_failure_between_good_rows(engine: TeacherSampler) -> None:
    rows = engine.sample([prompt(1), prompt(2, words=200), prompt(3)], 2, SAMPLING, "f")
    assert [row.problem_id for row in rows] == ["p1", "p1", "p2", "p3", "p3"]
    failure = rows[2]
    assert isinstance(failure, SampleFailure) and failure.reason == Reason.PROMPT_TOO_LONG
    assert failure.detail.endswith("the context holds 128")
    (only,) = engine.sample([prompt(2, words=200)], 2, SAMPLING, "f")
    assert only == failure


OWNER = """
import dataclasses, json, sys
from pathlib import Path
from tasks.config import ModelRole, Sampling, Serve
from tasks.llm.sampler import SamplePrompt, TeacherSampler
serve = Serve(kv_cache_gib=1, max_num_seqs=256, health_timeout_s=400.0)
role = ModelRole(model="uniform", max_model_len=128, serve=serve)
prompts = [
    SamplePrompt(problem_id=str(i), prompt="teacher/solve", values={"problem": "x"}, seed=1000 * i) for i in range(8)
]
with TeacherSampler(role, root=Path(sys.argv[1]), identity="u") as sampler:
    rows = sampler.sample(prompts, 256, Sampling(temperature=0.7, top_p=1.0, max_tokens=1), "f")
    rows += sampler.sample(prompts, 2, Sampling(temperature=0.5, top_p=0.5, max_tokens=20), "f")
    print(json.dumps([dataclasses.asdict(row) for row in rows]), flush=True)
    while True:  # it is killed while its engine works
        sampler.sample(prompts, 256, Sampling(temperature=0.7, top_p=1.0, max_tokens=100), "f")
"""


@pytest.mark.slow
def test_log_probabilities_are_the_models_own_and_a_killed_owner_leaves_nothing(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "uniform", uniform=True)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=PROJECT,
        env=dict(os.environ),
    )
    with owner:
        try:
            assert owner.stdout is not None
            rows = json.loads(owner.stdout.readline())
            family = psutil.Process(owner.pid).children(recursive=True)
            assert family
        finally:
            owner.kill()
        assert gone_within(family, 10.0) == []
    assert len(rows) == 8 * 256 + 8 * 2
    for row in rows:
        assert row["logprob_sum"] == pytest.approx(-row["token_count"] * math.log(512), rel=1e-5), (
            "each of 512 tokens is equally likely, whatever temperature and truncation did to the sampling"
        )
    ended = [row for row in rows[: 8 * 256] if row["finish_reason"] == "stop"]
    assert ended and all((row["token_count"], row["text"]) == (1, "") for row in ended), (
        "the end token counts"
    )
    assert {row["token_count"] for row in rows[8 * 256 :] if row["finish_reason"] == "length"} == {20}
