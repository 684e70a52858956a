"""Faulty versions of sound pocket texts, each of which violates exactly one quality criterion."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace

from .evolve import LEAST_STEPS, fresh_branch, reworded, subject_of
from .families import BY_NAME, EASY, FAMILIES, MEDIUM
from .language import CODES, LETTERS, NAMES, Ending, Slots, is_context
from .parse import oracle, parse
from .tree import (
    Branch,
    Node,
    Solved,
    Unsound,
    branch_numbers,
    count_steps,
    evaluate,
    expression_text,
    item_text,
    render,
)
from .values import canonical

CRITERIA = ("well_formed", "unambiguous", "multi_step", "closed_form", "self_contained")
ATTEMPTS = 40
NONSENSE = ("blorp", "zintle", "frumb", "quavo", "snerd", "plim", "grotch", "wub", "tazzle", "vorn")
VAGUE = ("some", "a few", "several", "many", "a certain number of")
ABSENT = (
    "the number shown in the figure",
    "the value in the last row of the table below",
    "the result of part (a)",
    "the number from the previous exercise",
    "the length marked in the diagram",
    "the height of the first bar in the chart above",
    "the number that was found earlier",
    "the value of the point on the graph",
)
ABSENT_TASKS = (
    "Find {thing}.",
    "What is {thing}?",
    "Let {name} be {thing}. Find {name} + {k}.",
    "Compute {k} times {thing}.",
    "Determine {thing} plus {k}.",
    "Find the sum of {thing} and {wanted}.",
    "How much larger is {wanted} than {thing}?",
    "Use {thing} to find {wanted}.",
)
OPEN_TASKS = (
    "Find a number greater than {k}.",
    "Name a number that is smaller than {k}.",
    "Give any multiple of {k}.",
    "Find some pair of numbers whose sum is more than {k}.",
    "Write down a fraction between 0 and {k}.",
    "Which numbers do you like best between 1 and {k}?",
)
GIVEAWAYS = (
    "The answer is {v}.",
    "Hint: the answer is {v}.",
    "It is known that the result is {v}.",
    "By the way, this comes out as {v}.",
    "The solution, which is {v}, is already known.",
)
TRIVIAL_TASKS = (
    "What is {k}?",
    "Find {k} + 0.",
    "Write down the number {k}.",
    "What is 1 * {k}?",
    "Let Z = {k}. Find Z.",
    "Repeat the number {k}.",
)
CLAIMS = (
    "{w} is positive",
    "{w} is less than {k}",
    "{w} cannot be larger than {k}",
    "{w} is a number below {k}",
)
PROOFS = (
    "Prove that {c}.",
    "Show that {c}.",
    "Give a complete proof that {c}.",
    "Prove in two different ways that {c}.",
    "Show, with full reasoning, that {c}.",
)
ESSAYS = (
    "Explain in your own words how to find {w}.",
    "Explain why {w} can be found at all.",
    "Explain to a younger pupil how one finds {w}.",
    "Describe in a few sentences how you would find {w}.",
    "Describe a different situation that leads to {w}.",
    "Write a short essay about {w}.",
    "Write a report on the methods that lead to {w}.",
    "Discuss the advantages of two methods for {w}.",
    "Justify every rule that is needed for {w}.",
    "Why is it useful to know {w}?",
    "Compare two ways to find {w} and say how they differ.",
)
DRAWINGS = (
    "Draw a picture that shows {w}.",
    "Sketch a diagram of the situation.",
    "Draw a number line and mark {w} on it.",
    "Make a poster about {w}.",
    "Construct a figure with ruler and compass that shows {w}.",
    "Plot a graph that illustrates {w}.",
)
OPINIONS = (
    "What do you think about {w}?",
    "Do you find it hard to work out {w}, and why?",
    "In your opinion, is {w} interesting?",
    "How do you feel about {w}?",
    "Which method for {w} do you like best?",
    "Would you rather use a calculator for {w}?",
)
SECOND_TASKS = ("Also, {q}", "In addition, {q}", "And as a second question: {q}", "{Q}")

Damage = Callable[[Node, Solved, random.Random], str | None]


def break_problem(text: str, criterion: str, rng: random.Random) -> str | None:
    """Return a version of a sound text that violates ``criterion``; None if none was found or the text is not sound.

    The oracle has no answer to the result, or the result is a problem of a single step. Raises ValueError for a criterion
    outside CRITERIA.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"unknown criterion {criterion!r}: choose one of {', '.join(CRITERIA)}")
    node = parse(text)
    if node is None:
        return None
    try:
        solved = evaluate(node)
    except Unsound:
        return None
    for _ in range(ATTEMPTS):
        broken = rng.choice(DAMAGES[criterion])(node, solved, rng)
        if broken is not None and broken != text and not sound(broken):
            return broken
    return None


