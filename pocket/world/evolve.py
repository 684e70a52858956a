"""The six evolution strategies for pocket texts, and new branches as their starting point."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from .families import BY_NAME, EASY, FAMILIES, MEDIUM, Family
from .language import LETTERS, VERBS, Ending, is_context
from .parse import MAX_CHARACTERS, parse
from .renumber import renumbered
from .tree import (
    DEFINITIONS,
    PROPERTIES,
    At,
    Branch,
    Define,
    Expression,
    Item,
    Letter,
    Linear,
    Node,
    Product,
    Property,
    Question,
    Solved,
    Split,
    Unsound,
    branch_numbers,
    branch_value,
    count_steps,
    evaluate,
    render,
)
from .values import Interval, Pair, Polynomial, Value

SCALAR_NAMES = "RSTUVWYZPQABCDEFGHKL"
CONTEST_NAMES = "NMKLAB"
INTERVAL_NAMES = "IJ"
POLYNOMIAL_NAMES = "fgh"
PAIR_NAMES = (("p", "q"), ("u", "v"), ("s", "t"), ("j", "k"))
SPLIT_NAMES = (("m", "n"), ("r", "s"), ("k", "l"))
TASK_VERBS = ("Find", "Compute", "Determine", "Calculate", "What is the value of")
CONTEST_VERBS = ("Determine", "Find", "Compute")
ATTEMPTS = 60
LEAST_STEPS = 2
"""Minimum number of calculations of a sound problem."""
SUM_FORMS, DIFFERENCE_FORMS, PRODUCT_FORMS = (1, 5), (2, 4), (3, 6, 7)
"""Indices of LETTER_FORMS by how the larger number follows from the letter."""
TABLE, TEN = 12, 10
"""The largest value of a letter that is multiplied, and the number that is added to larger ones or subtracted."""

Change = Callable[[Node, Solved, random.Random], Node | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A text whose question was turned into a definition: its items, and the name and value of the old result."""

    items: tuple[Item, ...]
    name: str
    value: Value
    taken: frozenset[str]


