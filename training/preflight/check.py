"""Check a run before any GPU is used: its data, models, schedule of draws, memory and disk, with every problem found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prompts import load_prompt
from tasks.config import PROJECT_ROOT
from tasks.errors import UserError, attempt
from tasks.identity import fingerprint
from tasks.llm.model_identity import model_identity
from training.config import VLLM_TOP_K, RunConfig, project_path, run_folder
from training.data.model_files import PROMPT, ModelFiles, given_template, open_model
from training.data.rows import (
    Dataset,
    TrainingRow,
    columns,
    manifest_problems,
    prompt_length_problems,
    prompt_weight,
    prompts_digest,
    read_dataset,
    rows_digest,
    with_prompts,
)
from training.data.sampler import Schedule, schedule
from training.evaluation.held_out import HeldOut, held_out_problems, read_held_out
from training.losses.prompt_weights import PromptWeight, Soft
from training.preflight.disk import DiskPlan, disk_line, disk_plan, disk_problems, probe_output
from training.preflight.memory import MemoryPlan, memory_plan, memory_problems, memory_table
from training.preflight.model_checks import (
    context_problems,
    end_token_problems,
    pair_problems,
    run_end_tokens,
    scoring_problems,
    shared_vocabulary,
    student_problems,
    tensor_problems,
    top_k_problems,
)
from training.preflight.shapes import ModelDimensions, count_active, count_parameters, read_dimensions

VERSION = 1  # of the training stage: raise it when the same settings produce a different student
FULL_VERSION = 2  # the version of runs on the teacher's full distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that passed every check. `dataset` is the fingerprint of its dataset; `schedule` draws indices into `rows`; both
    models' logits are cut to `shared_vocab`; a response ends with one of `end_tokens`."""

    run: RunConfig
    fingerprint: str
    dataset: str
    student: ModelFiles
    teacher: ModelFiles
    shared_vocab: int
    end_tokens: tuple[int, ...]
    rows: tuple[TrainingRow, ...]
    schedule: Schedule
    memory: MemoryPlan
    disk: DiskPlan
    held_out: HeldOut | None  # problems to evaluate the student on, if any


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The result of `inspect`: `problems` (one sentence each), `prepared` (None if there are problems) and `table`, the memory
    plan as text (empty if it could not be computed)."""

    problems: tuple[str, ...]
    prepared: Prepared | None
    table: str


def prepare(run: RunConfig) -> Prepared:
    """Return the checked run. Raises `UserError` with one line per problem."""
    found = inspect(run)
    if found.prepared is None:
        raise UserError("\n".join(found.problems))
    return found.prepared


def inspect(run: RunConfig) -> Inspection:
    """Run every check and continue after a failed one, so that all problems are reported at once."""
    found = _find(run, has_data=True)
    problems, data, models = found.problems, found.data, found.models
    student, teacher, dims, memory = models.student, models.teacher, models.dims, models.memory
    run_fingerprint = None
    if not problems and student is not None and teacher is not None and data is not None:
        run_fingerprint = _fingerprint(run, found, data, student, teacher)
    disk = None
    if found.output is not None and dims is not None:
        disk = _disk(problems, run, dims, found.output, run_fingerprint)
    table = "" if memory is None else memory_table(memory)
    if problems or not (
        student and teacher and data and found.schedule and memory and disk and run_fingerprint
    ):
        return Inspection(problems=tuple(dict.fromkeys(problems)), prepared=None, table=table)
    prepared = Prepared(
        run=run, fingerprint=run_fingerprint, dataset=data.fingerprint, student=student, teacher=teacher,
        shared_vocab=shared_vocabulary(student, teacher), end_tokens=run_end_tokens(student, teacher, run.prompt),
        rows=found.rows, schedule=found.schedule, memory=memory, disk=disk, held_out=found.held_out,
    )  # fmt: skip
    return Inspection(problems=(), prepared=prepared, table=table)


def early_problems(run: RunConfig, *, has_data: bool) -> tuple[str, ...]:
    """Return all problems of a run that is not about to start, without hashing the student's weights.

    `has_data`: whether the dataset exists; a build makes it first. Of the disk space, whatever is in the output folder counts
    as available, since it is not known yet which run's files are replaced.
    """
    found = _find(run, has_data=has_data)
    problems, dims = found.problems, found.models.dims
    if found.output is not None and dims is not None:
        problems += disk_problems(run, disk_plan(run, dims, found.output, project_path(run.output)))
    return tuple(dict.fromkeys(problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """Whatever could be read of a run. `output`: its output folder or that folder's nearest parent."""

    problems: list[str]
    output: Path | None
    models: _Models
    data: Dataset | None
    rows: tuple[TrainingRow, ...]
    schedule: Schedule | None
    held_out: HeldOut | None


