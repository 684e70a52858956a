"""Read an exported dataset for training: the rows of one split, each of them checked, with prompts as token ids."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prompts import MAX_VALUE_CHARS, load_prompt
from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.identity import canonical_json
from tasks.llm.model_identity import model_identity
from tasks.storage.checksums import FORMAT, origin, verify
from tasks.storage.manifest import DATA, MANIFEST, Manifest, parquet_files, read_manifest
from tasks.uncertainty.entropy import majority
from tasks.yaml_text import load_yaml
from training.config import DatasetSettings, RunConfig, project_path
from training.data.model_files import PROMPT, ModelFiles, encode_prompts
from training.losses.prompt_weights import PromptColumns

COLUMNS = {
    "id": "text or whole numbers", "problem": "text", "tier": "text", "answer": "text", "majority_answer": "text",
    "semantic_entropy": "numbers", "weight": "numbers", "cluster_labels": "lists of whole numbers",
}  # fmt: skip
"""The columns that training reads and the kind of each. A column without any value may have the null type."""
REQUIRED = ("id", "problem")  # the others only where a prompt weight uses them
REFERENCE_COLUMNS = (
    "solution",
    "source",
    "source_id",
)  # read where they are text (see `training.data.references`)
BY_SIZE = ("sizes", "entropy_by_size", "weight_by_size")  # read for `dataset.samples`
ROUNDING = 1e-6  # tolerance by which a weight may be outside [0, 1]: float32 arithmetic of other producers
SPLITS = ("train", "validation", "test")
# The identity of a local model; a hub model has id@revision.
_HASHED = re.compile(r".*:([0-9a-f]{16})", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    """One training problem. `semantic_entropy` in nats, `weight` = 1 - H / log N; None if the dataset has no such column.

    `pass_rate` is the share of the teacher's samples in the largest answer cluster, also for rows with a ground truth, because
    most have none. `prompt_ids` is set by `with_prompts`.
    """

    id: str
    text: str
    tier: str | None
    answer: str | None  # ground truth, if known
    majority_answer: str | None  # majority answer of the teacher's samples
    semantic_entropy: float | None
    weight: float | None
    pass_rate: float | None
    prompt_ids: tuple[int, ...] = ()
    solution: str | None = None  # the dataset's own, never a response of the teacher
    source: str | None = None
    source_id: str | None = None
    cluster_labels: tuple[int, ...] = ()  # cluster of the teacher's response i, or -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The rows of one config and split of a folder, with its manifest if sure-math exported it, or of a source.

    `name`: what the rows are, for people. `read` rows were read; those that are no training rows are counted in `left_out`, by
    reason. `origin` identifies the content of a source. `notices`: what was recognised or assumed.
    """

    name: str
    folder: Path | None  # None: the rows come from a source, which has no annotation and no responses
    manifest: Manifest | None
    rows: tuple[TrainingRow, ...]  # ordered by id
    read: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    origin: str | None = None
    notices: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the dataset; of its rows if it has no manifest."""
        return rows_digest(self.rows) if self.manifest is None else self.manifest.fingerprint


# --- reading -----------------------------------------------------------------------------------------------------


def read_dataset(settings: DatasetSettings) -> Dataset:
    """Read the rows of one config and split of `settings.folder`. Of a dataset that sure-math did not export, only `REQUIRED`
    columns must exist.

    Raises `UserError`, with one line for each kind of defect and the first row that has it: a missing folder, config or split; a
    missing column or one of the wrong type; a missing or duplicate id; an empty text; a weight that is missing, NaN or outside
    [0, 1]; an entropy that is missing, NaN or negative; unusable cluster labels.
    """
    if settings.folder is None:
        raise ValueError("dataset.folder is not set")
    folder = project_path(settings.folder)
    manifest = read_manifest(folder) if (folder / MANIFEST).is_file() or not _has_data(folder) else None
    where = f"{folder} (config {settings.config!r}, split {settings.split!r})"
    records = _records(_files(folder, settings), where, () if settings.samples is None else BY_SIZE)
    if settings.samples is not None:
        records = [_of_first(record, settings.samples, where) for record in records]
    problems = _problems(records)
    if problems:
        raise UserError("\n".join(problems))
    rows = sorted((_row(record) for record in records), key=lambda row: row.id)
    name = f"{settings.config}/{settings.split}"
    return Dataset(name=name, folder=folder, manifest=manifest, rows=tuple(rows), read=len(rows))


def dataset_files(folder: Path, settings: DatasetSettings) -> list[Path]:
    """Return the Parquet files of a config and split in `folder`. Raises `UserError` if there are none."""
    return _files(project_path(folder), settings)


def rows_digest(rows: Iterable[TrainingRow]) -> str:
    """Return the SHA-256 (hex) of all row values that training uses, except prompts and references."""
    digest = hashlib.sha256()
    for row in rows:
        used = [
            row.id, row.text, row.tier, row.answer, row.majority_answer, row.semantic_entropy, row.weight, row.pass_rate,
        ]  # fmt: skip
        digest.update(canonical_json(used, f"row {row.id}").encode("ascii") + b"\n")
    return digest.hexdigest()


def prompts_digest(rows: Iterable[TrainingRow]) -> str:
    """Return the SHA-256 (hex) of the prompts' token ids."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json(list(row.prompt_ids)).encode("ascii") + b"\n")
    return digest.hexdigest()


