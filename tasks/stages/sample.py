"""Stage sample: N responses of the teacher to every selected problem, with their log-probability sums."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from prefect.logging import get_run_logger

from prompts import load_prompt
from tasks.core.config import PROJECT_ROOT
from tasks.core.identity import request_seed
from tasks.core.rows import Problem, Reason, Reject, Response
from tasks.io.artifacts import Artifact
from tasks.io.ledger import Ledger, request_key
from tasks.io.sampler import SampleFailure, SamplePrompt, TeacherSampler
from tasks.stages.chunks import shard_rows, shard_sizes
from tasks.stages.driver import Lazy, Run, Shard, Stage, run_shards
from tasks.stages.models import now_and_then

VERSION = 1
PROMPT = "teacher/solve"
FLUSH_PROBLEMS = 256  # problems between two writes to the ledger: what a kill can cost

Sampled = list[Response | SampleFailure]


def sample(run: Run, selected: Artifact) -> Artifact:
    """N responses a problem at the settings' temperature; one engine for the whole stage."""
    settings, prompt = run.config.sample, load_prompt(PROMPT)
    stage = Stage(
        name="sample", version=VERSION, unit="problems", inputs=(selected,),
        settings={"sample": settings.identity(), "model": run.config.models.teacher.identity()},
        prompts=(prompt.fingerprint,), models=(run.identities["teacher"],),
    )  # fmt: skip
    sizes = cache(lambda: shard_sizes(run.store, selected))
    log = get_run_logger().info
    role = run.config.models.teacher

    ledger = Ledger(run.ledger_path)

    def open_sampler() -> TeacherSampler:
        log(f"sample: starting the teacher {run.identities['teacher']}")
        return TeacherSampler(
            role, root=PROJECT_ROOT, identity=run.identities["teacher"], logprobs=settings.logprobs, ledger=ledger,
            on_wait=now_and_then(lambda seconds, line: log(f"sample: {line}, {seconds:.0f} s")),
        )  # fmt: skip

    with ledger, Lazy(open_sampler) as sampler:

        def work(index: int, at: Callable[[int], None]) -> Shard:
            rows = shard_rows(run.store, selected, index, "problems", Problem)
            known = ledger.hits
            samples = sampled(rows, run, stage.recipe, sampler, ledger, at)
            known = ledger.hits - known
            log(f"sample: {len(rows) - known} problems sampled, {known} from the ledger")
            return collect(rows, samples)

        return run_shards(run, stage, sizes, work)


def sampled(
    rows: Sequence[Problem], run: Run, recipe: str, sampler: Lazy[TeacherSampler], ledger: Ledger,
    at: Callable[[int], None],
) -> dict[str, Sampled]:  # fmt: skip
    """problem id -> its samples: from the ledger where they are, else from the engine, flushed as they come."""
    prompts = {row.id: sample_prompt(row, recipe) for row in rows}
    keys = {row_id: ledger_key(prompt, run) for row_id, prompt in prompts.items()}
    known = ledger.get_many(list(keys.values()))
    done = {row_id: unpack(row_id, known[key]) for row_id, key in keys.items() if key in known}
    missing = [prompt for row_id, prompt in prompts.items() if row_id not in done]
    n = run.config.sample.num_samples
    for start in range(0, len(missing), FLUSH_PROBLEMS):
        part, before = missing[start : start + FLUSH_PROBLEMS], len(done)
        results = sampler.get().sample(
            part, n, run.config.sample.sampling, load_prompt(PROMPT).fingerprint,
            on_progress=lambda finished, _total, before=before: at(before + finished // n),
        )  # fmt: skip
        grouped: dict[str, Sampled] = defaultdict(list)
        for result in results:
            grouped[result.problem_id].append(result)
        for row_id, group in grouped.items():
            ledger.put(keys[row_id], pack(group))
        done.update(grouped)
        at(len(done))
    return done


def sample_prompt(row: Problem, recipe: str) -> SamplePrompt:
    """The rendered question with its own seed, a hash of (problem, role, recipe)."""
    messages = tuple(load_prompt(PROMPT).render(problem=row.text))
    return SamplePrompt(problem_id=row.id, messages=messages, seed=request_seed(row.id, "teacher", recipe))


def ledger_key(prompt: SamplePrompt, run: Run) -> str:
    """Content of the request, the number of samples included."""
    sampling = run.config.sample.identity() | {"model": run.config.models.teacher.identity()}
    return request_key(
        run.identities["teacher"],
        prompt.messages,
        sampling,
        None,
        load_prompt(PROMPT).fingerprint,
        prompt.seed,
    )


def pack(group: Sampled) -> dict[str, Any]:
    """The samples of one problem as plain JSON data."""
    return {
        "responses": [asdict(item) for item in group if isinstance(item, Response)],
        "failures": [
            {"reason": str(item.reason), "detail": item.detail}
            for item in group
            if isinstance(item, SampleFailure)
        ],
    }


def unpack(row_id: str, value: dict[str, Any]) -> Sampled:
    """The samples that `pack` wrote."""
    failures = [
        SampleFailure(problem_id=row_id, reason=Reason(item["reason"]), detail=item["detail"])
        for item in value["failures"]
    ]
    return [*(Response(**item) for item in value["responses"]), *failures]


def collect(rows: Sequence[Problem], samples: dict[str, Sampled]) -> Shard:
    """A problem is kept with all of its samples, or rejected with the first failure's reason."""
    kept, responses, rejects = [], [], []
    for row in rows:
        failures = [item for item in samples[row.id] if isinstance(item, SampleFailure)]
        if failures:
            rejects.append(
                Reject(
                    problem_id=row.id, stage="sample", reason=failures[0].reason, detail=failures[0].detail
                )
            )
        else:
            kept.append(row)
            responses.extend(item for item in samples[row.id] if isinstance(item, Response))
    tables = {"problems": (Problem, kept), "responses": (Response, responses), "rejects": (Reject, rejects)}
    return Shard(incoming=len(rows), tables=tables)
