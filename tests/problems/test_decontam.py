"""Decontamination: hand-computed overlaps, brute force from the definitions, renumbered contest problems, lineage.

The contest problems below were written for this file.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocket.world.generate import TIERS, problem
from tasks.config import DecontamSettings
from tasks.errors import UserError
from tasks.problems import decontam
from tasks.problems.decontam import BenchmarkIndex, decontaminate, lineage
from tasks.rows import Finding, FindingKind, Problem, Role, Tier


def row(
    identity: str, text: str = "", *, source: str = "contest", parent: str | None = None, root: str | None = None,
    benchmark: bool = False,
) -> Problem:  # fmt: skip
    return Problem(
        id=identity,
        text=text,
        tier=Tier.HARD,
        source=source,
        source_id=identity,
        licence="mit",
        role=Role.SEED if parent is None else Role.EVOLVED,
        root_id=root or identity,
        parent_id=parent,
        benchmark_root=benchmark,
    )


def indexed(*texts: str, **changes: object) -> BenchmarkIndex:
    """Return an index of problems b0, b1, ..."""
    problems = [row(f"b{number}", text) for number, text in enumerate(texts)]
    return BenchmarkIndex.build(problems, DecontamSettings.model_validate(changes))


def found(index: BenchmarkIndex, *texts: str) -> list[tuple[int, str, FindingKind, float]]:
    findings = index.findings((str(number), text) for number, text in enumerate(texts))
    return [(int(f.problem_id), f.benchmark_problem_id, f.kind, f.score) for f in findings]


def kinds(index: BenchmarkIndex, text: str) -> set[FindingKind]:
    return {kind for _, _, kind, _ in found(index, text)}


# --- n-grams -----------------------------------------------------------------------------------------------------

LETTERS = "ba be bi bo bu ca ce ci co cu da de di do du fa fe fi fo fu ga ge gi go gu".split()


def test_an_ngram_finding_has_the_share_of_the_benchmarks_grams_as_score_and_the_first_as_detail() -> None:
    index = indexed(" ".join(LETTERS[:16]))  # 16 words: 4 grams of 13
    copied = (
        "Zz, yy xx, " + " ".join(LETTERS[1:15]).upper() + "! Vv uu tt."
    )  # 14 of its words: the middle 2 grams
    [finding] = index.findings([("r", copied)])
    assert finding == Finding(
        problem_id="r",
        benchmark="contest",
        benchmark_problem_id="b0",
        kind=FindingKind.NGRAM,
        score=2 / 4,
        detail=" ".join(LETTERS[1:14]),
    )


def test_twelve_common_words_are_not_evidence_and_a_repeated_gram_counts_once() -> None:
    index = indexed(" ".join(LETTERS[:16]))
    assert found(index, "zz " + " ".join(LETTERS[2:14]) + " zz") == []
    twice = " ".join([*LETTERS[:13], "zz", *LETTERS[:13]])
    assert found(index, twice) == [(0, "b0", FindingKind.NGRAM, 1 / 4)]


def test_case_punctuation_and_latex_layout_do_not_hide_a_gram() -> None:
    plain = "let x be 1/2 of the sum of y and z so that x exceeds y"
    disguised = (
        r"Zz. Let $x$ be $\dfrac{1}{2}$ of the \textbf{sum} of $y$ and\ $z$, so\quad that is the end of it."
    )
    assert kinds(indexed(plain), disguised) == {FindingKind.NGRAM}


def test_a_share_below_the_minimum_is_not_a_finding() -> None:
    text = " ".join(f"{a}{b}" for a in LETTERS for b in LETTERS[:2])  # 50 words, 38 grams
    shared = " ".join(text.split()[:14])  # 2 of 38 grams: 0.053
    assert found(indexed(text, gram_share=0.05), shared) == [(0, "b0", FindingKind.NGRAM, 2 / 38)]
    assert found(indexed(text, gram_share=0.06), shared) == []


PHRASE = "can be written as {0}/{1}, where {0} and {1} are relatively prime positive integers. Find {0}+{1}."


def test_a_stock_phrase_is_not_evidence_with_any_letters() -> None:
    stories = (
        "Tom tosses a bent coin until heads come up. His chance to toss an even number of times",
        "A wheel rolls down a slope beside a rectangular garden. The ratio of both areas",
        "Two trains leave different towns towards each other at noon. The hour in which they meet",
    )
    benchmark = [
        f"{story} {PHRASE.format(*pair)}" for story, pair in zip(stories, ["mn", "pq", "ab"], strict=True)
    ]
    fresh = f"Nine frogs jump over a pond. The mean length of a jump {PHRASE.format('m', 'n')}"
    assert found(indexed(*benchmark), fresh) == []
    assert kinds(indexed(*benchmark[:2]), fresh) == {
        FindingKind.NGRAM
    }  # in only two problems: not a stock phrase
    assert {f[1] for f in found(indexed(*benchmark), *benchmark) if f[2] == FindingKind.NGRAM} == {
        "b0",
        "b1",
        "b2",
    }


def test_parts_of_one_long_problem_are_one_family_so_their_common_text_is_evidence() -> None:
    preamble = " ".join(f"{a}{b}" for a in LETTERS for b in LETTERS[:2])
    parts = [f"{preamble} Find the {what} of it." for what in "length width depth weight".split()]
    row_text = f"{' '.join(preamble.split()[:20])} and now for something else."
    findings = found(indexed(*parts), row_text)
    assert [(owner, kind) for _, owner, kind, _ in findings] == [
        (f"b{i}", FindingKind.NGRAM) for i in range(4)
    ]
    assert found(indexed(*parts, family_threshold=1.0), row_text) == []


# --- Jaccard -----------------------------------------------------------------------------------------------------


def test_jaccard_is_over_word_three_grams_and_the_threshold_is_inclusive() -> None:
    base = " ".join(LETTERS[:19])  # 17 shingles
    other = " ".join([*LETTERS[:16], "xa", "xb", "xc"])  # 14 of them, 17 of its own: 14 / 20 = 0.7
    assert (0, "b0", FindingKind.JACCARD, 0.7) in found(indexed(base), other)
    assert FindingKind.JACCARD not in kinds(indexed(base, threshold=0.7001), other)


# --- templates ---------------------------------------------------------------------------------------------------

RENUMBERED = (
    (
        "Towns $P$ and $Q$ are $90$ kilometers apart. Nadia leaves $P$ at 12 kilometers per hour. At the same time Omar "
        "leaves $Q$ at $18$ kilometers per hour. How many kilometers from $P$ do they meet?",
        "Towns $P$ and $Q$ are 132 kilometers apart. Nadia leaves $P$ at 15.5 kilometers per hour. At the same time Omar "
        "leaves $Q$ at 7 kilometers per hour. How many kilometers from $P$ do they meet?",
    ),
    (
        "How many positive cubes less than $5000$ are multiples of $12$?",
        "How many positive cubes less than 1{,}000{,}000 are multiples of $45$?",
    ),
    (
        r"A jar holds $\frac{2}{3}$ of a pint of syrup and three identical cups hold $\frac{1}{8}$ of a pint each. What "
        "fraction of the jar remains after all three cups are filled?",
        r"A jar holds $\dfrac57$ of a pint of syrup and 4 identical cups hold 1/10 of a pint each. What "
        "fraction of the jar remains after all four cups are filled?",
    ),
    (
        "Mrs. Novak pours tea into five equal mugs. She fills the first four mugs but the fifth is only half full. "
        "What part of a mug must she move from each full mug so that all are level?",
        "Mrs. Novak pours tea into twelve equal mugs. She fills the first eleven mugs but the twelfth is only 2/3 full. "
        "What part of a mug must she move from each full mug so that all are level?",
    ),
    (
        r"There are positive reals $x, y > 1$ with $\log_x(y^{3}) = \log_y(x^{12}) = 6$. Find the product $xy$.",
        r"There are positive reals $x, y > 2$ with $\log_x(y^{5}) = \log_y(x^{20}) = 10$. Find the product $xy$.",
    ),
    (
        "Among the $700$ people of a village, $150$ keep bees, $320$ keep hens, and $410$ keep goats. Exactly "
        "$205$ keep two of these kinds. How many keep all three?",
        "Among the one thousand two hundred and five people of a village, 260 keep bees, 515 keep hens, and 640 keep "
        "goats. Exactly 330 keep two of these kinds. How many keep all three?",
    ),
    (
        r"Let $r_1, r_2, \ldots, r_{10}$ be the roots of $x^{10} - 7x + 3$. Compute the sum of the $10$th powers of all "
        "of the roots.",
        r"Let $r_1, r_2, \ldots, r_{24}$ be the roots of $x^{24} - 11x + 5$. Compute the sum of the 24th powers of all "
        "of the roots.",
    ),
    (
        "A dozen lamps stand in a row. In 1 minute a beetle walks past 5 lamps. How many minutes does it need "
        "to walk along the row and back twice?",
        "Forty lamps stand in a row. In 3 minutes a beetle walks past 8 lamps. How many minutes does it need "
        "to walk along the row and back 6 times?",
    ),
)  # fmt: skip


@pytest.mark.parametrize(("original", "changed"), RENUMBERED)
def test_a_contest_problem_renumbered_by_hand_is_found_by_its_template(original: str, changed: str) -> None:
    assert FindingKind.TEMPLATE in kinds(indexed(original), changed)
    assert FindingKind.TEMPLATE in kinds(indexed(changed), original)


def test_the_renumbered_problems_are_distinguished_from_each_other() -> None:
    index = indexed(*(original for original, _ in RENUMBERED))
    assert {(f[0], f[1]) for f in found(index, *(changed for _, changed in RENUMBERED))} == {
        (number, f"b{number}") for number in range(len(RENUMBERED))
    }


def test_a_template_with_too_few_words_is_not_compared() -> None:
    # solve for x x: 4 words besides the numbers; how many multiples of # are below # and end in #: 9
    assert kinds(indexed("Solve for x: 3x + 5 = 20"), "Solve for x: 7x + 1 = 50") == set()
    assert kinds(
        indexed("How many multiples of 7 are below 90 and end in 3?"),
        "How many multiples of 11 are below 500 and end in 1?",
    ) == {FindingKind.TEMPLATE}
    assert (
        kinds(
            indexed("How many multiples of 7 are below 90 and end in 3?", template_words=10),
            "How many multiples of 11 are below 500 and end in 1?",
        )
        == set()
    )


def test_a_problem_that_is_mostly_a_formula_is_found_by_its_operators() -> None:
    original = r"Evaluate \[4^3 - 1^2 + 9^3 - 6^2 + \dots + 34^3 - 31^2.\]"  # one word, 12 numbers
    assert kinds(indexed(original), r"Evaluate $5^2 - 2^{10} + 11^2 - 8^{10} + \dots + 47^2-44^{10}$") == {
        FindingKind.TEMPLATE
    }
    assert kinds(indexed(original), r"Evaluate \[5^2 + 2^2 + 11^2 - 8^2 + \dots + 47^2 - 44^2.\]") == set()
    assert kinds(indexed("Evaluate 2^3 - 1^3"), "Evaluate 5^2 - 4^2") == set()  # 4 numbers: too general


def test_a_short_template_must_reach_the_threshold_of_the_jaccard_check() -> None:
    # 9 words; 9 and 10 shingles, 7 of them shared: 7 / 12 = 0.58
    original = "How many positive cubes less than 5000 are multiples of 12?"
    changed = "How many positive even cubes less than 900 are multiples of 30?"
    assert found(indexed(original), changed) == []
    assert found(indexed(original, short_template_words=9), changed) == [
        (0, "b0", FindingKind.TEMPLATE, 7 / 12)
    ]


def test_a_long_reworded_and_renumbered_problem_is_found_by_its_template() -> None:
    changed = RENUMBERED[0][1].replace("Nadia", "Priya").replace("Omar", "Kofi").replace("apart", "away")
    [(_, _, kind, score)] = found(indexed(RENUMBERED[0][0]), changed)
    assert kind == FindingKind.TEMPLATE and 0.5 <= score < 0.7


def test_unrelated_pocket_problems_give_no_findings() -> None:
    index = indexed(*(text for pair in RENUMBERED for text in pair))
    texts = [problem(5, tier, number).text for tier in TIERS for number in range(500)]
    assert found(index, *texts) == []


# --- all checks together -----------------------------------------------------------------------------------------


def test_an_unchanged_copy_is_found_by_every_check() -> None:
    original = RENUMBERED[0][0]
    assert found(indexed(original), original) == [
        (0, "b0", FindingKind.NGRAM, 1.0),
        (0, "b0", FindingKind.JACCARD, 1.0),
        (0, "b0", FindingKind.TEMPLATE, 1.0),
    ]


def grams(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def naive_template(words: Sequence[str]) -> list[str]:
    masked = ["#" if word.isdigit() else word for word in words]
    return [word for i, word in enumerate(masked) if word != "#" or i == 0 or masked[i - 1] != "#"]


def naive_formula(text: str) -> str:
    return "".join("#" if word.isdigit() else word for word in text.split())


def naive_jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def dedup_shingles(text: str, ngram: int) -> set[tuple[str, ...]]:
    words = text.split()
    return grams(words, ngram) if len(words) >= ngram else {tuple(words)}


def naive_families(texts: list[str], wanted: DecontamSettings) -> list[int]:
    family = list(range(len(texts)))
    for i, a in enumerate(texts):
        for j, b in enumerate(texts):
            similarity = naive_jaccard(dedup_shingles(a, wanted.ngram), dedup_shingles(b, wanted.ngram))
            if similarity >= wanted.family_threshold:
                family = [family[i] if member == family[j] else member for member in family]
    return family


def naive_template_score(text: str, other: str, wanted: DecontamSettings) -> float | None:
    masked, other_masked = naive_template(text.split()), naive_template(other.split())
    count = sum(word != "#" for word in masked)
    if count < wanted.template_words:
        enough = sum(map(str.isdigit, text.split())) >= wanted.formula_numbers
        return 1.0 if enough and naive_formula(text) == naive_formula(other) else None
    similarity = naive_jaccard(grams(masked, wanted.ngram), grams(other_masked, wanted.ngram))
    short = count < wanted.short_template_words
    needed = max(wanted.threshold, wanted.template_threshold) if short else wanted.template_threshold
    return similarity if similarity >= needed else None


def naive_findings(
    benchmark: list[str], rows: list[str], wanted: DecontamSettings
) -> dict[tuple[int, str, FindingKind], float]:
    """Apply the definitions directly, for texts of lower-case words of two letters and of digits."""
    families = naive_families(benchmark, wanted)
    spread: defaultdict[tuple[str, ...], set[int]] = defaultdict(set)
    for family, text in zip(families, benchmark, strict=True):
        for gram in grams(text.split(), wanted.gram_words):
            spread[tuple("#" if word.isdigit() else word for word in gram)].add(family)
    result: dict[tuple[int, str, FindingKind], float] = {}
    for owner, text in enumerate(benchmark):
        evidence = {
            gram
            for gram in grams(text.split(), wanted.gram_words)
            if len(spread[tuple("#" if word.isdigit() else word for word in gram)]) <= wanted.common_grams
        }
        for number, other in enumerate(rows):
            shared = len(evidence & grams(other.split(), wanted.gram_words))
            if shared and shared / len(evidence) >= wanted.gram_share:
                result[number, f"b{owner}", FindingKind.NGRAM] = shared / len(evidence)
            similarity = naive_jaccard(
                dedup_shingles(text, wanted.ngram), dedup_shingles(other, wanted.ngram)
            )
            if similarity >= wanted.threshold:
                result[number, f"b{owner}", FindingKind.JACCARD] = similarity
            if (score := naive_template_score(text, other, wanted)) is not None:
                result[number, f"b{owner}", FindingKind.TEMPLATE] = score
    return result


def drawn_texts(rng: random.Random) -> tuple[list[str], list[str]]:
    """Return benchmark texts over a small vocabulary, some of them similar, and rows that are edited copies or unrelated."""
    vocabulary = [*LETTERS[: rng.choice([4, 20])], "1", "23", "7"]

    def edited(text: str) -> str:
        return " ".join(rng.choice(vocabulary) if rng.random() < 0.1 else word for word in text.split())

    fresh = [" ".join(rng.choices(vocabulary, k=rng.randint(1, 30))) for _ in range(8)]
    benchmark = fresh[:5] + [edited(rng.choice(fresh[:5])) for _ in range(2)]
    rows = fresh[5:] + [edited(rng.choice(benchmark)) for _ in range(8)]
    rows += [f"{rng.choice(fresh)} {edited(rng.choice(benchmark))}", ""]
    rng.shuffle(rows)
    return benchmark, rows


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    gram_words=st.integers(2, 6),
    common_grams=st.integers(1, 3),
    gram_share=st.sampled_from([0.0, 0.1, 0.5]),
    threshold=st.sampled_from([0.3, 0.5, 0.7, 1.0]),
    ngram=st.integers(1, 4),
    template_threshold=st.sampled_from([0.4, 0.6, 1.0]),
    template_words=st.integers(1, 8),
    short_template_words=st.integers(1, 16),
    formula_numbers=st.integers(1, 6),
)
def test_findings_agree_with_brute_force_over_the_definitions(
    seed: int, gram_words: int, common_grams: int, gram_share: float, threshold: float, ngram: int,
    template_threshold: float, template_words: int, short_template_words: int,
    formula_numbers: int,
) -> None:  # fmt: skip
    benchmark, rows = drawn_texts(random.Random(seed))
    wanted = DecontamSettings(
        gram_words=gram_words, common_grams=common_grams, gram_share=gram_share, threshold=threshold, ngram=ngram,
        template_threshold=template_threshold, template_words=template_words, short_template_words=short_template_words,
        formula_numbers=formula_numbers,
    )  # fmt: skip
    index = BenchmarkIndex.build([row(f"b{i}", text) for i, text in enumerate(benchmark)], wanted)
    listed = found(index, *rows)
    scores = {(number, owner, kind): score for number, owner, kind, score in listed}
    assert scores == naive_findings(benchmark, rows, wanted) and len(scores) == len(listed)
    order = [(number, list(FindingKind).index(kind), owner) for number, owner, kind, _ in listed]
    assert order == sorted(order)


def test_the_batch_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark, rows = drawn_texts(random.Random(3))
    index = indexed(*benchmark, gram_words=4, template_words=3)
    whole = found(index, *rows)
    monkeypatch.setattr(decontam, "_ROWS_AT_ONCE", 2)
    assert len(whole) > 10 and found(index, *rows) == whole


def test_rows_are_read_from_the_stream_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decontam, "_ROWS_AT_ONCE", 3)
    original = RENUMBERED[0][0]
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield str(taken), original

    first = next(indexed(original).findings(endless()))
    assert (first.problem_id, taken) == ("1", 3)


@pytest.mark.parametrize("off", ["ngram", "jaccard", "template"])
def test_a_disabled_check_finds_nothing_and_does_not_affect_the_others(off: str) -> None:
    benchmark, rows = drawn_texts(random.Random(3))
    benchmark.append(
        "Evaluate 4^3 - 1^2 + 9^3 - 6^2"
    )  # too few words for a template: its formula is compared
    rows.append("Evaluate 5^3 - 2^2 + 8^3 - 7^2")
    changes = {"gram_words": 4, "template_words": 3, "formula_numbers": 2}
    every = found(indexed(*benchmark, **changes), *rows)
    kept = [check for check in ("ngram", "jaccard", "template") if check != off]
    assert {kind for _, _, kind, _ in every} == {"ngram", "jaccard", "template"}
    assert found(indexed(*benchmark, checks=kept, **changes), *rows) == [
        finding for finding in every if finding[2] != off
    ]


def test_no_benchmark_no_rows_and_empty_texts_give_no_findings() -> None:
    assert found(indexed(), "How many apples are left?") == []
    assert found(indexed(RENUMBERED[0][0])) == []
    assert found(indexed(RENUMBERED[0][0]), "", "?", "one") == []
    assert found(indexed("Short one."), "Other.") == []


def test_a_benchmark_problem_without_text_or_with_a_duplicate_id_is_reported() -> None:
    with pytest.raises(UserError, match=r"benchmark contest: problem b1 has no text"):
        indexed("How many?", " \n")
    with pytest.raises(UserError, match=r"benchmark exam: problem id x occurs twice"):
        BenchmarkIndex.build([row("x", "a", source="exam"), row("y", "b"), row("x", "c", source="exam")])


# --- lineage -----------------------------------------------------------------------------------------------------


def origins(findings: Sequence[Finding]) -> set[tuple[str, str, str]]:
    assert all(finding.kind == FindingKind.LINEAGE and finding.score == 1.0 for finding in findings)
    return {(finding.problem_id, finding.benchmark, finding.benchmark_problem_id) for finding in findings}


def test_exactly_the_descendants_of_a_benchmark_problem_are_flagged_in_any_order() -> None:
    rows = [
        row("s", source="exam"),
        row("s1", source="exam", parent="s", root="s"),
        row("s2", source="exam", parent="s1", root="s"),
        row("t", source="other"),
        row("t1", source="other", parent="t", root="t"),
    ]
    expected = {(identity, "exam", "s") for identity in ("s", "s1", "s2")}
    for order in (rows, rows[::-1]):
        assert origins(lineage(order, benchmarks=[rows[0]])) == expected


def test_a_row_marked_with_benchmark_root_is_flagged_with_its_source_and_root_without_any_other_row() -> None:
    findings = lineage([row("c", source="exam", parent="p", root="s", benchmark=True)])
    assert origins(findings) == {("c", "exam", "s")}
    assert findings[0].detail == "is or descends from a benchmark problem"


def test_an_intermediate_ancestor_counts_only_for_its_descendants() -> None:
    chain = [row("s"), *(row(f"s{i}", parent=f"s{i - 1}" if i > 1 else "s", root="s") for i in range(1, 5))]
    findings = lineage(chain, benchmarks=[row("s2", source="exam")])
    assert origins(findings) == {("s2", "exam", "s2"), ("s3", "exam", "s2"), ("s4", "exam", "s2")}
    assert [f.detail for f in findings][-1] == "descends from s2"


def test_a_missing_ancestor_is_matched_by_its_id_and_a_cycle_terminates() -> None:
    exam = [row("s", source="exam")]
    assert origins(lineage([row("c", parent="lost", root="s")], benchmarks=exam)) == {("c", "exam", "s")}
    assert origins(lineage([row("c", parent="s", root="elsewhere")], benchmarks=exam)) == {("c", "exam", "s")}
    circle = [row("a", parent="b", root="a"), row("b", parent="a", root="a")]
    assert lineage(circle, benchmarks=exam) == []


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_lineage_is_reachability_in_random_forests(seed: int) -> None:
    rng = random.Random(seed)
    parent = {i: None if rng.random() < 0.2 else rng.randrange(i) for i in range(1, 40)} | {0: None}

    def ancestors(node: int) -> list[int]:
        above = parent[node]
        return [node] if above is None else [node, *ancestors(above)]

    rows = [
        row(str(i), parent=None if parent[i] is None else str(parent[i]), root=str(ancestors(i)[-1]))
        for i in range(40)
    ]
    marked = set(rng.sample(range(40), 4))
    rng.shuffle(rows)
    assert origins(lineage(rows, benchmarks=[row(str(i), source="exam") for i in sorted(marked)])) == {
        (str(i), "exam", str(above)) for i in range(40) for above in ancestors(i) if above in marked
    }


def test_descendants_of_a_seed_that_only_overlaps_with_a_benchmark_are_flagged_too() -> None:
    original, renumbered = RENUMBERED[0]
    seed = row("seed", renumbered, source="public")
    child = row("child", "Nothing in common with it at all.", source="public", parent="seed", root="seed")
    index = BenchmarkIndex.build([row("b", original, source="exam")])
    findings = decontaminate(
        [seed, child, row("free", "Something else: what is it?", source="public")], index
    )
    assert [
        (f.problem_id, f.benchmark, f.kind, f.detail) for f in findings if f.kind == FindingKind.LINEAGE
    ] == [("child", "exam", FindingKind.LINEAGE, "descends from seed")]
    assert {f.problem_id for f in findings} == {"seed", "child"}
