"""`python -m training.experiments.dataset_views DATASET`: the distribution of semantic entropy in a dataset, and its problems
with the lowest and the highest (figure and examples of UOPD).

DATASET is an exported folder. Written into `--output`: `entropy.md` and `.csv` (numbers by tier; rows by bin and tier),
`entropy.svg` and `.png`, and `examples.md`.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.rows import Tier
from tasks.storage.checksums import verify
from tasks.storage.disk import atomic_write
from tasks.text import counted, visible
from training.data.rows import dataset_files
from training.dataset_settings import DatasetSettings
from training.experiments.figures import png, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Annotated", "bins_by_tier", "entropy_table", "examples", "main", "read_annotated"]

BINS = 16
MAX_TEXT = 2000  # characters of a problem in the examples
COLUMNS = (
    "id", "problem", "tier", "semantic_entropy", "weight", "num_samples", "majority_answer", "answer", "cluster_answers",
    "cluster_probs",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotated:
    """A problem and its annotation; `clusters`: answers with their probabilities, the most probable first."""

    id: str
    problem: str
    tier: str
    entropy: float
    weight: float
    samples: int
    majority: str | None
    answer: str | None
    clusters: tuple[tuple[str, float], ...]


def read_annotated(folder: Path, split: str) -> list[Annotated]:
    """Return the problems of a split by entropy, then id. Raises `UserError` if the folder has none with an annotation."""
    found = []
    for path in dataset_files(folder, DatasetSettings(folder=folder, split=split)):
        verify(path)
        try:
            records = pq.read_table(path, columns=list(COLUMNS), use_threads=False).to_pylist()
        except (pa.ArrowException, OSError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path} has no annotation ({reason}): give a dataset that make build or make annotate wrote"
            ) from error
        found += [_annotated(record) for record in records]
    if not found:
        raise UserError(f"{folder} has no problems in split {split}: choose another split")
    return sorted(found, key=lambda row: (row.entropy, row.id))


def _annotated(record: dict[str, Any]) -> Annotated:
    pairs = zip(record["cluster_answers"] or (), record["cluster_probs"] or (), strict=True)
    return Annotated(
        id=str(record["id"]),
        problem=record["problem"],
        tier=str(record["tier"]),
        entropy=float(record["semantic_entropy"]),
        weight=float(record["weight"]),
        samples=int(record["num_samples"]),
        majority=record["majority_answer"],
        answer=record["answer"],
        clusters=tuple(sorted(((str(one), float(p)) for one, p in pairs), key=lambda pair: -pair[1])),
    )


# --- distribution ------------------------------------------------------------------------------------------------


def tiers(rows: Sequence[Annotated]) -> list[str]:
    """Return the tiers of the rows, the easiest first."""
    there = {row.tier for row in rows}
    return [
        *(str(tier) for tier in Tier if str(tier) in there),
        *sorted(there - {str(tier) for tier in Tier}),
    ]


def bins_by_tier(rows: Sequence[Annotated]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the edges of equal bins from 0 to log N, and the rows of each tier in each bin; the last bin includes its end."""
    edges = np.linspace(0.0, math.log(max(2, *(row.samples for row in rows))), BINS + 1)
    found = {}
    for tier in tiers(rows):
        values = np.clip([row.entropy for row in rows if row.tier == tier], edges[0], edges[-1])
        found[tier] = np.histogram(values, edges)[0]
    return edges, found


