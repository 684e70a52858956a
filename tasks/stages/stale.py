"""Find the stale rows of a finished dataset and prepare them as inputs of the stages sample and cluster."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from tasks.identity import fingerprint
from tasks.llm.ledger import Ledger
from tasks.rows import Example, Problem, Response, Strategy
from tasks.runtime.chunks import chunk, cut, row_hashes, shard_rows, shard_sizes
from tasks.runtime.driver import Run, Shard, Stage, run_shards
from tasks.runtime.outcomes import cut_outcomes, rejected_by, results_of, shard_of
from tasks.seeds.intake import text_key, too_long
from tasks.seeds.own_file import load, own_file
from tasks.stages.annotation import annotation_recipe
from tasks.stages.cluster import cluster
from tasks.stages.sample import sample
from tasks.stages.sample_and_cluster import sample_and_cluster
from tasks.storage.artifacts import Artifact
from tasks.storage.manifest import Manifest, read_manifest
from tasks.storage.versions import LATEST, latest, read_examples, read_responses, splits_of
from tasks.uncertainty.annotation import AnnotationRecipe, Cause, stale_rows

VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A dataset and the rows to annotate. `causes` has an entry for every stale row and for every `new` problem."""

    dataset: Path
    manifest: Manifest
    recipe: AnnotationRecipe
    rows: Mapping[str, Example]  # by id, in the order of the files
    new: Mapping[str, Problem]  # by id
    causes: Mapping[str, Cause]
    answers: int  # entries of the ledger when the review was made

    @property
    def to_sample(self) -> tuple[Problem, ...]:
        """Stale problems whose responses cannot be reused, and new problems."""
        old = (problem_of(self.rows[row_id]) for row_id in self.rows if self._needs(row_id, True))
        return (*old, *self.new.values())

    @property
    def to_cluster(self) -> tuple[Problem, ...]:
        """Stale problems whose responses are still valid and only need clustering."""
        return tuple(problem_of(self.rows[row_id]) for row_id in self.rows if self._needs(row_id, False))

    def _needs(self, row_id: str, samples: bool) -> bool:
        return row_id in self.causes and self.causes[row_id].needs_samples is samples


def newest_dataset(run: Run) -> str:
    """Return the folder of the newest version of the profile's dataset, or of its future first build if there is none."""
    root = run.store.root
    return latest(root)["dataset"] if (root / LATEST).exists() else str(root / "dataset")


# --- finding -----------------------------------------------------------------------------------------------------


def find_stale(run: Run, problems: str | None) -> Review:
    """Find the rows whose annotation fingerprint differs from the current recipe, and the file's problems that are new.

    Raises `UserError` when the output folder has no dataset, or the file is invalid.
    """
    folder = Path(latest(run.store.root)["dataset"])
    manifest = read_manifest(folder)
    recipe = annotation_recipe(run)
    rows = {row.id: row for split in splits_of(manifest) for row in read_examples(folder, split)}
    new = {} if problems is None else new_problems(Path(problems), rows.values())
    causes = stale_rows(rows.values(), recipe) | dict.fromkeys(new, Cause.NEW)
    log = get_run_logger().info
    log(
        "reannotate: %s has %s rows, of which %s are stale",
        folder,
        f"{len(rows):,}",
        f"{len(causes) - len(new):,}",
    )
    for cause, count in Counter(causes.values()).most_common():
        log("reannotate: %s, cause: %s", f"{count:,}", cause.value)
    return Review(
        dataset=folder, manifest=manifest, recipe=recipe, rows=rows, new=new, causes=causes,
        answers=ledger_size(run),
    )  # fmt: skip


def new_problems(path: Path, rows: Iterable[Example]) -> dict[str, Problem]:
    """Return the problems of a file whose text (ignoring case and spacing) is not in the dataset, by id."""
    known = {text_key(row.problem) for row in rows}
    found: dict[str, Problem] = {}
    for row in load(own_file(path)).outcomes:
        if isinstance(row, Problem) and text_key(row.text) not in known:
            known.add(text_key(row.text))
            found[row.id] = row
    return found


def ledger_size(run: Run) -> int:
    """Return the number of entries in the ledger."""
    if not run.ledger_path.exists():
        return 0
    with Ledger(run.ledger_path) as ledger:
        return len(ledger)


