"""Training material of the judge: faulty problems, and pairs of answers."""

from __future__ import annotations

import random
import re
from collections import Counter
from fractions import Fraction

import pytest

from pocket.world import (
    CRITERIA,
    TIERS,
    break_problem,
    broken,
    equivalence_pair,
    evolve,
    oracle,
    parse,
    problem,
)
from pocket.world.broken import Damage, sound
from pocket.world.equivalence import near_miss, written
from pocket.world.tree import Branch, Node, count_steps, evaluate
from pocket.world.values import Interval, Pair, Polynomial, canonical

TEXTS = [problem(21, TIERS[index % 4], index).text for index in range(80)]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_most_problems_can_be_broken_and_the_oracle_rejects_the_result_or_it_has_one_step(
    criterion: str,
) -> None:
    rng = random.Random(criterion)
    broken = [break_problem(text, criterion, rng) for text in TEXTS]
    found = [new for new in broken if new is not None]
    assert len(found) >= 0.9 * len(TEXTS)
    short = [new for new in found if oracle(new) is not None]
    assert all(count_steps(parsed(new)) == 1 for new in short)
    assert bool(short) == (criterion == "multi_step")
    assert len(set(found)) > 0.9 * len(found)


def parsed(text: str) -> Node:
    node = parse(text)
    assert node is not None, text
    return node


def test_evolved_problems_can_be_broken_too() -> None:
    rng = random.Random(2)
    for text in TEXTS[:20]:
        evolved = evolve(text, "harder", rng)
        assert evolved is not None
        assert break_problem(evolved, "well_formed", rng) is not None


def split(text: str) -> list[str]:
    return re.split(r"(?<=[.?]) ", text)


def made(maker: Damage, count: int = 40) -> list[tuple[str, str]]:
    """Return texts and their versions by one maker, of those that it can break."""
    rng = random.Random(maker.__name__)
    texts = [evolve(text, "algebraize", rng) or text for text in TEXTS[:30]] + TEXTS
    broken = [(text, maker(parsed(text), evaluate(parsed(text)), rng)) for text in texts]
    found = [(text, new) for text, new in broken if new is not None and new != text and not sound(new)]
    assert found
    return found[:count]


def without_one_sentence(text: str) -> list[str]:
    parts = split(text)
    return [" ".join(parts[:i] + parts[i + 1 :]) for i in range(len(parts))]


def test_badly_formed_texts_have_unreadable_words_or_lack_an_end_or_a_question() -> None:
    for text, new in made(broken.shuffled_words):
        assert sorted(re.findall(r"[^\s.?]+", new)) == sorted(re.findall(r"[^\s.?]+", text))
    for text, new in made(broken.nonsense_words):
        assert len(set(new.split()) & set(broken.NONSENSE)) >= 1 and len(new.split()) == len(text.split())
    for text, new in made(broken.broken_off):
        assert text.startswith(new) or new.rpartition(" ")[0] in text
        assert new[-1] not in ".?" or new not in {" ".join(split(text)[:i]) for i in range(20)}
    for text, new in made(broken.no_question):
        assert new == " ".join(split(text)[:-1])


@pytest.mark.parametrize(
    "maker",
    [broken.repeated_fact, broken.contradicted_name, broken.contradicted_result],
    ids=lambda m: m.__name__,
)
def test_without_the_contradicting_sentence_the_problem_is_sound(maker: Damage) -> None:
    for text, new in made(maker):
        shorter = [oracle(one) for one in without_one_sentence(new)]
        assert oracle(text) in shorter, new


def test_impossible_numbers_change_a_single_number_of_a_sound_problem() -> None:
    for text, new in made(broken.impossible_numbers):
        old_words, new_words = re.findall(r"[^\W\d]+", text), re.findall(r"[^\W\d]+", new)
        if ", where " not in text:
            assert old_words == new_words
            changed = [
                (a, b)
                for a, b in zip(re.findall(r"\d+", text), re.findall(r"\d+", new), strict=True)
                if a != b
            ]
            assert len({a for a, _ in changed}) == 1
        assert parse(new) is not None


