"""Stage judge: judge every candidate by five criteria, all of which must hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cache

from prefect.logging import get_run_logger

from prompts import load_prompt
from prompts.schemas import QUALITY_SCHEMA
from tasks.identity import request_seed
from tasks.llm.chat import ChatRequest, Completion, Failure
from tasks.llm.turns import Turns
from tasks.problems.verdicts import BadReply, parse_quality
from tasks.rows import Problem, Reason, Reject, Verdict
from tasks.runtime.chunks import shard_rows, shard_sizes
from tasks.runtime.driver import Lazy, Run, Shard, Stage, run_shards
from tasks.runtime.models import RequestsAhead, chat_model
from tasks.runtime.pending import Pending
from tasks.storage.artifacts import Artifact
from tasks.text import words

VERSION = 3
PROMPT = "judge/quality"


def judge(run: Run, candidates: Artifact) -> Artifact:
    """Keep the problems that meet all five criteria. All verdicts, also of rejected problems, are in table `verdicts`."""
    log = get_run_logger().info
    prompt = load_prompt(PROMPT)
    stage = Stage(
        name="judge", version=VERSION, unit="candidate", inputs=(candidates,),
        settings={"judge": run.config.judge.identity(), "model": run.config.models.quality_judge.identity()},
        prompts=(prompt.fingerprint,), models=(run.identities["quality_judge"],),
    )  # fmt: skip
    sizes = cache(lambda: shard_sizes(run.store, candidates))

    pending = Pending(run.store, stage, lambda index: run.store.table_digest(candidates, index, "problems"))

    def requests_of(index: int) -> tuple[list[Problem], list[ChatRequest]]:
        rows = shard_rows(run.store, candidates, index, "problems", Problem)
        return rows, [request(row, run) for row in rows]

    with Lazy(lambda: chat_model(run, "quality_judge", "judge", log)) as model, Turns(model.get) as turns:
        ahead = RequestsAhead(turns, requests_of, lambda: len(sizes()), pending)

        def work(index: int, on_progress: Callable[[int], None]) -> Shard:
            return collect([judged(row, reply, run) for row, reply in ahead.outcomes(index, on_progress)])

        return run_shards(run, stage, sizes, work, pending)


def request(row: Problem, run: Run) -> ChatRequest:
    """Build the request for one verdict; the reply must follow the JSON schema."""
    prompt = load_prompt(PROMPT)
    return ChatRequest(
        key=row.id,
        messages=tuple(prompt.render(problem=row.text)),
        sampling=run.config.judge.sampling,
        seed=request_seed(row.id, "quality_judge", prompt.fingerprint),
        schema=QUALITY_SCHEMA,
        schema_name="quality",
        prompt=prompt.fingerprint,
    )


def judged(
    row: Problem, reply: Completion | Failure, run: Run
) -> tuple[Problem, Verdict | None, Reject | None]:
    """Return the row, its verdict (None without a valid reply), and its reject if it is rejected.

    The reason is the first criterion that does not hold; the detail names all of them.
    """

    def reject(reason: Reason, detail: str) -> Reject:
        return Reject(problem_id=row.id, stage="judge", reason=reason, detail=detail, text=row.text[:2000])

    if isinstance(reply, Failure):
        return row, None, reject(reply.code, reply.reason)
    quality = parse_quality(reply.text, reply.finish_reason)
    if isinstance(quality, BadReply):
        return row, None, reject(quality.reason, quality.detail)
    verdict = Verdict(
        **asdict(quality),
        problem_id=row.id,
        passed=not quality.failed,
        reply=reply.text,
        model=run.identities["quality_judge"],
        prompt=load_prompt(PROMPT).fingerprint,
    )
    if verdict.passed:
        return row, verdict, None
    failed = ", ".join(map(words, quality.failed))
    return row, verdict, reject(Reason(f"not_{quality.failed[0]}"), f"does not hold: {failed}")


def collect(results: list[tuple[Problem, Verdict | None, Reject | None]]) -> Shard:
    """Build the tables of one shard."""
    return Shard(
        incoming=len(results),
        tables={
            "problems": (Problem, [row for row, _, reject in results if reject is None]),
            "verdicts": (Verdict, [verdict for _, verdict, _ in results if verdict is not None]),
            "rejects": (Reject, [reject for _, _, reject in results if reject is not None]),
        },
    )