def _files(folder: Path, settings: DatasetSettings) -> list[Path]:
    """Return the Parquet files of the config and split, as the front matter of the dataset card lists them if it does."""
    configs = _patterns(folder)
    if settings.config not in configs:
        raise UserError(
            f"dataset.config {settings.config!r} does not exist in {folder}: choose one of {', '.join(sorted(configs))}"
        )
    splits = configs[settings.config]
    if settings.split not in splits:
        raise UserError(
            f"dataset.split {settings.split!r} does not exist in config {settings.config!r} of {folder}: choose one of"
            f" {', '.join(sorted(splits))}"
        )
    if outside := next((name for name in splits[settings.split] if _leaves(name)), None):
        raise UserError(
            f"{folder / 'README.md'} names data outside of its folder ({outside!r}): use a dataset whose files are in its folder"
        )
    files = {pattern: parquet_files(folder, pattern) for pattern in splits[settings.split]}
    missing = next((pattern for pattern, found in files.items() if not found), None)
    if missing is not None:
        raise UserError(f"{folder} has no file {missing}: export the dataset again")
    return [path for found in files.values() for path in found]


def _leaves(pattern: str) -> bool:
    """Whether the path of a dataset card leads out of the dataset's folder."""
    return Path(pattern).is_absolute() or ".." in Path(pattern).parts


def _patterns(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Return the file patterns by config and split."""
    card = folder / "README.md"
    bare = {} if (folder / MANIFEST).is_file() else _bare_files(folder)
    try:
        parts = card.read_text(encoding="utf-8").split("---\n") if card.exists() or not bare else []
        head = load_yaml(parts[1]) if len(parts) > 1 or not bare else {}
        if bare and "configs" not in head:
            return {"default": bare}
        return {
            str(config["config_name"]): {
                str(entry["split"]): [_pattern(path) for path in _listed(entry["path"])]
                for entry in config["data_files"]
            }
            for config in head["configs"]
        }
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"{card} does not list the dataset's configs in its front matter: export the dataset again"
        ) from error


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value)


def _pattern(path: Any) -> str:
    """Return a pattern of files. Raises `ValueError` if it is none."""
    if not isinstance(path, str) or not path:
        raise ValueError(f"{path!r} is not a pattern of files")
    return path


def _bare_files(folder: Path) -> dict[str, list[str]]:
    """Return the Parquet files of a folder without configs by split, which is `train` unless a name starts with another one."""
    found: dict[str, list[str]] = {}
    for path in sorted([*folder.glob("*.parquet"), *(folder / DATA).glob("*.parquet")]):
        split = next((name for name in SPLITS if re.match(rf"{name}\b|{name}_", path.name)), "train")
        found.setdefault(split, []).append(str(path.relative_to(folder)))
    return found


def _has_data(folder: Path) -> bool:
    """Whether a folder looks like a dataset that somebody else made."""
    return bool(_bare_files(folder)) or (folder / "README.md").is_file()


def _of_first(record: Mapping[str, Any], samples: int, where: str) -> dict[str, Any]:
    """Return a record with entropy and weight of the first responses. Raises `UserError` if the dataset does not have them."""
    sizes = list(record.get("sizes") or ())
    if samples not in sizes:
        there = f"choose among {', '.join(map(str, sizes))}" if sizes else "export the dataset again"
        raise UserError(f"{where} has no entropy of the first {samples} responses (dataset.samples): {there}")
    place = sizes.index(samples)
    found = {"semantic_entropy": record["entropy_by_size"][place], "weight": record["weight_by_size"][place]}
    return {**record, **found}


def _records(files: Iterable[Path], where: str, further: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of the files with the columns that training reads, and those in `further` where they exist."""
    found: list[dict[str, Any]] = []
    for path in files:
        try:
            verify(path)
            schema = pq.read_schema(path)
            problems = [f"{one}{_version(path)}" for one in _column_problems(schema, where)]
            if problems:
                raise UserError("\n".join(problems))
            names = [name for name in (*COLUMNS, *further) if name in schema.names]
            names += [
                name
                for name in REFERENCE_COLUMNS
                if name in schema.names and _is_text(schema.field(name).type)
            ]
            found += pq.read_table(path, columns=names, use_threads=False).to_pylist()
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} cannot be read ({reason}): export the dataset again") from error
    if not found:
        raise UserError(f"{where} has no rows: build a larger dataset or choose another config or split")
    return found


