from __future__ import annotations

import base64
import hashlib
import math
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.reports import report_figures as figures
from tasks.reports.pages import duration
from tasks.reports.report import (
    Overlap,
    ReportData,
    evidence,
    family_tree,
    pick_family,
    pick_findings,
    pick_problems,
    render_report,
    write_report,
)
from tasks.rows import (
    QUALITY_CRITERIA,
    Example,
    Finding,
    FindingKind,
    Problem,
    Response,
    Role,
    Strategy,
    Tier,
    problem_id,
)
from tasks.storage.manifest import BenchmarkCount, StageCount
from tasks.uncertainty.entropy import semantic_entropy
from tests.reports.page import Page

POISON = '<script>alert("x")</script><img src=x onerror=alert(1)> "quotes" \'single\' | & </style></title> \x00 \u202e \ud800'
STEPS = {Tier.EASY: 2, Tier.MEDIUM: 4, Tier.HARD: 6, Tier.COMPETITION: 8}


def make_responses(row_id: str, truth: int, skill: float, rng: random.Random) -> list[Response]:
    responses = []
    for index in range(8):
        value = truth if rng.random() < skill else truth + rng.choice([-6, -2, -1, 1, 2, 5, 10])
        answer = None if rng.random() < 0.03 else str(value)
        work = f"Start from the first number and go on step by step.\nThat gives {value}."
        responses.append(
            Response(
                problem_id=row_id,
                index=index,
                text=f"{work}\n\\boxed{{{value}}}" if answer else work,
                token_count=rng.randint(30, 90),
                logprob_sum=-rng.uniform(1.0, 14.0),
                finish_reason="stop" if answer else "length",
                answer=answer,
                model="teacher:0a1b2c",
                prompt="teacher/solve@1:9f",
                sampling="{}",
                seed=index,
            )
        )
    return responses


def make_example(number: int, tier: Tier, rng: random.Random) -> tuple[Example, list[Response], bool]:
    curated = number % 8 == 0
    start = rng.randint(11, 99)
    changes = [rng.randint(2, 40) for _ in range(STEPS[tier])]
    truth = start + sum(changes)
    text = (
        f"Mia has {start} shells. "
        + " ".join(f"Then she finds {c} more." for c in changes)
        + " How many are there?"
    )
    row_id = problem_id(source="pocket", origin=str(number), strategy="", text=text)
    responses = make_responses(row_id, truth, min(0.99, rng.gauss(1.12 - 0.1 * STEPS[tier], 0.18)), rng)
    labels, answers = [], []
    for response in responses:
        if response.answer is None or response.answer not in answers:
            answers.append(response.answer)
            labels.append(len(answers) - 1)
        else:
            labels.append(answers.index(response.answer))
    result = semantic_entropy([r.logprob_sum for r in responses], [r.token_count for r in responses], labels)
    majority = answers[Counter(labels).most_common(1)[0][0]]
    strategies = [] if curated else rng.choices([s.value for s in Strategy], k=1 + number % 3)
    example = Example(
        id=row_id,
        problem=text,
        tier=tier,
        role=Role.CURATED if curated else Role.EVOLVED,
        source="pocket",
        source_id=str(number),
        licence="cc-by-4.0",
        root_id=str(number),
        parent_id=None,
        round=len(strategies),
        strategies=tuple(strategies),
        answer=str(truth) if curated else None,
        majority_answer=majority,
        majority_correct=None,
        semantic_entropy=result.entropy,
        weight=result.weight,
        discrete_entropy=result.discrete_entropy,
        valid_entropy=None,
        intra_entropy=0.0,
        predictive_entropy=1.5,
        normalised_entropy=0.25,
        mean_logprob=-0.25,
        majority_share=0.75,
        sizes=(2,),
        entropy_by_size=(0.25,),
        weight_by_size=(0.75,),
        cluster_labels=tuple(labels),
        cluster_probs=tuple(float(p) for p in result.cluster_probs),
        cluster_answers=tuple(answers),
        num_samples=8,
        num_valid=sum(r.answer is not None for r in responses),
        num_truncated=0,
        judge_calls=2,
        order_flips=0,
        transitivity_violations=0,
        benchmark_root=False,
        benchmark_overlap=False,
        overlap_benchmarks=(),
        overlap_kinds=(),
        evolver_model="assistant:77",
        evolver_prompt="evolution/harder@1:33",
        quality_judge_model="assistant:77",
        quality_judge_prompt="judge/quality@1:44",
        teacher_model="teacher:0a1b2c",
        teacher_prompt="teacher/solve@1:9f",
        equivalence_judge_model=None,
        equivalence_judge_prompt=None,
    )
    return example, responses, majority == str(truth)


