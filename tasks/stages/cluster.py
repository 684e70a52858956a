"""Stage cluster: answers into clusters (exact, symbolic, judge, union-find), clusters into semantic entropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from prefect.logging import get_run_logger

from prompts import load_prompt
from prompts.schemas import EQUIVALENCE_SCHEMA
from tasks.core.answers import symbolic_decision
from tasks.core.clusters import cluster_answers, undecided_pairs
from tasks.core.config import ClusterSettings
from tasks.core.entropy import SemanticEntropy, majority, semantic_entropy
from tasks.core.identity import request_seed
from tasks.core.rows import JudgedPair, Problem, Reason, Reject, Response, Uncertainty
from tasks.core.verdicts import BadReply, parse_equivalence
from tasks.io.artifacts import Artifact
from tasks.io.chat import ChatModel, ChatRequest, Completion, Failure
from tasks.stages.chunks import shard_rows, shard_sizes
from tasks.stages.driver import Lazy, Run, Shard, Stage, run_shards
from tasks.stages.models import ask, chat_model

VERSION = 3
PROMPT = "judge/equivalence"
MAX_ANSWER_CHARS = 1_000

Pair = tuple[str, str]


def cluster(run: Run, sampled: Artifact) -> Artifact:
    """One `Uncertainty` a problem, and every verdict of the equivalence judge in table `judged_pairs`."""
    settings, prompt = run.config.cluster, load_prompt(PROMPT)
    stage = Stage(
        name="cluster", version=VERSION, unit="problems", inputs=(sampled,), primary="uncertainties",
        settings={"cluster": settings.identity(), "model": run.config.models.equivalence_judge.identity()},
        prompts=(prompt.fingerprint,), models=(run.identities["equivalence_judge"],),
    )  # fmt: skip
    sizes = cache(lambda: shard_sizes(run.store, sampled))
    log = get_run_logger().info

    with Lazy(lambda: chat_model(run, "equivalence_judge", "cluster", log)) as model:

        def work(index: int, at: Callable[[int], None]) -> Shard:
            problems = shard_rows(run.store, sampled, index, "problems", Problem)
            groups: dict[str, list[Response]] = {row.id: [] for row in problems}
            for response in shard_rows(run.store, sampled, index, "responses", Response):
                groups[response.problem_id].append(response)
            pairs = {row_id: open_pairs(group, settings) for row_id, group in groups.items()}
            verdicts = judge_pairs(sorted({pair for found in pairs.values() for pair in found}), model, run)
            rows: list[Uncertainty | Reject] = []
            for row_id, group in groups.items():
                rows.append(uncertainty(row_id, group, [verdicts[pair] for pair in pairs[row_id]], run))
                at(len(rows))
            tables = {
                "uncertainties": (Uncertainty, [row for row in rows if isinstance(row, Uncertainty)]),
                "judged_pairs": (JudgedPair, list(verdicts.values())),
                "rejects": (Reject, [row for row in rows if isinstance(row, Reject)]),
            }
            return Shard(incoming=len(problems), tables=tables, notes={"judged_pairs": len(verdicts)})

        return run_shards(run, stage, sizes, work)


def decide(first: str, second: str, settings: ClusterSettings) -> bool | None:
    """Symbolic yes or no, or None for the judge to decide; `never` takes an open question for a no.

    An answer over `MAX_ANSWER_CHARS` is compared as a string only, and these are two strings.
    """
    if max(len(first), len(second)) > MAX_ANSWER_CHARS:
        return False
    if settings.judge == "judge_all":
        return None
    decision = symbolic_decision(first, second, timeout_s=settings.symbolic_timeout_s)
    return False if decision is None and settings.judge == "never" else decision


def open_pairs(group: Sequence[Response], settings: ClusterSettings) -> tuple[Pair, ...]:
    """The pairs of one problem's answers that only the judge can decide."""
    return undecided_pairs([response.answer for response in group], lambda a, b: decide(a, b, settings))