def test_a_second_question_follows_the_unchanged_problem() -> None:
    for text, new in made(broken.second_question):
        assert new.startswith(f"{text} ") and len(split(new)) > len(split(text))


def test_an_open_task_replaces_the_question_only() -> None:
    for text, new in made(broken.open_question):
        assert split(new)[:-1] == split(text)[:-1]
        task = split(new)[-1]
        assert re.search(r"a number|any multiple|some pair|a fraction|Which numbers", task)


def test_a_given_away_answer_is_correct_and_the_problem_unchanged() -> None:
    for text, new in made(broken.given_away):
        assert text in without_one_sentence(new)
        (claim,) = set(split(new)) - set(split(text))
        assert (oracle(text) or "") in claim


def test_trivial_questions_name_their_answer() -> None:
    for text, new in made(broken.trivial_question):
        asked = re.findall(r"\d+", " ".join(split(new)[len(split(text)) - 1 :]))
        assert asked and not any(word in new for word in broken.NONSENSE)


def test_a_question_for_a_letter_needs_its_equation_only() -> None:
    for _, new in made(broken.letter_question):
        letter = split(new)[-1].rstrip(".")[-1]
        assert re.search(rf"where .*{letter}", new) and letter in "abcd"


def test_problems_of_one_step_are_answered_by_the_oracle() -> None:
    rng = random.Random(9)
    node = parsed(TEXTS[0])
    texts = {broken.one_step(node, evaluate(node), rng) for _ in range(200)} - {None}
    assert len(texts) > 100
    families = set()
    for text in filter(None, texts):
        assert oracle(text) is not None and count_steps(parsed(text)) == 1
        families |= {item.family for item in parsed(text).items if isinstance(item, Branch)}
    assert families == {"chain", "fractions", "fraction_of", "percent_of", "remainder", "one_step_equation"}


def test_proofs_essays_drawings_and_opinions_are_asked_about_sound_facts() -> None:
    rng, restored = random.Random(10), 0
    for text in TEXTS:
        node = parsed(text)
        new = broken.open_reply(node, evaluate(node), rng)
        body, asked = split(new)[:-1], split(new)[-1]
        assert re.match(
            r"(Prove|Show|Give a complete proof|Explain|Describe|Write a|Discuss|Justify|Why|Compare|Draw|Sketch|Make|Construct"
            r"|Plot|What do you think|Do you|In your|How do you feel|Which method|Would you)",
            asked,
        ), asked
        assert body == split(text)[:-1] or "Suppose" in new
        if broken.wanted(node) in asked and not re.search(r", where ", split(text)[-1]):
            restored += 1
            assert oracle(" ".join([*body, f"Find {broken.wanted(node)}."])) == oracle(text)
    assert restored >= 40


def test_a_claim_to_prove_is_true() -> None:
    rng = random.Random(11)
    for text in TEXTS:
        node, answer = parsed(text), oracle(text) or ""
        asked = split(broken.open_reply(node, evaluate(node), rng))[-1]
        found = re.search(
            r" (less than|larger than|below) (\d+)(?= |\.|,)", asked.replace(broken.wanted(node), "it")
        )
        if found and re.match("Prove|Show|Give", asked):
            assert 0 < int(answer) <= int(found[2])


def test_a_text_that_lacks_a_datum_is_otherwise_unchanged() -> None:
    for text, new in made(broken.removed_fact):
        assert (
            new in without_one_sentence(text) or ", where " in text or text.startswith(("Let ", "Suppose "))
        )
    for text, new in made(broken.vague_number):
        if ", where " in text:
            continue
        lost = Counter(text.split()) - Counter(new.split())
        assert 1 <= sum(lost.values()) <= 3 and any(character.isdigit() for character in "".join(lost))
    for text, new in made(broken.missing_reference):
        assert any(absent in new for absent in broken.ABSENT)
        assert split(new)[0] == split(text)[0] or len(split(text)) == 1 or "Suppose" in new