def member(name: str, parent: str | None, strategy: Strategy | None, round_: int, text: str) -> Problem:
    return Problem(
        id=name,
        text=text,
        tier=Tier.HARD,
        source="pocket",
        source_id="7",
        licence="cc-by-4.0",
        role=Role.EVOLVED if parent else Role.SEED,
        root_id="seed",
        parent_id=parent,
        round=round_,
        strategy=strategy,
    )


FAMILY = [
    member("seed", None, None, 0, "Ben has 12 stamps and buys 5 more. How many stamps does he have?"),
    member("a", "seed", Strategy.HARDER, 1, "Ben has 12 stamps, buys 5 more and gives a third away. How many does he keep?"),
    member("b", "seed", Strategy.ALGEBRAIZE, 1, "Ben has a stamps and buys b more. Express the number of his stamps."),
    member("c", "a", Strategy.COMPOSE, 2, "Ben keeps what is left of 18 stamps after giving a third away. Ann has twice as many. "
           "How many stamps have they together?"),
    member("d", "b", Strategy.COMPETITION, 2, "Find all pairs (a, b) of positive integers with a + b = 17 and a b = 60."),
    member("e", "c", Strategy.COMPETITION, 3, "Ann and Ben own s stamps together, a multiple of 7 between 30 and 40. Find s."),
]  # fmt: skip

FAILED = {f"not_{criterion}": 50 + number for number, criterion in enumerate(QUALITY_CRITERIA)}
STAGES = (
    StageCount(stage="aggregate", rows_in=802, kept=800, rejected={"duplicate_id": 2}),
    StageCount(
        stage="evolve 1",
        rows_in=1150,
        kept=1031,
        rejected={"malformed_reply": 61, "echo": 40, "truncated": 18},
    ),
    StageCount(stage="evolve 2", rows_in=842, kept=760, rejected={"malformed_reply": 50, "echo": 32}),
    StageCount(
        stage="rules", rows_in=1791, kept=1720, rejected={"too_long": 11, "no_question": 40, "repetition": 20}
    ),
    StageCount(
        stage="deduplicate", rows_in=1720, kept=1490, rejected={"near_duplicate": 190, "exact_duplicate": 40}
    ),
    StageCount(stage="judge", rows_in=1490, kept=1222, rejected={**FAILED, "malformed_reply": 8}),
    StageCount(stage="select", rows_in=1322, kept=900, rejected={"not_selected": 422}),
    StageCount(stage="sample", rows_in=900, kept=900),
    StageCount(stage="cluster", rows_in=900, kept=900),
)


def make_data(rows: int = 400, *, known: float = 0.9) -> ReportData:
    rng = random.Random(4)
    tiers = rng.choices(list(Tier), weights=[4, 3, 2, 1.5], k=rows)
    made = [make_example(number, tier, rng) for number, tier in enumerate(tiers)]
    return ReportData(
        name="SURE-Math",
        profile="pocket",
        fingerprint="8c1f" * 16,
        examples=[example for example, _, _ in made],
        responses=[response for _, responses, _ in made for response in responses],
        stages=STAGES,
        timings={
            "evolve 1": 95.2,
            "evolve 2": 61.0,
            "judge": 80.1,
            "sample": 142.7,
            "cluster": 6.3,
            "export": 1.9,
        },
        models={"teacher": "teacher:0a1b2c3d4e5f6071", "evolver": "assistant:77aa00bb11cc22dd"},
        truths={example.id: right for example, _, right in made if rng.random() < known},
        family=FAMILY,
    )


DATA = make_data(160)


def test_the_page_is_well_formed_and_self_contained():
    html = render_report(DATA)
    page = Page(html)
    assert page.broken == [] and page.open == []
    assert not {"img", "link", "iframe", "object"} & set(page.tags) and page.foreign_scripts == []
    assert not [name for name, _ in page.attributes if name == "src" or name.startswith("on")]
    assert all((value or "").startswith("#") for name, value in page.attributes if name == "href")
    assert "http:" not in html and "https:" not in html and "@import" not in html and "url(" not in html
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert [own["content"] for _, own, _ in page.elements if "http-equiv" in own] == [policy]
    assert "prefers-color-scheme: dark" in html


def test_the_same_data_give_the_same_bytes(tmp_path: Path):
    write_report(tmp_path / "one.html", DATA)
    write_report(tmp_path / "two.html", make_data(160))
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_headline_and_funnel_show_the_counts():
    html = render_report(DATA)
    words = Page(html).words
    assert "160 problems exported" in words and "1,280 teacher responses" in words
    assert f"{sum(stage.dropped for stage in STAGES):,} rows rejected" in words
    assert "near duplicate 190 · exact duplicate 40" in words
    assert (
        "not self contained 54 · not closed form 53 · not multi step 52 · not unambiguous 51 · not well formed 50"
        in words
    )
    assert "6 min 27 s in all stages together" in words