def _find(run: RunConfig, *, has_data: bool) -> _Found:
    """Read models, dataset (if `has_data`) and held-out problems, with all their problems."""
    problems: list[str] = []
    output = attempt(problems, lambda: probe_output(run))
    models = _models(problems, run)
    student, teacher = models.student, models.teacher
    data = attempt(problems, lambda: read_dataset(run.dataset)) if has_data else None
    rows, schedule, held_out = (), None, None
    if data is not None:
        schedule = attempt(problems, lambda: _schedule(run, data.rows))
        problems += [] if teacher is None else manifest_problems(run, data, teacher)
    if student is not None:
        rows = () if data is None else attempt(problems, lambda: _training_rows(run, data, student)) or ()
        problems += prompt_length_problems(rows, run.lengths.max_prompt_tokens)
        held_out = attempt(problems, lambda: _held_out(run, student))
        problems += held_out_problems(held_out, run.lengths)
    return _Found(
        problems=problems,
        output=output,
        models=models,
        data=data,
        rows=rows,
        schedule=schedule,
        held_out=held_out,
    )


def report(prepared: Prepared) -> str:
    """Return a summary of the run, a few lines of text."""
    run, rows, schedule = prepared.run, prepared.rows, prepared.schedule
    longest = max(len(row.prompt_ids) for row in rows)
    rollouts = schedule.total_prompts * schedule.group_size
    last = len(schedule.step(schedule.steps - 1))
    weighted = [row.weight for row in rows if row.weight is not None]
    lines = [
        f"run        {prepared.fingerprint}",
        f"rows       {len(rows):,} in {run.dataset.config}/{run.dataset.split}, {len(schedule.kept):,} used for sampling",
        f"weights    {_weights_line(weighted)}",
        f"steps      {schedule.steps:,}: {schedule.total_prompts:,} draws, {schedule.prompts_per_step} prompts per step, {last}"
        " in the last,"
        f" {schedule.warmup_steps} warm-up steps",
        f"tokens     at most {rollouts * (longest + run.lengths.max_response_tokens):,} in {rollouts:,} rollouts"
        f" (prompts up to {longest:,}, responses up to {run.lengths.max_response_tokens:,})",
        f"ends       {_end_line(prepared)}",
        f"KV cache   {prepared.memory.full_sequences:,} sequences of {run.context_tokens:,} tokens per rollout engine",
        f"disk       {disk_line(prepared.disk)}",
    ]
    coefficient = run.objective.reference_kl_coefficient
    if coefficient:
        lines.append(
            f"reference  the frozen initial student, in {run.trainer.dtype}; KL coefficient {coefficient:g}"
        )
    if run.teacher.backend == "vllm":
        lines.append(f"teacher    {teacher_warning(run) or 'in a vLLM engine, through prompt_logprobs'}")
    lines += _experts_line(read_dimensions(prepared.teacher.folder))
    chosen = prompt_weight(run)
    if chosen is not None and run.objective.prompt_weight is not None:
        weight = chosen(columns(rows)).weight
        kind = run.objective.prompt_weight.kind
        lines.insert(3, f"           sum of {kind} weights {weight.sum():,.1f}, mean {weight.mean():.3f}")
    return "\n".join(lines)


def _weights_line(weights: Sequence[float]) -> str:
    if not weights:
        return "none in the dataset"
    mass, zero = sum(weights), sum(weight == 0 for weight in weights)
    return f"sum of weights {mass:,.1f}, mean {mass / len(weights):.3f}, {zero:,} rows with weight 0"


def _end_line(prepared: Prepared) -> str:
    names = prepared.student.tokenizer.convert_ids_to_tokens(list(prepared.end_tokens))
    return "a response ends with " + " or ".join(
        f"{name} ({number})" for name, number in zip(names, prepared.end_tokens, strict=True)
    )


def _experts_line(teacher: ModelDimensions) -> list[str]:
    if teacher.experts is None:
        return []
    total, active = (count(teacher) / 1e9 for count in (count_parameters, count_active))
    return [
        f"teacher    {teacher.experts.count} experts per layer: {total:,.1f} billion parameters in memory, {active:,.1f} billion"
        " used per token"
    ]


