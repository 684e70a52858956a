"""Final answers: finding one in a response, deciding whether two are equivalent, and grading a response."""

from __future__ import annotations

from tasks.answers.equivalence import equivalent
from tasks.answers.extraction import extract_answer
from tasks.answers.grading import grade, matches

__all__ = ["equivalent", "extract_answer", "grade", "matches"]
