"""The teacher's samples: identity and shards of stage sample, its engine, prompts and ledger entries, and its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from prefect.logging import get_run_logger

from prompts import load_prompt
from tasks.config import PROJECT_ROOT
from tasks.identity import request_seed
from tasks.llm.completions import MAX_TOKENS, plausible, storable
from tasks.llm.ledger import Ledger, request_key
from tasks.llm.sampler import Sampled, SampleFailure, SamplePrompt, TeacherSampler
from tasks.rows import Problem, Reason, Reject, Response
from tasks.runtime.chunks import cut, row_hashes
from tasks.runtime.driver import Lazy, Run, Shard, Stage
from tasks.runtime.engine_pool import Engine
from tasks.runtime.models import engine_memory, note_engine, rate_limited
from tasks.storage.artifacts import Artifact
from tasks.storage.tables import read_table

VERSION = 2
PROMPT = "teacher/solve"


def sample_stage(run: Run, *inputs: Artifact) -> Stage:
    """Return what identifies the stage's output. Without inputs, only its recipe is meaningful."""
    return Stage(
        name="sample", version=VERSION, unit="problem", inputs=inputs,
        settings={"sample": run.config.sample.identity(), "model": run.config.models.teacher.identity()},
        prompts=(load_prompt(PROMPT).fingerprint,), models=(run.identities["teacher"],), cut=run.config.run.shard_rows,
    )  # fmt: skip


def sample_sizes(run: Run, selected: Artifact) -> tuple[int, ...]:
    """Return the number of input rows of each shard, independent of the shards of the input.

    The engine is partly idle while the last responses of a shard are generated, so shards are full; those of a selection
    may hold only a few rows each.
    """
    paths = [run.store.shard_path(selected, shard.index, "problems") for shard in run.store.shards(selected)]
    names = (name for path in paths for name in read_table(path, Problem, ("id",))["id"].to_pylist())
    return cut(row_hashes(names), run.config.run.shard_rows)


@contextmanager
def start_teacher(run: Run, ledger: Ledger, check_cancelled: Callable[[], None]) -> Iterator[TeacherSampler]:
    """Provide the teacher's engine for the block."""
    log, identity, engine = get_run_logger().info, run.identities["teacher"], teacher(run, ledger)
    if not run.engines.is_up(engine):
        log(f"sample: starting the teacher ({run.config.models.teacher.model})")
    waiting = rate_limited(
        lambda seconds, line: log(f"sample: {line or 'waiting for the teacher'}, {seconds:.0f} s"),
        check_cancelled=check_cancelled,
    )
    with run.engines.use(engine, waiting) as sampler:
        note_engine(sampler.invariance, "teacher", identity, ledger, log)
        if sampler.usage is not None:
            run.live.uses("teacher", sampler.usage)
        yield sampler


def teacher(run: Run, ledger: Ledger | None = None) -> Engine:
    """Return the engine of the teacher. A teacher that is served elsewhere keeps its answers in `ledger`."""
    role, logprobs = run.config.models.teacher, run.config.sample.logprobs
    return Engine(
        role="teacher", settings=("offline", role, logprobs), memory=engine_memory(role),
        open=lambda on_wait: TeacherSampler(
            role, root=PROJECT_ROOT, identity=run.identities["teacher"], ledger=ledger, logprobs=logprobs, on_wait=on_wait
        ),
    )  # fmt: skip