def entropy_table(rows: Sequence[Annotated]) -> str:
    """Return the numbers of each tier as Markdown."""
    lines = [
        "| tier | problems | mean entropy (nats) | median | all answers agree | mean weight |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for tier in [*tiers(rows), "all"]:
        own = [row for row in rows if tier in ("all", row.tier)]
        values = [row.entropy for row in own]
        agree = fmean(len(row.clusters) == 1 for row in own)
        lines.append(
            f"| {tier} | {len(own):,} | {fmean(values):.3f} | {median(values):.3f} | {agree:.1%} |"
            f" {fmean(row.weight for row in own):.3f} |"
        )
    return "\n".join([*lines, ""])


def entropy_csv(rows: Sequence[Annotated]) -> str:
    """Return the number of problems in each bin and tier."""
    edges, counts = bins_by_tier(rows)
    sink = io.StringIO()
    write = csv.writer(sink, lineterminator="\n").writerow
    write(["from", "to", *counts])
    for place in range(BINS):
        write(
            [f"{edges[place]:.6f}", f"{edges[place + 1]:.6f}", *(int(one[place]) for one in counts.values())]
        )
    return sink.getvalue()


def entropy_figure(rows: Sequence[Annotated]) -> Figure:
    """Draw the share of all problems in each bin, stacked by tier."""
    from matplotlib.figure import Figure

    edges, counts = bins_by_tier(rows)
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes, below = figure.subplots(), np.zeros(BINS)
    for tier, numbers in counts.items():
        shares = numbers / len(rows)
        axes.bar(
            edges[:-1], shares, np.diff(edges), bottom=below, align="edge", label=tier, edgecolor="white"
        )
        below = below + shares
    axes.axvline(
        fmean(row.entropy for row in rows), color="black", linestyle="--", linewidth=1.0, label="mean"
    )
    axes.set(xlabel="semantic entropy (nats)", ylabel="share of problems")
    axes.legend(fontsize=8)
    return figure


# --- examples ----------------------------------------------------------------------------------------------------


def examples(rows: Sequence[Annotated], count: int) -> str:
    """Return the problems with the lowest and the highest entropy as Markdown; `rows` are sorted by entropy."""
    parts = ["# Examples", ""]
    for title, chosen in (("lowest", rows[:count]), ("highest", list(reversed(rows[-count:])))):
        parts += [f"## The {title} semantic entropy", ""]
        for row in chosen:
            parts += _example(row)
    return "\n".join(parts)


def _example(row: Annotated) -> list[str]:
    answers = "\n".join(f"{probability:7.3f}  {_short(answer, 120)}" for answer, probability in row.clusters)
    truth = "" if row.answer is None else f", ground truth {_short(row.answer, 120)}"
    text = f"{_short(row.problem, MAX_TEXT)}\n\n{answers}\n\nmajority answer {_short(row.majority or 'none', 120)}{truth}"
    return [
        f"Entropy {row.entropy:.3f} nats, weight {row.weight:.3f}, tier {row.tier},"
        f" {counted(row.samples, 'response')} (`{visible(row.id)[:64]}`):",
        "",
        *_fenced(text),
        "",
    ]


def _fenced(text: str) -> list[str]:
    """Return a code block, whose fence is longer than any row of backticks in the text."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [f"{fence}text", text, fence]


def _short(text: str, limit: int) -> str:
    clean = visible(text[:limit])
    return clean if len(text) <= limit else f"{clean} [... truncated]"


# --- command -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for a problem that the user can fix."""
    parser = argparse.ArgumentParser(
        prog="python -m training.experiments.dataset_views", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("dataset", type=Path, help="folder of an exported dataset")
    parser.add_argument("--split", default="train")
    parser.add_argument("--examples", type=int, default=3, help="number of problems at each end")
    parser.add_argument("--output", type=Path, default=PROJECT_ROOT / "output" / "tables" / "dataset")
    given = parser.parse_args(arguments)
    if given.examples < 1:
        parser.error("give at least 1 example")
    try:
        rows = read_annotated(given.dataset.absolute(), given.split)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    figure = entropy_figure(rows)
    given.output.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("entropy.md", entropy_table(rows)),
        ("entropy.csv", entropy_csv(rows)),
        ("entropy.svg", svg(figure)),
        ("entropy.png", png(figure)),
        ("examples.md", examples(rows, given.examples)),
    ):
        atomic_write(given.output / name, content)
    sys.stdout.write(entropy_table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
