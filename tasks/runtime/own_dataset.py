"""The dataset of a user's own problems: its rows, its manifest and the summary of its annotation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from prompts import load_prompt
from tasks.rows import Example, Flag, Problem, Reject, Response, Uncertainty
from tasks.runtime.annotation_identity import annotation_recipe, annotation_settings, teacher_of
from tasks.runtime.driver import Run
from tasks.runtime.equivalence_judge import PROMPT as JUDGE_PROMPT
from tasks.runtime.models import batch_invariance
from tasks.runtime.sampling import PROMPT as TEACHER_PROMPT
from tasks.seeds.own_file import OwnFile
from tasks.storage.artifacts import Artifact, versions
from tasks.storage.examples import Annotated
from tasks.storage.manifest import Manifest, StageCount
from tasks.text import counted, visible

SHOWN_REJECTS = 10  # listed in the summary


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
    counts: Sequence[StageCount], examples: Sequence[Example], rejects: Sequence[Reject]
) -> list[str]:
    """Return the summary of a finished annotation as lines of text."""
    lines = [
        f"{counted(counts[0].rows_in, 'problem')} in, {len(examples):,} annotated, {len(rejects):,} rejected"
    ]
    for count in counts:
        lines += [f"rejected by {count.stage}: {number:,} {reason}" for reason, number in count.reasons]
    lines += [
        f"  {row.reason}: {visible(row.detail[:120])} ({row.problem_id})" for row in rejects[:SHOWN_REJECTS]
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
