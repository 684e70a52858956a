"""Read and check what a run trains on: its rows with prompts, and what its algorithm needs of them besides."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tasks.errors import UserError, attempt
from training.config import RunConfig
from training.data.clusters import Clusters, read_clusters
from training.data.demonstrations import Demonstrations, make_demonstrations
from training.data.drawn_responses import DrawnResponses, read_responses
from training.data.model_files import ModelFiles
from training.data.references import Need, References, read_references, reference_problems
from training.data.routing import Annotations, Routing, read_annotations, route
from training.data.rows import (
    Dataset,
    TrainingRow,
    columns,
    manifest_problems,
    prompt_length_problems,
    with_prompts,
)
from training.data.sampler import Schedule, schedule
from training.data.sources import hold_out
from training.data.views import long_prompt_problems, long_prompts, view_prompts
from training.plan import RunPlan
from training.preflight.model_checks import run_end_tokens

Prompts = tuple[tuple[int, ...], ...]
"""The token ids of each row's prompt."""


@dataclass(slots=True, kw_only=True)
class TrainingData:
    """What could be read. `rows`: those that are trained on, with prompts; `held_out`: those that the student is evaluated on;
    `left_out`: number of rows or responses that cannot be used, by reason. `references`, `views`, `demonstrations`, `clusters`
    and, with several teachers, `routing` are those of `rows`; `annotations`: the datasets of the teachers."""

    dataset: Dataset
    rows: tuple[TrainingRow, ...]
    held_out: tuple[TrainingRow, ...] = ()
    references: References | None = None
    responses: DrawnResponses | None = None
    demonstrations: Demonstrations | None = None
    clusters: tuple[Clusters, ...] = ()
    annotations: Annotations | None = None
    routing: Routing | None = None
    views: Mapping[str, Prompts] = field(default_factory=dict)
    schedule: Schedule | None = None
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def used(self) -> Dataset:
        """The dataset with the rows that are trained on only."""
        return replace(self.dataset, rows=self.rows)

    def drop(self, indices: Collection[int]) -> None:
        """Remove rows."""
        gone = set(indices)
        kept = [index for index in range(len(self.rows)) if index not in gone]
        self.rows = tuple(self.rows[index] for index in kept)
        self.views = {view: tuple(prompts[index] for index in kept) for view, prompts in self.views.items()}
        if self.references is not None:
            self.references = self.references.select(kept)
        if self.routing is not None:
            self.routing = self.routing.select(kept)


def needs(plan: RunPlan) -> tuple[Need, ...]:
    """Return what the plan needs of every row's reference."""
    return (*(("label",) if plan.needs_labels else ()), *(("solution",) if plan.needs_solutions else ()))


def uses(plan: RunPlan) -> tuple[Need, ...]:
    """Return what the plan needs of every row's reference, and what it uses where a row has it."""
    return tuple(dict.fromkeys((*needs(plan), *(("solution",) if plan.algorithm.demonstrations else ()))))


def read_training_data(
    problems: list[str],
    plan: RunPlan,
    data: Dataset,
    student: ModelFiles | None,
    teachers: Sequence[ModelFiles],
) -> TrainingData:
    """Read what the plan needs of the dataset, and add every problem to `problems`."""
    settings = plan.run.dataset
    found = TrainingData(dataset=data, rows=data.rows, left_out=dict(data.left_out))
    if plan.is_routed:
        found.annotations = attempt(problems, lambda: read_annotations(plan.run, data))
    _manifests(problems, plan, found, teachers)
    if settings.held_out:
        attempt(problems, lambda: _hold_out(found, settings.held_out))
    if found.annotations is not None:
        attempt(problems, lambda: _route(plan, found))
    _references(problems, plan, found)
    if not plan.samples and student is not None:
        _responses(problems, plan, found, student, teachers)
    if found.rows and student is not None:
        _prompts(problems, plan, found, student)
    if found.references is not None and not problems:
        models = {"teacher": teachers, "reference": () if student is None else (student,)}
        attempt(problems, lambda: _views(problems, plan, found, models))
    if found.rows and student is not None:
        _answers(problems, plan, found, run_end_tokens(student, teachers, plan.run.prompt)[0], student)
    if found.rows:
        found.schedule = attempt(problems, lambda: _schedule(plan, found.rows))
    return found


def _manifests(
    problems: list[str], plan: RunPlan, found: TrainingData, teachers: Sequence[ModelFiles]
) -> None:
    """Check that each teacher made the annotation that its weights come from."""
    if not plan.is_routed:
        for teacher in teachers:
            problems += manifest_problems(plan.run, found.dataset, teacher)
        return
    datasets = () if found.annotations is None else found.annotations.datasets
    for teacher, dataset in zip(teachers, datasets, strict=False):
        if dataset is not None:
            problems += [f"{teacher.role}: {one}" for one in manifest_problems(plan.run, dataset, teacher)]
        elif not plan.run.dataset.allow_mismatch:
            problems.append(
                f"{teacher.role}: it is not known which teacher the column of its weights was made with: set"
                " dataset.allow_mismatch to use it, or annotation"
            )


def _route(plan: RunPlan, found: TrainingData) -> None:
    assert found.annotations is not None
    found.rows, found.routing = route(plan.run, found.rows, found.annotations)


def _hold_out(found: TrainingData, count: int) -> None:
    rows = found.rows
    found.rows, found.held_out = hold_out(rows, count)
    twice = len(rows) - len(found.rows) - len(found.held_out)
    if twice:
        found.left_out["rows with the text of a held-out problem"] = twice