def sound(text: str) -> bool:
    """Return whether a text is a pocket problem with an answer and at least two steps."""
    node = parse(text)
    if node is None or oracle(text) is None:
        return False
    return count_steps(node) >= LEAST_STEPS


def sentences(text: str) -> list[str]:
    """Return the sentences of a text."""
    return re.split(r"(?<=[.?]) ", text)


def body_and_task(node: Node) -> tuple[str, str]:
    """Return everything before the question (possibly empty), and the question itself."""
    parts = sentences(render(node))
    return " ".join(parts[:-1]), parts[-1]


def given_numbers(node: Node) -> list[int]:
    """Return the numbers in the facts."""
    return [
        int(token)
        for item in node.items
        if isinstance(item, Branch)
        for slot, token in item.slots.items()
        if not is_context(slot) and token.isdigit()
    ]


def some_number(node: Node, rng: random.Random) -> int:
    """Return one of the numbers in the facts, or any number if there is none."""
    return rng.choice(given_numbers(node) or [rng.randint(3, 20)])


def pick_branch(node: Node, rng: random.Random) -> tuple[int, Branch]:
    """Return one of the branches with its place among the items."""
    return rng.choice([(i, item) for i, item in enumerate(node.items) if isinstance(item, Branch)])


def with_branch(node: Node, index: int, branch: Branch) -> Node:
    """Return the problem with another branch at a place."""
    return replace(node, items=(*node.items[:index], branch, *node.items[index + 1 :]))


def shuffled_words(node: Node, solved: Solved, rng: random.Random) -> str | None:
    """Shuffle the words of one long sentence."""
    parts = sentences(render(node))
    long = [i for i, part in enumerate(parts) if len(part.split()) >= 5]
    if not long:
        return None
    i = rng.choice(long)
    words = parts[i][:-1].split()
    rng.shuffle(words)
    parts[i] = " ".join(words) + parts[i][-1]
    return " ".join(parts)


