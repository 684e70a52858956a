"""Everything a run can be told before a GPU is taken: its data, models, draws and memory, and all that is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from prompts import load_prompt
from tasks.core.config import PROJECT_ROOT
from tasks.core.errors import UserError
from tasks.core.identity import fingerprint
from tasks.io.dataset import Manifest
from tasks.io.identity import model_identity
from training.config import VLLM_TOP_K, RunConfig
from training.data import (
    Row,
    columns,
    manifest_problems,
    prompt_length_problems,
    prompt_weight,
    read_dataset,
    with_prompts,
)
from training.draws import Schedule, schedule
from training.evaluation.held_out import HeldOut, held_out_problems, read_held_out
from training.memory import MemoryPlan, memory_plan, memory_problems, memory_table, read_shape
from training.model_files import (
    PROMPT,
    ModelFiles,
    context_problems,
    open_model,
    pair_problems,
    scoring_problems,
    shared_vocabulary,
    top_k_problems,
)
from training.objectives.prompt_weights import Uniform

VERSION = 1  # of the training stage: raise it when the same settings give another student
FULL_VERSION = 2  # the same, of runs on the teacher's full distribution
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that may start. `schedule` draws positions in `rows`; logits of both models are cut to `shared_vocab`."""

    run: RunConfig
    fingerprint: str
    manifest: Manifest
    student: ModelFiles
    teacher: ModelFiles
    shared_vocab: int
    rows: tuple[Row, ...]
    schedule: Schedule
    memory: MemoryPlan
    held_out: HeldOut | None  # what the student is measured on, if anything


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """`problems`: one sentence each; `prepared` is there when there are none; `table`: bytes per device, where known."""

    problems: tuple[str, ...]
    prepared: Prepared | None
    table: str


def prepare(run: RunConfig) -> Prepared:
    """The run with all it needs. `UserError` with one line for each problem."""
    found = inspect(run)
    if found.prepared is None:
        raise UserError("\n".join(found.problems))
    return found.prepared


def inspect(run: RunConfig) -> Inspection:
    """Look at everything and go on after a problem, so that all of them are seen at once."""
    problems: list[str] = []
    student = _attempt(problems, lambda: open_model("student", run.student.model))
    teacher = _attempt(problems, lambda: open_model("teacher", run.teacher.model))
    data = _attempt(problems, lambda: read_dataset(run.dataset))
    memory, rows, draws, held_out = None, (), None, None
    if student is not None and teacher is not None:
        problems += pair_problems(student, teacher, thinking=run.lengths.thinking)
        problems += context_problems(student, teacher, run.context_tokens)
        problems += top_k_problems(student, teacher, run.objective.top_k)
        if run.teacher.engine == "vllm":
            problems += scoring_problems(student, teacher, run.context_tokens)
        memory = _attempt(problems, lambda: _memory(run, student, teacher))
        problems += [] if memory is None else memory_problems(run, memory)
    if data is not None:
        draws = _attempt(problems, lambda: _schedule(run, data.rows))
        problems += [] if teacher is None else manifest_problems(run, data.manifest, teacher)
    if data is not None and student is not None:
        rows = with_prompts(data.rows, student, thinking=run.lengths.thinking)
        problems += prompt_length_problems(rows, run.lengths.max_prompt_tokens)
    if student is not None:
        held_out = _attempt(problems, lambda: read_held_out(run.evaluation, student))
        problems += held_out_problems(held_out, run.context_tokens)
    table = "" if memory is None else memory_table(memory)
    if problems or student is None or teacher is None or data is None or memory is None or draws is None:
        return Inspection(problems=tuple(problems), prepared=None, table=table)
    prepared = Prepared(
        run=run, fingerprint=_fingerprint(run, data.manifest, student, teacher, held_out), manifest=data.manifest,
        student=student, teacher=teacher, shared_vocab=shared_vocabulary(student, teacher), rows=rows, schedule=draws,
        memory=memory, held_out=held_out,
    )  # fmt: skip
    return Inspection(problems=(), prepared=prepared, table=table)


