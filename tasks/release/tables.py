"""The Parquet files of a release: problems and responses by licence, and the responses with their problem's text and messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from prompts import load_prompt
from tasks.rows import Example, Response
from tasks.storage.dataset import FLAGGED, RESPONSES, ROWS_PER_FILE
from tasks.storage.manifest import DATA, Manifest
from tasks.storage.tables import ROW_GROUP, read_table, schema
from tasks.storage.versions import split_files, splits_of

MESSAGES: Final = pa.list_(pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())]))
PROBLEM_COLUMNS: Final = ("weight", "semantic_entropy", "tier", "source", "licence", "benchmark_overlap")
"""Columns of the problem that a released response has, besides its text and the messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The rows of one split and licence in one folder of a release: `data/<licence>/<split>-*.parquet`."""

    folder: str
    licence: str
    split: str
    rows: int
    bytes: int  # in memory, uncompressed


def write_tables(place: Path, folder: Path, manifest: Manifest) -> list[Part]:
    """Write the Parquet files of a release from those of a dataset, and return what was written. The same dataset gives the same
    bytes."""
    parts = []
    for split in splits_of(manifest):
        problems = {
            name: pa.concat_tables(
                [read_table(path, Example) for path in split_files(folder, name, split)]
                or [schema(Example).empty_table()]
            )
            for name in (DATA, FLAGGED)
        }
        responses = [read_table(path, Response) for path in split_files(folder, RESPONSES, split)]
        joined = released_responses(pa.concat_tables(list(problems.values())), responses, manifest)
        for name, table in (*problems.items(), (RESPONSES, joined)):
            licences = table["licence"].to_pylist()
            for licence in sorted(set(licences)):
                rows = table.filter(pa.array([one == licence for one in licences]))
                parts.append(_write_part(place, name, licence, split, rows))
    return parts


def released_responses(problems: pa.Table, responses: Sequence[pa.Table], manifest: Manifest) -> pa.Table:
    """Return the responses with columns of their problems and `messages`: the teacher's prompt, and the response."""
    prompt = load_prompt(manifest.teacher.prompt.partition("@")[0])
    rows = pa.concat_tables(list(responses))
    numbers = {name: number for number, name in enumerate(problems["id"].to_pylist())}
    places = [numbers[name] for name in rows["problem_id"].to_pylist()]
    asked = [prompt.render(problem=text) for text in problems["problem"].to_pylist()]
    messages = [
        [*asked[place], {"role": "assistant", "content": text}]
        for place, text in zip(places, rows["text"].to_pylist(), strict=True)
    ]
    of_problem = problems.take(places)
    columns = {
        **{name: rows[name] for name in ("problem_id", "index")},
        "problem": of_problem["problem"],
        "messages": pa.array(messages, type=MESSAGES),
        **{name: of_problem[name] for name in PROBLEM_COLUMNS},
        **{name: rows[name] for name in rows.column_names},
    }
    return pa.table(columns)


def _write_part(place: Path, name: str, licence: str, split: str, rows: pa.Table) -> Part:
    folder = place / name / licence
    folder.mkdir(parents=True, exist_ok=True)
    count = -(-len(rows) // ROWS_PER_FILE)
    for number, piece in enumerate(_pieces(rows)):
        path = folder / f"{split}-{number:05d}-of-{count:05d}.parquet"
        pq.write_table(
            piece, path, row_group_size=ROW_GROUP, version="2.6", data_page_version="1.0", compression="zstd",
            compression_level=3,
        )  # fmt: skip
    return Part(folder=name, licence=licence, split=split, rows=len(rows), bytes=rows.nbytes)


def _pieces(rows: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, len(rows), ROWS_PER_FILE):
        yield rows.slice(start, ROWS_PER_FILE).combine_chunks()
