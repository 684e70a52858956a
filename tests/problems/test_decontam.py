"""Decontamination: hand-computed overlaps, brute force from the definitions, renumbered contest problems, lineage.

The contest problems below were written for this file.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import product
from math import log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocket.world.generate import TIERS, problem
from tasks.config import DecontamSettings
from tasks.errors import UserError
from tasks.problems import compared, decontam
from tasks.problems.decontam import BenchmarkIndex, decontaminate, lineage
from tasks.problems.reference import Reference
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

WORDS = [
    f"{a}{b}" for a in "bamo keli nupa resi tovu waxe yozi".split() for b in "ra le mi no tu".split()
]  # 12 bits each


def test_an_ngram_finding_has_the_share_of_the_information_as_score_and_the_first_gram_as_detail() -> None:
    index = indexed(" ".join(WORDS[:16]))
    copied = "Zza, yya xxa, " + " ".join(WORDS[1:15]).title() + "! Vva uua."  # the middle 14 of 16 words
    [finding] = index.findings([("r", copied)])
    assert finding == Finding(
        problem_id="r",
        benchmark="contest",
        benchmark_problem_id="b0",
        kind=FindingKind.NGRAM,
        score=14 / 16,
        detail=" ".join(WORDS[1:14]),
    )


def test_twelve_common_words_are_not_evidence_and_a_repeated_run_counts_once() -> None:
    index = indexed(" ".join(WORDS[:16]), checks=["ngram"])
    assert found(index, "zza " + " ".join(WORDS[2:14]) + " zza") == []
    twice = " ".join([*WORDS[:13], "zza", *WORDS[:13], "zzo"])
    assert (0, "b0", FindingKind.NGRAM, 13 / 16) in found(index, twice)


def test_case_punctuation_and_latex_layout_do_not_hide_a_run() -> None:
    plain = "let x be 1/2 of the sum of y and z so that x exceeds the nuts of Gertrud"
    disguised = r"Zza. Let $x$ be $\dfrac{1}{2}$ of the \textbf{sum} of $y$ and\ $z$, so\quad that x exceeds the nuts. The end."
    assert FindingKind.NGRAM in kinds(indexed(plain, shared_bits=30), disguised)


def test_a_share_below_the_minimum_is_not_a_finding() -> None:
    text = " ".join(WORDS[:26])
    assert found(indexed(text, gram_share=0.5), " ".join(WORDS[:13])) == [(0, "b0", FindingKind.NGRAM, 0.5)]
    assert found(indexed(text, gram_share=0.51), " ".join(WORDS[:13])) == []


PHRASE = (
    "can be expressed as {0}/{1}, where {0} and {1} are relatively prime positive integers. Find {0}+{1}."
)


@pytest.mark.parametrize("letters", ["mn", "pq"])
def test_a_common_phrase_is_not_evidence_with_any_letters(letters: str) -> None:
    index = indexed(
        f"A wheel rolls down beside a rectangular garden. The ratio of both areas {PHRASE.format(*'mn')}"
    )
    assert (
        found(index, f"Nine frogs jump over a pond. The mean length of a jump {PHRASE.format(*letters)}")
        == []
    )


FALSE_ALARMS = (
    (
        "What is the remainder when $301^4$ is divided by 10,000?",
        r"What is the remainder when $2^5+3\cdot 7^{12}$ is divided by $11$?",
    ),
    (
        "What is the value of $23^2 + 2(23)(2) + 2^2$?",
        r"What is the value of \[3^3 - 2^3 + 5^3 - 4^3 + 7^3 - 6^3 + \dots + 21^3 - 20^3?\]",
    ),
    (
        "In the figure, how long is $AB$? [asy] pair A, B; A=(0,0); B=(4,3); draw(A--B); dot(A); dot(B); label(A); [/asy]",
        "In the figure, what is the area? [asy] pair A, B; A=(0,0); B=(4,3); draw(A--B); dot(A); dot(B); label(A); [/asy]",
    ),
    (
        "Find the height of the tripod. (The notation $\\lfloor x\\rfloor$ denotes the greatest integer that is less than or "
        "equal to $x$.) Express your answer as a common fraction.",
        "How many geese swim on $\\lfloor x\\rfloor$ ponds? (The notation $\\lfloor x\\rfloor$ denotes the greatest integer that "
        "is less than or equal to $x$.) Express your answer as a common fraction.",
    ),
)  # fmt: skip


@pytest.mark.parametrize(("one", "other"), FALSE_ALARMS)
def test_problems_that_share_phrases_formulas_of_another_form_or_code_are_not_flagged(
    one: str, other: str
) -> None:
    assert found(indexed(one), other) == [] and found(indexed(other), one) == []


# --- Jaccard -----------------------------------------------------------------------------------------------------


def test_jaccard_is_over_word_three_grams_and_the_threshold_is_inclusive() -> None:
    base = " ".join(WORDS[:19])  # 17 shingles
    other = " ".join([*WORDS[:16], "zzaro", "zzero", "zzoro"])  # 14 of them, 17 of its own: 14 / 20 = 0.7
    assert (0, "b0", FindingKind.JACCARD, 0.7) in found(indexed(base), other)
    assert FindingKind.JACCARD not in kinds(indexed(base, threshold=0.7001), other)


def test_a_text_that_is_equal_is_found_however_little_it_says() -> None:
    index = indexed("Solve for x: 3x + 5 = 20", "How many?")
    assert found(index, "Solve for $x$: $3 x+5=20$.", "Solve for x: 3x + 6 = 20", "how many") == [
        (0, "b0", FindingKind.JACCARD, 1.0), (2, "b1", FindingKind.JACCARD, 1.0),
    ]  # fmt: skip


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


def test_a_template_with_little_information_is_found_only_as_a_whole() -> None:
    original, renumbered = "How many squares of $2$ are in $45$?", "How many squares of $3$ are in $17$?"
    assert kinds(indexed(original, shared_bits=100), renumbered) == {FindingKind.TEMPLATE}
    assert kinds(indexed(original, shared_bits=100), "How many cubes of $3$ are in $17$?") == set()
    assert kinds(indexed(original, shared_bits=100, formula_bits=100), renumbered) == set()
    assert kinds(indexed("Solve for x: 3x + 5 = 20"), "Solve for x: 7x + 1 = 50") == set()


def test_a_problem_that_is_mostly_a_formula_is_found_by_its_operators() -> None:
    original = r"Evaluate \[4^3 - 1^2 + 9^3 - 6^2 + \dots + 34^3 - 31^2.\]"
    assert kinds(indexed(original), r"Evaluate $5^2 - 2^{10} + 11^2 - 8^{10} + \dots + 47^2-44^{10}$") == {
        FindingKind.TEMPLATE
    }
    assert kinds(indexed(original), r"Evaluate \[5^2 + 2^2 + 11^2 - 8^2 + \dots + 47^2 - 44^2.\]") == set()
    assert kinds(indexed("Evaluate 2^3 - 1^3"), "Evaluate 5^2 - 4^2") == set()  # too general


RENAMED = (
    (
        r"Positive reals $a, b, c, d$ satisfy $a+b+c+d=100$. Find the maximal value of \[\sqrt[3]{\frac{a}{b+7}}+"
        r"\sqrt[3]{\frac{b}{c+7}}+\sqrt[3]{\frac{c}{d+7}}\]",
        r"Positive reals $x, y, z, w$ satisfy $x+y+z+w=340$. Find the maximal value of $$\sqrt[3]{\frac{x}{y+13}}+"
        r"\sqrt[3]{\frac{y}{z+13}}+\sqrt[3]{\frac{z}{w+13}}$$",
    ),
    (
        r"Let $A B C$ be an acute triangle with $A B=A C$. The bisectors of $\angle A$ and $\angle B$ meet the sides $B C$ and "
        r"$A C$ in $D$ and $E$. Suppose that $\angle B E K=45^{\circ}$, where $K$ is the incenter of $A D C$. Find $\angle A$.",
        r"Let $ PQR$ be an acute triangle with $ PQ \equal{} P R$ . The bisectors of $ \angle P$ and $ \angle Q$ meet the sides "
        r"$ QR$ and $ P R$ in $ S$ and $ T$. Suppose that $ \angle QTK \equal{} 45^\circ$, where $K$ is the incenter of $ PSR$ . "
        r"Find $ \angle P$. [i]Nobody, Nowhere[/i]",
    ),
)  # fmt: skip


@pytest.mark.parametrize(("original", "changed"), RENAMED)
def test_a_problem_with_renamed_letters_and_other_layout_is_found(original: str, changed: str) -> None:
    assert FindingKind.TEMPLATE in kinds(indexed(original), changed)
    assert FindingKind.TEMPLATE in kinds(indexed(changed), original)


# --- paraphrases -------------------------------------------------------------------------------------------------

LADDER = "Quentin stacks 14 crates on a barge and 23 on a wagon. The barge loses half of its crates. How many are left?"
PARAPHRASE = "On his wagon Quentin has piled up 23 crates, on the barge 14. If half of the latter fall off, what remains?"


def test_a_paraphrase_has_the_same_numbers_and_rare_words() -> None:
    assert kinds(indexed(LADDER), PARAPHRASE) == {FindingKind.PARAPHRASE}
    assert kinds(indexed(LADDER), PARAPHRASE.replace("23", "24")) == set()
    assert (
        kinds(
            indexed(LADDER),
            "A pond of 14 square metres is dug, another one of 23, and half of each is filled.",
        )
        == set()
    )
    assert kinds(indexed(LADDER, paraphrase_threshold=0.9), PARAPHRASE) == set()
    assert kinds(indexed(LADDER, word_bits=500), PARAPHRASE) == set()
    assert kinds(indexed(LADDER, number_bits=30), PARAPHRASE) == set()


# --- templates of longer problems ---------------------------------------------------------------------------------


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
        (0, "b0", FindingKind.PARAPHRASE, 1.0),
    ]


def grams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]


def naive_template(words: Sequence[str]) -> list[str]:
    masked = ["#" if word.isdigit() else word for word in words]
    return [word for i, word in enumerate(masked) if word != "#" or i == 0 or masked[i - 1] != "#"]


class NaiveReference:
    """Document frequencies counted one by one."""

    def __init__(self, texts: list[str]) -> None:
        templates = [naive_template(text.split()) for text in texts]
        self.texts = len(texts)
        self.counts = Counter(
            gram for words in templates for size in range(1, 6) for gram in set(grams(words, size))
        )

    def bits(self, words: Sequence[str]) -> list[float]:
        found = []
        for end in range(1, len(words) + 1):
            bits = log2(self.texts) + 3 * log2(2.5)
            for size in range(1, min(5, end) + 1):
                gram = tuple(words[end - size : end])
                if self.counts[gram]:
                    before = self.counts[gram[:-1]] if size > 1 else self.texts
                    bits = log2(max(before / self.counts[gram], 1)) + max(0, 3 - size) * log2(2.5)
            found.append(min(bits, 12.0))
        return found

    def rarity(self, word: str) -> float:
        return min(log2(self.texts / max(self.counts[word,], 0.5)), 12.0)


def naive_bits(words: Sequence[str], wanted: DecontamSettings, known: NaiveReference) -> list[float]:
    """Return the bits of the words of a template: the last word of the k-th equal shingle counts one k-th."""
    bits, seen = known.bits(words), Counter[tuple[str, ...]]()
    for start, gram in enumerate(grams(words, wanted.ngram)):
        seen[gram] += 1
        bits[start + wanted.ngram - 1] /= seen[gram]
    return bits


def naive_ngram(
    text: str, other: str, wanted: DecontamSettings, known: NaiveReference
) -> tuple[float, float]:
    """Return the bits of the words of `text` in common runs, and their share."""
    words, template_bits = text.split(), iter(naive_bits(naive_template(text.split()), wanted, known))
    bits = [
        0.0 if word.isdigit() and i and words[i - 1].isdigit() else next(template_bits) for i, word in enumerate(words)
    ]  # fmt: skip
    theirs, covered = set(grams(other.split(), wanted.gram_words)), set()
    for start, gram in enumerate(grams(words, wanted.gram_words)):
        if gram in theirs:
            covered |= set(range(start, start + wanted.gram_words))
    shared = sum(bits[place] for place in covered)
    return shared, shared / max(sum(bits), 1.0)


def naive_jaccard(a: Counter[tuple[str, ...]], b: Counter[tuple[str, ...]]) -> float:
    return (a & b).total() / (a | b).total() if a | b else 0.0


def shared_bits(text: str, other: str, wanted: DecontamSettings, known: NaiveReference) -> float:
    """Return the bits of the shingles of the template of `text` that also occur in that of `other`, as often as there."""
    words, left = naive_template(text.split()), Counter(grams(naive_template(other.split()), wanted.ngram))
    bits, shared = naive_bits(words, wanted, known), 0.0
    for start, gram in enumerate(grams(words, wanted.ngram)):
        if left[gram] > 0:
            left[gram] -= 1
            shared += bits[start + wanted.ngram - 1]
    return shared


def dedup_shingles(text: str, ngram: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(set(grams(words, ngram) if len(words) >= ngram else [tuple(words)]))


def naive_paraphrase(text: str, other: str, wanted: DecontamSettings, known: NaiveReference) -> float | None:
    numbers = [sorted(word for word in one.split() if word.isdigit()) for one in (text, other)]
    if numbers[0] != numbers[1] or sum(map(len, set(numbers[0]))) * log2(10) < wanted.number_bits:
        return None
    mine, theirs = ({word for word in one.split() if not word.isdigit()} for one in (text, other))
    shared, union = (sum(map(known.rarity, some)) for some in (mine & theirs, mine | theirs))
    close = shared / max(union, 1.0) >= wanted.paraphrase_threshold and shared >= wanted.word_bits
    return shared / max(union, 1.0) if close else None


def naive_findings(
    benchmark: list[str], rows: list[str], wanted: DecontamSettings, known: NaiveReference
) -> dict[tuple[int, str, FindingKind], float]:
    """Apply the definitions directly, for texts of words and of digits."""
    result: dict[tuple[int, str, FindingKind], float] = {}
    for (owner, text), (number, other) in product(enumerate(benchmark), enumerate(rows)):
        where, enough = (number, f"b{owner}"), shared_bits(text, other, wanted, known) >= wanted.shared_bits
        shared, share = naive_ngram(text, other, wanted, known)
        if shared >= wanted.shared_bits and share >= wanted.gram_share and shared > 0:
            result[*where, FindingKind.NGRAM] = share
        similarity = naive_jaccard(dedup_shingles(text, wanted.ngram), dedup_shingles(other, wanted.ngram))
        if similarity >= wanted.threshold and (enough or similarity == 1.0):
            result[*where, FindingKind.JACCARD] = similarity
        masked = [naive_template(one.split()) for one in (text, other)]
        similarity = naive_jaccard(*(Counter(grams(one, wanted.ngram)) for one in masked))
        if similarity >= wanted.template_threshold and enough:
            result[*where, FindingKind.TEMPLATE] = similarity
        if masked[0] == masked[1] and sum(naive_bits(masked[0], wanted, known)) >= wanted.formula_bits:
            result[*where, FindingKind.TEMPLATE] = 1.0
        if (score := naive_paraphrase(text, other, wanted, known)) is not None:
            result[*where, FindingKind.PARAPHRASE] = score
    return result


def drawn_texts(rng: random.Random) -> tuple[list[str], list[str]]:
    """Return benchmark texts over a small vocabulary, some of them similar, and rows that are edited copies or unrelated."""
    vocabulary = [*WORDS[: rng.choice([4, 20])], "1", "23", "7"]

    def edited(text: str) -> str:
        return " ".join(rng.choice(vocabulary) if rng.random() < 0.1 else word for word in text.split())

    fresh = [" ".join(rng.choices(vocabulary, k=rng.randint(1, 30))) for _ in range(8)]
    benchmark = fresh[:5] + [edited(rng.choice(fresh[:5])) for _ in range(2)]
    rows = fresh[5:] + [edited(rng.choice(benchmark)) for _ in range(8)]
    rows += [f"{rng.choice(fresh)} {edited(rng.choice(benchmark))}", ""]
    rows += [" ".join(rng.sample(text.split(), len(text.split()))) for text in fresh[:2]]
    rng.shuffle(rows)
    return benchmark, rows


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    gram_words=st.integers(2, 6),
    gram_share=st.sampled_from(
        [0.0, 0.1003, 0.4987]
    ),  # no sums of bits, which depend on their order in the last digits
    threshold=st.sampled_from([0.3, 0.5, 0.7, 1.0]),
    ngram=st.integers(1, 4),
    template_threshold=st.sampled_from([0.4, 0.6, 1.0]),
    bits=st.tuples(*[st.sampled_from([1.003, 5.003, 11.997, 30.003])] * 4),
)
def test_findings_agree_with_brute_force_over_the_definitions(
    seed: int, gram_words: int, gram_share: float, threshold: float, ngram: int, template_threshold: float,
    bits: tuple[float, ...],
) -> None:  # fmt: skip
    benchmark, rows = drawn_texts(random.Random(seed))
    known, _ = drawn_texts(random.Random(seed + 1))
    wanted = DecontamSettings(
        gram_words=gram_words, gram_share=gram_share, threshold=threshold, ngram=ngram,
        template_threshold=template_threshold, shared_bits=bits[0], formula_bits=bits[1], number_bits=bits[2],
        word_bits=bits[3],
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        counted = Reference.of(known, at_least=1)
        patch.setattr(compared, "reference", lambda: counted)
        patch.setattr(decontam, "reference", lambda: counted)
        index = BenchmarkIndex.build([row(f"b{i}", text) for i, text in enumerate(benchmark)], wanted)
        listed = found(index, *rows)
    scores = {(number, owner, kind): score for number, owner, kind, score in listed}
    assert scores == pytest.approx(naive_findings(benchmark, rows, wanted, NaiveReference(known)))
    assert len(scores) == len(listed)
    order = [(number, list(FindingKind).index(kind), owner) for number, owner, kind, _ in listed]
    assert order == sorted(order)


def test_the_batch_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark, rows = drawn_texts(random.Random(3))
    index = indexed(*benchmark, gram_words=4, shared_bits=20)
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


@pytest.mark.parametrize("off", ["ngram", "jaccard", "template", "paraphrase"])
def test_a_disabled_check_finds_nothing_and_does_not_affect_the_others(off: str) -> None:
    benchmark, rows = drawn_texts(random.Random(3))
    changes = {"gram_words": 4, "shared_bits": 20.0}
    every = found(indexed(*benchmark, **changes), *rows)
    kept = [check for check in ("ngram", "jaccard", "template", "paraphrase") if check != off]
    assert {kind for _, _, kind, _ in every} == {"ngram", "jaccard", "template", "paraphrase"}
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
