"""Stage sample: N responses of the teacher to every selected problem, with their log-probability sums.

The engine gets a whole shard at once. A problem is written to the ledger when its last sample is finished, so that a killed
run continues with the remaining problems.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from prefect.logging import get_run_logger

from tasks.llm.ledger import Ledger
from tasks.rows import Problem
from tasks.runtime.chunks import bounds, overlaps, shard_rows, shard_sizes
from tasks.runtime.driver import Lazy, Run, Shard, run_shards
from tasks.runtime.pending import Pending, rows_digest
from tasks.runtime.sampling import collect, sample_sizes, sample_stage, sampled, start_teacher
from tasks.storage.artifacts import Artifact
from tasks.text import counted


def sample(run: Run, selected: Artifact, check_cancelled: Callable[[], None] = lambda: None) -> Artifact:
    """Sample N responses per problem, with one engine for the whole stage.

    `check_cancelled` is the cancellation check: it is called while the engine starts and after every problem, and may raise.
    """
    stage = sample_stage(run, selected)
    counts = cache(lambda: shard_sizes(run.store, selected))
    sizes = cache(lambda: sample_sizes(run, selected))
    log, ledger = get_run_logger().info, Ledger(run.ledger_path)

    def rows_of(index: int) -> list[Problem]:
        return [
            row
            for part, low, high in overlaps(counts(), *bounds(sizes(), index))
            for row in shard_rows(run.store, selected, part, "problems", Problem)[low:high]
        ]

    with ledger, Lazy(lambda: start_teacher(run, ledger, check_cancelled)) as sampler:

        def work(index: int, on_progress: Callable[[int], None]) -> Shard:
            def done(count: int) -> None:
                check_cancelled()
                on_progress(count)

            rows = rows_of(index)
            samples, known = sampled(rows, run, stage.recipe, sampler, ledger, done)
            log(f"sample: {counted(len(rows) - known, 'problem')} sampled, {known:,} from the ledger")
            return collect(rows, samples)

        pending = Pending(run.store, stage, lambda index: rows_digest(rows_of(index)))
        return run_shards(run, stage, sizes, work, pending)
