r"""Gold answers as public data sets write them: the known forms of a whole file, and what can be compared at all. Pure.

A form is recognised for a file if at least half of its answers have it: `#### 18` at the end of a solution,
`<answer>18</answer>`, a solution with `\boxed{18}`, "The answer is 18", `9 (apples)`, `["18"]`. Numbers as programs print them
(`1e-05`, `inf`), and in files with semicolons decimal commas, are rewritten one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from tasks.answers.extraction import extract_answer
from tasks.answers.notation import MAX_LENGTH, normalise

SHOWN_EXAMPLES = 3
MAX_WORDS = 8
"""A gold answer with more words is a sentence, which no answer in a box equals."""

_STATED = re.compile(r"(?i)\banswer\s*(?:is\s*:?|:|=)\s*(\S.*)")
_COUNTED = re.compile(r"([+-]?\d[\d.,/]*)\s*\((?!mod\b)([^()\d]*[A-Za-z][^()\d]*)\)")
_LISTED = re.compile(r"""\[\s*(["'])([^"']+)\1\s*\]""")
_SCIENTIFIC = re.compile(r"[+-]?\d+(?:\.\d+)?[eE][+-]\d{2,3}")
_INFINITE = re.compile(r"(?i)([+-]?)inf(?:inity)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_COMMANDS = re.compile(r"\\[A-Za-z]+")
_WORDS = re.compile(r"[^\W\d_]{2,}")
_SHORT = 200  # characters; longer texts have none of the short forms


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """A gold answer (None: there is none), and the solution that surrounded it."""

    answer: str | None
    solution: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A way to write gold answers. `read` returns None for an answer in another form."""

    what: str
    read: Callable[[str], Gold | None]


def _hashes(text: str) -> Gold | None:
    before, mark, after = text.rpartition("####")
    first = after.strip().partition("\n")[0].strip()
    return Gold(answer=first, solution=before.strip() or None) if mark and first else None


def _tagged(text: str) -> Gold | None:
    before, mark, after = text.rpartition("<answer>")
    inside, end, _ = after.partition("</answer>")
    found = bool(mark and end and inside.strip())
    return Gold(answer=inside.strip(), solution=before.strip() or None) if found else None


def _boxed(text: str) -> Gold | None:
    answer = extract_answer(text)
    if answer is None:
        return None
    bare = text.strip().strip("$").startswith("\\boxed") and len(text.strip()) <= len(answer) + len(
        "$$\\boxed{}$$"
    )
    return Gold(answer=answer, solution=None if bare else text)


def _stated(text: str) -> Gold | None:
    before, _, last = text.rstrip().rpartition("\n")
    match = _STATED.search(last[-_SHORT:])
    answer = match[1].strip().strip("*").removesuffix(".").strip() if match else ""
    return Gold(answer=answer, solution=before.strip() or None) if answer else None


def _counted(text: str) -> Gold | None:
    match = _COUNTED.fullmatch(text.strip()) if len(text) < _SHORT else None
    return Gold(answer=match[1]) if match else None


def _listed(text: str) -> Gold | None:
    match = _LISTED.fullmatch(text.strip()) if len(text) < _SHORT else None
    return Gold(answer=match[2].strip()) if match else None


FORMS = (
    Form(what="the text after ####", read=_hashes),
    Form(what="the content of <answer>", read=_tagged),
    Form(what="the content of the last box", read=_boxed),
    Form(what='the words after "answer is"', read=_stated),
    Form(what="the number before the parenthesis", read=_counted),
    Form(what="the entry of the list", read=_listed),
)


def read_answers(
    answers: Sequence[str | None], *, decimal_comma: bool = False
) -> tuple[list[Gold], list[str]]:
    """Return the gold answers of a file as they are read: in its known form, if it has one, and numbers in decimal notation.

    Also returns what was recognised, a sentence with examples each.
    """
    golds, notices = [Gold(answer=text) for text in answers], list[str]()
    form = recognise([text for text in answers if text and text.strip()])

    def decimal(text: str) -> Gold:
        return Gold(answer=number_notation(text, decimal_comma=decimal_comma))

    steps = [*([] if form is None else [form]), Form(what="numbers in decimal notation", read=decimal)]
    for step in steps:
        pairs = []
        for place, old in enumerate(golds):
            new = step.read(old.answer) if old.answer else None
            if old.answer and new is not None and new != Gold(answer=old.answer):
                golds[place] = Gold(answer=new.answer, solution=old.solution or new.solution)
                pairs.append((old.answer, new.answer))
        if pairs:
            found = f"{step.what} in {len(pairs):,} of {len(answers):,} rows"
            notices.append(f"answers: {found}, e.g. {examples(pairs)}")
    return golds, notices


def recognise(answers: Sequence[str]) -> Form | None:
    """Return the first form that at least half of the answers have; None if there is none."""
    for form in FORMS:
        if answers and 2 * sum(form.read(text) is not None for text in answers) >= len(answers):
            return form
    return None


def number_notation(text: str, *, decimal_comma: bool) -> str | None:
    r"""Return `1e-05` as 0.00001, `inf` as `\infty`, `nan` as None and, with `decimal_comma`, `2,5` as 2.5; another text
    unchanged."""
    bare = text.strip()
    if len(bare) >= _SHORT:
        return text
    if _SCIENTIFIC.fullmatch(bare):
        return format(Decimal(bare), "f")
    if match := _INFINITE.fullmatch(bare):
        return f"{match[1].replace('+', '')}\\infty"
    if bare.lower() == "nan":
        return None
    return bare.replace(",", ".") if decimal_comma and _DECIMAL_COMMA.fullmatch(bare) else text


def is_comparable(answer: str) -> bool:
    """Whether an answer in a box can equal this gold answer: it is short, and no sentence."""
    text = normalise(answer)
    return len(text) <= MAX_LENGTH and len(_WORDS.findall(_COMMANDS.sub(" ", text))) <= MAX_WORDS


def examples(pairs: Sequence[tuple[str, str | None]]) -> str:
    """Return the first pairs of (written, read) as text."""
    return ", ".join(f"{_end(old)!r} -> {new!r}" for old, new in pairs[:SHOWN_EXAMPLES])


def _end(text: str, size: int = 40) -> str:
    return text if len(text) <= size else f"...{text[-size:]}"
