"""JSON schemas of the judges' replies. All keys are required, no others are allowed, and their order matters."""

from __future__ import annotations

from typing import Any, Final

from tasks.rows import QUALITY_CRITERIA

QUALITY_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {criterion: {"type": "boolean"} for criterion in QUALITY_CRITERIA},
    "required": list(QUALITY_CRITERIA),
    "additionalProperties": False,
}
"""Reply of `judge/quality`: one boolean per criterion."""

EQUIVALENCE_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "first": {"type": "string"},
        "second": {"type": "string"},
        "equivalent": {"type": "boolean"},
    },
    "required": ["first", "second", "equivalent"],
    "additionalProperties": False,
}
"""Reply of `judge/equivalence`: both simplest forms, then the verdict. The strings have no maxLength, because xgrammar's
grammar for maxLength does not allow escapes, so a judge could not write LaTeX backslashes. max_tokens limits them."""

OVERLAP_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "same": {"type": "boolean"}},
    "required": ["reason", "same"],
    "additionalProperties": False,
}
"""Reply of `judge/overlap`: the reason, then whether both problems are the same."""