def nothing_stale(run: Run, review: Review) -> str:
    """Log that nothing is stale, and return the path of the unchanged dataset."""
    how = f"match the current profile {run.config.profile}"
    line = f"nothing is stale: all {len(review.rows):,} rows of {review.dataset} {how}"
    get_run_logger().info("reannotate: %s; no model was started", line)
    create_markdown_artifact(f"{line}\n", key="reannotate", description="Stale rows")
    return str(review.dataset)


def problem_of(row: Example) -> Problem:
    """Return the problem of an exported row, with the fields that an annotation needs."""
    return Problem(
        id=row.id,
        text=row.problem,
        tier=row.tier,
        source=row.source,
        source_id=row.source_id,
        licence=row.licence,
        role=row.role,
        root_id=row.root_id,
        parent_id=row.parent_id,
        round=row.round,
        strategy=Strategy(row.strategies[-1]) if row.strategies else None,
        answer=row.answer,
        benchmark_root=row.benchmark_root,
        model=row.evolver_model,
        prompt=row.evolver_prompt,
    )


# --- the tables that the stages sample and cluster take -----------------------------------------------------------


def stale_problems(run: Run, review: Review) -> Artifact:
    """Write the problems that need samples. A new problem that is too long for a prompt is rejected."""
    rows, size = review.to_sample, run.config.run.shard_rows
    stage = Stage(name="stale", version=VERSION, settings=_settings(run, review, rows), unit="problems")
    leaving = cache(lambda: too_long(rows))
    sizes = cut_outcomes(rows, size)

    def work(index: int, _on_progress: object) -> Shard:
        return shard_of(rejected_by("stale", results_of(rows, leaving(), sizes, index)), {})

    return run_shards(run, stage, lambda: sizes, work)


def annotate_stale(run: Run, review: Review, wanted: Artifact) -> tuple[Artifact, Artifact, Artifact]:
    """Sample and cluster the stale problems.

    Returns the artifacts of the newly sampled problems, of all responses that were clustered, and of the uncertainties.
    """
    if not review.to_cluster:
        sampled, clustered = sample_and_cluster(run, wanted)
        return sampled, sampled, clustered
    sampled = sample(run, wanted)
    responses = with_kept_responses(run, review, sampled)
    return sampled, responses, cluster(run, responses)


def with_kept_responses(run: Run, review: Review, sampled: Artifact) -> Artifact:
    """Join the new samples with the dataset's responses to the problems that only need to be clustered again."""
    rows, size = review.to_cluster, run.config.run.shard_rows
    stage = Stage(
        name="responses",
        version=VERSION,
        settings=_settings(run, review, rows),
        inputs=(sampled,),
        unit="problems",
    )
    drawn, own = shard_sizes(run.store, sampled), cut(row_hashes(row.id for row in rows), size)
    kept = cache(lambda: kept_responses(review, {row.id for row in rows}))

    def work(index: int, _on_progress: object) -> Shard:
        if index < len(drawn):
            problems = shard_rows(run.store, sampled, index, "problems", Problem)
            responses = shard_rows(run.store, sampled, index, "responses", Response)
        else:
            problems = list(chunk(rows, own, index - len(drawn)))
            responses = [response for row in problems for response in kept()[row.id]]
        return Shard(
            incoming=len(problems),
            tables={"problems": (Problem, problems), "responses": (Response, responses)},
        )

    return run_shards(run, stage, lambda: (*drawn, *own), work)


def kept_responses(review: Review, wanted: set[str]) -> dict[str, list[Response]]:
    """Return the dataset's responses to the problems with these ids."""
    found: dict[str, list[Response]] = defaultdict(list)
    for split in splits_of(review.manifest):
        for response in read_responses(review.dataset, split):
            if response.problem_id in wanted:
                found[response.problem_id].append(response)
    return found


def _settings(run: Run, review: Review, rows: Sequence[Problem]) -> dict[str, Any]:
    """Return settings that identify a selection of a dataset's rows."""
    texts = [json.dumps([row.id, row.answer]) for row in rows]
    return {
        "dataset": review.manifest.fingerprint,
        "rows": fingerprint(stage="rows", version=VERSION, settings={}, inputs=texts),
        "shard_rows": run.config.run.shard_rows,
    }
