"""The equivalence judge: one request per order of a pair of answers, its verdicts, and its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prompts import load_prompt
from prompts.schemas import EQUIVALENCE_SCHEMA
from tasks.identity import request_seed
from tasks.llm.chat import ChatModel, ChatRequest, Completion, Failure
from tasks.problems.verdicts import BadReply, parse_equivalence
from tasks.rows import JudgedPair
from tasks.runtime.driver import Lazy, Run
from tasks.runtime.models import complete_all
from tasks.storage.artifacts import Artifact, Store
from tasks.uncertainty.clusters import Pair

PROMPT = "judge/equivalence"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeTokens:
    """Tokens of the judge's prompts and completions, including replies from the ledger."""

    judge_prompt_tokens: int = 0
    judge_completion_tokens: int = 0


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


def judge_tokens(store: Store, clustered: Artifact) -> JudgeTokens:
    """Sum the judge's tokens over the shards of an artifact. Shards of earlier versions without these notes count as 0."""
    notes = [(store.finished_shard(one.folder, one.index) or {})["notes"] for one in store.shards(clustered)]
    return JudgeTokens(
        judge_prompt_tokens=sum(note.get("judge_prompt_tokens", 0) for note in notes),
        judge_completion_tokens=sum(note.get("judge_completion_tokens", 0) for note in notes),
    )