def test_ten_problems_come_from_every_tier_with_their_eight_samples():
    page = Page(render_report(DATA))
    assert page.tags["details"] == 10 + 80
    picked = pick_problems(DATA.examples, 10)
    assert Counter(row.tier for row in picked) == {
        Tier.EASY: 3,
        Tier.MEDIUM: 3,
        Tier.HARD: 2,
        Tier.COMPETITION: 2,
    }
    easy = [row.semantic_entropy for row in picked if row.tier == Tier.EASY]
    spread = [row.semantic_entropy for row in DATA.examples if row.tier == Tier.EASY]
    assert (easy[0], easy[-1]) == (min(spread), max(spread))


def test_picking_does_not_depend_on_the_order_and_picks_at_most_all_rows():
    assert pick_problems(DATA.examples[::-1], 10) == pick_problems(DATA.examples, 10)
    assert len(pick_problems(DATA.examples[:3], 10)) == 3 and pick_problems([], 10) == []
    few = [*DATA.examples[:1], *(row for row in DATA.examples if row.tier == Tier.HARD)]
    assert len({row.id for row in pick_problems(few, 10)}) == 10


def test_an_answer_has_the_colour_of_its_cluster_and_an_unparsed_one_is_grey():
    row = replace(
        DATA.examples[0],
        semantic_entropy=1.0,
        cluster_labels=(0, 0, 0, 1, 1, 2, -1, 0),
        cluster_probs=(0.2, 0.7, 0.1),
        cluster_answers=("17", "19", None),
    )
    html = render_report(replace(DATA, examples=[row], truths=None))
    assert '<span class="dot k0"></span>19</td><td class="n">2</td><td class="n">0.700</td>' in html
    assert '<span class="dot k1"></span>17</td><td class="n">4</td><td class="n">0.200</td>' in html
    assert '<span class="dot unread"></span>no readable answer</td><td class="n">1</td>' in html
    dots = re.findall(r'<summary><span class="number"><span class="dot (\w+)">', html)
    assert dots == ["k1", "k1", "k1", "k0", "k0", "unread", "unread", "k1"]


@pytest.mark.parametrize("size", [0, 1_000_000])
def test_markup_from_models_and_sources_is_escaped_and_truncated(size: int):
    text = POISON + "x" * size
    row, family = (
        DATA.examples[0],
        [replace(FAMILY[0], text=text, source=text), replace(FAMILY[1], text=text)],
    )
    bad = replace(
        row,
        problem=text,
        source=text,
        majority_answer=text,
        answer=text,
        cluster_answers=(text,) * len(row.cluster_answers),
    )
    responses = [
        replace(r, text=text, answer=text, finish_reason=text)
        for r in DATA.responses
        if r.problem_id == row.id
    ]
    stages = [StageCount(stage=text, rows_in=1, kept=0, rejected={text: 1})]
    data = replace(
        DATA, name=text, profile=text, fingerprint=text, models={text: text}, timings={text: 1.0},
        examples=[bad], responses=responses, stages=stages, family=family,
    )  # fmt: skip
    html = render_report(data)
    html.encode("utf-8")
    page = Page(html)
    assert page.broken == [] and page.open == [] and page.foreign_scripts == [] and "img" not in page.tags
    assert page.tags["style"] == 1 and page.tags["title"] == html.count("<title>")
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "\x00" not in html and "\u202e" not in html
    assert len(html) < 250_000
    assert ("[... truncated; " in html) == (size > 0)
    if size:
        assert f"[... truncated; {len(text):,} characters in total]" in html


def finding(number: int, kind: FindingKind, score: float, name: str = "aime") -> Finding:
    return Finding(
        problem_id=DATA.examples[number].id, benchmark=name, benchmark_problem_id=f"b{number}", kind=kind, score=score,
        detail=POISON,
    )  # fmt: skip


def test_the_weakest_and_the_strongest_finding_of_every_kind_are_picked_in_any_order():
    found = [finding(n, FindingKind.JACCARD, score) for n, score in enumerate([0.9, 0.7, 0.8])]
    found += [finding(5, FindingKind.LINEAGE, 1.0)]
    for given in (found, found[::-1]):
        assert [(f.kind, f.score) for f in pick_findings(given)] == [
            (FindingKind.LINEAGE, 1.0), (FindingKind.JACCARD, 0.7), (FindingKind.JACCARD, 0.9),
        ]  # fmt: skip
    assert pick_findings([]) == []


