"""Clusters and uncertainties of the responses to a problem; the identity, inputs and tables of stage cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from prompts import load_prompt
from tasks.answers.equivalence import second_opinion, verdict
from tasks.answers.grouping import settled
from tasks.config import ClusterSettings
from tasks.llm.completions import TOO_LONG
from tasks.rows import JudgedPair, Problem, Reason, Reject, Response, Uncertainty
from tasks.runtime.chunks import shard_rows
from tasks.runtime.driver import Run, Shard, Stage
from tasks.runtime.equivalence_judge import PROMPT, JudgeTokens
from tasks.runtime.pending import rows_digest
from tasks.seeds.truth import is_right
from tasks.storage.artifacts import Artifact, Store
from tasks.text import counted
from tasks.uncertainty.clusters import Pair, cluster_answers, pairs_to_decide
from tasks.uncertainty.entropy import majority
from tasks.uncertainty.measures import entropies_by_size, uncertainties

VERSION = 7
MAX_ANSWER_CHARS = 1_000
CUT_OFF = ("length", TOO_LONG)


class Decisions(dict[Pair, bool | None]):
    """The decisions on the pairs of one problem's answers; None if the judge has to decide.

    `ambiguous` counts the pairs that a ruling makes equal, but that are left apart because of the problem's other answers.
    """

    ambiguous: int = 0


@contextmanager
def deciding(
    groups: Mapping[str, Sequence[Response]], settings: ClusterSettings, workers: int
) -> Iterator[Iterator[tuple[str, Decisions]]]:
    """Yield an iterator over (problem id, decisions), in order.

    `workers` problems are decided at a time, since answers that our own rules cannot parse wait for Math-Verify's processes.
    Problems that have not been started when the block ends are dropped.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        yield zip(groups, pool.map(partial(decide_pairs, settings=settings), groups.values()), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def decide_pairs(group: Sequence[Response], settings: ClusterSettings) -> Decisions:
    """Decide every pair of one problem's distinct answers: True or False by proofs and rulings, None if the judge has to decide.

    With `judge: never` Math-Verify has the last word on a pair that is not decided. Answers longer than `MAX_ANSWER_CHARS`
    are compared as strings only, so a pair of distinct ones is False.
    """
    pairs = pairs_to_decide([response.answer for response in group])
    short = [pair for pair in pairs if max(map(len, pair)) <= MAX_ANSWER_CHARS]
    decided = Decisions(dict.fromkeys(pairs, False))
    if settings.judge == "judge_all":
        decided.update(dict.fromkeys(short))
        return decided
    found = settled({pair: verdict(*pair) for pair in short})
    decided.update(found.decisions)
    decided.ambiguous = found.ambiguous
    if settings.judge == "never":
        _ask_math_verify(decided, short, settings.symbolic_timeout_s)
    return decided


def _ask_math_verify(decided: Decisions, pairs: Sequence[Pair], timeout_s: float) -> None:
    """Decide the open pairs. After a pair without a verdict neither answer is sent again, so that a pathological answer costs
    its problem `timeout_s` once."""
    silent: set[str] = set()
    for pair in pairs:
        if decided[pair] is None:
            opinion = second_opinion(*pair, timeout_s) if silent.isdisjoint(pair) else None
            silent |= set() if opinion is not None else set(pair)
            decided[pair] = opinion is True


def undecided(decisions: Mapping[Pair, bool | None]) -> list[Pair]:
    """Return the pairs that the judge has to decide."""
    return [pair for pair, decision in decisions.items() if decision is None]


def annotate(
    problem: Problem,
    group: Sequence[Response],
    decisions: Mapping[Pair, bool | None],
    verdicts: Mapping[Pair, JudgedPair],
    settings: ClusterSettings,
    judge: tuple[str, str],
) -> Uncertainty | Reject:
    """Cluster one problem's responses and compute its uncertainties; a reject if fewer than two responses take part.

    `verdicts` contains every pair that is None in `decisions`; `judge` is the (model, prompt) that gave them.
    """
    answers = [response.answer for response in group]

    def same(first: str, second: str) -> bool:
        decision = decisions[first, second]
        return verdicts[first, second].equivalent if decision is None else decision

    clustering = cluster_answers(answers, same, unparsed=settings.unparsed, linkage=settings.linkage)
    labels = clustering.labels
    if sum(label >= 0 for label in labels) < 2:
        detail = f"fewer than two of {len(group)} responses take part"
        return Reject(problem_id=problem.id, stage="cluster", reason=Reason.TOO_FEW_ANSWERS, detail=detail)
    measures = asdict(uncertainties(group, labels, scope=settings.scope))
    answer = clustering.representatives[majority(labels)]
    return Uncertainty(
        problem_id=problem.id,
        **measures,
        **_measures_by_size(group, labels, settings),
        labels=labels,
        cluster_answers=clustering.representatives,
        majority_answer=answer,
        majority_correct=None if problem.answer is None else is_right(answer, problem.answer),
        num_samples=len(group),
        num_valid=sum(answer is not None for answer in answers),
        num_truncated=sum(response.finish_reason in CUT_OFF for response in group),
        transitivity_violations=clustering.transitivity_violations,
        **judgement([verdicts[pair] for pair in undecided(decisions)], judge),
    )


def _measures_by_size(
    group: Sequence[Response], labels: Sequence[int], settings: ClusterSettings
) -> dict[str, tuple[Any, ...]]:
    """Return the columns about the first 2, 4, 8, ... responses: their numbers, entropies and weights."""
    by_size = entropies_by_size(group, labels, scope=settings.scope)
    return {
        "sizes": tuple(by_size),
        "entropy_by_size": tuple(None if found is None else found.entropy for found in by_size.values()),
        "weight_by_size": tuple(None if found is None else found.weight for found in by_size.values()),
    }


def judgement(judged: Sequence[JudgedPair], judge: tuple[str, str]) -> dict[str, Any]:
    """Return the columns about the judge: two calls per pair, and model and prompt if any pair was judged."""
    model, prompt = judge if judged else (None, None)
    return {
        "judge_calls": 2 * len(judged),
        "order_flips": sum(pair.flipped for pair in judged),
        "judge_model": model,
        "judge_prompt": prompt,
    }


def cluster_stage(run: Run, *inputs: Artifact) -> Stage:
    """Return what identifies the stage's output. Without inputs, only its recipe is meaningful."""
    judge = run.config.models.equivalence_judge
    return Stage(
        name="cluster", version=VERSION, unit="problem", inputs=inputs, primary="uncertainties",
        settings={"cluster": run.config.cluster.identity(), "model": judge.identity()},
        prompts=(load_prompt(PROMPT).fingerprint,), models=(run.identities["equivalence_judge"],), shardwise=True,
    )  # fmt: skip


def sampled_rows(
    store: Store, sampled: Artifact, index: int
) -> tuple[list[Problem], dict[str, list[Response]]]:
    """Return the problems of a shard, and their responses by problem id."""
    problems = shard_rows(store, sampled, index, "problems", Problem)
    groups: dict[str, list[Response]] = {row.id: [] for row in problems}
    for response in shard_rows(store, sampled, index, "responses", Response):
        groups[response.problem_id].append(response)
    return problems, groups


def sampled_digest(store: Store, sampled: Artifact, index: int) -> str:
    """Return a digest of the problems and responses of a shard."""
    return rows_digest(store.table_digest(sampled, index, name) for name in ("problems", "responses"))


class Stopwatch:
    """Total seconds spent in its `with` blocks."""

    def __init__(self) -> None:
        self.seconds, self._started = 0.0, 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started


def shard(
    rows: Sequence[Uncertainty | Reject],
    verdicts: Mapping[Pair, JudgedPair],
    seconds: float,
    tokens: JudgeTokens,
    decisions: Iterable[Decisions] = (),
) -> Shard:
    """Build the tables of one shard. Its notes hold the seconds without the judge, the judge's tokens, and the number of
    ambiguous pairs (see `Decisions`)."""
    ambiguous = sum(decided.ambiguous for decided in decisions)
    tables = {
        "uncertainties": (Uncertainty, [row for row in rows if isinstance(row, Uncertainty)]),
        "judged_pairs": (JudgedPair, list(verdicts.values())),
        "rejects": (Reject, [row for row in rows if isinstance(row, Reject)]),
    }
    counts = {"judged_pairs": len(verdicts), "ambiguous_pairs": ambiguous}
    notes = {**counts, "seconds_beside_judge": round(seconds, 3), **asdict(tokens)}
    return Shard(incoming=len(rows), tables=tables, notes=notes)


def logged(found: Shard, log: Callable[[str], object]) -> Shard:
    """Log what a shard took and left open, and return it."""
    notes = found.notes
    done = (
        f"{counted(found.incoming, 'problem')} in {notes['seconds_beside_judge']:.1f} s, excluding the judge"
    )
    apart = f"{counted(notes['ambiguous_pairs'], 'ambiguous pair')} left apart"
    log(f"cluster: {done}; {counted(notes['judged_pairs'], 'pair')} judged, {apart}")
    return found
