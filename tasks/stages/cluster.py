"""Stage cluster: cluster the answers (exact, symbolic, judge, union-find) and compute their semantic entropy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from prefect.logging import get_run_logger

from prompts import load_prompt
from prompts.schemas import EQUIVALENCE_SCHEMA
from tasks.identity import request_seed
from tasks.llm.chat import ChatModel, ChatRequest, Completion, Failure
from tasks.problems.verdicts import BadReply, parse_equivalence
from tasks.rows import JudgedPair, Problem, Reject, Response, Uncertainty
from tasks.runtime.chunks import shard_rows, shard_sizes
from tasks.runtime.clustering import Decisions, annotate, deciding, undecided
from tasks.runtime.driver import Lazy, Run, Shard, Stage, run_shards
from tasks.runtime.models import chat_model, complete_all
from tasks.runtime.pending import Pending, rows_digest
from tasks.storage.artifacts import Artifact, Store
from tasks.uncertainty.clusters import Pair

VERSION = 4
PROMPT = "judge/equivalence"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeTokens:
    """Tokens of the judge's prompts and completions, including replies from the ledger."""

    judge_prompt_tokens: int = 0
    judge_completion_tokens: int = 0


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
            log(
                f"cluster: {len(problems)} problems in {watch.seconds:.1f} s, excluding the judge; {len(pairs)} pairs judged"
            )
            return shard(rows, verdicts, watch.seconds, tokens)

        pending = Pending(run.store, stage, lambda index: sampled_digest(run.store, sampled, index))
        return run_shards(run, stage, lambda: sizes or shard_sizes(run.store, sampled), work, pending, ready)


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


def cluster_stage(run: Run, *inputs: Artifact) -> Stage:
    """Return what identifies the stage's output. Without inputs, only its recipe is meaningful."""
    judge = run.config.models.equivalence_judge
    return Stage(
        name="cluster", version=VERSION, unit="problems", inputs=inputs, primary="uncertainties",
        settings={"cluster": run.config.cluster.identity(), "model": judge.identity()},
        prompts=(load_prompt(PROMPT).fingerprint,), models=(run.identities["equivalence_judge"],), shardwise=True,
    )  # fmt: skip


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
) -> Shard:
    """Build the tables of one shard. Its notes hold the seconds without the judge, and the judge's tokens."""
    tables = {
        "uncertainties": (Uncertainty, [row for row in rows if isinstance(row, Uncertainty)]),
        "judged_pairs": (JudgedPair, list(verdicts.values())),
        "rejects": (Reject, [row for row in rows if isinstance(row, Reject)]),
    }
    notes = {"judged_pairs": len(verdicts), "seconds_beside_judge": round(seconds, 3), **asdict(tokens)}
    return Shard(incoming=len(rows), tables=tables, notes=notes)


def judge_tokens(store: Store, clustered: Artifact) -> JudgeTokens:
    """Sum the judge's tokens over the shards of an artifact. Shards of earlier versions without these notes count as 0."""
    notes = [(store.finished_shard(one.folder, one.index) or {})["notes"] for one in store.shards(clustered)]
    return JudgeTokens(
        judge_prompt_tokens=sum(note.get("judge_prompt_tokens", 0) for note in notes),
        judge_completion_tokens=sum(note.get("judge_completion_tokens", 0) for note in notes),
    )


def judge_pairs(
    pairs: Sequence[Pair], model: Lazy[ChatModel], run: Run, check_cancelled: Callable[[], None]
) -> tuple[dict[Pair, JudgedPair], JudgeTokens]:
    """Judge every pair in both orders. A reply that is not a valid verdict counts as "not equivalent".

    `check_cancelled`, the cancellation check, is called at most once a second.
    """
    if not pairs:
        return {}, JudgeTokens()
    requests = [request(one, two, run) for pair in pairs for one, two in (pair, pair[::-1])]
    replies = complete_all(model.get(), requests, lambda _done: check_cancelled())
    forward, backward = replies[0::2], replies[1::2]
    verdicts = {
        pair: verdict(pair, one, two) for pair, one, two in zip(pairs, forward, backward, strict=True)
    }
    answers = [reply for reply in replies if isinstance(reply, Completion)]
    return verdicts, JudgeTokens(
        judge_prompt_tokens=sum(reply.prompt_tokens for reply in answers),
        judge_completion_tokens=sum(reply.completion_tokens for reply in answers),
    )


def request(first: str, second: str, run: Run) -> ChatRequest:
    """Build the request for one order of one pair; the reply must follow the JSON schema."""
    prompt = load_prompt(PROMPT)
    return ChatRequest(
        key=f"{first}\x1f{second}",
        messages=tuple(prompt.render(first=first, second=second)),
        sampling=run.config.cluster.sampling,
        seed=request_seed(f"{first}\x1f{second}", "equivalence_judge", prompt.fingerprint),
        schema=EQUIVALENCE_SCHEMA,
        schema_name="equivalence",
        prompt=prompt.fingerprint,
    )


def verdict(pair: Pair, forward: Completion | Failure, backward: Completion | Failure) -> JudgedPair:
    """Combine the replies to both orders: equivalent only if both are."""
    texts = [
        reply.text if isinstance(reply, Completion) else f"failed: {reply.reason}"
        for reply in (forward, backward)
    ]
    marks = [_is_yes(reply) for reply in (forward, backward)]
    return JudgedPair(
        first=pair[0], second=pair[1], equivalent=all(marks), flipped=marks[0] != marks[1],
        forward=texts[0][:2000], backward=texts[1][:2000],
    )  # fmt: skip


def _is_yes(reply: Completion | Failure) -> bool:
    """Whether the reply is a valid verdict of equivalence."""
    if isinstance(reply, Failure):
        return False
    parsed = parse_equivalence(reply.text, reply.finish_reason)
    return not isinstance(parsed, BadReply) and parsed.same
