"""Other numbers for the facts of a branch: the same family, operators, number of steps and size."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product

from .families import BY_NAME, EASY
from .language import is_context
from .tree import Branch, Unsound, branch_numbers, branch_value
from .values import Value

FREE_SHARE = 0.9
"""A number is free if this share of the numbers of similar size may replace it."""
NEAREST = 2
"""A number that is not free is replaced by one of so many nearest fitting ones, unless it can be shifted."""
SHIFTS = {1: (10, 20, 100), 2: (10,)}
"""The sizes of shifts of one and of two numbers."""
DRAWS = 40

Letters = Mapping[str, int]


def renumbered(branch: Branch, letters: Letters, rng: random.Random) -> Branch | None:
    """Return the branch with other numbers; letters keep their values. None if no other numbers were found.

    All free numbers are replaced. If there are none, two numbers are shifted by 10, or else one is shifted or replaced by one
    that fits the others. The evolver can make such changes from left to right, without intermediate steps.
    """
    slots = [slot for slot, token in branch.slots.items() if not is_context(slot) and token.isdigit()]
    if not slots:
        return None
    rng.shuffle(slots)
    changed = branch
    bound: dict[str, tuple[float, list[int]]] = {}
    for slot in slots:
        window = similar(int(changed.slots[slot]))
        fitting = [number for number in window if fits(branch, with_number(changed, slot, number), letters)]
        if fitting and len(fitting) >= FREE_SHARE * len(window):
            changed = with_number(changed, slot, rng.choice(fitting))
        elif fitting:
            bound[slot] = len(fitting) / len(window), nearest(fitting, int(branch.slots[slot]))
    if changed is not branch:
        return changed
    if shifts := [*shifted(branch, slots, letters, 2)] or [*shifted(branch, slots, letters, 1)]:
        return rng.choice(shifts)
    if not bound:
        return redrawn(branch, letters, rng)
    most = max(share for share, _ in bound.values())
    slot = rng.choice([slot for slot, (share, _) in bound.items() if share >= most / 2])
    return with_number(branch, slot, rng.choice(bound[slot][1]))


def similar(number: int) -> list[int]:
    """Return other numbers of similar size; for multiples of 5 and 10 only such multiples."""
    step = 10 if number % 10 == 0 and number > 10 else 5 if number % 5 == 0 and number > 5 else 1
    reach = max(4, step, number // 2)
    low = max(min(number, 2), number - reach)
    return [n for n in range(low, number + reach + 1) if n != number and n % step == 0]


def shifted(branch: Branch, slots: Sequence[str], letters: Letters, count: int) -> Iterator[Branch]:
    """Yield the branches in which `count` numbers, of a single one the largest, differ by the same round number."""
    largest = max(slots, key=lambda slot: int(branch.slots[slot]))
    for chosen in combinations(slots if count > 1 else [largest], count):
        for size, *signs in product(SHIFTS[count], *[(1, -1)] * count):
            numbers = {s: int(branch.slots[s]) + d * size for s, d in zip(chosen, signs, strict=True)}
            if min(numbers.values()) < 1:
                continue
            new = replace(branch, slots={**branch.slots, **{s: str(n) for s, n in numbers.items()}})
            if fits(branch, new, letters):
                yield new


def nearest(numbers: list[int], to: int) -> list[int]:
    """Return the `NEAREST` numbers that are closest to one."""
    return sorted(numbers, key=lambda number: abs(number - to))[:NEAREST]


def with_number(branch: Branch, slot: str, number: int) -> Branch:
    """Return the branch with another number in a slot."""
    return replace(branch, slots={**branch.slots, slot: str(number)})


def fits(old: Branch, new: Branch, letters: Letters) -> bool:
    """Return whether the new branch is sound, with as many steps as the old one and an answer of the same kind."""
    try:
        value = branch_value(new, letters)
    except Unsound:
        return False
    steps = BY_NAME[old.family].steps
    return steps(branch_numbers(new, letters)) == steps(branch_numbers(old, letters)) and kind(value) == kind(
        branch_value(old, letters)
    )


def kind(value: Value) -> tuple[type, int]:
    """Return the type of a value, and whether an integer is 0, 1 or larger."""
    return type(value), min(value, 2) if isinstance(value, int) else 0


def redrawn(branch: Branch, letters: Letters, rng: random.Random) -> Branch | None:
    """Return the branch with a new drawing of all numbers, which are at most twice as large."""
    family = BY_NAME[branch.family]
    own = {slot: token for slot, token in branch.slots.items() if not is_context(slot)}
    largest = max(int(token) for token in own.values() if token.isdigit())
    for _ in range(DRAWS):
        drawn = {
            slot: str(token) for slot, token in family.draw(rng, rng.choice(family.levels or (EASY,))).items()
        }
        if drawn.keys() != own.keys() or drawn == own:
            continue
        alike = all(
            drawn[slot].isdigit() if own[slot].isdigit() else drawn[slot] == own[slot] for slot in own
        )
        size = max(int(token) for token in drawn.values() if token.isdigit())
        new = replace(branch, slots={**branch.slots, **drawn})
        if alike and largest <= 2 * size <= 4 * largest and fits(branch, new, letters):
            return new
    return None