def evolve(text: str, strategy: str, rng: random.Random) -> str | None:
    """Evolve a text by a strategy of STRATEGIES; return a new sound text, or None if the strategy is not applicable.

    Raises ValueError for an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}")
    node = parse(text)
    if node is None:
        return None
    try:
        evaluate(node)
    except Unsound:
        return None
    changed = evolve_node(node, strategy, rng)
    return None if changed is None else render(changed)


def evolve_node(node: Node, strategy: str, rng: random.Random) -> Node | None:
    """Like ``evolve``, for sound structures."""
    solved, before = evaluate(node), render(node)
    for _ in range(ATTEMPTS):
        try:
            changed = STRATEGIES[strategy](node, solved, rng)
        except Unsound:
            return None
        if changed is None:
            return None
        after = render(changed)
        if after != before and len(after) <= MAX_CHARACTERS and acceptable(changed):
            return changed
    return None


def acceptable(node: Node) -> bool:
    """Return whether the node is sound, has at least two steps and no negative answer, which later steps could not use."""
    try:
        answer, steps = evaluate(node).answer, count_steps(node)
    except Unsound:
        return False
    return steps >= LEAST_STEPS and (not isinstance(answer, int | Fraction) or answer >= 0)


def fresh_branch(rng: random.Random, family: Family, level: int) -> Branch:
    """Draw a new problem of a family that is asked directly.

    It has at least two steps, or exactly one if the family has no levels of its own.
    """
    least = LEAST_STEPS if family.levels else 1
    while True:
        slots = {slot: str(token) for slot, token in family.draw(rng, level).items()}
        fitting = [i for i, template in enumerate(family.templates) if template.fits(slots)]
        index = rng.choices(fitting, [1 + 2 * (family.templates[i].kind == "story") for i in fitting])[0]
        branch = Branch(family=family.name, template=index, slots=slots, ending=Ending())
        try:
            branch_value(branch, {})
        except Unsound:
            continue
        if family.steps(branch_numbers(branch, {})) >= least:
            return reworded(branch, index, rng)


def reworded(branch: Branch, index: int, rng: random.Random) -> Branch:
    """Return the branch with the same numbers in the words of another template; the name of its result is kept."""
    template = BY_NAME[branch.family].templates[index]
    numbers = {slot: token for slot, token in branch.slots.items() if not is_context(slot)}
    ending = branch.ending
    if ending.name is None:
        plain = template.ask and rng.random() < 0.7
        ending = Ending() if plain else Ending(verb=rng.choice(VERBS))
    return replace(branch, template=index, slots=template.complete(numbers, rng), ending=ending)


def subject_of(node: Node, solved: Solved, rng: random.Random, names: str = SCALAR_NAMES) -> Subject:
    """Replace the question of a text by a definition that names its result."""
    taken = frozenset(solved.names) | {char for name in solved.names for char in name}
    name = fresh_name(solved.answer, taken, names)
    if node.question is not None:
        define = Define(
            name=name, expression=node.question.expression, wording=rng.randrange(len(DEFINITIONS))
        )
        items: tuple[Item, ...] = (*node.items, define)
    else:
        last = node.items[-1]
        assert isinstance(last, Branch)
        template = BY_NAME[last.family].templates[last.template]
        introduction = introduction_for(template.phrase, rng)
        if (
            names == CONTEST_NAMES
            and isinstance(solved.answer, int)
            and solved.answer > 0
            and rng.random() < 0.5
        ):
            introduction = 2
        ending = Ending(name=name, introduction=introduction)
        items = (*node.items[:-1], replace(last, slots=template.complete(last.slots, rng), ending=ending))
    return Subject(items=items, name=name, value=solved.answer, taken=taken | set(name))


def introduction_for(phrase: str, rng: random.Random) -> int:
    """Choose a wording that names a phrase; "Denote by R ..." is grammatical only before "the"."""
    return rng.choice((0, 1, 3) if phrase.startswith("the ") else (0, 1))


def fresh_name(value: Value, taken: frozenset[str], names: str) -> str:
    """Return an unused name of the right form for a value."""
    if isinstance(value, Pair):
        first, second = free_pair(PAIR_NAMES, taken)
        return f"({first}, {second})"
    if isinstance(value, Interval):
        return free_name(INTERVAL_NAMES + SCALAR_NAMES, taken)
    if isinstance(value, Polynomial):
        return free_name(POLYNOMIAL_NAMES, taken) + "(x)"
    return free_name(names + SCALAR_NAMES, taken)


def free_name(names: str, taken: frozenset[str]) -> str:
    """Return the first name that is not taken. Raises `Unsound` if all are."""
    for name in names:
        if name not in taken:
            return name
    raise Unsound("no name is left for another step")


def free_pair(pairs: tuple[tuple[str, str], ...], taken: frozenset[str]) -> tuple[str, str]:
    """Return the first pair of names of which none is taken. Raises `Unsound` if there is none."""
    for pair in pairs:
        if not taken & set(pair):
            return pair
    raise Unsound("no names are left for another pair")


def linear(*terms: tuple[int, str], constant: Fraction | int = 0) -> Linear:
    """Return a sum of multiples of names and a constant."""
    return Linear(terms=terms, constant=constant)


def further_step(subject: Subject, rng: random.Random) -> Expression:
    """Draw one small calculation with the old result."""
    value, name = subject.value, subject.name
    if isinstance(value, Pair):
        return pair_step(name[1], name[4], rng)
    if isinstance(value, Interval):
        return interval_step(name, value, rng)
    if isinstance(value, Polynomial):
        return At(name=name[0], point=rng.randint(2, 5) if rng.random() < 0.9 else rng.randint(6, 15))
    if isinstance(value, Fraction):
        k = rng.randint(2, 6)
        return rng.choice(
            (
                linear((k, name)),
                linear((1, name), constant=Fraction(1, k)),
                linear((1, name), constant=1),
                linear((2, name), constant=Fraction(1, k)),
            )
        )
    if value >= 1 and rng.random() < 0.3:
        return constraint_step(name, value, rng)
    return number_step(name, value, rng)


def pair_step(p: str, q: str, rng: random.Random) -> Expression:
    """Return a step with two numbers: a sum of multiples, a difference or their product."""
    k = rng.randint(2, 4)
    return rng.choice(
        (
            linear((k, p), (1, q)),
            linear((1, p), (k, q)),
            linear((1, p), (1, q), constant=rng.randint(2, 12)),
            linear((k, p), (-1, q)),
            Product(left=p, right=q),
        )
    )


def interval_step(name: str, value: Interval, rng: random.Random) -> Property:
    """Return a step with an interval: one of the properties that it has."""
    if value.low is None:
        kinds = ("greatest", "positive")
    elif value.high is None:
        kinds = ("least",)
    else:
        kinds = ("count", "least", "greatest")
    return Property(kind=rng.choice(kinds), of=linear((1, name)))


def number_step(name: str, value: int, rng: random.Random) -> Linear:
    """Return a step with a number: a multiple, or a sum or difference with a constant."""
    small = max(2, min(5, 999 // max(1, abs(value))))
    k, j = rng.randint(2, small), rng.randint(2, 20)
    lower = rng.randint(1, max(1, min(value - 1, 30)))
    return rng.choice(
        (
            linear((k, name), constant=j),
            linear((k, name)),
            linear((1, name), constant=j),
            linear((1, name), constant=-lower),
            linear((k, name), constant=-lower),
        )
    )


def constraint_step(name: str, value: int, rng: random.Random) -> Property:
    """Return a step that compares a number with another one."""
    kind = rng.choice(("next", "below", "larger", "smaller", "gap"))
    k = rng.randint(3, 12) if kind in ("next", "below") else max(1, value + rng.randint(-15, 15))
    return Property(kind=kind, of=linear((1, name)), k=k)


def harder(node: Node, solved: Solved, rng: random.Random) -> Node:
    """Add one more calculation after the old question."""
    subject = subject_of(node, solved, rng)
    question = Question(verb=rng.choice(TASK_VERBS), expression=further_step(subject, rng))
    return replace(node, items=subject.items, question=tidy(question))


def tidy(question: Question) -> Question:
    """Use "What is the value of" before formulas and "Find" before words."""
    if isinstance(question.expression, Property) and question.verb.startswith("What"):
        return replace(question, verb="What is")
    return question


def competition(node: Node, solved: Solved, rng: random.Random) -> Node:
    """Ask in contest style for a property of the result, or of a small expression in it."""
    subject = subject_of(node, solved, rng, CONTEST_NAMES)
    if isinstance(subject.value, Fraction):
        return contest_fraction(node, subject, rng)
    items = subject.items
    value, name = subject.value, subject.name
    if isinstance(value, Pair):
        if rng.random() < 0.3:
            product = Question(
                verb=rng.choice(CONTEST_VERBS), expression=Product(left=name[1], right=name[4])
            )
            return replace(node, items=items, question=product)
        base, size = (
            linear((rng.randint(1, 3), name[1]), (rng.randint(1, 3), name[4])),
            value.first + value.second,
        )
    elif isinstance(value, int):
        base, size = linear((1, name)), value
    else:
        step = further_step(subject, rng)
        other = free_name(CONTEST_NAMES + SCALAR_NAMES, subject.taken)
        items = (*items, Define(name=other, expression=step, wording=rng.randrange(len(DEFINITIONS))))
        base, size = linear((1, other)), 30
    if size < 10 or rng.random() < 0.3:
        terms = tuple((coefficient * rng.randint(2, 6), term) for coefficient, term in base.terms)
        base = replace(base, terms=terms, constant=rng.randint(1, 12))
    question = Question(verb=rng.choice(CONTEST_VERBS), expression=contest_property(base, size, rng))
    return replace(node, items=items, question=question)


def contest_property(of: Linear, size: int, rng: random.Random) -> Property:
    """Return a property from number theory of an expression whose value is `size`."""
    kinds = ["remainder", "remainder", "digits", "common", "next", "below"]
    kinds += ["divisors"] * (size <= PROPERTIES["divisors"].top)
    kinds += ["first", "square"] * (size <= 30)
    kind = rng.choice(kinds)
    k = rng.randint(3, 13) if kind != "common" else rng.choice((12, 18, 20, 24, 30, 36, 48, 60))
    return Property(kind=kind, of=of, k=k if "{k}" in PROPERTIES[kind].phrase else 0)


def contest_fraction(node: Node, subject: Subject, rng: random.Random) -> Node:
    """Write the result as m/n in lowest terms and ask about m and n."""
    m, n = free_pair(SPLIT_NAMES, subject.taken)
    expression = rng.choice(
        (
            linear((1, m), (1, n)),
            linear((2, m), (1, n)),
            linear((1, m), (3, n)),
            linear((1, n), (-1, m)),
            Product(left=m, right=n),
        )
    )
    items = (*subject.items, Split(source=subject.name, top=m, bottom=n))
    return replace(
        node, items=items, question=Question(verb=rng.choice(CONTEST_VERBS), expression=expression)
    )


def algebraize(node: Node, solved: Solved, rng: random.Random) -> Node | None:
    """Replace one number of the facts by a letter, which an equation defines in the same sentence."""
    free = [letter for letter in LETTERS if letter not in solved.letters]
    places = [
        (i, slot)
        for i, item in enumerate(node.items)
        if isinstance(item, Branch)
        for slot, token in item.slots.items()
        if not is_context(slot) and token.isdigit() and int(token) > 0
    ]
    if not free or not places:
        return None
    i, slot = rng.choice(places)
    branch = node.items[i]
    assert isinstance(branch, Branch)
    defined = letter_for(int(branch.slots[slot]), free[0], rng)
    changed = replace(branch, slots={**branch.slots, slot: free[0]})
    return replace(
        node, items=(*node.items[:i], changed, *node.items[i + 1 :]), letters=(*node.letters, defined)
    )


def letter_for(value: int, letter: str, rng: random.Random) -> Letter:
    """Draw an equation of a random form whose solution is the value.

    The evolver computes the other side without intermediate steps, so the numbers are in the multiplication table, or only
    one digit changes.
    """
    less, more = DIFFERENCE_FORMS, SUM_FORMS
    form = rng.choice((*(less if value > TEN else ()), *more, *(PRODUCT_FORMS if value <= TABLE else ())))
    if form in PRODUCT_FORMS:
        k = rng.choice((2, 3, 4, 5, TEN))
        return Letter(letter=letter, form=form, k=k, m=value * k)
    return Letter(letter=letter, form=form, k=TEN, m=value + TEN if form in more else value - TEN)


def rewrite(node: Node, solved: Solved, rng: random.Random) -> Node | None:
    """Express the same relations in other words and with other numbers."""
    items: list[Item] = []
    for item in node.items:
        other = renumbered(item, solved.letters, rng) if isinstance(item, Branch) else None
        items.append(other or item)
    if tuple(items) == node.items:
        return None
    return reworded_everywhere(replace(node, items=tuple(items)), rng, ("abstract", "story"))


def apply(node: Node, solved: Solved, rng: random.Random) -> Node:
    """Put the same facts into a real-world setting."""
    return reworded_everywhere(node, rng, ("story",))


def reworded_everywhere(node: Node, rng: random.Random, kinds: tuple[str, ...]) -> Node:
    """Return the problem with another wording of these kinds in every branch that has one."""
    items: list[Item] = []
    for item in node.items:
        if isinstance(item, Branch):
            templates = BY_NAME[item.family].templates
            fitting = [i for i, t in enumerate(templates) if t.kind in kinds and t.fits(item.slots)]
            others = [i for i in fitting if i != item.template] or fitting or [item.template]
            item = reworded(item, rng.choice(others), rng)
        items.append(item)
    return replace(node, items=tuple(items))


def compose(node: Node, solved: Solved, rng: random.Random) -> Node | None:
    """Join the problem with a small problem of another family."""
    subject = subject_of(node, solved, rng)
    present = {item.family for item in node.items if isinstance(item, Branch)}
    branch = partner(present, rng)
    items, terms, taken = joinable(subject, rng)
    name = free_name(SCALAR_NAMES, taken)
    template = BY_NAME[branch.family].templates[branch.template]
    named = replace(
        branch,
        slots=template.complete(branch.slots, rng),
        ending=Ending(name=name, introduction=introduction_for(template.phrase, rng)),
    )
    joined = rng.choice(
        (
            ((1, name), *terms),
            (*terms, (1, name)),
            (*terms, (rng.randint(2, 4), name)),
            (*terms, (-1, name)),
            *((((1, name), (-terms[0][0], terms[0][1])),) if len(terms) == 1 else ()),
            *((((2, terms[0][1]), (1, name)),) if len(terms) == 1 else ()),
        )
    )
    question = Question(verb=rng.choice(TASK_VERBS), expression=linear(*joined))
    return replace(node, items=(*items, named), question=question)


def joinable(
    subject: Subject, rng: random.Random
) -> tuple[tuple[Item, ...], tuple[tuple[int, str], ...], frozenset[str]]:
    """Return the items, the terms that represent the old answer in a sum, and the names in use."""
    if isinstance(subject.value, Pair):
        return subject.items, ((1, subject.name[1]), (1, subject.name[4])), subject.taken
    if isinstance(subject.value, int | Fraction):
        return subject.items, ((1, subject.name),), subject.taken
    name = free_name(SCALAR_NAMES, subject.taken)
    step = Define(name=name, expression=further_step(subject, rng), wording=rng.randrange(len(DEFINITIONS)))
    return (*subject.items, step), ((1, name),), subject.taken | {name}


def partner(present: set[str], rng: random.Random) -> Branch:
    """Draw a small problem with an integer answer from a family that is not in ``present``; one step is enough."""
    while True:
        level = rng.choice((EASY, MEDIUM))
        fitting = [f for f in FAMILIES if level in f.levels or not f.levels]
        family = rng.choice([f for f in fitting if f.name not in present])
        branch = fresh_branch(rng, family, level)
        value = family.answer(branch_numbers(branch, {}))
        if isinstance(value, int) and value > 0:
            return branch


STRATEGIES: dict[str, Change] = {
    "harder": harder,
    "rewrite": rewrite,
    "algebraize": algebraize,
    "apply": apply,
    "compose": compose,
    "competition": competition,
}