def _version(path: Path) -> str:
    """Return who wrote a dataset of an earlier format, as an addition to a sentence."""
    written = origin(path)
    return "" if f"(format {FORMAT})" in written else f" (it {written})"


def _column_problems(schema: pa.Schema, where: str) -> list[str]:
    """Return one problem for the first missing column, or one for each column of the wrong type."""
    missing = [name for name in REQUIRED if name not in schema.names]
    if missing:
        return [
            f"{where} has no column {name!r}: add it, or train on a dataset that the flow sure-math exported"
            for name in missing
        ]
    return [
        f"{where} has a column {name!r} of type {schema.field(name).type}, but training needs {kind}: export the dataset again"
        for name, kind in COLUMNS.items()
        if name in schema.names and not _is_of(schema.field(name).type, kind)
    ]


def _is_of(found: pa.DataType, kind: str) -> bool:
    types = pa.types
    if types.is_null(found):
        return True
    if kind.startswith("text"):
        plain = found.value_type if types.is_dictionary(found) else found
        return _is_text(found) or (kind == COLUMNS["id"] and types.is_integer(plain))
    if kind == "numbers":
        return types.is_floating(found) or types.is_integer(found)
    if not (types.is_list(found) or types.is_large_list(found) or types.is_fixed_size_list(found)):
        return False
    return types.is_integer(found.value_type) or types.is_null(found.value_type)


def _is_text(found: pa.DataType) -> bool:
    types = pa.types
    plain = found.value_type if types.is_dictionary(found) else found
    return types.is_string(plain) or types.is_large_string(plain) or types.is_string_view(plain)


