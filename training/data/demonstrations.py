"""The solutions of rows as responses, which a sequence loss compares with rollouts. No torch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tasks.identity import canonical_json
from training.data.references import Reference, References
from training.data.responses import response_ids

__all__ = ["Demonstration", "Demonstrations", "make_demonstrations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """The token ids (int32) of a response that ends with the end token: the dataset's own solution, or a response of the
    teacher."""

    tokens: np.ndarray
    source: Literal["solution", "teacher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstrations:
    """The demonstration of each row, None for rows without one. `left_out`: the number of the others by what is counted."""

    rows: tuple[Demonstration | None, ...] = field(repr=False)
    left_out: Mapping[str, int]

    @property
    def digest(self) -> str:
        """The SHA-256 (hex) of all demonstrations."""
        digest = hashlib.sha256()
        for row in self.rows:
            used = None if row is None else [row.source, row.tokens.tolist()]
            digest.update(canonical_json(used).encode("ascii") + b"\n")
        return digest.hexdigest()


def make_demonstrations(
    references: References, tokenizer: Any, end_token: int, max_tokens: int
) -> Demonstrations:
    """Return the demonstrations of rows: their solutions with at most `max_tokens` tokens, the end token included. Pure."""
    left_out = Counter[str]()
    rows = [_demonstration(row, tokenizer, end_token, max_tokens, left_out) for row in references.rows]
    return Demonstrations(
        rows=tuple(rows),
        left_out={f"solutions as demonstrations: {reason}": count for reason, count in left_out.items()},
    )


def _demonstration(
    row: Reference, tokenizer: Any, end_token: int, max_tokens: int, left_out: Counter[str]
) -> Demonstration | None:
    """Return the demonstration of a row, or count why it has none."""
    solution = row.solution
    found = row.lacking["solution"] if solution is None else response_ids(tokenizer, solution, end_token)
    if not isinstance(found, str) and len(found) > max_tokens:
        found = f"more than lengths.max_response_tokens ({max_tokens:,})"
    if isinstance(found, str):
        left_out[found] += 1
        return None
    source = "solution" if row.solution_source == "gold" else "teacher"
    return Demonstration(tokens=np.array(found, dtype=np.int32), source=source)
