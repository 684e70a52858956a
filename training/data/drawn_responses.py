"""The responses that an algorithm trains on instead of the student's rollouts: those of the dataset's teacher, or the reference
solutions of problems that nobody annotated."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasks.answers.extraction import extract_answer
from tasks.identity import canonical_json
from tasks.text import counted
from training.data.responses import (
    FINISHED,
    TeacherResponse,
    encode_responses,
    iter_responses,
    response_files,
)
from training.data.rows import Dataset, TrainingRow

__all__ = ["DrawnResponses", "read_responses", "solution_response"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnResponses:
    """The token ids (int32) of the finished responses of each row that has any, in the order of the samples, by row id.
    `left_out`: the number of rows without any, and of responses that cannot be trained on, by what is counted. `source`: what
    they are, for people."""

    by_row: Mapping[str, tuple[np.ndarray, ...]] = field(repr=False)
    digest: str
    left_out: Mapping[str, int]
    source: str

    def drawn(self, row_id: str, seed: int) -> np.ndarray:
        """Return the response of a row that a seed draws."""
        given = self.by_row[row_id]
        return given[seed % len(given)]


def read_responses(
    data: Dataset, split: str, tokenizer: Any, end_token: int, max_tokens: int
) -> DrawnResponses:
    """Read and tokenize the responses of a split that finished and have at most `max_tokens` tokens, the end token included.

    In a dataset that has no responses, because the flow did not export it, the solutions take their place. Raises the errors of
    `iter_responses`.
    """
    rows = {row.id for row in data.rows}
    given, source = _given(data, split)
    given = [one for one in given if one.row_id in rows and one.finished]
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
        source=source,
    )


def _given(data: Dataset, split: str) -> tuple[Iterable[TeacherResponse], str]:
    """Return the responses, and what they are."""
    if data.folder is not None and (data.manifest is not None or response_files(data.folder, split)):
        return iter_responses(data.folder, split), "responses of the teacher"
    solved = [row for row in data.rows if (row.solution or "").strip()]
    boxed = sum(_lacks_box(row) for row in solved)
    ends = f", {boxed:,} of them with the answer in a box added at the end" if boxed else ""
    return map(solution_response, solved), f"{counted(len(solved), 'reference solution')}{ends}"


def solution_response(row: TrainingRow) -> TeacherResponse:
    """Return the solution of a row as a response. It ends with the answer in a box, as the prompt demands, also where the
    solution has none."""
    text = (row.solution or "").strip()
    if _lacks_box(row):
        text += f"\n\nThe answer is \\boxed{{{row.answer}}}."
    return TeacherResponse(
        row_id=row.id, index=0, text=text, finish_reason=FINISHED, answer=extract_answer(text)
    )


def _lacks_box(row: TrainingRow) -> bool:
    return bool(row.answer) and extract_answer(row.solution or "") is None
