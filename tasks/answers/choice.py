r"""The letter that a response to a multiple-choice question chooses."""

from __future__ import annotations

import re
from typing import Final

from tasks.answers.extraction import extract_answer

LETTERS: Final = "ABCDEFGHIJ"
_WRAPPED: Final = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
_LETTER: Final = re.compile(r"(?:option\s+)?\(?\s*([A-J])\s*\)?\s*(?:[.:,)].*)?", re.IGNORECASE | re.DOTALL)
_STATED: Final = re.compile(r"\banswer(?:\s+is)?\s*:?\s*[*$\s]*\(?([A-J])\)?(?![\w'])")


def extract_choice(response: str) -> str | None:
    r"""Return the letter of a response: that in its last box, or without a box the last one of "the answer is (B)".

    Only the text after the thinking counts. None if there is no such letter; a box with anything else is no letter.
    """
    boxed = extract_answer(response)
    if boxed is not None:
        match = _LETTER.fullmatch(_WRAPPED.sub(r"\1", boxed).strip("$ \n"))
        return match[1].upper() if match else None
    if response.rfind("<think>") > response.rfind("</think>"):
        return None
    stated = _STATED.findall(response[response.rfind("</think>") + 1 :])
    return stated[-1] if stated else None


def lettered(question: str, options: list[str]) -> str:
    """Return a question followed by its options, one line each."""
    lines = (f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return "\n".join([question, *lines])