def test_benchmarks_are_shown_with_their_counts_and_pairs_and_markup_is_escaped():
    assert "not compared with any benchmark" in render_report(DATA)
    counts = (
        BenchmarkCount(benchmark=POISON, problems=30, flagged=2, kinds={"lineage": 2, "ngram": 1}),
        BenchmarkCount(benchmark="amc", problems=40, flagged=0),
    )
    pair = Overlap(finding=finding(0, FindingKind.NGRAM, 0.25, POISON), text=POISON, benchmark_text=POISON)
    rows = [replace(row, benchmark_overlap=number < 2) for number, row in enumerate(DATA.examples)]
    html = render_report(replace(DATA, examples=rows, benchmarks=counts, overlaps=[pair]))
    page = Page(html)
    assert page.broken == [] and page.open == [] and page.foreign_scripts == [] and "img" not in page.tags
    words = page.words
    assert "Flagged: 2 of 160 problems" in words and "lineage 2 · ngram 1" in words and "amc 40 0 –" in words
    assert ", 0.250" in words and page.tags["details"] == 10 + 80 + 1


def test_auroc_uses_the_rows_with_known_answers_and_high_entropy_predicts_wrong():
    proof = evidence(DATA)
    assert proof is not None and proof.result is not None and DATA.truths is not None
    assert proof.result.n == len(DATA.truths) < len(DATA.examples)
    assert sum(proof.wrong) == sum(not right for right in DATA.truths.values())
    assert proof.result.value > 0.7
    assert f"{proof.result.low:.3f} to {proof.result.high:.3f}, bootstrap" in render_report(DATA)


@pytest.mark.parametrize(
    ("truths", "words"),
    [
        (None, "Unknown for this dataset"),
        ({}, "Unknown for this dataset"),
        ({"elsewhere": True}, "Unknown for this dataset"),
        (
            {row.id: True for row in DATA.examples},
            "wrong for 0 of 160 problems with a known truth",
        ),
    ],
)
def test_the_page_states_that_wrong_or_correct_majorities_are_missing(
    truths: dict[str, bool] | None, words: str
):
    assert words in render_report(replace(DATA, truths=truths))


def test_an_empty_dataset_still_gives_a_page_with_its_funnel():
    empty = ReportData(name="x", profile="p", fingerprint="f", examples=[], responses=[], stages=STAGES)
    page = Page(render_report(empty))
    assert page.broken == [] and "near duplicate" in page.words


def test_the_family_is_drawn_from_the_seed_down_and_orphans_are_kept():
    (root,) = family_tree(FAMILY, [])
    assert root.problem.id == "seed" and [node.problem.id for node in root.children] == ["a", "b"]
    assert root.children[0].children[0].children[0].problem.id == "e"
    orphans = family_tree([problem for problem in FAMILY if problem.id != "a"], [])
    assert [node.problem.id for node in orphans] == ["seed", "c"]
    own_parent = replace(FAMILY[1], parent_id="a")
    assert [node.problem.id for node in family_tree([own_parent], [])] == ["a"]


def test_the_family_with_the_most_rounds_is_picked_unless_it_is_too_large():
    other = [replace(problem, id="z" + problem.id, root_id="other") for problem in FAMILY[:3]]
    assert pick_family([*other, *FAMILY[::-1]]) == FAMILY
    crowd = [replace(FAMILY[-1], id=f"x{i}", root_id="crowd", round=9) for i in range(60)]
    assert pick_family([*other, *crowd]) == other
    assert pick_family([]) == []


def test_bin_shares_by_hand():
    assert figures.bin_shares([0.0, 0.1, 0.5, 1.0, 1.0000001], 1.0, 2) == [0.4, 0.6]
    assert figures.bin_shares([], 1.0, 2) == [0.0, 0.0]


def test_roc_points_by_hand_with_a_tie():
    # 3 is a true positive; the tie at 2 has one of each class; 1 is a false positive
    points = figures.roc_points([3, 2, 2, 1], [True, True, False, False])
    assert points == [(0.0, 0.0), (0.0, 0.5), (0.5, 1.0), (1.0, 1.0)]
    many = figures.roc_points([i / 5000 for i in range(5000)], [i % 3 == 0 for i in range(5000)])
    assert len(many) <= 201 and many[-1] == (1.0, 1.0)


def test_mean_interval_by_hand():
    mean, low, high = figures.mean_interval([0.4, 0.6])
    assert (mean, round(high - mean, 6)) == (0.5, round(1.96 * math.sqrt(0.02) / math.sqrt(2), 6))
    assert low == pytest.approx(1 - high)
    assert figures.mean_interval([1.0]) == (1.0, 1.0, 1.0)


def test_durations_are_formatted():
    assert [duration(s) for s in (0.44, 12.3, 185, 7620)] == ["0.4 s", "12 s", "3 min 05 s", "2 h 07 min"]
