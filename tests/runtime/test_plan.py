"""The plan of a run: local sources are counted, others declared, and evolution sends the planned requests."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.artifacts import Artifact as ShownArtifact

from flows.build import build
from prompts import load_prompt
from tasks.config import PROJECT_ROOT, Config, load_config
from tasks.errors import UserError
from tasks.llm.token_counts import token_counter
from tasks.rows import Problem, Role, Tier
from tasks.runtime.driver import Run
from tasks.runtime.estimate import Plan
from tasks.runtime.plan import planned, shortest_reply, write_plan
from tasks.seeds.registry import load, resolve
from tasks.stages.aggregate import aggregate
from tasks.stages.evolve import evolve
from tasks.storage.artifacts import Artifact, Store
from tests.scripted_server import running
from tests.small_build import SMALL

PARTS = {"kind": "hub", "name": "big", "parts": [{"hub_id": "a/b", "split": "train"}], "tier": "hard"}


def small(tmp_path: Path, **overrides: Any) -> dict[str, Any]:
    return {**SMALL, "run.output": str(tmp_path / "out"), **overrides}


def plan_of(tmp_path: Path, **overrides: Any) -> Plan:
    return write_plan("pocket", small(tmp_path, **overrides))[1]


def test_a_small_run_is_counted_exactly_and_written_to_plan_json(tmp_path: Path) -> None:
    path, plan = write_plan("pocket", small(tmp_path))
    assert path == tmp_path / "out" / "plan.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(plan.as_json()))
    assert plan.seeds == dict.fromkeys(Tier, 6) and plan.curated == 8
    assert {line.stage: line.requests for line in plan.lines} == {
        "evolve-1": 24, "evolve-2": 12, "judge": 36, "sample": 24, "cluster": 24 * 56,
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["plan.json"]  # nothing else was written


def test_prompts_of_the_first_round_are_counted_with_the_evolvers_own_tokenizer(tmp_path: Path) -> None:
    (line, *_) = plan_of(tmp_path, **{"evolve.rounds": dict.fromkeys(Tier, 1), "plan.growth": 1.0}).lines
    counter = token_counter("pocket/assistant", None, PROJECT_ROOT)
    assert counter is not None
    sources: Any = resolve(load_config("pocket", SMALL)).aggregate.sources
    texts = [row.text for row in load(sources[0]).outcomes if isinstance(row, Problem)]
    assert len(texts) == 24
    # all pocket prompts have the same length, so the count does not depend on the strategies
    prompt = load_prompt("evolution/harder")
    whole = [
        "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in prompt.render(problem=text))
        + "<|im_start|>assistant\n<think>\n\n</think>\n\n"
        for text in texts
    ]
    assert line.prompt_tokens == pytest.approx(sum(counter(whole)), rel=0.02)
    replies = sum(counter([f"<evolved>\n{text}\n</evolved>" for text in texts]))
    assert line.expected == pytest.approx(replies, rel=0.01)


def test_files_are_read_without_duplicates_and_the_hub_is_not_contacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.jsonl"
    texts = ["What is 1 + 1?", "What is 1 + 2?", "what is  1 + 2?", "x" * 9000]
    file.write_text("".join(json.dumps({"q": text}) + "\n" for text in texts), encoding="utf-8")
    sources = [
        {"kind": "file", "name": "mine", "path": str(file), "columns": {"text": "q"}, "tier": "easy"},
        {"kind": "scalequest"}, {"kind": "olympiad_bench"}, {"kind": "math", "target": 5},
        {"kind": "numina_math_cot", "revisions": {"AI-MO/NuminaMath-CoT": "0" * 40}},
        {**PARTS, "target": 7},
    ]  # fmt: skip
    monkeypatch.setattr("tasks.storage.hub.reach", lambda *_: pytest.fail("the hub was asked"))
    plan = plan_of(tmp_path, **{"aggregate.sources": sources})
    assert {source.name: (dict(source.problems), source.basis[:8]) for source in plan.sources} == {
        "mine": ({Tier.EASY: 2}, "read"),
        "scalequest": ({Tier.EASY: 15_000}, "declared"),
        "olympiad_bench": ({Tier.HARD: 674}, "declared"),
        "math": ({Tier.MEDIUM: 5}, "declared"),
        "numina_math_cot": ({Tier.MEDIUM: 10_000}, "declared"),
        "big": ({Tier.HARD: 7}, "declared"),
    }
    (note,) = [note for note in plan.notes if "not pinned" in note]
    assert note.endswith("scalequest, olympiad_bench, math, big")


def test_the_plan_names_the_benchmarks_and_those_that_are_not_pinned(tmp_path: Path) -> None:
    loose = {**PARTS, "name": "exam"}
    pinned = {**PARTS, "name": "contest", "revisions": {"a/b": "0" * 40}}
    local = {"kind": "pocket", "name": "held-out", "counts": {"easy": 2}}
    plan = plan_of(tmp_path, **{"decontam.benchmarks": [loose, pinned, local]})
    assert (
        "compared with 3 benchmarks, besides the seeds and the test split: exam, contest, held-out"
        in plan.notes
    )
    assert "benchmarks read at the latest commit, since their revisions are not pinned: exam" in plan.notes
    (note,) = [note for note in plan_of(tmp_path, **{"decontam.benchmarks": []}).notes if "benchmark" in note]
    assert note.startswith("decontam.benchmarks is empty")


def test_missing_files_and_models_are_reported_and_replaced_by_assumptions(tmp_path: Path) -> None:
    curated = {"kind": "file", "name": "gone", "role": "curated", "path": "gone.jsonl", "tier": "hard",
               "columns": {"text": "q", "answer": "a"}, "limit": 30}  # fmt: skip
    models = {"models.teacher.model": "Nobody/Nothing-1B", "models.evolver.model": "pocket/nobody"}
    sources = [{**PARTS, "target": 10}, curated]
    plan = plan_of(tmp_path, **{"aggregate.sources": sources, "plan.problem_chars": 400, **models})
    assert plan.curated == 30 and plan.sources[1].basis == "declared, its file is not here"
    notes, errors = "\n".join(plan.notes), "\n".join(plan.errors)
    assert "gone.jsonl cannot be read" in errors
    assert re.search(r"models.evolver: model folder \S*pocket/nobody does not exist", errors)
    assert "not on this machine: pocket/nobody, Nobody/Nothing-1B; their tokens are estimated" in notes
    # round 1 of 10 hard seeds: 100 tokens each by assumption, 130 for the child and 5 for the 21 characters of its tags
    assert (plan.lines[0].requests, plan.lines[0].expected) == (10, 1350)


def test_curated_problems_with_a_tier_column_are_counted_before_their_file_exists(tmp_path: Path) -> None:
    curated = {"kind": "file", "name": "gone", "role": "curated", "path": "gone.jsonl", "limit": 30,
               "columns": {"text": "q", "answer": "a", "tier": "t"}}  # fmt: skip
    plan = plan_of(tmp_path, **{"aggregate.sources": [{**PARTS, "target": 10}, curated]})
    assert (plan.curated, plan.seeds, plan.sources[1].problems) == (30, {Tier.HARD: 10}, {"unread": 30})
    seeds = {**curated, "role": "seed"}
    with pytest.raises(UserError, match=r"Source gone: its size is unknown"):
        plan_of(tmp_path, **{"aggregate.sources": [seeds], "aggregate.test_problems": 0})


def test_the_plan_says_what_the_config_decontaminated_leaves_out(tmp_path: Path) -> None:
    file = tmp_path / "exam.jsonl"
    lines = [json.dumps({"q": text}) for text in ("What is 1 + 1?", "What is 2 + 2?")]
    file.write_text("\n".join(lines), encoding="utf-8")
    exam = {
        "kind": "file",
        "name": "exam",
        "path": str(file),
        "columns": {"text": "q"},
        "tier": "easy",
        "benchmark": True,
    }
    contest = {"kind": "amo_bench", "target": 3}
    sources = [{**PARTS, "target": 10}, exam, contest, {"kind": "omni_math", "target": 4}]
    training = {
        "aggregate.sources": sources, "aggregate.test_problems": 0, "select.target": 8,
        "distill": {"run": {"student": {"model": "pocket/student"}, "teacher": {"model": "pocket/teacher"}}},
        "decontam.not_evaluated": ["omni_math"],
    }  # fmt: skip

    def note(**overrides: Any) -> str:
        notes = plan_of(tmp_path, **{**training, **overrides}).notes
        return next(note for note in notes if note.startswith("distill trains on"))

    # two rounds for hard and competition, one for easy: 2 x 1 + 3 x 2 of 2 + 2 x (10 + 4) + 6 candidates
    assert note() == (
        "distill trains on config default (distill.run.dataset.config); config decontaminated leaves out what descends from"
        " evaluated benchmarks (exam 2, amo_bench 3: 8 of 36 candidates, about 2 of 8 selected problems) and what overlaps"
        " with a benchmark by its text; not evaluated, so kept: omni_math (decontam.not_evaluated)"
    )
    every = note(**{"decontam.not_evaluated": [], "distill.run.dataset": {"config": "decontaminated"}})
    assert every.startswith("distill trains on config decontaminated")
    assert "(exam 2, amo_bench 3, omni_math 4: 16 of 36 candidates, about 4 of 8" in every


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"aggregate.sources": [PARTS]}, r"Source big: its size is unknown.* give its tier and target"),
        (
            {"aggregate.sources": [{"kind": "file", "name": "x", "path": "gone.jsonl", "tier": "easy"}]},
            r"Source x: .* \(limit, for a file\)",
        ),
        ({"evolve.target": 3}, r"evolve\.target is 3, but evolve\.branches already give 36 candidates"),
        ({"plan.colour": 1}, r"plan\.colour: unknown key"),
        ({"plan.rates": {"cook": {"prompt": 1, "output": 1}}}, r"plan\.rates\.cook"),
    ],
)
def test_invalid_settings_raise_a_user_error(
    tmp_path: Path, overrides: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        write_plan("pocket", small(tmp_path, **overrides))
    assert not (tmp_path / "out").exists()


def test_the_assumptions_of_a_plan_change_no_result() -> None:
    assert load_config("pocket", {"plan.growth": 3.0}).identity() == load_config("pocket").identity()


def test_the_shortest_reply_of_a_schema() -> None:
    schema = {"properties": {"a": {"type": "string"}, "b": {"type": "boolean"}}}
    assert shortest_reply(schema) == '{"a": "", "b": true}'


# --- the requests that evolution sends -----------------------------------------------------------------------------------


class Evolver(dict[str, list[str]]):
    """A script that answers every request with a new problem, or with a refusal if its hash is `refuses` modulo 10."""

    def __init__(self, refuses: int | None) -> None:
        super().__init__()
        self.refuses = refuses

    def get(self, content: str, _default: object = None) -> list[str]:  # type: ignore[override]
        number = int.from_bytes(hashlib.sha256(content.encode()).digest()[:4], "big")
        if number % 10 == self.refuses:
            return ["ok:I cannot help with that."]
        return [
            f"ok:<evolved>A box holds {number} red and {number % 97} blue balls. How many balls are there?</evolved>"
        ]


@pytest.fixture
def send(tmp_path: Path, prefect_server: str) -> Callable[..., tuple[Config, dict[int, int]]]:
    """Run aggregate and evolve with a scripted evolver; return the settings and the requests sent in each round."""

    def evolved(refuses: int | None, **overrides: Any) -> tuple[Config, dict[int, int]]:
        with running() as server:
            server.script = Evolver(refuses)
            reached = {"model": "scripted", "serve": None, "base_url": server.base_url}
            given = small(tmp_path, **overrides) | {"models.evolver": reached, "run.shard_rows": 500}
            config = resolve(load_config("pocket", given))
            run = Run(config=config, store=Store(tmp_path / "out"), identities={"evolver": "scripted@main"})

            @flow
            def rounds() -> tuple[Artifact, ...]:
                return evolve(run, aggregate(run))

            artifacts = rounds()
            counts = [run.store.record(artifact)["counts"]["in"] for artifact in artifacts]
            assert sum(counts) == sum(server.counts.values())
        return config, dict(enumerate(counts, start=1))

    return evolved


def planned_rounds(config: Config, tmp_path: Path) -> dict[int, int]:
    lines = [line for line in planned(config, tmp_path).lines if line.role == "evolver"]
    return {number: line.requests for number, line in enumerate(lines, start=1)}


@pytest.mark.slow
@pytest.mark.parametrize("target", [None, 60])
def test_the_plan_matches_what_evolution_sends_when_nothing_is_rejected(
    send: Callable[..., tuple[Config, dict[int, int]]], tmp_path: Path, target: int | None
) -> None:
    # one branch gives 24 + 12 candidates (round 2: hard and competition only), so two branches reach 60
    config, sent = send(None, **{"evolve.target": target})
    assert sent == planned_rounds(config, tmp_path) == ({1: 24, 2: 12} if target is None else {1: 48, 2: 24})


@pytest.mark.slow
def test_the_plan_bounds_what_evolution_sends_when_some_is_rejected(
    send: Callable[..., tuple[Config, dict[int, int]]], tmp_path: Path
) -> None:
    config, sent = send(4)
    most = planned_rounds(config, tmp_path)
    assert sent[1] == most[1] and sent[2] < most[2]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_dry_run_of_the_flow_shows_the_plan_of_the_papers_profile_and_starts_nothing(
    tmp_path: Path,
) -> None:
    path = Path(build("paper-1.7b", {"run.output": str(tmp_path / "out")}, dry_run=True))
    assert [found.name for found in (tmp_path / "out").iterdir()] == [path.name] == ["plan.json"]
    shown: Any = ShownArtifact.get("plan")
    assert shown is not None and "plan of paper-1.7b" in str(shown.data)
    # 15,000 x 1 + 22,500 x 2 + 5,074 x 3 + 170 x 5 = 76,072 candidates per branch, so a million takes 14 branches
    plan = json.loads(path.read_text(encoding="utf-8"))
    assert (plan["candidates"], plan["problems"]) == (14 * 76_072, 9_000)
    assert "branches 14: 1,065,008 candidates" in str(shown.data)


def test_curated_problems_are_not_counted_as_seeds(tmp_path: Path) -> None:
    config = resolve(load_config("pocket", small(tmp_path)))
    rows = [row for source in config.aggregate.sources for row in load(source).outcomes]
    assert {row.role for row in rows if isinstance(row, Problem)} == {Role.SEED, Role.CURATED}
    only = replace(planned(config, tmp_path), notes=())
    assert sum(only.seeds.values()) == 24 and only.lines[0].requests == 24