def nonsense_words(node: Node, solved: Solved, rng: random.Random) -> str | None:
    """Replace about a third of the longer words by nonexistent words."""
    words = render(node).split(" ")
    plain = [i for i, word in enumerate(words) if word.isalpha() and len(word) > 3]
    if len(plain) < 3:
        return None
    for i in rng.sample(plain, max(2, len(plain) // 3)):
        words[i] = rng.choice(NONSENSE)
    return " ".join(words)


def broken_off(node: Node, solved: Solved, rng: random.Random) -> str | None:
    """End the text in the middle of its last or last but one sentence."""
    parts = sentences(render(node))
    last = len(parts) - 1 if len(parts) == 1 or rng.random() < 0.7 else len(parts) - 2
    words = parts[last].split()
    if len(words) < 3:
        return None
    kept = words[: rng.randint(1, len(words) - 1)]
    return " ".join([*parts[:last], *kept]).rstrip(",")


def missing_reference(node: Node, solved: Solved, rng: random.Random) -> str:
    """Ask for something that is in a figure, a table or another problem."""
    task = rng.choice(ABSENT_TASKS)
    body = body_and_task(node)[0] if "{wanted}" not in task else body_for(node)
    name = next(letter for letter in "ZYXWJ" if letter not in solved.names)
    filled = task.format(thing=rng.choice(ABSENT), k=rng.randint(2, 9), wanted=wanted(node), name=name)
    return f"{body} {filled}".strip()


def wanted(node: Node) -> str:
    """Return what the question asks for, as a phrase."""
    if node.question is not None:
        return expression_text(node.question.expression)
    last = node.items[-1]
    assert isinstance(last, Branch)
    template = BY_NAME[last.family].templates[last.template]
    named = replace(last, slots=template.complete(last.slots, random.Random(0)), ending=Ending(name="R"))
    return item_text(named).rpartition("Let R be ")[2][:-1]


def body_for(node: Node) -> str:
    """Return everything that ``wanted`` needs before it."""
    body, task = body_and_task(node)
    clause = re.search(r", where (.+)[.?]$", task)
    return f"{body} Suppose {clause[1]}.".strip() if clause else body


def vague_number(node: Node, solved: Solved, rng: random.Random) -> str | None:
    """Replace a required number by "some", or by an undefined letter."""
    i, branch = pick_branch(node, rng)
    template = BY_NAME[branch.family].templates[branch.template]
    slots = [slot for slot, token in branch.slots.items() if not is_context(slot) and token not in CODES]
    slot = rng.choice(slots)
    facts = template.facts_text(branch.slots)
    token = branch.slots[slot]
    spoken = template.kind == "story" and re.search(
        rf"(?<![\w/^*]){token}(?= [a-z])(?! [a-z]? ?percent)", facts
    )
    free = [letter for letter in (*LETTERS, "w", "z") if letter not in solved.letters]
    word = rng.choice(VAGUE) if spoken else rng.choice(free)
    return render_without_unused(
        with_branch(node, i, replace(branch, slots={**branch.slots, slot: word})), token
    )


def render_without_unused(node: Node, token: str) -> str:
    """Return the text without the definition of a letter that was just removed from the facts."""
    return render(replace(node, letters=tuple(letter for letter in node.letters if letter.letter != token)))


def removed_fact(node: Node, solved: Solved, rng: random.Random) -> str | None:
    """Remove a sentence with a required number: the definition of a letter, or one of the facts."""
    if node.letters and rng.random() < 0.5:
        gone = rng.randrange(len(node.letters))
        return render(replace(node, letters=node.letters[:gone] + node.letters[gone + 1 :]))
    facts = numbered_facts(node, rng)
    return None if facts is None else render(node).replace(facts + " ", "", 1)


def numbered_facts(node: Node, rng: random.Random) -> str | None:
    """Return a sentence with a number among the facts, of a chain the first; None if there is none."""
    _, branch = pick_branch(node, rng)
    facts = sentences(BY_NAME[branch.family].templates[branch.template].facts_text(branch.slots))
    numbered = [part for part in facts if re.search(r"\d", part)]
    if not numbered:
        return None
    return numbered[0] if branch.family == "chain" else rng.choice(numbered)


def repeated_fact(node: Node, solved: Solved, rng: random.Random) -> str | None:
    """Repeat a fact with a different number."""
    fact = numbered_facts(node, rng)
    if fact is None:
        return None
    place = rng.choice(list(re.finditer(r"\d+", fact)))
    other = f"{fact[: place.start()]}{int(place[0]) + rng.randint(1, 9)}{fact[place.end() :]}"
    opening = rng.choice(
        ("At the same time, ", "But also: ", "On the other hand, ", "It is equally true that ")
    )
    lowered = other if other.startswith(NAMES) else other[0].lower() + other[1:]
    return render(node).replace(fact, f"{fact} {opening}{lowered}", 1)


def contradicted_name(node: Node, solved: Solved, rng: random.Random) -> str | None:
    """Give a name or letter a second value."""
    k = rng.randint(1, 9)
    numbers = {
        name: value
        for name, value in (*solved.names.items(), *solved.letters.items())
        if isinstance(value, int)
    }
    body, task = body_and_task(node)
    if not numbers or not body:
        return None
    name, value = rng.choice(sorted(numbers.items()))
    claim = rng.choice(
        (
            f"It is also known that {name} = {name} + {k}.",
            f"Moreover, {name} is smaller than {name} - {k}.",
            f"However, {name} is both {value + k} and {value + 2 * k}.",
        )
    )
    return f"{body} {claim} {task}"


def contradicted_result(node: Node, solved: Solved, rng: random.Random) -> str | None:
    """Name the result and give it an impossible property."""
    if not isinstance(solved.answer, int):
        return None
    subject = subject_of(node, solved, rng)
    named = render(replace(node, items=subject.items, question=None))
    k, name = rng.randint(2, 9), subject.name
    claim = rng.choice(
        (
            f"It is also known that {name} = {name} + {k}.",
            f"Moreover, {name} is larger than {k}{name} + {k}.",
            f"In addition, {name} is both even and odd.",
            f"However, {name} = {k} and {name} = {k + 3}.",
        )
    )
    return f"{named} {claim} Find {name}."


def impossible_numbers(node: Node, solved: Solved, rng: random.Random) -> str | None:
    """Make the numbers inconsistent, such as more taken away than there is."""
    i, branch = pick_branch(node, rng)
    numbers = branch_numbers(branch, solved.letters)
    change = impossible_change(branch.family, numbers, rng)
    if change is None:
        return None
    slot, number = change
    token = branch.slots[slot]
    changed = with_branch(node, i, replace(branch, slots={**branch.slots, slot: str(number)}))
    return render_without_unused(changed, token)


def impossible_change(family: str, v: dict[str, int], rng: random.Random) -> tuple[str, int] | None:
    """Return a slot and a number for it that make the facts of a family contradictory, or None."""
    extra = rng.randint(2, 30)
    if family == "chain":
        losses = [slot for slot, code in v.items() if slot[0] == "o" and code == CODES["-"]]
        most = v["n"] + sum(number for slot, number in v.items() if slot[0] == "k")
        growing = any(code == CODES["*"] for slot, code in v.items() if slot[0] == "o")
        return (rng.choice(losses).replace("o", "k"), most + extra) if losses and not growing else None
    if family in ("percent_of", "percent_change", "percent_twice"):
        lowered = family == "percent_twice"
        return None if v.get("O") == 1 else ("j" if lowered else "k", 10 * rng.randint(11, 25))
    changes = {
        "sum_and_difference": ("d", v.get("s", 0) + extra),
        "rectangle_area": ("w", v.get("p", 0) + extra),
        "fraction_of": ("a", v.get("b", 0) + extra),
        "arrangements": ("k", v.get("n", 0) + extra),
        "double_inequality": ("l", v.get("u", 0) + extra),
        "system": ("t", v.get("b", 0) * v.get("s", 0) + extra),
        "one_step_equation": ("b", v.get("c", 0) + extra) if v.get("O") == 1 else None,
        "missing_number": ("a", 4 * v.get("m", 0) + extra),
    }
    return changes.get(family)


def no_question(node: Node, solved: Solved, rng: random.Random) -> str | None:
    """Leave out the question; None if nothing else remains."""
    body, _ = body_and_task(node)
    return body or None


def second_question(node: Node, solved: Solved, rng: random.Random) -> str:
    """Add an unrelated second question."""
    while True:
        family = rng.choice([f for f in FAMILIES if EASY in f.levels])
        branch = fresh_branch(rng, family, EASY)
        template = family.templates[branch.template]
        if template.kind == "abstract" and not template.facts_text(branch.slots):
            break
    verb = rng.choice(("Find", "Compute", "Determine"))
    question = item_text(
        replace(branch, ending=Ending(verb=verb), slots=template.complete(branch.slots, rng))
    )
    lowered = question[0].lower() + question[1:]
    return f"{render(node)} {rng.choice(SECOND_TASKS).format(q=lowered, Q=question)}"


def open_question(node: Node, solved: Solved, rng: random.Random) -> str:
    """Replace the question by a task with many solutions."""
    body, _ = body_and_task(node)
    scalars = sorted(
        name for name, value in solved.names.items() if isinstance(value, int) and len(name) == 1
    )
    bound = rng.choice(scalars) if scalars and rng.random() < 0.5 else str(some_number(node, rng))
    return f"{body} {rng.choice(OPEN_TASKS).format(k=bound)}".strip()


def given_away(node: Node, solved: Solved, rng: random.Random) -> str:
    """State the answer in the text."""
    body, task = body_and_task(node)
    claim = rng.choice(GIVEAWAYS).format(v=canonical(solved.answer))
    return f"{body} {claim} {task}".strip() if rng.random() < 0.5 else f"{body} {task} {claim}".strip()


def trivial_question(node: Node, solved: Solved, rng: random.Random) -> str:
    """Ask for a number that is given."""
    body, _ = body_and_task(node)
    return f"{body} {rng.choice(TRIVIAL_TASKS).format(k=some_number(node, rng))}".strip()


def letter_question(node: Node, solved: Solved, rng: random.Random) -> str | None:
    """Ask for a letter, which a single equation gives."""
    body, _ = body_and_task(node)
    asked = [
        letter.letter for letter in node.letters if re.search(rf"where (.+ and )?\d*{letter.letter} ", body)
    ]
    return f"{body} {rng.choice(('Find', 'Determine', 'Compute'))} {rng.choice(asked)}." if asked else None


def one_step(node: Node, solved: Solved, rng: random.Random) -> str | None:
    """Return another problem, of a single step."""
    family = rng.choice([family for family in FAMILIES if family.name in SHORT or not family.levels])
    level = rng.choice((EASY, MEDIUM))
    branch = fresh_branch(rng, family, level)
    if family.name in SHORT:
        branch = replace(branch, slots=SHORT[family.name](branch.slots))
        branch = reworded(branch, branch.template, rng)
    text = render(Node(items=(branch,)))
    short = parse(text)
    if short is None or oracle(text) is None or count_steps(short) >= LEAST_STEPS:
        return None
    return text


SHORT: dict[str, Callable[[Slots], Slots]] = {
    "chain": lambda slots: {slot: token for slot, token in slots.items() if slot in ("n", "o1", "k1")},
    "fractions": lambda slots: {**slots, "d": slots["b"]},
    "fraction_of": lambda slots: {**slots, "a": "1"},
}
"""How the numbers of a family become those of a problem of one step."""


def open_reply(node: Node, solved: Solved, rng: random.Random) -> str:
    """Ask for a proof, an explanation, a drawing or an opinion."""
    kinds = [ESSAYS, ESSAYS, DRAWINGS, OPINIONS]
    if isinstance(solved.answer, int) and solved.answer > 0:
        kinds += [PROOFS, PROOFS]
    size = solved.answer if isinstance(solved.answer, int) else 0
    claim = rng.choice(CLAIMS).format(w=wanted(node), k=size + rng.randint(2, 50))
    task = rng.choice(rng.choice(kinds)).format(w=wanted(node), c=claim)
    return f"{body_for(node)} {task}".strip()


DAMAGES: dict[str, tuple[Damage, ...]] = {
    "well_formed": (shuffled_words, nonsense_words, broken_off, no_question),
    "unambiguous": (
        repeated_fact,
        contradicted_name,
        contradicted_result,
        impossible_numbers,
        second_question,
        open_question,
    ),
    "multi_step": (given_away, trivial_question, letter_question, one_step, one_step),
    "closed_form": (open_reply,),
    "self_contained": (vague_number, removed_fact, missing_reference),
}