def judge_pairs(pairs: Sequence[Pair], model: Lazy[ChatModel], run: Run) -> dict[Pair, JudgedPair]:
    """Both orders of every pair; a reply that is no verdict counts as a no."""
    if not pairs:
        return {}
    requests = [request(one, two, run) for pair in pairs for one, two in (pair, pair[::-1])]
    replies = ask(model.get(), requests, lambda _done: None)
    forward, backward = replies[0::2], replies[1::2]
    return {pair: verdict(pair, one, two) for pair, one, two in zip(pairs, forward, backward, strict=True)}


def request(first: str, second: str, run: Run) -> ChatRequest:
    """One order of one pair, bound to the JSON schema."""
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
    """Merge only when both orders agree on yes."""
    texts = [
        reply.text if isinstance(reply, Completion) else f"failed: {reply.reason}"
        for reply in (forward, backward)
    ]
    marks = [_says_yes(reply) for reply in (forward, backward)]
    return JudgedPair(
        first=pair[0], second=pair[1], equivalent=all(marks), flipped=marks[0] != marks[1],
        forward=texts[0][:2000], backward=texts[1][:2000],
    )  # fmt: skip


def _says_yes(reply: Completion | Failure) -> bool:
    """Whether the reply is a verdict that merges the pair."""
    if isinstance(reply, Failure):
        return False
    parsed = parse_equivalence(reply.text, reply.finish_reason)
    return not isinstance(parsed, BadReply) and parsed.same


def uncertainty(
    row_id: str, group: Sequence[Response], judged: Sequence[JudgedPair], run: Run
) -> Uncertainty | Reject:
    """Clusters and entropies of one problem's responses; `judged` are the verdicts on its open pairs."""
    settings = run.config.cluster
    answers = [response.answer for response in group]
    verdicts = {(pair.first, pair.second): pair.equivalent for pair in judged}

    def same(first: str, second: str) -> bool:
        if (first, second) in verdicts:
            return verdicts[first, second]
        return bool(decide(first, second, settings))

    clustering = cluster_answers(answers, same, unparsed=settings.unparsed)
    if sum(label >= 0 for label in clustering.labels) < 2:
        detail = f"fewer than two of {len(group)} responses have an answer, and unparsed ones are dropped"
        return Reject(problem_id=row_id, stage="cluster", reason=Reason.TOO_FEW_ANSWERS, detail=detail)
    entropy = entropy_of(group, clustering.labels)
    return Uncertainty(
        problem_id=row_id,
        semantic_entropy=entropy.entropy,
        weight=entropy.weight,
        discrete_entropy=entropy.discrete_entropy,
        valid_entropy=valid_entropy(group, clustering.labels),
        labels=clustering.labels,
        cluster_probs=entropy.cluster_probs,
        cluster_answers=clustering.representatives,
        majority_answer=clustering.representatives[majority(clustering.labels)],
        num_samples=len(group),
        num_valid=sum(answer is not None for answer in answers),
        judge_calls=2 * len(judged),
        order_flips=sum(pair.flipped for pair in judged),
        transitivity_violations=clustering.transitivity_violations,
        judge_model=run.identities["equivalence_judge"] if judged else None,
        judge_prompt=load_prompt(PROMPT).fingerprint if judged else None,
    )


def entropy_of(group: Sequence[Response], labels: Sequence[int]) -> SemanticEntropy:
    """Semantic entropy of responses under the given labels (-1: left out)."""
    return semantic_entropy(
        [response.logprob_sum for response in group], [response.token_count for response in group], labels
    )


def valid_entropy(group: Sequence[Response], labels: Sequence[int]) -> float | None:
    """The entropy over responses with an answer; None when fewer than two have one."""
    valid = [-1 if response.answer is None else label for response, label in zip(group, labels, strict=True)]
    compact = {
        label: rank for rank, label in enumerate(dict.fromkeys(label for label in valid if label >= 0))
    }
    if sum(label >= 0 for label in valid) < 2:
        return None
    return entropy_of(group, [compact.get(label, -1) for label in valid]).entropy