def test_each_criterion_is_broken_in_several_ways() -> None:
    text = "Mia has 12 shells. Mia finds 5 more. Mia gives away a, where a + 4 = 7. How many shells does Mia have now?"
    seen = {
        criterion: {break_problem(text, criterion, random.Random(seed)) or "" for seed in range(80)}
        for criterion in CRITERIA
    }
    assert all(len(versions) >= 12 for versions in seen.values())
    assert any(re.search(r"Mia has (some|a few|several|many) shells", new) for new in seen["self_contained"])
    assert text.replace(", where a + 4 = 7", "") in seen["self_contained"]
    assert any(re.search(r"Mia gives away \d\d\.", new) for new in seen["unambiguous"])
    assert text.rpartition(". ")[0] + "." in seen["well_formed"]
    assert any(new.endswith((" Find a.", " Determine a.", " Compute a.")) for new in seen["multi_step"])
    assert any("14" in new for new in seen["multi_step"])


def test_only_sound_texts_and_known_criteria_are_accepted() -> None:
    assert break_problem("What is love?", "well_formed", random.Random(0)) is None
    with pytest.raises(ValueError, match="closed_form"):
        break_problem(TEXTS[0], "beautiful", random.Random(0))


def test_half_of_the_pairs_are_equivalent_and_the_label_follows_the_canonical_forms() -> None:
    rng = random.Random(4)
    pairs = [equivalence_pair(rng) for _ in range(2000)]
    assert 0.46 < sum(pair.equivalent for pair in pairs) / len(pairs) < 0.54
    assert all(pair.equivalent == (pair.first_canonical == pair.second_canonical) for pair in pairs)
    assert all(pair.first != pair.second for pair in pairs)
    assert not any("%" in pair.first + pair.second for pair in pairs)
    assert len({(pair.first, pair.second) for pair in pairs}) > 1900


NUMERIC = re.compile(r"\$?(?:x = )?(-?\d+(?:\.\d+)?)(?:/(\d+))?\$?|\\frac\{(\d+)\}\{(\d+)\}")


def test_written_numbers_have_the_value_of_their_canonical_form() -> None:
    rng = random.Random(5)
    checked = 0
    for _ in range(1500):
        pair = equivalence_pair(rng)
        for text, canonical_form in (
            (pair.first, pair.first_canonical),
            (pair.second, pair.second_canonical),
        ):
            found = NUMERIC.fullmatch(text)
            if found is None:
                continue
            top, bottom = (found[1], found[2]) if found[1] else (found[3], found[4])
            assert Fraction(top) / int(bottom or 1) == Fraction(canonical_form), text
            checked += 1
    assert checked > 750


def test_factored_forms_have_the_value_of_their_polynomial() -> None:
    rng = random.Random(6)
    checked = 0
    for _ in range(200):
        a, b = rng.randint(1, 12), rng.choice([-5, -2, 3, 7])
        value = Polynomial(square=1, linear=a + b, constant=a * b)
        found = re.fullmatch(r"\(x ([+-]) (\d+)\)\(x ([+-]) (\d+)\)", written(value, rng))
        if found is not None:
            roots = sorted(int(found[i] + found[i + 1]) for i in (1, 3))
            assert roots == sorted((a, b))
            checked += 1
    assert checked > 30


@pytest.mark.parametrize(
    ("value", "forms"),
    [
        (Pair(first=7, second=4), {"(7, 4)", "x = 7, y = 4", "(7,4)"}),
        (Interval(low=3, high=None, low_closed=True), {"[3, \\infty)", "x \\geq 3", "x >= 3"}),
        (Interval(low=None, high=4), {"(-\\infty, 4)", "x < 4"}),
        (12, {"twelve", "12 apples", "$12$", "x = 12", "12 cm"}),
        (1500, {"1,500", "1500"}),
        (Fraction(3, 4), {"0.75", "3/4", "6/8", "\\frac{9}{12}"}),
    ],
)
def test_a_value_is_written_in_the_expected_forms_and_never_like_its_near_miss(
    value, forms: set[str]
) -> None:
    rng = random.Random(7)
    seen = {written(value, rng) for _ in range(600)}
    assert forms <= seen
    for _ in range(50):
        other = near_miss(value, rng)
        assert canonical(other) != canonical(value)
        assert written(other, rng) not in seen
