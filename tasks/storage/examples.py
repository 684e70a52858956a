"""Join the tables of all stages into the exported rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from tasks.rows import Example, Flag, Problem, Response, Uncertainty, Verdict
from tasks.uncertainty.annotation import AnnotationRecipe

_UNCERTAINTY_COLUMNS = {field.name for field in fields(Uncertainty)} & {
    field.name for field in fields(Example)
}
ANNOTATION_COLUMNS = frozenset(_UNCERTAINTY_COLUMNS) | {
    "cluster_labels", "teacher_model", "teacher_prompt", "equivalence_judge_model", "equivalence_judge_prompt",
    "sampling_fingerprint", "annotation_fingerprint",
}  # fmt: skip
"""Columns of `Example` that come from the annotation; all others belong to the problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotated:
    """All tables about the exported problems, by problem id. `ancestors` contains every problem of every round."""

    problems: Sequence[Problem]
    splits: Mapping[str, str]
    ancestors: Mapping[str, Problem]
    verdicts: Mapping[str, Verdict]
    responses: Mapping[str, Sequence[Response]]
    uncertainties: Mapping[str, Uncertainty]
    flags: Mapping[str, Flag]
    recipe: AnnotationRecipe


def lineage(problem: Problem, ancestors: Mapping[str, Problem]) -> tuple[Problem, ...]:
    """Return the chain of problems from the root to this one, both included."""
    chain = [problem]
    while chain[-1].parent_id is not None:
        chain.append(ancestors[chain[-1].parent_id])
    return tuple(reversed(chain))


def example(problem: Problem, rows: Annotated) -> Example:
    """Build the exported row of one annotated problem."""
    found, flag = rows.uncertainties[problem.id], rows.flags[problem.id]
    verdict = rows.verdicts.get(problem.id)
    teacher = rows.responses[problem.id][0]
    steps = lineage(problem, rows.ancestors)
    return Example(
        id=problem.id,
        problem=problem.text,
        tier=problem.tier,
        role=problem.role,
        source=problem.source,
        source_id=problem.source_id,
        licence=problem.licence,
        root_id=problem.root_id,
        parent_id=problem.parent_id,
        round=problem.round,
        strategies=tuple(str(step.strategy) for step in steps if step.strategy is not None),
        answer=problem.answer,
        **{name: getattr(found, name) for name in _UNCERTAINTY_COLUMNS},
        cluster_labels=found.labels,
        benchmark_root=problem.benchmark_root,
        benchmark_overlap=flag.benchmark_overlap,
        overlap_benchmarks=flag.benchmarks,
        overlap_kinds=flag.kinds,
        evolver_model=problem.model,
        evolver_prompt=problem.prompt,
        quality_judge_model=verdict.model if verdict else None,
        quality_judge_prompt=verdict.prompt if verdict else None,
        teacher_model=teacher.model,
        teacher_prompt=teacher.prompt,
        equivalence_judge_model=found.judge_model,
        equivalence_judge_prompt=found.judge_prompt,
        sampling_fingerprint=rows.recipe.sampling,
        annotation_fingerprint=rows.recipe.fingerprint(judged=found.judge_model is not None),
        solution=problem.solution,
    )


def reannotated(old: Example, fresh: Example) -> Example:
    """Return the old row with the annotation of the fresh one."""
    return replace(old, **{name: getattr(fresh, name) for name in ANNOTATION_COLUMNS})


def examples_by_split(rows: Annotated) -> tuple[dict[str, list[Example]], dict[str, list[Response]]]:
    """Return the examples and the responses of every split, for the problems that have an uncertainty."""
    examples: dict[str, list[Example]] = {"train": [], "test": []}
    responses: dict[str, list[Response]] = {"train": [], "test": []}
    for problem in rows.problems:
        if problem.id in rows.uncertainties:
            split = rows.splits[problem.id]
            examples[split].append(example(problem, rows))
            responses[split].extend(rows.responses[problem.id])
    return examples, responses