def teacher_warning(run: RunConfig) -> str | None:
    """Return a warning if `teacher.force` allows a vLLM teacher a top_k above VLLM_TOP_K, else None."""
    k = run.objective.top_k
    if run.teacher.backend == "in_process" or (k != "full" and k <= VLLM_TOP_K):
        return None
    return (
        f"teacher.force: top_k {k} in a vLLM engine is slow, because every entry of every token passes through Python; with"
        " in_process the cost hardly depends on k"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Models:
    """Whatever could be read of the two models. `dims`: the student's dimensions."""

    student: ModelFiles | None
    teacher: ModelFiles | None
    dims: ModelDimensions | None
    memory: MemoryPlan | None


def _models(problems: list[str], run: RunConfig) -> _Models:
    """Open both checkpoints and compare them with each other and with the run."""
    student = attempt(problems, lambda: open_model("student", run.student.model, run.prompt))
    teacher = attempt(problems, lambda: open_model("teacher", run.teacher.model, run.prompt))
    dims, scoring = _dimensions(problems, student), _dimensions(problems, teacher)
    memory = None
    if student is not None and teacher is not None:
        thinking, day = run.lengths.thinking, run.prompt.date
        problems += (
            attempt(problems, lambda: pair_problems(student, teacher, thinking=thinking, day=day)) or []
        )
        problems += end_token_problems(student, run.prompt)
        problems += context_problems(student, teacher, run.context_tokens)
        problems += top_k_problems(student, teacher, run.objective.top_k)
        if run.teacher.backend == "vllm":
            problems += scoring_problems(student, teacher, run.context_tokens)
    problems += [] if student is None or dims is None else student_problems(student, dims)
    if dims is not None and dims.experts is None and scoring is not None:
        memory = attempt(problems, lambda: memory_plan(run, dims, scoring))
        problems += [] if memory is None else memory_problems(run, memory)
    return _Models(student=student, teacher=teacher, dims=dims, memory=memory)


def _dimensions(problems: list[str], model: ModelFiles | None) -> ModelDimensions | None:
    """Return the model's dimensions if its weight files match them, else None."""
    dims = None if model is None else attempt(problems, lambda: read_dimensions(model.folder))
    if model is None or dims is None:
        return None
    differing = tensor_problems(model, dims)
    problems += differing
    return None if differing else dims


def _training_rows(run: RunConfig, data: Dataset, student: ModelFiles) -> tuple[TrainingRow, ...]:
    return with_prompts(data.rows, student, thinking=run.lengths.thinking, day=run.prompt.date)


def _held_out(run: RunConfig, student: ModelFiles) -> HeldOut | None:
    return read_held_out(run.evaluation, student, thinking=run.lengths.thinking, day=run.prompt.date)


def _disk(
    problems: list[str], run: RunConfig, dims: ModelDimensions, output: Path, run_fingerprint: str | None
) -> DiskPlan:
    """Return the disk plan of the run; `run_fingerprint` is the run's fingerprint, if known."""
    plan = disk_plan(
        run, dims, output, None if run_fingerprint is None else run_folder(run.output, run_fingerprint)
    )
    problems += disk_problems(run, plan)
    return plan


def _schedule(run: RunConfig, rows: Sequence[TrainingRow]) -> Schedule:
    """Return the schedule of draws. Raises `UserError` if all prompt weights are 0, or the dataset lacks what they need.

    A preset's own prompt weight would load torch; the soft weight is used in its place, unless the dataset has none.
    """
    given = columns(rows)
    weights = (prompt_weight(run) or (Soft() if given.weight is not None else _preset_weight(run)))(given)
    if not weights.weight.any():
        raise UserError(
            "all prompts have weight 0, so nothing would be trained: choose another objective.prompt_weight (uniform needs no"
            " weights), or annotate the dataset again"
        )
    return schedule(run, given.ids, weights.kept.tolist())


def _preset_weight(run: RunConfig) -> PromptWeight:
    from training.objectives.presets import load_preset

    return load_preset(run.objective.preset).prompt_weight


def _fingerprint(
    run: RunConfig, found: _Found, data: Dataset, student: ModelFiles, teacher: ModelFiles
) -> str:
    """Return the fingerprint of the run: its settings, the prompt and the chat template, both models' files, the dataset, its
    rows and their prompts, and the held-out problems."""
    measured = () if found.held_out is None else (found.held_out.digest,)
    template = given_template(run.prompt)
    return fingerprint(
        stage="distill",
        version=FULL_VERSION if run.objective.top_k == "full" else VERSION,
        settings=run.identity(),
        prompts=(load_prompt(PROMPT).fingerprint, *(() if template is None else (template,))),
        models=tuple(model_identity(str(model.folder), None, PROJECT_ROOT) for model in (student, teacher)),
        inputs=(data.fingerprint, rows_digest(data.rows), prompts_digest(found.rows), *measured),
    )
