"""The dataset of a user's own problems: its rows, its manifest and the summary of its annotation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from prompts import load_prompt
from tasks.config import PROJECT_ROOT
from tasks.rows import Example, Flag, Given, Problem, Reject, Response, Uncertainty
from tasks.runtime.annotation_identity import annotation_recipe, annotation_settings, teacher_of
from tasks.runtime.driver import Run
from tasks.runtime.equivalence_judge import PROMPT as JUDGE_PROMPT
from tasks.runtime.models import batch_invariance
from tasks.runtime.sampling import PROMPT as TEACHER_PROMPT
from tasks.seeds.own_file import OwnFile
from tasks.seeds.truth import is_right
from tasks.storage.artifacts import Artifact, versions
from tasks.storage.examples import Annotated, examples_by_split
from tasks.storage.manifest import Manifest, StageCount
from tasks.text import counted, visible, words

SHOWN_REJECTS = 10  # listed in the summary


def exported(run: Run, artifacts: Sequence[Artifact]) -> tuple[list[Given], list[Example], list[Response]]:
    """Return the rows of the file, the exported rows in the same order, and their responses."""
    given = list(run.store.rows(artifacts[0], "given", Given))
    tables = gather(run, artifacts)
    found, _ = examples_by_split(tables)
    rows, responses = as_given({row.id: row for row in found["train"]}, tables.responses, given)
    return sorted(given, key=lambda row: row.position), rows, responses


def gather(run: Run, artifacts: Sequence[Artifact]) -> Annotated:
    """Read all tables, by problem id. No problem is flagged, since none was compared with a benchmark."""
    problems, sampled, clustered = artifacts
    rows = list(run.store.rows(problems, "problems", Problem))
    responses: dict[str, list[Response]] = defaultdict(list)
    for response in run.store.rows(sampled, "responses", Response):
        responses[response.problem_id].append(response)
    found = run.store.rows(clustered, "uncertainties", Uncertainty)
    return Annotated(
        problems=rows,
        splits=dict.fromkeys((row.id for row in rows), "train"),
        ancestors={},
        verdicts={},
        responses=responses,
        uncertainties={row.problem_id: row for row in found},
        flags={row.id: no_flag(row.id) for row in rows},
        recipe=annotation_recipe(run),
    )


def as_given(
    examples: Mapping[str, Example], responses: Mapping[str, Sequence[Response]], given: Sequence[Given]
) -> tuple[list[Example], list[Response]]:
    """Return one row per row of the file, in its order, each with the annotation and the responses of its problem; rows whose
    problem was rejected are left out. `examples` and `responses` are those of the problems, by id."""
    rows, copies = [], []
    for one in sorted(given, key=lambda row: row.position):
        if (found := examples.get(one.problem_id)) is not None:
            rows.append(given_example(found, one))
            copies += [replace(response, problem_id=one.id) for response in responses[one.problem_id]]
    return rows, copies


def given_example(found: Example, given: Given) -> Example:
    """Return the exported row of a row of the file, from the row of its problem."""
    right = found.majority_correct
    if given.answer != found.answer:
        right = None if given.answer is None else is_right(found.majority_answer, given.answer)
    return replace(
        found, id=given.id, root_id=given.id, source_id=given.source_id, tier=given.tier, answer=given.answer,
        majority_correct=right, position=given.position, extra=given.extra,
    )  # fmt: skip


def toy_notice(run: Run) -> str | None:
    """Return a warning if the teacher is a model of the pocket world."""
    model = run.config.models.teacher.model
    if not (PROJECT_ROOT / model).is_relative_to(PROJECT_ROOT / "pocket"):
        return None
    return (
        f"THE TEACHER {model.upper()} IS A TOY: IT SOLVES ONLY PROBLEMS OF THE POCKET WORLD, AND ITS ANSWERS AND WEIGHTS FOR"
        " OTHER PROBLEMS MEAN NOTHING. CHOOSE ANOTHER TEACHER WITH PROFILE OR OVERRIDES (docs/annotation.md)"
    )


def no_flag(problem_id: str) -> Flag:
    """Return the flag of a problem that was not compared with any benchmark."""
    return Flag(problem_id=problem_id, benchmark_overlap=False, benchmarks=(), kinds=())


def describe_own(
    run: Run, file: OwnFile, identity: str, counts: tuple[StageCount, ...], seconds: Mapping[str, float]
) -> Manifest:
    """Build the manifest, with the settings, models and prompts that were used."""
    return Manifest(
        name=file.source,
        licence=file.licence,
        profile=run.config.profile,
        fingerprint=identity,
        stages=counts,
        models=dict(run.identities),
        prompts={name: load_prompt(name).fingerprint for name in (TEACHER_PROMPT, JUDGE_PROMPT)},
        settings=annotation_settings(run),
        teacher=teacher_of(run),
        seeds={},
        annotation=annotation_recipe(run).fingerprints,
        batch_invariance=batch_invariance(run),
        versions=versions(),
        timings=dict(seconds),
    )


def summary(
    counts: Sequence[StageCount],
    given: Sequence[Given],
    examples: Sequence[Example],
    rejects: Sequence[Reject],
) -> list[str]:
    """Return the summary of a finished annotation as lines of text. `examples` are the exported rows."""
    rows = f"{counted(len(given), 'row')} with {counted(counts[0].rows_in, 'different problem')} in"
    lines = [
        f"{rows}, {counted(len(examples), 'row')} annotated, {counted(len(rejects), 'problem')} rejected"
    ]
    for count in counts:
        lines += [f"rejected by {count.stage}: {number:,} {reason}" for reason, number in count.reasons]
    first: dict[str, int] = {}
    for row in given:
        first.setdefault(row.problem_id, row.position + 1)
    lines += [
        f"  row {first[row.problem_id]}: {words(row.reason)}: {visible(row.detail[:120])} ({row.problem_id})"
        for row in rejects[:SHOWN_REJECTS]
    ]
    if examples:
        weight = fmean(row.weight for row in examples)
        entropy = fmean(row.semantic_entropy for row in examples)
        lines.append(f"mean weight {weight:.3f}, mean semantic entropy {entropy:.3f} nats")
    known = [row.majority_correct for row in examples if row.majority_correct is not None]
    if known:
        lines.append(
            f"the majority answer is right for {sum(known):,} of {counted(len(known), 'problem')} with an answer"
        )
    return lines
