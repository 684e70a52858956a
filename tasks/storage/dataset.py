"""The exported dataset: Parquet files that `datasets.load_dataset` opens, a manifest and a card."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from tasks.errors import UserError
from tasks.rows import Example, Response, Role, Strategy, Tier
from tasks.storage.checksums import FORMAT, MANIFEST, checksum
from tasks.storage.dataset_card import render_card
from tasks.storage.disk import whole_folder
from tasks.storage.manifest import (
    DATA,
    FLAGGED,
    RESPONSES,
    Contents,
    FinishCount,
    JudgeCount,
    Manifest,
    SourceCount,
    SplitCount,
    StrategyCount,
    TierCount,
    parquet_files,
)
from tasks.storage.tables import iter_rows, write_rows

ROWS_PER_FILE = 20_000

Row = TypeVar("Row", Example, Response)


def read_dataset(folder: Path) -> tuple[list[Example], list[Response]]:
    """Return all problems and all responses of all splits. Raises `UserError` if a file is missing, damaged or not listed in the
    manifest, or has the columns of another version."""
    examples = [path for name in (DATA, FLAGGED) for path in parquet_files(folder, f"{name}/*.parquet")]
    responses = parquet_files(folder, f"{RESPONSES}/*.parquet")
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
        evolution=strategy_counts(
            (row.round, row.tier, row.strategies[-1]) for row in rows if row.strategies
        ),
    )


def strategy_counts(rows: Iterable[tuple[int, str, str]]) -> tuple[StrategyCount, ...]:
    """Count evolved problems, given as (round, tier, strategy), by round and tier, easiest tier first."""
    counts: defaultdict[tuple[int, str], Counter[str]] = defaultdict(Counter)
    for round, tier, strategy in rows:
        counts[round, str(tier)][str(strategy)] += 1
    order = {tier.value: place for place, tier in enumerate(Tier)}
    return tuple(
        _strategy_count(round, tier, counts[round, tier])
        for round, tier in sorted(counts, key=lambda key: (key[0], order[key[1]]))
    )


def _strategy_count(round: int, tier: str, counts: Counter[str]) -> StrategyCount:
    problems = {strategy.value: counts[strategy.value] for strategy in Strategy}
    joint = problems[Strategy.HARDER] + problems[Strategy.COMPETITION]
    return StrategyCount(
        round=round,
        tier=tier,
        problems=problems,
        shares={name: _share(count, counts.total()) for name, count in problems.items()},
        harder_and_competition=_share(joint, counts.total()),
    )


def _share(count: int, total: int) -> float:
    return round(count / total, 4)


def _finish_counts(rows: Sequence[Example], samples: Sequence[Response]) -> tuple[FinishCount, ...]:
    weights = {row.id: row.weight for row in rows}
    found: dict[str, list[float]] = {}
    for sample in samples:
        found.setdefault(sample.finish_reason, []).append(weights[sample.problem_id])
    return tuple(
        FinishCount(reason=reason, responses=len(listed), mean_weight=fmean(listed))
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
        mean_weight=fmean(row.weight for row in rows),
        mean_entropy=fmean(row.semantic_entropy for row in rows),
    )


def write_dataset(
    folder: Path,
    examples: Mapping[str, Sequence[Example]],
    responses: Mapping[str, Sequence[Response]],
    manifest: Manifest,
) -> None:
    """Write the dataset folder atomically, replacing an existing one.

    `examples` and `responses` map a split to its rows. Flagged problems are written to a separate folder, so that the
    config `decontaminated` is the config `default` without that folder. Rows are in the order of the user's file, or sorted by id
    if there is none, so the same rows give the same bytes regardless of their sharding. A split without problems is omitted.

    Raises `UserError` if there is nothing to export, and `ValueError` if the tables are inconsistent (a duplicate id, a
    seed among the examples, a response without its problem in the same split, a problem without responses).
    """
    problems = {split: sorted(rows, key=_place) for split, rows in examples.items() if rows}
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
        for split, rows in problems.items():
            unflagged = [row for row in rows if not row.benchmark_overlap]
            flagged = [row for row in rows if row.benchmark_overlap]
            _write_split(place / DATA, split, Example, unflagged)
            _write_split(place / FLAGGED, split, Example, flagged)
            _write_split(place / RESPONSES, split, Response, samples[split])
        write_papers(place, manifest)


def _place(row: Example) -> tuple[int, str]:
    return -1 if row.position is None else row.position, row.id


def write_papers(place: Path, manifest: Manifest) -> None:
    """Write the manifest, whose `contents` must be set, with the checksums of the Parquet files, and its card."""
    card = render_card(manifest)
    files = {path.relative_to(place).as_posix(): checksum(path) for path in sorted(place.rglob("*.parquet"))}
    manifest = replace(manifest, files=files, format=FORMAT)
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