def sampled(
    rows: Sequence[Problem], run: Run, recipe: str, sampler: Lazy[TeacherSampler], ledger: Ledger,
    on_progress: Callable[[int], None],
) -> tuple[dict[str, Sampled], int]:  # fmt: skip
    """Return the samples by problem id, and how many problems came from the ledger.

    The other problems are sampled by the engine; each is written to the ledger as soon as it is complete.
    """
    prompts = {row.id: sample_prompt(row, recipe) for row in rows}
    keys = {row_id: ledger_key(prompt, run) for row_id, prompt in prompts.items()}
    found = ledger.get_many(list(keys.values()))
    stored = {row_id: unpack(row_id, found[key]) for row_id, key in keys.items() if key in found}
    ledger.discard([keys[row_id] for row_id, group in stored.items() if not group])
    done = {row_id: group for row_id, group in stored.items() if group}
    missing, known = [prompt for row_id, prompt in prompts.items() if row_id not in done], len(done)
    on_progress(known)

    def keep(group: Sampled) -> None:
        row_id = group[0].problem_id
        ledger.put(keys[row_id], pack(group))
        done[row_id] = group
        on_progress(len(done))

    if missing:
        settings = run.config.sample
        sampler.get().sample(
            missing, settings.num_samples, settings.sampling, load_prompt(PROMPT).fingerprint, on_problem=keep
        )
    return done, known


def sample_prompt(row: Problem, recipe: str) -> SamplePrompt:
    """Render the prompt of a problem, with its own seed: a hash of (problem, role, recipe)."""
    return SamplePrompt(
        problem_id=row.id,
        prompt=PROMPT,
        values={"problem": row.text},
        seed=request_seed(row.id, "teacher", recipe),
    )


def ledger_key(prompt: SamplePrompt, run: Run) -> str:
    """Return the ledger key: a hash of the request's content, including the number of samples."""
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
    """Convert the samples of one problem to plain JSON data."""
    return {
        "responses": [asdict(item) for item in group if isinstance(item, Response)],
        "failures": [
            {"reason": str(item.reason), "detail": item.detail, "index": item.index}
            for item in group
            if isinstance(item, SampleFailure)
        ],
    }


def unpack(row_id: str, value: Any) -> Sampled:
    """Restore the samples that `pack` converted; none if the entry cannot be used, whoever wrote it."""
    try:
        failures = [
            SampleFailure(
                problem_id=row_id, reason=Reason(item["reason"]), detail=item["detail"], index=item["index"]
            )
            for item in value["failures"]
        ]
        responses = [Response(**item) for item in value["responses"]]
        usable = all(_usable(one, row_id) for one in responses) and all(
            storable(one.detail) for one in failures
        )
    except (KeyError, TypeError, ValueError):
        return []
    return [*responses, *failures] if usable else []


def _usable(row: Response, row_id: str) -> bool:
    """Whether the values of a response have the types of its fields, and can be counts and log-probabilities."""
    texts = (row.text, row.finish_reason, row.answer or "", row.model, row.prompt, row.sampling)
    spans = (row.after_think_token_count, row.answer_token_count)
    sums = (row.after_think_logprob_sum, row.answer_logprob_sum)
    return (
        row.problem_id == row_id
        and all(map(storable, texts))
        and all(type(one) is int and one >= 0 for one in (row.index, row.token_count, row.seed, *spans))
        and 0 < row.token_count <= MAX_TOKENS
        and row.index <= MAX_TOKENS
        and row.seed < 2**63
        and all(one <= row.token_count for one in spans)
        and plausible(row.logprob_sum, row.token_count)
        and all(one is None or plausible(one, row.token_count) for one in sums)
    )


def collect(rows: Sequence[Problem], samples: dict[str, Sampled]) -> Shard:
    """Build the tables of one shard.

    A problem with at least two usable samples is kept; otherwise it is rejected with the reason of its first failure. The
    failed samples of kept problems are in table `lost_responses`, each with its reason.
    """
    kept, responses, lost, rejects = [], [], [], []
    for row in rows:
        good = [item for item in samples[row.id] if isinstance(item, Response)]
        failures = [
            Reject(problem_id=row.id, stage="sample", reason=item.reason, detail=item.detail)
            for item in samples[row.id]
            if isinstance(item, SampleFailure)
        ]
        if len(good) < 2:
            rejects.append(failures[0])
        else:
            kept.append(row)
            responses.extend(good)
            lost.extend(failures)
    tables = {
        "problems": (Problem, kept),
        "responses": (Response, responses),
        "lost_responses": (Reject, lost),
        "rejects": (Reject, rejects),
    }
    return Shard(incoming=len(rows), tables=tables, notes={"lost_responses": len(lost)})
