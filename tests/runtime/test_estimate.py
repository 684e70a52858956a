"""The plan of a run, compared with hand-computed numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prompts import all_prompts
from tasks.config import load_config
from tasks.errors import UserError
from tasks.rows import Tier
from tasks.runtime.estimate import (
    Lengths,
    Line,
    Plan,
    PlannedSource,
    Rollouts,
    describe,
    make_plan,
    size_text,
    table,
)

ROLES = ("evolver", "quality_judge", "teacher", "equivalence_judge", "student")
# Two easy and three hard seeds, one curated problem. Every child is twice as long as its parent.
SOURCES = (
    PlannedSource(name="a", role="seed", problems={Tier.EASY: 2, Tier.HARD: 1}, basis="read"),
    PlannedSource(name="b", role="seed", problems={Tier.HARD: 2}, basis="declared"),
    PlannedSource(name="c", role="curated", problems={Tier.HARD: 1}, basis="read"),
)
SETTINGS: dict[str, Any] = {
    "evolve.branches": {"easy": 1, "medium": 1, "hard": 2, "competition": 1},
    "select.target": 8,
    "plan": {"growth": 2.0, "solution_tokens": 200, "answer_tokens": 8},
}


def lengths(**prompts: float) -> Lengths:
    fixed = dict.fromkeys(all_prompts(), 100.0) | {
        "judge/quality": 70.0, "teacher/solve": 30.0, "judge/equivalence": 60.0,
    }  # fmt: skip
    return Lengths(seeds={Tier.EASY: 10.0, Tier.HARD: 20.0}, curated=15.0, prompts=fixed | prompts, frame=9.0)


def plan(
    overrides: dict[str, Any] | None = None,
    *,
    sources: tuple[PlannedSource, ...] = SOURCES,
    measure: Lengths | None = None,
) -> Plan:
    config = load_config("pocket", SETTINGS | (overrides or {}))
    measures: dict[str, Lengths] = dict.fromkeys((*ROLES, "chars"), measure or lengths())
    return make_plan(config, sources, measures, rollouts=Rollouts(number=40, max_tokens=384))


def lines(found: Plan) -> dict[str, Line]:
    return {line.stage: line for line in found.lines}


def numbers(line: Line) -> tuple[int, int, int | None, int]:
    return line.requests, line.prompt_tokens, line.expected, line.most


def test_every_line_of_a_small_run_computed_by_hand() -> None:
    found = plan()
    # candidates: easy 2 of round 1; hard 3 x 2 in each of three rounds
    assert found.candidates == 20 and found.problems == 9 and found.seeds == {Tier.EASY: 2, Tier.HARD: 3}
    assert {stage: numbers(line) for stage, line in lines(found).items()} == {
        "evolve-1": (8, 800 + 2 * 10 + 6 * 20, 2 * 20 + 6 * 40 + 8 * 9, 8 * 512),
        "evolve-2": (6, 600 + 6 * 40, 6 * (80 + 9), 6 * 512),
        "evolve-3": (6, 600 + 6 * 80, 6 * (160 + 9), 6 * 512),
        # texts: 2 x 20 + 6 x (40 + 80 + 160) = 1,720, mean 86
        "judge": (20, 20 * 70 + 1720, 20 * 9, 20 * 256),
        "sample": (9, 9 * 30 + 8 * 86 + 15, 9 * 8 * 200, 9 * 8 * 448),
        "cluster": (9 * 56, 504 * (60 + 16), 504 * (9 + 16), 504 * 512),  # 8 x 7 ordered pairs of answers
        "distill": (40, 40 * (30 + 86), 40 * 200, 40 * 384),
    }


def test_the_check_of_near_benchmark_problems_has_a_line_if_it_is_on() -> None:
    found = lines(plan({"decontam.judge": {"count": 3, "sampling": {"max_tokens": 100}}}, measure=lengths()))
    # 8 selected problems of 86 and one curated of 15, 3 neighbours each, as long as a candidate; a reason has 30 tokens
    assert numbers(found["neighbours"]) == (27, 27 * (100 + 86) + 3 * (8 * 86 + 15), 27 * (9 + 30), 27 * 100)
    assert found["neighbours"].role == "quality_judge" and "neighbours" not in lines(plan())


def test_strategies_are_weighted_by_tier_in_all_rounds() -> None:
    found = lines(plan(measure=lengths(**{"evolution/harder": 200.0})))
    # harder: 0.20 of easy and 0.30 of hard in round 1, then 0.30 of 0.70
    assert found["evolve-1"].prompt_tokens == (2 * 120 + 6 * 130 + 140)
    assert found["evolve-2"].prompt_tokens == round(6 * (100 + 100 * 0.30 / 0.70) + 240)


def test_without_a_target_the_plan_says_what_the_annotation_takes() -> None:
    (note,) = [note for note in plan({"select.target": None}).notes if "select.target" in note]
    # 20 candidates and one curated problem, 8 responses each of 200 or at most 448 tokens, 8 x 7 ordered pairs
    assert note == (
        "select.target is null: annotating all 21 problems takes 168 responses of the teacher, about 33,600 tokens (at most"
        " 75,264 tokens), and at most 1,176 requests to the equivalence judge; set select.target to annotate fewer"
    )
    assert not any("select.target" in note for note in plan().notes)
    rates = {"teacher": {"prompt": 100.0, "output": 10.0}}
    costly = plan({"select.target": None, "plan.rates": rates, "cluster.judge": "never"}).notes[-1]
    assert "(at most 75,264 tokens; 0.9 GPU-hours), and at most 0 requests" in costly  # 33,600 / 10 / 3,600


def test_a_child_is_never_longer_than_the_maximum_of_a_reply() -> None:
    found = lines(plan({"evolve.sampling": {"max_tokens": 30}}))
    assert found["evolve-1"].expected == 2 * 29 + 6 * 30
    assert found["evolve-2"].expected == found["evolve-2"].most == 180


def test_gpu_hours_follow_the_rates_and_are_none_without_them() -> None:
    rates = {"evolver": {"prompt": 100.0, "output": 10.0}}
    found = plan({"plan.rates": rates})
    assert lines(found)["evolve-1"].gpu_hours == pytest.approx((940 / 100 + 352 / 10) / 3600)
    assert [line.gpu_hours for line in found.lines if line.role != "evolver"] == [None] * 4
    assert "GPU-hours" in table(found.lines)[0] and table(found.lines)[-1].endswith("unknown")
    assert "GPU-hours" not in table(plan().lines)[0]


def test_without_an_assumption_the_length_of_solutions_is_unknown() -> None:
    rates = {"teacher": {"prompt": 100.0, "output": 10.0}}
    found = lines(plan({"plan": {"solution_tokens": None, "rates": rates}}))
    assert (found["sample"].expected, found["sample"].most, found["sample"].gpu_hours) == (None, 32256, None)


@pytest.mark.parametrize(
    ("overrides", "problems", "pairs"),
    [
        ({"select.target": None}, 21, 56),
        ({"sample.num_samples": 2}, 9, 2),
        ({"cluster.judge": "never"}, 9, 0),
    ],
)
def test_selected_problems_and_judged_pairs_follow_the_settings(
    overrides: dict[str, Any], problems: int, pairs: int
) -> None:
    found = plan(overrides)
    assert found.problems == lines(found)["sample"].requests == problems
    assert lines(found)["cluster"].requests == problems * pairs


def test_the_target_sets_the_branches() -> None:
    found = plan({"evolve.target": 41})  # 20 candidates with single branches: three times as many
    assert found.candidates == 60 and found.branches[Tier.HARD] == 6
    with pytest.raises(UserError, match=r"evolve\.branches already give 20 candidates"):
        plan({"evolve.target": 19})


def test_disk_usage_computed_by_hand() -> None:
    # 20 candidates of 86 characters in four tables, 9 problems in four; 72 responses of 800 characters in three places
    assert plan().disk == {
        "problems": 20 * 4 * 386 + 9 * 4 * 386,
        "responses": 3 * 72 * 800,
        "ledger": (20 + 20 + 9 + 504) * 400 + 1720,
    }


def test_without_seeds_there_are_no_requests() -> None:
    found = plan(sources=SOURCES[2:])
    assert found.candidates == 0 and [line.stage for line in found.lines if line.requests] == [
        "sample", "cluster", "distill",
    ]  # fmt: skip


def test_the_table_is_aligned_and_adds_up() -> None:
    found = plan({"plan.solution_tokens": None})
    rows = table(found.lines)
    assert len({len(row) for row in rows}) == 1
    sums = rows[-1].split()
    assert sums[:3] == ["all", f"{sum(line.requests for line in found.lines):,}",
                        f"{sum(line.prompt_tokens for line in found.lines):,}"]  # fmt: skip
    assert sums[3] == "unknown"


def test_the_description_lists_every_source_and_the_plan_is_json() -> None:
    found = plan()
    text = "\n".join(describe(found))
    assert "seeds 5 (easy 2, hard 3); curated 1" in text and "branches 1/1/2/1: 20 candidates" in text
    assert all(f"  {source.name}  " in text for source in SOURCES)
    assert json.loads(json.dumps(found.as_json()))["lines"][0]["requests"] == 8


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0.0 MB"), (99_900_000, "99.9 MB"), (1_250_000_000, "1.2 GB")]
)
def test_sizes_are_formatted(count: int, text: str) -> None:
    assert size_text(count) == text
