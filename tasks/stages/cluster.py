"""Stage cluster: answers into clusters (exact, symbolic, judge, union-find), clusters into semantic entropy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from prefect.logging import get_run_logger

from prompts import load_prompt
from prompts.schemas import EQUIVALENCE_SCHEMA
from tasks.core.answers import symbolic_decision
from tasks.core.clusters import Clustering, cluster_answers, undecided_pairs
from tasks.core.config import ClusterSettings
from tasks.core.entropy import semantic_entropy
from tasks.core.identity import request_seed
from tasks.core.rows import PairVerdict, Problem, Reason, Reject, Response, Uncertainty
from tasks.core.verdicts import BadReply, parse_equivalence
from tasks.io.artifacts import Artifact
from tasks.io.chat import ChatModel, ChatRequest, Completion, Failure
from tasks.stages.chunks import shard_rows, shard_sizes
from tasks.stages.driver import Lazy, Run, Shard, Stage, run_shards
from tasks.stages.models import ask, chat_model

VERSION = 1
PROMPT = "judge/equivalence"

Pair = tuple[str, str]


def cluster(run: Run, sampled: Artifact) -> Artifact:
    """One `Uncertainty` a problem, and every verdict of the equivalence judge in table `pair_verdicts`."""
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
            verdicts = judge_pairs(open_pairs(groups, settings), model, run)
            rows: list[Uncertainty | Reject] = []
            for row_id, group in groups.items():
                rows.append(uncertainty(row_id, group, verdicts, run))
                at(len(rows))
            tables = {
                "uncertainties": (Uncertainty, [row for row in rows if isinstance(row, Uncertainty)]),
                "pair_verdicts": (PairVerdict, list(verdicts.values())),
                "rejects": (Reject, [row for row in rows if isinstance(row, Reject)]),
            }
            return Shard(incoming=len(problems), tables=tables, notes={"judged_pairs": len(verdicts)})

        return run_shards(run, stage, sizes, work)


def decide(first: str, second: str, settings: ClusterSettings) -> bool | None:
    """Symbolic yes or no, or None for the judge to decide; `never` takes an open question for a no."""
    if settings.judge == "judge_all":
        return None
    decision = symbolic_decision(first, second, timeout_s=settings.symbolic_timeout_s)
    return False if decision is None and settings.judge == "never" else decision


def open_pairs(groups: Mapping[str, Sequence[Response]], settings: ClusterSettings) -> list[Pair]:
    """The distinct pairs of the shard that only the judge can decide, in a fixed order."""
    pairs: dict[Pair, None] = {}
    for group in groups.values():
        answers = [response.answer for response in group]
        for first, second in undecided_pairs(answers, lambda a, b: decide(a, b, settings)):
            pairs.setdefault((min(first, second), max(first, second)))
    return list(pairs)


def judge_pairs(pairs: Sequence[Pair], model: Lazy[ChatModel], run: Run) -> dict[Pair, PairVerdict]:
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


def verdict(pair: Pair, forward: Completion | Failure, backward: Completion | Failure) -> PairVerdict:
    """Merge only when both orders agree on yes."""
    texts = [reply.text if isinstance(reply, Completion) else f"failed: {reply.reason}" for reply in (forward, backward)]
    marks = [_says_yes(reply) for reply in (forward, backward)]
    return PairVerdict(
        first=pair[0], second=pair[1], equivalent=all(marks), flipped=marks[0] != marks[1],
        forward=texts[0][:2000], backward=texts[1][:2000],
    )  # fmt: skip


def _says_yes(reply: Completion | Failure) -> bool:
    if isinstance(reply, Failure):
        return False
    parsed = parse_equivalence(reply.text, reply.finish_reason)
    return not isinstance(parsed, BadReply) and parsed.equivalent


def uncertainty(
    row_id: str, group: Sequence[Response], verdicts: Mapping[Pair, PairVerdict], run: Run
) -> Uncertainty | Reject:
    """Clusters and entropies of one problem's responses."""
    settings = run.config.cluster
    answers = [response.answer for response in group]

    def same(first: str, second: str) -> bool:
        judged = verdicts.get((min(first, second), max(first, second)))
        if judged is not None:
            return judged.equivalent
        return bool(decide(first, second, settings))

    clustering = cluster_answers(answers, same, unparsed=settings.unparsed)
    if sum(label >= 0 for label in clustering.labels) < 2:
        detail = f"fewer than two of {len(group)} responses have an answer, and unparsed ones are dropped"
        return Reject(problem_id=row_id, stage="cluster", reason=Reason.TOO_FEW_ANSWERS, detail=detail)
    entropy = semantic_entropy(
        [response.logprob_sum for response in group],
        [response.token_count for response in group],
        clustering.labels,
    )
    representatives = cluster_answers_of(answers, clustering)
    asked = {
        pair
        for pair in ((min(a, b), max(a, b)) for a in answers if a for b in answers if b and a != b)
        if pair in verdicts
    }
    used_judge = bool(asked)
    return Uncertainty(
        problem_id=row_id,
        semantic_entropy=entropy.entropy,
        weight=entropy.weight,
        discrete_entropy=entropy.discrete_entropy,
        valid_entropy=valid_entropy(group, clustering),
        labels=clustering.labels,
        cluster_probs=entropy.cluster_probs,
        cluster_answers=representatives,
        majority_answer=majority_answer(clustering, representatives),
        num_samples=len(group),
        num_valid=sum(answer is not None for answer in answers),
        judge_calls=2 * len(asked),
        order_flips=sum(verdicts[pair].flipped for pair in asked),
        transitivity_violations=clustering.transitivity_violations,
        judge_model=run.identities["equivalence_judge"] if used_judge else None,
        judge_prompt=load_prompt(PROMPT).fingerprint if used_judge else None,
    )


def cluster_answers_of(answers: Sequence[str | None], clustering: Clustering) -> tuple[str | None, ...]:
    """The first answer of every cluster, by label."""
    first: dict[int, str | None] = {}
    for answer, label in zip(answers, clustering.labels, strict=True):
        if label >= 0:
            first.setdefault(label, answer)
    return tuple(first[label] for label in sorted(first))


def majority_answer(clustering: Clustering, representatives: Sequence[str | None]) -> str | None:
    """Answer of the cluster with most responses; ties go to the first sample. Unparsed responses vote for no answer."""
    votes = [label for label in clustering.labels if label >= 0]
    if not votes:
        return None
    best = max(dict.fromkeys(votes), key=lambda label: (votes.count(label), -votes.index(label)))
    return representatives[best]


def valid_entropy(group: Sequence[Response], clustering: Clustering) -> float | None:
    """The entropy over responses with an answer; None when fewer than two have one."""
    valid = [position for position, response in enumerate(group) if response.answer is not None]
    if len(valid) < 2:
        return None
    return semantic_entropy(
        [group[position].logprob_sum for position in valid],
        [group[position].token_count for position in valid],
        [clustering.labels[position] for position in valid],
    ).entropy
