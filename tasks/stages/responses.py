"""Stage responses: the new samples, and the responses of the dataset that are clustered again."""

from __future__ import annotations

from functools import cache

from tasks.rows import Problem, Response
from tasks.runtime.chunks import chunk, cut, row_hashes, shard_rows, shard_sizes
from tasks.runtime.driver import Run, Shard, Stage, run_shards
from tasks.runtime.reannotation import VERSION, Review, kept_responses, selection_settings
from tasks.storage.artifacts import Artifact


def with_kept_responses(run: Run, review: Review, sampled: Artifact) -> Artifact:
    """Join the new samples with the dataset's responses to the problems that only need to be clustered again."""
    rows, size = review.to_cluster, run.config.run.shard_rows
    stage = Stage(
        name="responses",
        version=VERSION,
        settings=selection_settings(run, review, rows),
        inputs=(sampled,),
        unit="problem",
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
