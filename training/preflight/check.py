"""Check a run before any GPU is used: its data, models, schedule of draws, memory and disk, with every problem found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prompts import load_prompt
from tasks.config import PROJECT_ROOT
from tasks.errors import UserError, attempt
from tasks.identity import fingerprint
from tasks.llm.model_identity import model_identity
from tasks.text import counted, visible
from training.config import RunConfig, project_path, run_folder
from training.data.clusters import Clusters, clusters_digest
from training.data.demonstrations import Demonstrations
from training.data.drawn_responses import DrawnResponses
from training.data.model_files import PROMPT, ModelFiles, given_template, open_model
from training.data.references import Need, References
from training.data.routing import Annotations, Routing
from training.data.rows import Dataset, TrainingRow, columns, prompts_digest, rows_digest
from training.data.sampler import Schedule
from training.data.sources import read_data
from training.evaluation.held_out import HeldOut, held_out_of, held_out_problems, read_held_out
from training.plan import RunPlan, resolve
from training.preflight.algorithm_checks import algorithm_problems, teacher_warning
from training.preflight.data_checks import Prompts, TrainingData, read_training_data, uses
from training.preflight.disk import DiskPlan, disk_line, disk_plan, disk_problems, probe_output
from training.preflight.memory import MemoryPlan, memory_plan, memory_problems, memory_table, scores_by_vllm
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
from training.preflight.reporting import reporter_problems, stopping_lines
from training.preflight.shapes import ModelDimensions, count_active, count_parameters, read_dimensions

VERSION = 4  # of the training stage: raise it when the same settings produce a different student


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that passed every check. `dataset` is what it trains on; `schedule` draws indices into `rows`; the logits of all
    models are cut to `shared_vocab`; a response ends with one of `end_tokens`. `teachers`: none, one or several, in the order of
    the plan's. `views`: the prompts of the rows in each view that a scorer has, besides the plain one. `references`, `responses`,
    `demonstrations`: of the rows, None if the algorithm uses none. `clusters`: of the teacher's answers to each row, empty
    without answer shares. `annotations`, `routing`: of several teachers, None with one. `left_out`: number of rows or responses
    that it cannot use, by reason."""

    plan: RunPlan
    fingerprint: str
    dataset: Dataset
    student: ModelFiles
    teachers: tuple[ModelFiles, ...]
    shared_vocab: int
    end_tokens: tuple[int, ...]
    rows: tuple[TrainingRow, ...]
    schedule: Schedule
    memory: MemoryPlan
    disk: DiskPlan
    held_out: HeldOut | None  # problems to evaluate the student on, if any
    views: Mapping[str, Prompts] = field(default_factory=dict)
    references: References | None = None
    responses: DrawnResponses | None = None
    demonstrations: Demonstrations | None = None
    clusters: tuple[Clusters, ...] = ()
    annotations: Annotations | None = None
    routing: Routing | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def run(self) -> RunConfig:
        """The settings of the run."""
        return self.plan.run

    @property
    def teacher_files(self) -> ModelFiles:
        """The teacher of a run that has one teacher."""
        if len(self.teachers) != 1:
            raise ValueError(f"this run has {len(self.teachers)} teachers, not one")
        return self.teachers[0]

    def prompts(self, view: str) -> Prompts:
        """Return the token ids of each row's prompt in a view."""
        return tuple(row.prompt_ids for row in self.rows) if view == "plain" else self.views[view]

    def label(self, row: int) -> str:
        """Return the answer that rollouts for a row are graded against."""
        label = None if self.references is None else self.references.rows[row].label
        if label is None:
            raise ValueError(f"row {self.rows[row].id} has no label")
        return label


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
    problems, models, memory = found.problems, found.models, found.models.memory
    run_fingerprint = None
    data = found.data
    if not problems and found.plan is not None and models.student is not None and data is not None:
        run_fingerprint = _fingerprint(found.plan, found, data, models.student)
    disk = None
    if found.output is not None and models.dims is not None:
        disk = _disk(problems, run, models.dims, found.output, run_fingerprint)
    table = "" if memory is None else memory_table(memory)
    if problems or not (run_fingerprint and data and data.schedule and memory and disk):
        return Inspection(problems=tuple(dict.fromkeys(problems)), prepared=None, table=table)
    assert found.plan is not None and models.student is not None  # else there were problems
    prepared = Prepared(
        plan=found.plan, fingerprint=run_fingerprint, dataset=data.dataset, student=models.student,
        teachers=models.teachers, shared_vocab=shared_vocabulary(models.student, *models.teachers),
        end_tokens=run_end_tokens(models.student, models.teachers, run.prompt), rows=data.rows, schedule=data.schedule,
        memory=memory, disk=disk, held_out=found.held_out, views=data.views, references=data.references,
        responses=data.responses, demonstrations=data.demonstrations, clusters=data.clusters, left_out=data.left_out,
        annotations=data.annotations, routing=data.routing,
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


@dataclass(slots=True, kw_only=True)
class _Found:
    """Whatever could be read of a run. `output`: its output folder or that folder's nearest parent."""

    problems: list[str]
    plan: RunPlan | None
    output: Path | None
    models: _Models
    held_out: HeldOut | None = None
    data: TrainingData | None = None


def _find(run: RunConfig, *, has_data: bool) -> _Found:
    """Read models, dataset (if `has_data`) and held-out problems, with all their problems."""
    problems: list[str] = []
    plan = attempt(problems, lambda: resolve(run))
    problems += [] if plan is None else algorithm_problems(plan)
    problems += reporter_problems(run.report_to)
    output = attempt(problems, lambda: probe_output(run))
    models = _Models() if plan is None else _models(problems, plan)
    found = _Found(problems=problems, plan=plan, output=output, models=models)
    student = models.student
    if has_data or run.dataset.source is not None:
        data = attempt(problems, lambda: read_data(run.dataset))
        if plan is not None and data is not None:
            found.data = read_training_data(problems, plan, data, student, models.teachers)
    if student is not None:
        found.held_out = attempt(problems, lambda: _held_out(run, student, found.data))
        problems += held_out_problems(found.held_out, run.lengths)
    return found


def report(prepared: Prepared) -> str:
    """Return a summary of the run, a few lines of text."""
    run, rows, schedule = prepared.run, prepared.rows, prepared.schedule
    longest = max(len(row.prompt_ids) for row in rows)
    rollouts = schedule.total_prompts * schedule.group_size
    last = len(schedule.step(schedule.steps - 1))
    weighted = [row.weight for row in rows if row.weight is not None]
    lines = [
        f"run        {prepared.fingerprint}",
        f"algorithm  {run.algorithm.name}: {prepared.plan.algorithm.summary}",
        f"rows       {len(rows):,} in {prepared.dataset.name}, {len(schedule.kept):,} used for sampling",
        f"weights    {_weights_line(weighted)}",
        f"steps      {schedule.steps:,}: {schedule.total_prompts:,} draws, {schedule.prompts_per_step} prompts per step, {last}"
        " in the last,"
        f" {schedule.updates:,} updates, {schedule.warmup_updates} of them warm-up",
        f"tokens     at most {rollouts * (longest + run.lengths.max_response_tokens):,} in {rollouts:,} rollouts"
        f" (prompts up to {longest:,}, responses up to {run.lengths.max_response_tokens:,})",
        f"ends       {_end_line(prepared)}",
        f"KV cache   {prepared.memory.full_sequences:,} sequences of {run.context_tokens:,} tokens per rollout engine",
        f"disk       {disk_line(prepared.disk)}",
    ]
    lines += stopping_lines(run, most_tokens=rollouts * run.lengths.max_response_tokens)
    lines += data_lines(prepared)
    if prepared.plan.has_reference:
        lines.append(f"reference  the frozen initial student, in {run.trainer.dtype}")
    if scores_by_vllm(prepared.plan):
        warning = teacher_warning(prepared.plan)
        lines.append(f"teacher    {warning or 'in a vLLM engine, through prompt_logprobs'}")
    for teacher in prepared.teachers:
        lines += _experts_line(read_dimensions(teacher.folder))
    if run.algorithm.prompt_weight is not None:
        weight = prepared.plan.algorithm.prompt_weight(columns(rows)).weight
        kind = run.algorithm.prompt_weight.kind
        lines.insert(4, f"           sum of {kind} weights {weight.sum():,.1f}, mean {weight.mean():.3f}")
    return "\n".join(lines)


def data_lines(prepared: Prepared) -> list[str]:
    """Return what was left out, held out and recognised in the dataset, and what is used of it besides the problems."""
    lines = [f"left out   {count:,} {what}" for what, count in prepared.left_out.items()]
    lines += [f"note       {visible(one)}" for one in prepared.dataset.notices]
    if prepared.run.dataset.held_out and prepared.held_out is not None:
        lines.append(f"held out   {counted(len(prepared.held_out.ids), 'problem')}, evaluated only")
    if prepared.responses is not None:
        lines.append(f"responses  {prepared.responses.source}")
    if prepared.references is not None:
        lines += [_sources_line(prepared.references, need) for need in uses(prepared.plan)]
    lines += [] if prepared.routing is None else _routing_lines(prepared.routing)
    return lines


def _routing_lines(routing: Routing) -> list[str]:
    return [
        f"teacher    {name}: {one['share']:.1%} of the prompts"
        + (f", mean weight {one['weight']:.3f}" if "weight" in one else "")
        for name, one in routing.summary().items()
    ]


def _sources_line(references: References, need: Need) -> str:
    counts = ", ".join(f"{count:,} {source}" for source, count in references.sources(need).items())
    return f"{need + 's':<10} {counts}"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Models:
    """Whatever could be read of student and teachers. `dims`: the student's dimensions."""

    student: ModelFiles | None = None
    teachers: tuple[ModelFiles, ...] = ()
    dims: ModelDimensions | None = None
    memory: MemoryPlan | None = None


def _models(problems: list[str], plan: RunPlan) -> _Models:
    """Open the checkpoints and compare them with each other and with the run."""
    run = plan.run
    student = attempt(problems, lambda: open_model("student", run.student.model, run.prompt))
    teachers = _teachers(problems, plan)
    dims, scoring = _dimensions(problems, student), [_dimensions(problems, one) for one in teachers]
    memory = None
    if student is not None:
        problems += end_token_problems(student, run.prompt)
        problems += context_problems(student, run.context_tokens)
        problems += [] if dims is None else student_problems(student, dims)
        for settings, teacher in zip(plan.teachers, teachers, strict=False):
            _compare(problems, plan, student, teacher, by_vllm=settings.backend == "vllm")
    known = [one for one in scoring if one is not None]
    complete = len(known) == max(len(plan.teachers), plan.has_teacher)
    if dims is not None and dims.experts is None and complete:
        memory = attempt(problems, lambda: memory_plan(plan, dims, *known))
        problems += [] if memory is None else memory_problems(run, memory)
    return _Models(student=student, teachers=teachers, dims=dims, memory=memory)


def _teachers(problems: list[str], plan: RunPlan) -> tuple[ModelFiles, ...]:
    """Open the teachers' checkpoints; none if one of them cannot be opened."""
    opened = [
        attempt(problems, lambda name=name, one=one: open_model(name, one.model, plan.run.prompt))
        for name, one in zip(plan.teacher_names, plan.teachers, strict=True)
    ]
    found = tuple(one for one in opened if one is not None)
    return found if len(found) == len(opened) else ()


def _compare(
    problems: list[str], plan: RunPlan, student: ModelFiles, teacher: ModelFiles, *, by_vllm: bool
) -> None:
    """Add the reasons why the teacher cannot score the student's rollouts."""
    run = plan.run
    thinking, day = run.lengths.thinking, run.prompt.date
    problems += attempt(problems, lambda: pair_problems(student, teacher, thinking=thinking, day=day)) or []
    problems += context_problems(teacher, run.context_tokens)
    problems += top_k_problems(student, teacher, plan.top_k)
    problems += scoring_problems(student, teacher, run.context_tokens) if by_vllm else []


def _dimensions(problems: list[str], model: ModelFiles | None) -> ModelDimensions | None:
    """Return the model's dimensions if its weight files match them, else None."""
    dims = None if model is None else attempt(problems, lambda: read_dimensions(model.folder))
    if model is None or dims is None:
        return None
    differing = tensor_problems(model, dims)
    problems += differing
    return None if differing else dims


def _held_out(run: RunConfig, student: ModelFiles, data: TrainingData | None) -> HeldOut | None:
    thinking, day = run.lengths.thinking, run.prompt.date
    if run.evaluation is not None and data is not None and data.held_out:
        rows = [{"id": row.id, "problem": row.text, "answer": row.answer or ""} for row in data.held_out]
        return held_out_of(rows, run.evaluation, student, thinking=thinking, day=day)
    return read_held_out(run.evaluation, student, thinking=thinking, day=day)


def _disk(
    problems: list[str], run: RunConfig, dims: ModelDimensions, output: Path, run_fingerprint: str | None
) -> DiskPlan:
    """Return the disk plan of the run; `run_fingerprint` is the run's fingerprint, if known."""
    plan = disk_plan(
        run, dims, output, None if run_fingerprint is None else run_folder(run.output, run_fingerprint)
    )
    problems += disk_problems(run, plan)
    return plan


def _fingerprint(plan: RunPlan, found: _Found, data: TrainingData, student: ModelFiles) -> str:
    """Return the fingerprint of the run: its settings, the prompt and the chat template, the models' files, the dataset, its rows
    and their prompts, what its algorithm uses besides, and the held-out problems."""
    measured = () if found.held_out is None else (found.held_out.digest,)
    template = given_template(plan.run.prompt)
    used = () if data.references is None else (data.references.digest(uses(plan)),)
    used += () if data.responses is None else (data.responses.digest,)
    used += () if data.demonstrations is None else (data.demonstrations.digest,)
    used += (clusters_digest(data.clusters),) if data.clusters else ()
    used += () if data.routing is None else (data.routing.digest(),)
    models = [student, *found.models.teachers]
    return fingerprint(
        stage="distill",
        version=VERSION,
        settings=plan.identity(),
        prompts=(load_prompt(PROMPT).fingerprint, *(() if template is None else (template,))),
        models=tuple(model_identity(str(model.folder), None, PROJECT_ROOT) for model in models),
        inputs=(
            data.dataset.fingerprint,
            rows_digest(data.rows),
            prompts_digest(data.rows),
            *used,
            *measured,
        ),
    )