def _references(problems: list[str], plan: RunPlan, found: TrainingData) -> None:
    """Read the labels and solutions that the plan uses; leave out the rows without those that it needs."""
    required, settings = needs(plan), plan.run.dataset
    if not uses(plan):
        return
    references = attempt(problems, lambda: read_references(found.used, settings, uses(plan)))
    if references is None:
        return
    problems += reference_problems(found.rows, references, required, settings.without)
    found.references = references
    gone = references.left_out(required)
    found.drop(gone.indices)
    found.left_out |= {f"rows {reason}": count for reason, count in gone.reasons.items()}


def _responses(
    problems: list[str],
    plan: RunPlan,
    found: TrainingData,
    student: ModelFiles,
    teachers: Sequence[ModelFiles],
) -> None:
    """Read the dataset's responses; leave out the rows that have none to train on."""
    end, limit = run_end_tokens(student, teachers, plan.run.prompt)[0], plan.run.lengths.max_response_tokens
    split = plan.run.dataset.split
    responses = attempt(problems, lambda: read_responses(found.used, split, student.tokenizer, end, limit))
    if responses is None:
        return
    found.responses = responses
    found.drop([index for index, row in enumerate(found.rows) if row.id not in responses.by_row])
    found.left_out |= responses.left_out
    if not found.rows:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in responses.left_out.items())
        problems.append(f"no row has a response to train on: {reasons}: choose another dataset")


def _prompts(problems: list[str], plan: RunPlan, found: TrainingData, student: ModelFiles) -> None:
    """Give every row its prompt, and refuse or leave out rows whose prompts are too long."""
    run, limit = plan.run, plan.run.lengths.max_prompt_tokens

    def prompted(rows: Sequence[TrainingRow]) -> tuple[TrainingRow, ...]:
        thinking, day = run.lengths.thinking, run.prompt.date
        return attempt(problems, lambda: with_prompts(rows, student, thinking=thinking, day=day)) or ()

    found.rows, held_out = prompted(found.rows), prompted(found.held_out)
    if run.dataset.without == "refuse":
        problems += prompt_length_problems(found.rows, limit)
        return
    reason = f"with a prompt of more than lengths.max_prompt_tokens ({limit:,})"
    _leave_out_long(problems, found, long_prompts([row.prompt_ids for row in found.rows], 0, limit), reason)
    found.held_out = tuple(row for row in held_out if len(row.prompt_ids) <= limit)
    if long := len(held_out) - len(found.held_out):
        found.left_out[f"held-out problems {reason}"] = long
    if held_out and not found.held_out:
        problems.append(f"dataset.held_out chose only problems {reason}: raise it")


def _views(
    problems: list[str], plan: RunPlan, found: TrainingData, models: Mapping[str, Sequence[ModelFiles]]
) -> None:
    """Make the prompts of every view that a scorer has, and refuse or leave out rows whose prompts are too long."""
    run = plan.run
    for one in plan.passes:
        scorers = models[one.worker]
        if one.view == "plain" or not scorers or found.references is None:
            continue
        made = [_view(run, one.view, found, model) for model in scorers]
        other = next((model for model, own in zip(scorers, made, strict=True) if own != made[0]), None)
        if other is not None:
            problems.append(
                f"{scorers[0].role} and {other.role} build different prompts in the view {one.view}, because their chat templates"
                " differ: set prompt.chat_template, or choose teachers with the same template"
            )
            continue
        limit = min(run.trainer.micro_batch_tokens, *(model.max_positions for model in scorers))
        smallest = min(scorers, key=lambda model: model.max_positions)
        name = f"the context of {smallest.role}.model, or trainer.micro_batch_tokens"
        found.views = {**found.views, one.view: made[0]}
        length = run.lengths.max_response_tokens
        if run.dataset.without == "refuse":
            problems += long_prompt_problems(
                found.rows, made[0], one.view, response_tokens=length, limit=limit, limit_name=name
            )
            continue
        long = long_prompts(made[0], length, limit)
        reason = f"with a prompt in the view {one.view} and a response of more than {name} ({limit:,})"
        _leave_out_long(problems, found, long, reason)


def _view(run: RunConfig, view: str, found: TrainingData, model: ModelFiles) -> Prompts:
    assert found.references is not None
    thinking, day = run.lengths.thinking, run.prompt.date
    return tuple(view_prompts(model, view, found.rows, found.references, thinking=thinking, day=day))


def _answers(
    problems: list[str], plan: RunPlan, found: TrainingData, end_token: int, student: ModelFiles
) -> None:
    """Read the clusters and make the demonstrations that the plan uses."""
    if plan.algorithm.answer_shares:
        found.clusters = attempt(problems, lambda: read_clusters(found.rows, plan.run.dataset)) or ()
    if plan.algorithm.demonstrations and found.references is not None:
        limit = plan.run.lengths.max_response_tokens
        found.demonstrations = make_demonstrations(found.references, student.tokenizer, end_token, limit)
        found.left_out |= found.demonstrations.left_out


def _leave_out_long(problems: list[str], found: TrainingData, long: Sequence[int], reason: str) -> None:
    if not long:
        return
    found.drop(long)
    found.left_out[f"rows {reason}"] = len(long)
    if not found.rows:
        problems.append(f"no row is left to train on, but {len(long):,} {reason}: raise this limit")


def _schedule(plan: RunPlan, rows: Sequence[TrainingRow]) -> Schedule:
    """Return the schedule of draws. Raises `UserError` if all prompt weights are 0, or the dataset lacks what they need."""
    given = columns(rows)
    weights = plan.algorithm.prompt_weight(given)
    if not weights.weight.any():
        raise UserError(
            "all prompts have weight 0, so nothing would be trained: choose another algorithm.prompt_weight (uniform needs no"
            " weights), or annotate the dataset again"
        )
    return schedule(plan.run, given.ids, weights.kept.tolist(), plan.updates_per_batch)
