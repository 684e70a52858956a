"""The exported dataset: Parquet files for `datasets.load_dataset`, a manifest, and a card rendered from the manifest."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from math import fsum
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from tasks.core.errors import UserError
from tasks.core.rows import Example, Response, Role, Tier
from tasks.io import cards
from tasks.io.disk import whole_folder
from tasks.io.tables import iter_rows, schema, write_rows

MANIFEST = "manifest.json"
ROWS_PER_FILE = 20_000
DATA, FLAGGED, RESPONSES = "data", "flagged", "responses"  # folders; DATA: unflagged problems

Row = TypeVar("Row", Example, Response)
_STRICT = ConfigDict(extra="forbid")


# --- manifest ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCount:
    """Row counts of one stage, with rejected rows by reason. Raises `ValueError` unless rows_in = kept + rejected."""

    __pydantic_config__ = _STRICT
    stage: str
    rows_in: int
    kept: int
    rejected: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows_in != self.kept + self.dropped:
            raise ValueError(
                f"stage {self.stage}: {self.rows_in} in, but {self.kept} kept + {self.dropped} rejected"
            )

    @property
    def dropped(self) -> int:
        """Number of rejected rows."""
        return sum(self.rejected.values())

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Reasons with their counts, most frequent first, ties by name."""
        return sorted(self.rejected.items(), key=lambda item: (-item[1], item[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """The teacher that was sampled and its settings; a training run compares them with its own teacher."""

    __pydantic_config__ = _STRICT
    model: str  # identity, as in the rows
    prompt: str  # fingerprint
    tokenizer: str  # hash of tokenizer.json
    chat_template: str  # hash of the chat template
    num_samples: int
    temperature: float
    top_p: float
    max_tokens: int
    thinking: bool
    logprobs: str  # raw: of the unmodified distribution; tempered: after temperature and truncation
    scope: str  # tokens whose log-probabilities weight a response: all, after_think, answer


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCount:
    """Row counts of one split."""

    __pydantic_config__ = _STRICT
    split: str
    problems: int
    decontaminated: int  # problems without a flag
    responses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkCount:
    """A benchmark that the problems were compared with, and how many were flagged, in total and by kind of finding."""

    __pydantic_config__ = _STRICT
    benchmark: str
    problems: int  # size of the benchmark
    flagged: int  # problems of the dataset
    kinds: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TierCount:
    """Number of problems of one tier, with their mean weight and mean semantic entropy."""

    __pydantic_config__ = _STRICT
    tier: str
    problems: Mapping[str, int]  # by split
    mean_weight: float
    mean_entropy: float  # nats


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCount:
    """Number of problems of one source, licence and role."""

    __pydantic_config__ = _STRICT
    source: str
    licence: str
    role: str
    problems: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishCount:
    """Responses with one finish reason, and the mean weight of their problems (a problem counts once per response)."""

    __pydantic_config__ = _STRICT
    reason: str
    responses: int
    mean_weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeCount:
    """Calls of the equivalence judge, and the contradictions among its verdicts and the symbolic ones."""

    __pydantic_config__ = _STRICT
    problems: int  # with at least one call
    calls: int
    order_flips: int
    transitivity_violations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Statistics of the exported rows."""

    __pydantic_config__ = _STRICT
    splits: tuple[SplitCount, ...]
    tiers: tuple[TierCount, ...]
    sources: tuple[SourceCount, ...]
    strategies: Mapping[str, int]  # by last strategy; "none" for curated problems
    with_answer: int
    judged: int
    benchmark_roots: int
    responses: int
    valid_responses: int
    finishes: tuple[FinishCount, ...]
    equivalence: JudgeCount


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Metadata of a dataset: the content of its card, and what a training run checks before it uses the dataset.

    `settings` is `Config.identity()`; `models` maps each role to an identity, `prompts` each prompt to its fingerprint.
    `timings` (seconds) may differ between two runs that give the same data, and appear nowhere else in the folder.
    `contents` is computed by `write_dataset`, which overwrites any value passed in.
    """

    __pydantic_config__ = _STRICT
    name: str
    licence: str
    profile: str
    fingerprint: str
    stages: tuple[StageCount, ...]
    models: Mapping[str, str]
    prompts: Mapping[str, str]
    settings: Mapping[str, Any]
    teacher: Teacher
    seeds: Mapping[str, int]
    benchmarks: tuple[BenchmarkCount, ...] = ()
    annotation: Mapping[str, str] = field(default_factory=dict)  # fingerprints of the annotation settings
    batch_invariance: Mapping[str, str] = field(default_factory=dict)  # role -> result of its engines' checks
    versions: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    contents: Contents | None = None

    def to_json(self) -> str:
        """Return indented JSON with a final newline; `from_json` restores an equal manifest."""
        return TypeAdapter(Manifest).dump_json(self, indent=2).decode("utf-8") + "\n"

    @staticmethod
    def from_json(text: str | bytes, where: str = MANIFEST) -> Manifest:
        """Parse a manifest. Raises `UserError` naming `where` and the first error: invalid JSON, a missing or unknown key, a
        wrong type."""
        try:
            return TypeAdapter(Manifest).validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the whole file"
            raise UserError(
                f"{where} is not a valid dataset manifest: {place}: {first['msg']}; export the dataset again"
            ) from error


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of an exported dataset. Raises `UserError` if it is missing from `folder` or invalid."""
    path = folder / MANIFEST
    try:
        return Manifest.from_json(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is not an exported dataset: it has no {MANIFEST}; run the flow sure-math first"
        ) from error


def read_dataset(folder: Path) -> tuple[list[Example], list[Response]]:
    """Return all problems and all responses of all splits. Raises `UserError` if a file is missing or damaged, or has the
    columns of another version."""
    examples = [path for name in (DATA, FLAGGED) for path in sorted((folder / name).glob("*.parquet"))]
    responses = sorted((folder / RESPONSES).glob("*.parquet"))
    if not examples or not responses:
        raise UserError(
            f"{folder} is not an exported dataset: it has no problems or no responses; run the flow sure-math first"
        )
    return (
        [row for path in examples for row in iter_rows(path, Example)],
        [row for path in responses for row in iter_rows(path, Response)],
    )


def describe(
    examples: Mapping[str, Sequence[Example]], responses: Mapping[str, Sequence[Response]]
) -> Contents:
    """Compute the statistics of the exported rows, given by split."""
    rows = list(chain.from_iterable(examples.values()))
    samples = list(chain.from_iterable(responses.values()))
    sources = Counter((row.source, row.licence, row.role.value) for row in rows)
    return Contents(
        splits=tuple(
            SplitCount(
                split=split,
                problems=len(found),
                decontaminated=sum(not row.benchmark_overlap for row in found),
                responses=len(responses.get(split, ())),
            )
            for split, found in examples.items()
        ),
        tiers=tuple(_tier_count(tier, examples) for tier in Tier if any(row.tier == tier for row in rows)),
        sources=tuple(
            SourceCount(source=source, licence=licence, role=role, problems=count)
            for (source, licence, role), count in sorted(sources.items())
        ),
        strategies=dict(sorted(Counter(last_strategy(row) for row in rows).items())),
        with_answer=sum(row.answer is not None for row in rows),
        judged=sum(row.quality_judge_model is not None for row in rows),
        benchmark_roots=sum(row.benchmark_root for row in rows),
        responses=len(samples),
        valid_responses=sum(row.num_valid for row in rows),
        finishes=_finish_counts(rows, samples),
        equivalence=JudgeCount(
            problems=sum(row.judge_calls > 0 for row in rows),
            calls=sum(row.judge_calls for row in rows),
            order_flips=sum(row.order_flips for row in rows),
            transitivity_violations=sum(row.transitivity_violations for row in rows),
        ),
    )


def _finish_counts(rows: Sequence[Example], samples: Sequence[Response]) -> tuple[FinishCount, ...]:
    weights = {row.id: row.weight for row in rows}
    found: dict[str, list[float]] = {}
    for sample in samples:
        found.setdefault(sample.finish_reason, []).append(weights[sample.problem_id])
    return tuple(
        FinishCount(reason=reason, responses=len(listed), mean_weight=fsum(listed) / len(listed))
        for reason, listed in sorted(found.items())
    )


def last_strategy(row: Example) -> str:
    """Return the last evolution strategy of a row; "none" for a curated problem."""
    return str(row.strategies[-1]) if row.strategies else "none"


def _tier_count(tier: Tier, examples: Mapping[str, Sequence[Example]]) -> TierCount:
    by_split = {split: [row for row in rows if row.tier == tier] for split, rows in examples.items()}
    rows = list(chain.from_iterable(by_split.values()))
    return TierCount(
        tier=tier.value,
        problems={split: len(found) for split, found in by_split.items()},
        mean_weight=sum(row.weight for row in rows) / len(rows),
        mean_entropy=sum(row.semantic_entropy for row in rows) / len(rows),
    )


# --- the folder --------------------------------------------------------------------------------------------------


def write_dataset(
    folder: Path,
    examples: Mapping[str, Sequence[Example]],
    responses: Mapping[str, Sequence[Response]],
    manifest: Manifest,
) -> None:
    """Write the dataset folder atomically, replacing an existing one.

    `examples` and `responses` map a split to its rows. Flagged problems are written to a separate folder, so that the
    config `decontaminated` is the config `default` without that folder. Rows are sorted by id, so the same rows give the
    same bytes regardless of their sharding. A split without problems is omitted.

    Raises `UserError` if there is nothing to export, and `ValueError` if the tables are inconsistent (a duplicate id, a
    seed among the examples, a response without its problem in the same split, a problem without responses).
    """
    problems = {split: sorted(rows, key=lambda row: row.id) for split, rows in examples.items() if rows}
    samples = {
        split: sorted(responses.get(split, ()), key=lambda row: (row.problem_id, row.index))
        for split in problems
    }
    if not problems:
        raise UserError(
            f"nothing to export to {folder}: no problem reached the last stage; the funnel shows where they were rejected"
        )
    _check_ids(problems)
    _check_responses(problems, samples, responses)
    manifest = replace(manifest, contents=describe(problems, samples))
    with whole_folder(Path(folder), replace=True) as place:
        for split in problems:
            unflagged = [row for row in problems[split] if not row.benchmark_overlap]
            flagged = [row for row in problems[split] if row.benchmark_overlap]
            _write_split(place / DATA, split, Example, unflagged)
            _write_split(place / FLAGGED, split, Example, flagged)
            _write_split(place / RESPONSES, split, Response, samples[split])
        write_papers(place, manifest)


def write_papers(place: Path, manifest: Manifest) -> None:
    """Write the manifest, whose `contents` must be set, and the card rendered from it."""
    card = render_card(manifest)
    (place / MANIFEST).write_text(manifest.to_json(), encoding="utf-8", newline="\n")
    (place / "README.md").write_text(card, encoding="utf-8", newline="\n")


def _write_split(folder: Path, split: str, row_type: type[Row], rows: Sequence[Row]) -> None:
    pieces = [rows[start : start + ROWS_PER_FILE] for start in range(0, len(rows), ROWS_PER_FILE)]
    for number, piece in enumerate(pieces):
        folder.mkdir(exist_ok=True)
        write_rows(folder / f"{split}-{number:05d}-of-{len(pieces):05d}.parquet", row_type, piece)


def _check_ids(problems: Mapping[str, Sequence[Example]]) -> None:
    seen: dict[str, str] = {}
    for split, rows in problems.items():
        for row in rows:
            if row.id in seen:
                raise ValueError(
                    f"problem {row.id} is exported twice: in split {seen[row.id]} and in split {split}"
                )
            if row.role is Role.SEED:
                raise ValueError(
                    f"problem {row.id} in split {split} is a public seed: seeds are never exported"
                )
            seen[row.id] = split


def _check_responses(
    problems: Mapping[str, Sequence[Example]],
    samples: Mapping[str, Sequence[Response]],
    given: Mapping[str, Sequence[Response]],
) -> None:
    for split in given:
        if given[split] and split not in problems:
            raise ValueError(f"split {split} has {len(given[split])} responses but no problems")
    for split, rows in samples.items():
        ids = {row.id for row in problems[split]}
        keys = Counter((row.problem_id, row.index) for row in rows)
        stray = next((problem for problem, _ in keys if problem not in ids), None)
        if stray is not None:
            raise ValueError(
                f"a response in split {split} belongs to problem {stray}, which is not in that split"
            )
        twice = next((key for key, count in keys.items() if count > 1), None)
        if twice is not None:
            raise ValueError(f"response {twice[1]} of problem {twice[0]} is exported twice")
        silent = sorted(ids - {problem for problem, _ in keys})
        if silent:
            raise ValueError(f"problem {silent[0]} in split {split} has no responses")


# --- the card ----------------------------------------------------------------------------------------------------


def render_card(manifest: Manifest) -> str:
    """Render the dataset card (README.md) of a manifest with `contents`. The same manifest gives the same text; `timings` are
    not used."""
    if manifest.contents is None:
        raise ValueError("the manifest has no contents: compute them with describe() first")
    return cards.render_card(
        "dataset.md.j2",
        front_matter=cards.Markdown(_front_matter(manifest, manifest.contents)),
        manifest=manifest,
        contents=manifest.contents,
        teacher=manifest.teacher,
        settings=manifest.settings,
        checks=manifest.settings.get("decontam", {}),
        total=sum(row.problems for row in manifest.contents.splits),
        clean=sum(row.decontaminated for row in manifest.contents.splits),
        columns=_columns(),
    )


def _columns() -> dict[str, list[dict[str, str]]]:
    meanings = yaml.safe_load((cards.CARDS / "columns.yaml").read_text(encoding="utf-8"))
    return {
        table: [
            {"name": column.name, "type": _type_name(column.type), "meaning": meanings[table][column.name]}
            for column in schema(row_type)
        ]
        for table, row_type in (("examples", Example), ("responses", Response))
    }


def _type_name(kind: pa.DataType) -> str:
    return f"list of {kind.value_type}" if isinstance(kind, pa.ListType) else str(kind)


def _front_matter(manifest: Manifest, contents: Contents) -> str:
    """Return the YAML front matter of the card, which `load_dataset` and the Hugging Face hub read."""
    known = re.fullmatch(r"[a-z0-9][a-z0-9.-]*", manifest.licence) is not None
    licence = (
        {"license": manifest.licence} if known else {"license": "other", "license_name": manifest.licence}
    )
    head = {
        **licence,
        "language": ["en"],
        "pretty_name": manifest.name,
        "task_categories": ["text-generation"],
        "tags": ["mathematics", "semantic-entropy", "distillation", "synthetic"],
        "size_categories": [_size_category(sum(row.problems for row in contents.splits))],
        "configs": [
            # `datasets` caches by the content of the card, not by the folder's path or the files' content: without the
            # fingerprint, a rebuilt dataset would be loaded from the cache of an older one.
            {
                "config_name": config,
                "description": f"{config} of version {manifest.fingerprint}",
                "data_files": files,
            }
            | ({"default": True} if config == "default" else {})
            for config, files in _data_files(contents).items()
        ],
    }
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True)


def _data_files(contents: Contents) -> dict[str, list[dict[str, Any]]]:
    """Map each config to its splits. Splits without rows and configs without splits are omitted: they cannot be loaded."""
    folders: dict[str, dict[str, list[str]]] = {"default": {}, "decontaminated": {}, "responses": {}}
    for row in contents.splits:
        clean = [DATA] if row.decontaminated else []
        folders["decontaminated"][row.split] = clean
        folders["default"][row.split] = clean + ([FLAGGED] if row.decontaminated < row.problems else [])
        folders["responses"][row.split] = [RESPONSES]
    found = {
        config: [_split_files(split, used) for split, used in splits.items() if used]
        for config, splits in folders.items()
    }
    return {config: files for config, files in found.items() if files}


def _split_files(split: str, folders: Sequence[str]) -> dict[str, Any]:
    paths = [f"{folder}/{split}-*.parquet" for folder in folders]
    return {"split": split, "path": paths[0] if len(paths) == 1 else paths}


def _size_category(rows: int) -> str:
    limits = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for limit, name in limits if rows < limit), "n>1M")
