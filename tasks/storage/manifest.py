"""The dataset manifest: how a dataset was made and what it contains."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tasks.errors import UserError
from tasks.storage.checksums import FORMAT, MANIFEST, Damaged, checksum, sealed, unsealed, written_by
from tasks.text import words

DATA, FLAGGED, RESPONSES = "data", "flagged", "responses"  # folders; DATA: unflagged problems
_REGULAR = re.compile(r"[^/]+/.+-\d{5}(-of-\d{5})?\.parquet")
_STRICT = ConfigDict(extra="forbid")


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
        """Reasons in words with their counts, most frequent first, ties by name."""
        ranked = sorted(self.rejected.items(), key=lambda item: (-item[1], item[0]))
        return [(words(reason), count) for reason, count in ranked]


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """The teacher that was sampled and its settings; a training run compares them with its own teacher."""

    __pydantic_config__ = _STRICT
    model: str  # identity; in the rows followed by that of a given or dated chat template
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
    template_date: str | None = None  # the date in the prompts, if the chat template contains the date


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
class StrategyCount:
    """Problems of one tier that were evolved in one round, by the strategy of that round."""

    __pydantic_config__ = _STRICT
    round: int
    tier: str
    problems: Mapping[str, int]  # by strategy
    shares: Mapping[str, float]  # of each strategy, rounded to four digits
    harder_and_competition: float  # their joint share

    @property
    def total(self) -> int:
        """Number of problems."""
        return sum(self.problems.values())


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
    evolution: tuple[StrategyCount, ...] = ()  # of the exported problems, by their last round


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Metadata of a dataset: the content of its card, and what a training run checks before it uses the dataset.

    `settings` is `Config.identity()`; `models` maps each role to an identity, `prompts` each prompt to its fingerprint.
    `timings` (seconds) may differ between two runs that give the same data, and appear nowhere else in the folder.
    `contents` is computed by `write_dataset`, which overwrites any value passed in. `evolution` counts what the evolver wrote,
    before any filter; `contents.evolution` what is left of it. `files` has the checksum (xxh3) of every Parquet file; it is
    computed when the dataset is written, and a dataset of format 1 has none.
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
    evolution: tuple[StrategyCount, ...] = ()
    benchmarks: tuple[BenchmarkCount, ...] = ()
    annotation: Mapping[str, str] = field(default_factory=dict)  # fingerprints of the annotation settings
    batch_invariance: Mapping[str, str] = field(default_factory=dict)  # role -> result of its engines' checks
    versions: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    contents: Contents | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def to_json(self) -> str:
        """Return indented JSON with a final newline and a checksum; `from_json` restores an equal manifest."""
        values = TypeAdapter(Manifest).dump_python(self, mode="json")
        return json.dumps(sealed(values), indent=2, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str | bytes, where: str = MANIFEST) -> Manifest:
        """Parse a manifest. Raises `UserError` naming `where` and the first error: invalid JSON, a wrong checksum, a missing or
        unknown key, a wrong type; also which version wrote it."""
        try:
            record = unsealed(text)
        except Damaged as error:
            raise UserError(f"{where} {error}: restore the file, or export the dataset again") from error
        try:
            return TypeAdapter(Manifest).validate_json(json.dumps({"format": 1} | record))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the whole file"
            raise UserError(
                f"{where} is not a valid dataset manifest: {place}: {first['msg']}; it {written_by(record)}: export the"
                " dataset again"
            ) from error


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of an exported dataset. Raises `UserError` if it is missing from `folder` or invalid."""
    path = folder / MANIFEST
    try:
        return Manifest.from_json(path.read_bytes(), str(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{folder} is not an exported dataset: it has no {MANIFEST}; run the flow sure-math first"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): make it readable") from error


def damage(folder: Path) -> str | None:
    """Describe what is wrong with an exported dataset: its manifest, or the first file that is missing or not what was written;
    None if it is whole. All files are read."""
    try:
        files = read_manifest(folder).files
    except UserError as error:
        return str(error)
    for name, expected in files.items():
        try:
            if checksum(folder / name) != expected:
                return f"{folder / name} differs from its checksum"
        except OSError as error:
            return f"{folder / name} cannot be read ({error.strerror})"
    return None


def parquet_files(folder: Path, pattern: str) -> list[Path]:
    """Return the Parquet files of a dataset that match a pattern (`data/train-*.parquet`), in order.

    Raises `UserError` naming a file that the manifest lists and that is missing, or one that it does not list: other programs
    would read it. A dataset without a list of files (format 1) may have files with regular names only; one without a manifest is
    somebody else's, and may have any.
    """
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.glob(pattern))}
    if not (folder / MANIFEST).exists():
        return list(found.values())
    files = read_manifest(folder).files
    listed = {name for name in files if fnmatchcase(name, pattern)}
    if missing := sorted(listed - found.keys()):
        raise UserError(f"{folder / missing[0]} is missing: restore the file, or export the dataset again")
    strays = found.keys() - listed if files else {name for name in found if not _REGULAR.fullmatch(name)}
    if strays:
        raise UserError(
            f"{folder / min(strays)} does not belong to the dataset: move the file out of the folder"
        )
    return list(found.values())
