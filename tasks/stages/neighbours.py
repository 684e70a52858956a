"""Stage neighbours: ask the quality judge whether problems without a flag are benchmark problems in other words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from prefect.logging import get_run_logger

from prompts import load_prompt
from tasks.config import NeighbourSettings
from tasks.llm.chat import ChatRequest
from tasks.llm.turns import Turns
from tasks.rows import Neighbour, Problem
from tasks.runtime.ahead import cpu_mapper
from tasks.runtime.chunks import shard_rows, shard_sizes
from tasks.runtime.decontamination import ancestors, benchmark_problems, compare
from tasks.runtime.driver import Lazy, Run, Shard, Stage, run_shards
from tasks.runtime.models import RequestsAhead, chat_model
from tasks.runtime.neighbours import PROMPT, Pair, judged, pairs, request
from tasks.runtime.pending import Pending, rows_digest
from tasks.storage.artifacts import Artifact
from tasks.text import counted

VERSION = 1


def judge_neighbours(
    run: Run, selected: Artifact, sources: Artifact, rounds: Sequence[Artifact], benchmarks: Artifact
) -> Artifact | None:
    """Return the judge's verdicts about selected problems and the benchmark problems next to them, table `neighbours`; None if
    `decontam.judge` is off. Problems that the checks on lineage and texts flag are not asked about."""
    settings, judge = run.config.decontam, run.config.decontam.judge
    if judge is None:
        return None
    stage = _stage(run, (selected, sources, *rounds, benchmarks))

    @cache
    def asked() -> Mapping[str, list[Pair]]:
        against = benchmark_problems(run.store, selected, sources, benchmarks)
        rows = list(run.store.rows(selected, "problems", Problem))
        generations = [run.store.rows(artifact, "problems", Problem) for artifact in (*rounds[::-1], sources)]
        flagged = compare(rows, ancestors(rows, generations), against, settings, mapper.get())
        return pairs(rows, against, flagged.keys(), settings, judge)

    sizes = cache(lambda: shard_sizes(run.store, selected))

    @cache
    def pairs_in(index: int) -> list[Pair]:
        rows = shard_rows(run.store, selected, index, "problems", Problem)
        return [pair for row in rows for pair in asked().get(row.id, ())]

    with Lazy(lambda: cpu_mapper(run, lambda: selected.num_rows)) as mapper:
        made = _ask(run, stage, sizes, pairs_in, judge)
    _log_verdicts(run, made)
    return made


def _stage(run: Run, inputs: tuple[Artifact, ...]) -> Stage:
    return Stage(
        name="neighbours", version=VERSION, primary="neighbours", unit="pair",
        settings={
            "decontam": run.config.decontam.identity(), "model": run.config.models.quality_judge.identity(),
        },
        inputs=inputs, prompts=(load_prompt(PROMPT).fingerprint,), models=(run.identities["quality_judge"],),
    )  # fmt: skip


def _ask(
    run: Run,
    stage: Stage,
    sizes: Callable[[], Sequence[int]],
    pairs_in: Callable[[int], list[Pair]],
    judge: NeighbourSettings,
) -> Artifact:
    """Ask the judge about the pairs of every shard, and store the verdicts."""

    def requests_of(index: int) -> tuple[list[Pair], list[ChatRequest]]:
        return pairs_in(index), [request(pair, judge) for pair in pairs_in(index)]

    pending = Pending(run.store, stage, lambda index: rows_digest(pairs_in(index)))
    with (
        Lazy(lambda: chat_model(run, "quality_judge", "neighbours", get_run_logger().info)) as model,
        Turns(model.get) as turns,
    ):
        ahead = RequestsAhead(turns, requests_of, lambda: len(sizes()), pending)

        def work(index: int, on_progress: Callable[[int], None]) -> Shard:
            identity = run.identities["quality_judge"]
            found = [judged(pair, reply, identity) for pair, reply in ahead.outcomes(index, on_progress)]
            return Shard(incoming=len(found), tables={"neighbours": (Neighbour, found)})

        return run_shards(run, stage, sizes, work, pending)


def _log_verdicts(run: Run, made: Artifact) -> None:
    verdicts = Counter(one.same for one in run.store.rows(made, "neighbours", Neighbour))
    get_run_logger().info(
        f"neighbours: the judge takes {verdicts[True]:,} of {counted(verdicts.total(), 'pair')} for the same problem; no valid"
        f" reply about {verdicts[None]:,}"
    )
