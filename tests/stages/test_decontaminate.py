"""Descendants and copies of benchmark problems are flagged, and nothing else; nothing is rejected.

The contest problems below were written for this file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow

from tasks.config import DecontamSettings, load_config
from tasks.errors import UserError
from tasks.rows import Finding, FindingKind, Flag, Problem, Reject, Role, Selected, Strategy, Tier
from tasks.runtime.dataset_export import Overlaps, benchmark_counts
from tasks.runtime.decontamination import TEST_SPLIT, account, ancestors, compare, flag
from tasks.runtime.driver import Run, Shard, Stage, run_shards
from tasks.seeds.kinds import Loaded
from tasks.seeds.registry import resolve
from tasks.stages.aggregate import aggregate
from tasks.stages.benchmarks import benchmarks_stage, check_has_problems, read_benchmarks, without_repeats
from tasks.stages.decontaminate import decontaminate
from tasks.stages.opening import check_benchmarks
from tasks.stages.select import select
from tasks.storage.artifacts import Artifact, Store

CONTEST = (
    "Nora rolls a fair die until the sum of all rolls is at least 11. The probability that she rolls exactly 4 times is p. "
    "Find the closest integer to 1000p.",
    "A cone of height 12 and base radius 5 holds the largest sphere that fits. A second sphere touches the first one and the "
    "side of the cone. What is the ratio of both volumes?",
    "How many ways are there to colour the 8 corners of a cube with 3 colours so that no edge joins two corners of the same "
    "colour, when turned cubes count as different?",
)
EXAM = (
    "A ladder leans against a wall so that its foot stands 7 metres away and its top reaches 24 metres high. The foot slips "
    "by 8 metres. By how many metres does the top of the ladder come down?"
)
RENUMBERED = EXAM.replace("7 metres", "20 metres").replace("24", "21").replace("slips by 8", "slips by 1")
ORDINARY = "Seven friends share 91 walnuts in equal parts. How many walnuts does every one of them get?"
CURATED = (
    "The sum of three consecutive odd numbers is 93. What is the largest of these three consecutive odd numbers?",
    "A tank is filled by one pump in 6 hours and by another one in 3 hours. How many hours do both need together?",
    "Ivan walks round a lake in 84 minutes and Olga in 60 minutes, both from the same bench. When do they meet there again?",
)
UNLIKE = "Let k be what remains when {} is divided by nine. Determine every integer with this property."


def child(parent: Problem, text: str) -> Problem:
    return replace(
        parent, id=f"{parent.id}+", text=text, role=Role.EVOLVED, parent_id=parent.id, round=parent.round + 1,
        strategy=Strategy.HARDER, answer=None,
    )  # fmt: skip


def row(identity: str, text: str = "?", *, parent: str | None = None, source: str = "s") -> Problem:
    return Problem(
        id=identity, text=text, tier=Tier.HARD, source=source, source_id=identity, licence="l", root_id="r",
        role=Role.SEED if parent is None else Role.EVOLVED, parent_id=parent,
    )  # fmt: skip


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return str(path)


def source(path: Path, texts: Sequence[str], **keys: Any) -> dict[str, Any]:
    where = lines(path, [{"text": text, "answer": str(number)} for number, text in enumerate(texts)])
    return {"kind": "file", "name": path.stem, "path": where, "tier": "hard", **keys}


# --- the parts ---------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_ancestors_are_found_by_following_the_parents(seed: int) -> None:
    rng = random.Random(seed)
    generations: list[list[Problem]] = [[row(f"0.{i}") for i in range(6)]]
    for number in range(1, 5):
        older = [problem for generation in generations for problem in generation]
        generations.append([row(f"{number}.{i}", parent=rng.choice(older).id) for i in range(6)])
    every = {problem.id: problem for generation in generations for problem in generation}
    chosen = rng.sample(list(every.values()), 7)
    expected = set()
    for problem in chosen:
        above = problem.parent_id
        while above is not None:
            expected.add(above)
            above = every[above].parent_id
    found = [problem.id for problem in ancestors(chosen, generations[::-1])]
    assert len(found) == len(set(found)) and set(found) == expected - {problem.id for problem in chosen}


def test_a_held_out_problem_is_compared_with_all_problems_but_itself() -> None:
    held_out = [row("a", CURATED[0]), row("b", CURATED[1])]
    rows = [*held_out, row("copy", CURATED[0]), row("free", CURATED[2])]
    against = [replace(problem, source=TEST_SPLIT) for problem in held_out]
    found = compare(rows, [], against, DecontamSettings())
    assert set(found) == {"copy"} and {finding.benchmark for finding in found["copy"]} == {TEST_SPLIT}
    exam = row("exam/1", CURATED[1], source="exam")
    assert set(compare(rows, [], [*against, exam], DecontamSettings())) == {"copy", "b"}
    assert compare(rows, [], [], DecontamSettings()) == {}


def test_a_flag_names_benchmarks_and_kinds_once_and_in_order() -> None:
    findings = [
        Finding(problem_id="x", benchmark=name, benchmark_problem_id="b", kind=kind, score=1.0, detail="")
        for name, kind in (
            ("z", FindingKind.TEMPLATE),
            ("a", FindingKind.LINEAGE),
            ("z", FindingKind.LINEAGE),
        )
    ]
    kinds = (FindingKind.LINEAGE, FindingKind.TEMPLATE)
    assert flag("x", findings) == Flag(
        problem_id="x", benchmark_overlap=True, benchmarks=("a", "z"), kinds=kinds
    )
    assert flag("y", ()) == Flag(problem_id="y", benchmark_overlap=False, benchmarks=(), kinds=())


def test_the_account_names_every_benchmark_with_its_size() -> None:
    against = [row("1", source="b"), row("2", source="a"), row("3", source="b")]
    assert account(against, 1, 1200) == "flagged 1 of 1,200 problems, compared with a (1), b (2)"
    assert account([], 0, 3) == "flagged 0 of 3 problems, compared with no benchmark"


def test_a_repeated_benchmark_problem_is_rejected_and_an_empty_benchmark_is_an_error() -> None:
    found = without_repeats([row("a"), row("b"), row("a")])
    assert [type(one) for one in found] == [Problem, Problem, Reject]
    check_has_problems("exam", Loaded(outcomes=(row("a"),), seen=1))
    with pytest.raises(UserError, match=r"benchmark exam: 4 rows read, 0 problems; .* correct or remove"):
        check_has_problems("exam", Loaded(outcomes=(), seen=4))


def test_counts_are_per_problem_and_include_benchmarks_without_overlaps() -> None:
    def finding(problem: str, of: str, kind: FindingKind) -> Finding:
        return Finding(
            problem_id=problem, benchmark="exam", benchmark_problem_id=of, kind=kind, score=1.0, detail=""
        )

    findings = [
        finding("x", "1", FindingKind.JACCARD), finding("x", "2", FindingKind.JACCARD),
        finding("y", "1", FindingKind.LINEAGE), finding("x", "1", FindingKind.NGRAM),
    ]  # fmt: skip
    benchmarks = {name: row(name, source="exam") for name in "12"} | {"3": row("3", source="other")}
    counted = benchmark_counts(Overlaps(findings=findings, texts={}, benchmarks=benchmarks))
    assert [(c.benchmark, c.problems, c.flagged, dict(c.kinds)) for c in counted] == [
        ("exam", 2, 2, {"lineage": 1, "ngram": 1, "jaccard": 1}), ("other", 1, 0, {}),
    ]  # fmt: skip


# --- settings ----------------------------------------------------------------------------------------------------


def test_benchmarks_are_resolved_and_checked_like_sources(tmp_path: Path) -> None:
    def configured(*benchmarks: dict[str, Any]) -> Any:
        return resolve(load_config("pocket", {"decontam.benchmarks": list(benchmarks)}))

    with pytest.raises(UserError, match=r"decontam.benchmarks.1.kind: unknown kind 'nowhere'"):
        configured({"kind": "matharena"}, {"kind": "nowhere"})
    with pytest.raises(
        UserError, match=r"decontam.benchmarks.0.split: unknown key; see tasks/seeds/matharena"
    ):
        configured({"kind": "matharena", "split": "x"})
    with pytest.raises(
        UserError, match=r"two sources have the name 'amo_bench': give each source a unique name"
    ):
        configured({"kind": "amo_bench"}, {"kind": "amo_bench"})
    missing = configured({"kind": "file", "name": "x", "path": "none.jsonl", "tier": "easy"})
    with pytest.raises(UserError, match=r"none\.jsonl"):
        check_benchmarks(missing)
    with pytest.raises(UserError, match="Source omni_math: KbsdJames/Omni-MATH cannot be reached"):
        check_benchmarks(configured({"kind": "omni_math"}))  # the tests run with HF_HUB_OFFLINE=1


def test_the_benchmarks_are_identified_by_their_content(tmp_path: Path) -> None:
    def identity(texts: Sequence[str], name: str = "exam") -> str:
        exam = source(tmp_path / f"{name}.jsonl", texts)
        return benchmarks_stage(resolve(load_config("pocket", {"decontam.benchmarks": [exam]}))).fingerprint

    first = identity(CONTEST)
    assert identity(CONTEST) == first != identity(CONTEST[:2])
    assert identity(CONTEST, "other") != first


# --- the stage ---------------------------------------------------------------------------------------------------


def evolved_rounds(run: Run, sources: Artifact) -> list[Artifact]:
    """Two rounds that give every seed a child and a grandchild with completely different words."""
    artifacts, parents = [], sources
    for number in (1, 2):
        stage = Stage(name=f"evolve-{number}", version=1, settings={}, inputs=(parents,))
        older = [p for p in run.store.rows(parents, "problems", Problem) if p.role is not Role.CURATED]
        rows = [child(parent, UNLIKE.format(f"{index}{number}")) for index, parent in enumerate(older)]
        shard = Shard(incoming=len(rows), tables={"problems": (Problem, rows)})
        parents = run_shards(run, stage, lambda: (5,), lambda _i, _on_progress, made=shard: made)
        artifacts.append(parents)
    return artifacts


@flow
def factory(run: Run) -> tuple[Artifact, Artifact, Artifact]:
    """Run the stages from the sources to the flags; every evolved problem of the last round passes the judge."""
    sources = aggregate(run)
    benchmarks = read_benchmarks(run)
    rounds = evolved_rounds(run, sources)
    selected = select(run, rounds[-1], sources)
    return selected, decontaminate(run, selected, sources, rounds, benchmarks), benchmarks


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_all_descendants_of_a_benchmark_problem_used_as_a_seed_are_flagged(tmp_path: Path) -> None:
    copied = CURATED[0].replace("numbers?", "integers?")  # 15 of 17 shingles
    curated = [CURATED[0], copied]  # one is held out, the other is in train
    overrides = {
        "run.shard_rows": 3, "aggregate.test_problems": 1, "select.target": None,
        "decontam": {"checks": ["ngram", "jaccard", "template"], "threshold": 0.7, "gram_share": 0.05},
        "aggregate.sources": [
            source(tmp_path / "contest.jsonl", CONTEST, benchmark=True),
            source(tmp_path / "public.jsonl", [RENUMBERED, ORDINARY]),
            source(tmp_path / "curated.jsonl", curated, role="curated", columns={"text": "text", "answer": "answer"}),
        ],
        "decontam.benchmarks": [source(tmp_path / "exam.jsonl", [EXAM, CONTEST[0]])],
    }  # fmt: skip
    run = Run(config=resolve(load_config("pocket", overrides)), store=Store(tmp_path / "out"), identities={})
    selected, decontaminated, benchmarks = factory(run)
    rows = {problem.id: problem for problem in run.store.rows(selected, "problems", Problem)}
    splits = {one.problem_id: one.split for one in run.store.rows(selected, "selected", Selected)}
    flags = list(run.store.rows(decontaminated, "flags", Flag))
    assert [one.problem_id for one in flags] == list(rows) and len(rows) == 5 + 2
    assert all(row.text.startswith("Let k be") for row in rows.values() if row.role is Role.EVOLVED)

    def found(origin: str) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
        """Split, benchmarks and kinds of the flagged rows of one source."""
        chosen = [one for one in flags if one.benchmark_overlap and rows[one.problem_id].source == origin]
        return [(splits[one.problem_id], one.benchmarks, one.kinds) for one in chosen]

    both, own = ("train", ("contest", "exam"), ("lineage",)), ("train", ("contest",), ("lineage",))
    assert sorted(found("contest")) == [own, own, both]
    assert found("public") == [("train", ("exam",), ("lineage",))]  # the grandchild of the renumbered ladder
    [(split, names, kinds)] = found("curated")
    assert (split, names) == ("train", (TEST_SPLIT,)) and FindingKind.JACCARD in kinds

    findings = list(run.store.rows(decontaminated, "findings", Finding))
    assert {one.problem_id for one in findings} == {one.problem_id for one in flags if one.benchmark_overlap}
    assert run.store.record(decontaminated)["counts"] == {"in": 7, "kept": 7, "rejected": {}}
    assert run.store.record(decontaminated)["num_shards"] == 2  # curated and evolved problems
    assert run.store.record(benchmarks)["counts"] == {"in": 2, "kept": 2, "rejected": {}}
