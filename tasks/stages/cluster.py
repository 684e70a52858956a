"""Stage cluster: cluster the answers (exact, symbolic, judge, union-find) and compute their semantic entropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prefect.logging import get_run_logger

from prompts import load_prompt
from tasks.runtime.chunks import shard_sizes
from tasks.runtime.clustering import (
    Decisions,
    Stopwatch,
    annotate,
    cluster_stage,
    deciding,
    logged,
    sampled_digest,
    sampled_rows,
    shard,
    undecided,
)
from tasks.runtime.driver import Lazy, Run, Shard, run_shards
from tasks.runtime.equivalence_judge import PROMPT, judge_pairs
from tasks.runtime.models import chat_model
from tasks.runtime.pending import Pending
from tasks.storage.artifacts import Artifact


def cluster(
    run: Run,
    sampled: Artifact,
    sizes: Sequence[int] | None = None,
    ready: Callable[[int | None], None] = lambda _index: None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Artifact:
    """Compute one `Uncertainty` per problem; all verdicts of the equivalence judge are in table `judged_pairs`.

    `sampled` may still be being written. Then `sizes` are the maximum sizes of its shards, `ready` waits for one of them
    (see `run_shards`), and `check_cancelled` is the cancellation check: it is called periodically and may raise.
    """
    settings, prompt, stage = run.config.cluster, load_prompt(PROMPT), cluster_stage(run, sampled)
    log = get_run_logger().info
    judge = (run.identities["equivalence_judge"], prompt.fingerprint)

    with Lazy(lambda: chat_model(run, "equivalence_judge", "cluster", log, check_cancelled)) as model:

        def work(index: int, on_progress: Callable[[int], None]) -> Shard:
            problems, groups = sampled_rows(run.store, sampled, index)
            watch, decisions = Stopwatch(), dict[str, Decisions]()
            with watch, deciding(groups, settings, run.config.run.cpu_workers) as found:
                for row_id, decided in found:
                    check_cancelled()
                    decisions[row_id] = decided
                    on_progress(len(decisions))
            pairs = sorted({pair for decided in decisions.values() for pair in undecided(decided)})
            verdicts, tokens = judge_pairs(pairs, model, run, check_cancelled)
            with watch:
                rows = [
                    annotate(row, groups[row.id], decisions[row.id], verdicts, settings, judge)
                    for row in problems
                ]
            return logged(shard(rows, verdicts, watch.seconds, tokens, decisions.values()), log)

        pending = Pending(run.store, stage, lambda index: sampled_digest(run.store, sampled, index))
        return run_shards(run, stage, lambda: sizes or shard_sizes(run.store, sampled), work, pending, ready)