def report(prepared: Prepared) -> str:
    """A few lines on what the run will do."""
    run, rows, draws = prepared.run, prepared.rows, prepared.schedule
    longest = max(len(row.prompt_ids) for row in rows)
    rollouts = draws.draws * draws.rollouts_per_prompt
    last = len(draws.step(draws.steps - 1))
    mass = sum(row.weight for row in rows)
    lines = [
        f"run        {prepared.fingerprint}",
        f"rows       {len(rows):,} of {run.dataset.config}/{run.dataset.split}, {len(draws.kept):,} of them drawn from",
        f"weights    soft mass {mass:,.1f}, mean {mass / len(rows):.3f}, {sum(row.weight == 0 for row in rows):,} rows at 0",
        f"steps      {draws.steps:,}: {draws.draws:,} draws, {draws.prompts_per_step} prompts a step, {last} in the last,"
        f" {draws.warmup_steps} of warm-up",
        f"tokens     at most {rollouts * (longest + run.lengths.max_response_tokens):,} in {rollouts:,} rollouts"
        f" (prompts up to {longest:,}, responses up to {run.lengths.max_response_tokens:,})",
        f"KV cache   {prepared.memory.full_sequences:,} sequences of {run.context_tokens:,} tokens in one engine",
    ]
    coefficient = run.objective.reference_kl_coefficient
    if coefficient:
        lines.append(
            f"reference  the student's start, frozen, in {run.engine.dtype}; KL coefficient {coefficient:g}"
        )
    if run.teacher.engine == "vllm":
        lines.append(f"teacher    {teacher_warning(run) or 'in a vLLM engine, by prompt_logprobs'}")
    chosen = prompt_weight(run)
    if chosen is not None and run.objective.prompt_weight is not None:
        weight = chosen(columns(rows)).weight
        kind = run.objective.prompt_weight.kind
        lines.insert(3, f"           {kind} mass {weight.sum():,.1f}, mean {weight.mean():.3f}")
    return "\n".join(lines)


def teacher_warning(run: RunConfig) -> str | None:
    """What it costs that the vLLM teacher was forced to a large k, where it was."""
    k = run.objective.top_k
    if run.teacher.engine == "in_process" or (k != "full" and k <= VLLM_TOP_K):
        return None
    return (
        f"teacher.force: top_k {k} in a vLLM engine, where every entry of every token passes through Python; the cost of"
        " in_process hardly grows with k"
    )


def _attempt(problems: list[str], call: Callable[[], T]) -> T | None:
    """What the call gives; None when it raises a `UserError`, whose lines become problems."""
    try:
        return call()
    except UserError as error:
        problems += str(error).splitlines()
        return None


def _memory(run: RunConfig, student: ModelFiles, teacher: ModelFiles) -> MemoryPlan:
    return memory_plan(run, read_shape(student.folder), read_shape(teacher.folder))


def _schedule(run: RunConfig, rows: Sequence[Row]) -> Schedule:
    chosen, given = prompt_weight(run), columns(rows)
    kept = Uniform()(given).kept if chosen is None else chosen(given).kept
    return schedule(run, given.ids, kept.tolist())


def _fingerprint(
    run: RunConfig,
    manifest: Manifest,
    student: ModelFiles,
    teacher: ModelFiles,
    held_out: HeldOut | None,
) -> str:
    """Identity of the run's result: settings, prompt, both models' files, the dataset, and the problems it is measured on."""
    return fingerprint(
        stage="distill",
        version=FULL_VERSION if run.objective.top_k == "full" else VERSION,
        settings=run.identity(),
        prompts=(load_prompt(PROMPT).fingerprint,),
        models=tuple(model_identity(str(model.folder), None, PROJECT_ROOT) for model in (student, teacher)),
        inputs=(manifest.fingerprint, *(() if held_out is None else (held_out.digest,))),
    )