def _problems(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one problem for each kind of defect, with the id of the first such row (its number if it has no id) and the number
    of rows."""
    counts = Counter(record["id"] for record in records)
    checks: tuple[Callable[[Mapping[str, Any]], str | None], ...] = (
        lambda record: "has no id" if record["id"] in (None, "") else None,
        lambda record: (
            f"occurs {counts[record['id']]} times"
            if record["id"] not in (None, "") and counts[record["id"]] > 1
            else None
        ),
        lambda record: None if (record["problem"] or "").strip() else "has an empty text",
        lambda record: (
            f"has a text of more than {MAX_VALUE_CHARS:,} characters"
            if len(record["problem"] or "") > MAX_VALUE_CHARS
            else None
        ),
        lambda record: _number_problem("weight", record, 1.0),
        lambda record: _number_problem("semantic_entropy", record, math.inf),
        lambda record: (
            None
            if "cluster_labels" not in record
            or any(label is not None and label >= 0 for label in record["cluster_labels"] or ())
            else "has no clustered sample (cluster_labels)"
        ),
    )
    found = []
    for check in checks:
        failed = [
            (f"number {number}" if record["id"] in (None, "") else record["id"], problem)
            for number, record in enumerate(records, 1)
            if (problem := check(record)) is not None
        ]
        if failed:
            more = f" (and {len(failed) - 1:,} more rows have this defect)" if len(failed) > 1 else ""
            found.append(
                f"row {failed[0][0]} {failed[0][1]}{more}: correct or remove the row, or export the dataset again"
            )
    return found


def _number_problem(name: str, record: Mapping[str, Any], highest: float) -> str | None:
    if name not in record:
        return None
    value: float | None = record[name]
    if value is None:
        return f"has no {name}"
    if math.isfinite(value) and -ROUNDING <= value <= highest + ROUNDING:
        return None
    return f"has {name} {value}, which is not between 0 and {'infinity' if highest == math.inf else f'{highest:g}'}"


def _row(record: Mapping[str, Any]) -> TrainingRow:
    entropy, weight = record.get("semantic_entropy"), record.get("weight")
    return TrainingRow(
        id=str(record["id"]),
        text=record["problem"],
        tier=record.get("tier"),
        answer=record.get("answer"),
        majority_answer=record.get("majority_answer"),
        semantic_entropy=None if entropy is None else max(0.0, float(entropy)),
        weight=None if weight is None else min(1.0, max(0.0, float(weight))),
        pass_rate=_pass_rate(record),
        solution=record.get("solution"),
        source=record.get("source"),
        source_id=record.get("source_id"),
        cluster_labels=_cluster_labels(record),
    )


def _cluster_labels(record: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(-1 if label is None else label for label in record.get("cluster_labels") or ())


def _pass_rate(record: Mapping[str, Any]) -> float | None:
    if not {"cluster_labels", "majority_answer"} <= record.keys():
        return None
    labels = _cluster_labels(record)
    return labels.count(majority(labels)) / len(labels) if record["majority_answer"] is not None else 0.0


# --- for a run ---------------------------------------------------------------------------------------------------


def with_prompts(
    rows: Sequence[TrainingRow], student: ModelFiles, *, thinking: bool, day: date | None = None
) -> tuple[TrainingRow, ...]:
    """Return the rows with the token ids of their prompts."""
    ids = encode_prompts(student, [row.text for row in rows], thinking=thinking, day=day)
    return tuple(replace(row, prompt_ids=prompt) for row, prompt in zip(rows, ids, strict=True))


def prompt_length_problems(rows: Sequence[TrainingRow], limit: int) -> list[str]:
    """Return one problem, naming the longest prompt, if any prompt has more than `limit` tokens."""
    long = [row for row in rows if len(row.prompt_ids) > limit]
    if not long:
        return []
    worst = max(long, key=lambda row: (len(row.prompt_ids), row.id))
    return [
        f"row {worst.id} has a prompt of {len(worst.prompt_ids):,} tokens, but lengths.max_prompt_tokens is {limit:,}"
        f" ({len(long):,} rows exceed it): raise the limit, set dataset.without to leave_out, or remove these rows from the"
        " dataset"
    ]


def manifest_problems(run: RunConfig, data: Dataset, teacher: ModelFiles) -> list[str]:
    """Return the differences between the dataset's teacher and the run's, one sentence each; none with `dataset.allow_mismatch`.

    A local teacher is compared by a hash of all its files, which reads the weights once. A hub teacher is compared by its
    tokenizer, because the manifest has no hash of its files. No model took part in the problems of a source.
    """
    if run.dataset.allow_mismatch or data.folder is None:
        return []
    if data.manifest is None:
        return [
            f"{data.folder} has no {MANIFEST}, so it is not known which teacher and prompt it was made with: set"
            " dataset.allow_mismatch to train on it"
        ]
    annotated = data.manifest.teacher
    differing = []
    hashed = _HASHED.fullmatch(annotated.model)
    identity = model_identity(str(teacher.folder), None, PROJECT_ROOT) if hashed is not None else ""
    if hashed is not None and not identity.endswith(f":{hashed[1]}"):
        differing.append(("teacher", annotated.model, identity))
    elif hashed is None:
        differing.append(("tokenizer", annotated.tokenizer, teacher.identity.tokenizer))
    differing.append(("chat template", annotated.chat_template, teacher.identity.chat_template))
    if annotated.template_date is not None:
        differing.append(("prompt.date", annotated.template_date, str(run.prompt.date)))
    differing.append(("prompt", annotated.prompt, load_prompt(PROMPT).fingerprint))
    differing.append(("thinking mode", str(annotated.thinking), str(run.lengths.thinking)))
    return [
        f"the dataset was annotated with {what} {theirs}, but this run has {ours}: use the same, annotate again, or set"
        " dataset.allow_mismatch"
        for what, theirs, ours in differing
        if theirs != ours
    ]


def columns(rows: Sequence[TrainingRow]) -> PromptColumns:
    """Return the columns from which prompt weights are computed."""

    def column(values: Iterable[float | None]) -> list[float] | None:
        present = [value for value in values if value is not None]
        return present if len(present) == len(rows) else None

    return PromptColumns(
        ids=[row.id for row in rows],
        entropy=column(row.semantic_entropy for row in rows),
        weight=column(row.weight for row in rows),
        pass_rate=column(row.pass_rate for row in rows),
    )
