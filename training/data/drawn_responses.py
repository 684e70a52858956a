"""The dataset's responses that an algorithm trains on instead of the student's rollouts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasks.identity import canonical_json
from training.data.responses import encode_responses, iter_responses
from training.data.rows import Dataset

__all__ = ["DrawnResponses", "read_responses"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnResponses:
    """The token ids (int32) of the finished responses of each row that has any, in the order of the samples, by row id.
    `left_out`: the number of rows without any, and of responses that cannot be trained on, by what is counted."""

    by_row: Mapping[str, tuple[np.ndarray, ...]] = field(repr=False)
    digest: str
    left_out: Mapping[str, int]

    def drawn(self, row_id: str, seed: int) -> np.ndarray:
        """Return the response of a row that a seed draws."""
        given = self.by_row[row_id]
        return given[seed % len(given)]


def read_responses(
    data: Dataset, split: str, tokenizer: Any, end_token: int, max_tokens: int
) -> DrawnResponses:
    """Read and tokenize the responses of a split that finished and have at most `max_tokens` tokens, the end token included.

    Raises the errors of `iter_responses`.
    """
    rows = {row.id for row in data.rows}
    given = [one for one in iter_responses(data.folder, split) if one.row_id in rows and one.finished]
    encoded = encode_responses(tokenizer, sorted(given, key=lambda one: (one.row_id, one.index)), end_token)
    by_row: dict[str, list[np.ndarray]] = {}
    refused = Counter(encoded.refused)
    for one in encoded.kept:
        if len(one.tokens) > max_tokens:
            refused[f"more than lengths.max_response_tokens ({max_tokens:,})"] += 1
        else:
            by_row.setdefault(one.response.row_id, []).append(np.array(one.tokens, dtype=np.int32))
    digest = hashlib.sha256()
    for row_id in sorted(by_row):
        used = [row_id, [tokens.tolist() for tokens in by_row[row_id]]]
        digest.update(canonical_json(used).encode("ascii") + b"\n")
    silent = len(rows) - len(by_row)
    left_out = {"rows without a finished response to train on": silent} if silent else {}
    return DrawnResponses(
        by_row={row_id: tuple(tokens) for row_id, tokens in by_row.items()},
        digest=digest.hexdigest(),
        left_out=left_out | {f"responses: {reason}": count for reason, count in refused.items()},
    )
