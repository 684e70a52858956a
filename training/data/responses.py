"""The teacher's responses in an exported dataset, and their token ids. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import UserError
from tasks.storage.checksums import verify
from tasks.storage.manifest import RESPONSES, parquet_files
from tasks.uncertainty.entropy import majority
from training.data.rows import TrainingRow

_COLUMNS: Mapping[str, pa.DataType] = {
    "problem_id": pa.string(), "index": pa.int64(), "text": pa.string(), "finish_reason": pa.string(), "answer": pa.string(),
}  # fmt: skip
_AT_ONCE = 1000  # rows in memory
FINISHED = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherResponse:
    """One of the teacher's samples; `index` is its position in the row's `cluster_labels`."""

    row_id: str
    index: int
    text: str
    finish_reason: str
    answer: str | None  # content of the last box

    @property
    def finished(self) -> bool:
        """Whether the response ended by itself, not at the token limit."""
        return self.finish_reason == FINISHED

    @property
    def solution(self) -> str:
        """The text after the thinking."""
        return self.text.rpartition("</think>")[2].strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedResponse:
    """The token ids of a response, the end token included if it finished."""

    response: TeacherResponse
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedResponses:
    """The responses that could be encoded, in their order, and the number of the others by reason."""

    kept: tuple[EncodedResponse, ...]
    refused: Mapping[str, int]


# --- reading -----------------------------------------------------------------------------------------------------


def response_files(folder: Path, split: str) -> list[Path]:
    """Return the files of a split's responses; none in a dataset without responses, such as one that somebody else made."""
    return parquet_files(folder, f"{RESPONSES}/{split}-*.parquet")


def iter_responses(folder: Path, split: str) -> Iterator[TeacherResponse]:
    """Yield the responses of a split, file by file, with at most 1,000 of them in memory.

    Raises `UserError`, naming the dataset or the file, if there are none, or a file is damaged or lacks a column.
    """
    files = response_files(folder, split)
    if not files:
        raise UserError(
            f"{folder} has no responses of the teacher ({RESPONSES}/{split}-*.parquet): train on a dataset that the flow"
            " sure-math exported"
        )
    for path in files:
        yield from _responses(path)


def _responses(path: Path) -> Iterator[TeacherResponse]:
    try:
        verify(path)
        with pq.ParquetFile(path) as file:
            _check(path, file.schema_arrow)
            for part in file.iter_batches(batch_size=_AT_ONCE, columns=list(_COLUMNS), use_threads=False):
                for record in part.to_pylist():
                    yield TeacherResponse(row_id=record.pop("problem_id"), **record)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({reason}): export the dataset again") from error


def _check(path: Path, schema: pa.Schema) -> None:
    wrong = next(
        (
            name
            for name, kind in _COLUMNS.items()
            if name not in schema.names or schema.field(name).type != kind
        ),
        None,
    )
    if wrong is not None:
        raise UserError(f"{path} has no column {wrong!r} of type {_COLUMNS[wrong]}: export the dataset again")


def in_majority(row: TrainingRow, index: int) -> bool:
    """Whether the teacher's response `index` is in the majority cluster of its row, the one of `majority_answer`."""
    labels = row.cluster_labels
    if row.majority_answer is None or not 0 <= index < len(labels):
        return False
    return labels[index] == majority(labels)


# --- token ids ---------------------------------------------------------------------------------------------------


def response_ids(tokenizer: Any, text: str, end_token: int | None) -> tuple[int, ...] | str:
    """Return the token ids of a response, followed by the end token (None for a truncated response, which has none).

    Returns the reason in place of the ids if they would not be the response: decoding them does not give the text back, or the
    text contains a control token of the tokenizer, such as the end token, which no response has in its text.
    """
    ids = tokenizer.encode(text, add_special_tokens=False)
    if tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) != text:
        return "the tokenizer does not give its text back"
    if not set(tokenizer.all_special_ids).isdisjoint(ids):
        return "its text contains a control token"
    ended = (*ids, *(() if end_token is None else (end_token,)))
    return ended or "it is empty"


def encode_responses(
    tokenizer: Any, responses: Iterable[TeacherResponse], end_token: int
) -> EncodedResponses:
    """Return the token ids of responses; those without (see `response_ids`) are refused and counted."""
    kept, refused = list[EncodedResponse](), Counter[str]()
    for response in responses:
        found = response_ids(tokenizer, response.text, end_token if response.finished else None)
        if isinstance(found, str):
            refused[found] += 1
        else:
            kept.append(EncodedResponse(response=response, tokens=found))
    return EncodedResponses(kept=tuple(kept), refused=dict(refused))
