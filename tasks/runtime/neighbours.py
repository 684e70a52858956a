"""The check of near problems by the quality judge: which pairs are asked, the requests, and what a reply means."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from prompts import MAX_VALUE_CHARS, load_prompt
from prompts.schemas import OVERLAP_SCHEMA
from tasks.config import DecontamSettings, NeighbourSettings
from tasks.identity import request_seed
from tasks.llm.chat import ChatRequest, Completion, Failure
from tasks.problems.neighbours import nearest
from tasks.problems.verdicts import BadReply, parse_overlap
from tasks.rows import Finding, FindingKind, Neighbour, Problem
from tasks.runtime.decontamination import TEST_SPLIT

PROMPT = "judge/overlap"
REASON_CHARS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A problem and a benchmark problem with a similar template."""

    row: Problem
    benchmark: Problem
    similarity: float


def pairs(
    rows: Sequence[Problem],
    against: Sequence[Problem],
    flagged: Collection[str],
    settings: DecontamSettings,
    judge: NeighbourSettings,
) -> dict[str, list[Pair]]:
    """Return the pairs to ask about, by problem id. Rows in `flagged` are known to overlap and not asked about. A problem of
    the test split is not compared with that split, and none with a text that is too long for a prompt."""
    short = [problem for problem in against if len(problem.text) <= MAX_VALUE_CHARS]
    public = [problem for problem in short if problem.source != TEST_SPLIT]
    held_out = {problem.id for problem in against if problem.source == TEST_SPLIT}
    found: dict[str, list[Pair]] = {}
    for inside, others in ((False, short), (True, public)):
        asked = [row for row in rows if row.id not in flagged and (row.id in held_out) is inside]
        places = nearest(
            [row.text for row in asked], [problem.text for problem in others],
            count=judge.count, threshold=judge.threshold, ngram=settings.ngram,
        )  # fmt: skip
        for row, near in zip(asked, places, strict=True):
            found[row.id] = [
                Pair(row=row, benchmark=others[place], similarity=value) for place, value in near
            ]
    return found


def request(pair: Pair, judge: NeighbourSettings) -> ChatRequest:
    """Build the request about one pair; the reply must follow the JSON schema."""
    prompt = load_prompt(PROMPT)
    return ChatRequest(
        key=f"{pair.row.id} {pair.benchmark.id}",
        messages=tuple(prompt.render(first=pair.benchmark.text, second=pair.row.text)),
        sampling=judge.sampling,
        seed=request_seed(pair.row.id, f"quality_judge/{pair.benchmark.id}", prompt.fingerprint),
        schema=OVERLAP_SCHEMA,
        schema_name="overlap",
        prompt=prompt.fingerprint,
    )


def judged(pair: Pair, reply: Completion | Failure, model: str) -> Neighbour:
    """Return the pair with the verdict of the judge `model`, or with the reason why there is none."""
    same, reason = None, ""
    if isinstance(reply, Failure):
        reason = f"{reply.code}: {reply.reason}"
    elif isinstance(verdict := parse_overlap(reply.text, reply.finish_reason), BadReply):
        reason = f"{verdict.reason}: {verdict.detail}"
    else:
        same, reason = verdict.same, verdict.reason
    return Neighbour(
        problem_id=pair.row.id, benchmark=pair.benchmark.source, benchmark_problem_id=pair.benchmark.id,
        similarity=pair.similarity, same=same, reason=" ".join(reason.split())[:REASON_CHARS],
        reply=reply.text if isinstance(reply, Completion) else "", model=model, prompt=load_prompt(PROMPT).fingerprint,
    )  # fmt: skip


def finding(one: Neighbour) -> Finding:
    """Return the finding of a pair that the judge takes for the same problem."""
    return Finding(
        problem_id=one.problem_id, benchmark=one.benchmark, benchmark_problem_id=one.benchmark_problem_id,
        kind=FindingKind.JUDGE, score=one.similarity, detail=one.reason,
    )  # fmt: skip
