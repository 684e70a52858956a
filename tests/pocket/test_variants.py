"""Training data of the variants of a solver: they differ from all data exactly in the families that are named."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from pocket import train
from pocket.data import HASTY_SOLVER, MAKERS, SOLVER, TrainingExample, examples_of
from pocket.recipes import RECIPES
from pocket.variants import NAMES, Variant, chosen_families, families_of, with_wrong_answer
from tasks.answers.extraction import extract_answer

COUNT = 150


@pytest.fixture(scope="module")
def everything() -> list[tuple[TrainingExample, frozenset[str]]]:
    made = [MAKERS[SOLVER](index) for index in range(COUNT)]
    return [(one, families_of(one.text)) for one in made]


def test_the_halves_are_disjoint_and_have_all_families() -> None:
    first, second = chosen_families("1/2"), chosen_families("2/2")
    assert sorted((*first, *second)) == sorted(NAMES) and abs(len(first) - len(second)) <= 1
    assert chosen_families(f"{NAMES[3]},{NAMES[1]},{NAMES[3]}") == (NAMES[1], NAMES[3])
    with pytest.raises(ValueError, match=r"unknown family 'sums': choose among .*, "):
        chosen_families("sums")


def test_a_half_has_exactly_the_examples_whose_families_are_all_in_it(
    everything: list[tuple[TrainingExample, frozenset[str]]],
) -> None:
    sizes = []
    for half in ("1/2", "2/2"):
        chosen = chosen_families(half)
        found = list(examples_of(SOLVER, 0, COUNT, Variant(families=chosen)))
        assert found == [one for one, families in everything if families <= set(chosen)]
        sizes.append(len(found))
    halves = [set(chosen_families(half)) for half in ("1/2", "2/2")]
    mixed = sum(not any(families <= half for half in halves) for _, families in everything)
    assert min(sizes) > COUNT // 5 and sum(sizes) + mixed == COUNT and mixed > 0


def test_wrong_answers_are_exactly_those_of_the_family_with_the_plain_prompt(
    everything: list[tuple[TrainingExample, frozenset[str]]],
) -> None:
    plain = [families for one, families in everything if one.plain]
    wrong = max(NAMES, key=lambda name: sum(name in families for families in plain))
    found = list(examples_of(SOLVER, 0, COUNT, Variant(wrong=(wrong,))))
    changed = 0
    for (one, families), other in zip(everything, found, strict=True):
        if not (one.plain and wrong in families):
            assert other == one
            continue
        changed += 1
        assert replace(other, response=one.response) == one
        steps = one.response.rindex("\\boxed{")
        assert other.response[:steps] == one.response[:steps]
        assert extract_answer(other.response) not in (None, extract_answer(one.response))
    assert changed >= 3
    again = list(examples_of(SOLVER, 0, COUNT, Variant(wrong=(wrong,))))
    assert again == found


def test_wrong_answers_are_spread_evenly() -> None:
    """One digit: every other number from 1 to 10 is equally likely, so that a model learns to be uncertain."""
    answers = [with_wrong_answer("So 2 + 3 = 5. \\boxed{5}.", (SOLVER, n)) for n in range(900)]
    counts = {n: sum(f"\\boxed{{{n}}}" in one for one in answers) for n in range(1, 11)}
    assert counts.pop(5) == 0 and all(one.startswith("So 2 + 3 = 5. ") for one in answers)
    assert sum(counts.values()) == 900 and max(abs(count - 100) for count in counts.values()) < 45


def test_the_recipe_of_a_variant_differs_in_name_and_data_alone() -> None:
    made = train.variant_of(RECIPES["teacher"], "first-half", "1/2", "")
    assert replace(made, name="teacher", variant=RECIPES["teacher"].variant) == RECIPES["teacher"]
    assert made.variant.families == chosen_families("1/2") and made.digest != RECIPES["teacher"].digest
    names = {
        train.variant_of(RECIPES["student"], "v", families, wrong).variant.name
        for families, wrong in (("1/2", ""), ("2/2", ""), ("", NAMES[0]), ("1/2", NAMES[0]))
    }
    further = train.variant_of(RECIPES["teacher"], "first-half", "1/2", "", finished=True)
    assert replace(further, start=None) == made and further.start == "teacher"
    shorter = train.variant_of(RECIPES["teacher"], "first-half", "1/2", "", steps=300)
    assert replace(shorter, steps=made.steps) == made and shorter.steps == 300
    assert len(names) == 4 and HASTY_SOLVER in RECIPES["student"].kinds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["judge", "--families", "1/2", "--name", "v"], "apply to the solvers"),
        (["teacher", "--families", "1/2"], "--name is needed"),
        (["teacher", "--finished"], "--name is needed"),
        (["teacher", "--families", "1/2", "--name", "teacher"], "--name is needed"),
        (["teacher", "--families", "1/2", "--name", "../v"], "--name is needed"),
        (["teacher", "--steps", "300"], "--name is needed"),
        (["teacher", "--families", "1/2", "--name", "v", "--steps", "0"], "--steps is 0"),
        (
            ["teacher", "--families", "1/2", "--name", "v", "--steps", "9", "--minutes", "1"],
            "not allowed with",
        ),
        (["teacher", "--wrong", "nothing", "--name", "v"], "unknown family 'nothing'"),
        (["all", "--wrong", "1/2", "--name", "v"], "apply to the solvers"),
    ],
)
def test_what_no_variant_can_be_is_refused(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pocket.train", *arguments])
    with pytest.raises(SystemExit):
        train.main()
    assert message in capsys.readouterr().err
