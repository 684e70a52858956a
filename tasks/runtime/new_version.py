"""The new version of a dataset: its changes, manifest, files and main numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prompts import load_prompt
from tasks.reports.drift_report import PAGE, Cost, DriftData, write_drift
from tasks.reports.report import ReportData, write_report
from tasks.rows import Example, Flag, Reject, Response, Uncertainty
from tasks.runtime.annotation_identity import annotation_settings, teacher_of
from tasks.runtime.dataset_export import majority_truths
from tasks.runtime.driver import Run
from tasks.runtime.equivalence_judge import PROMPT as JUDGE_PROMPT
from tasks.runtime.equivalence_judge import judge_tokens
from tasks.runtime.own_dataset import given_example, no_flag
from tasks.runtime.reannotation import Review, ledger_size
from tasks.runtime.sampling import PROMPT as TEACHER_PROMPT
from tasks.runtime.summaries import rejects_of, timings
from tasks.seeds.truth import is_right, majority_is_right, pocket_sources
from tasks.storage.artifacts import Artifact, versions
from tasks.storage.dataset import read_dataset
from tasks.storage.examples import Annotated, example, reannotated
from tasks.storage.manifest import Manifest, StageCount, read_manifest
from tasks.storage.versions import Changes, write_latest, write_version
from tasks.uncertainty.annotation import Cause
from tasks.uncertainty.drift import Move, drift

NEW_SPLIT = "train"  # split of problems that are new in the dataset
Artifacts = tuple[Artifact, Artifact, Artifact, Artifact]  # wanted, sampled, responses, clustered


@dataclass(frozen=True, slots=True, kw_only=True)
class Reannotation:
    """The outcome of re-annotating the stale rows and annotating the new problems."""

    changes: Changes
    moves: tuple[Move, ...]
    rejects: tuple[Reject, ...]
    cost: Cost

    @property
    def reasons(self) -> dict[str, int]:
        """Number of rejected rows by reason."""
        return dict(sorted(Counter(str(row.reason) for row in self.rejects).items()))

    @property
    def added(self) -> int:
        """Number of added rows."""
        return sum(len(rows) for rows in self.changes.added.values())


def reannotation_of(run: Run, review: Review, artifacts: Artifacts) -> Reannotation:
    """Collect the changes against the old version, the moves of the weights, the rejects and the cost."""
    wanted, sampled, responses, clustered = artifacts
    fresh, groups = annotated_again(run, review, responses, clustered)
    updated = {
        row_id: reannotated(row, fresh[row_id]) for row_id, row in review.rows.items() if row_id in fresh
    }
    added = [given_example(fresh[row_id], review.given[row_id]) for row_id in review.new if row_id in fresh]
    stale = review.causes.keys() & review.rows.keys()
    changes = Changes(
        updated=updated,
        removed=frozenset(stale - fresh.keys()),
        added={NEW_SPLIT: added} if added else {},
        responses={row_id: groups[row_id] for row_id in fresh if review.causes[row_id].needs_samples},
    )
    return Reannotation(
        changes=changes,
        moves=tuple(
            move_of(review.rows[id], row, review.causes[id], pocket_sources(review.manifest.settings))
            for id, row in updated.items()
        ),
        rejects=tuple(with_twins(review, rejects_of(run.store, (wanted, sampled, clustered)))),
        cost=cost_of(run, review, artifacts),
    )


def annotated_again(
    run: Run, review: Review, responses: Artifact, clustered: Artifact
) -> tuple[dict[str, Example], dict[str, list[Response]]]:
    """Return the fresh rows of the problems that have an uncertainty, and all responses, by problem id. A row with the text of
    another one has that row's annotation."""
    groups: dict[str, list[Response]] = defaultdict(list)
    for response in run.store.rows(responses, "responses", Response):
        groups[response.problem_id].append(response)
    found = {row.problem_id: row for row in run.store.rows(clustered, "uncertainties", Uncertainty)}
    problems = [row for row in (*review.to_sample, *review.to_cluster) if row.id in found]
    rows = Annotated(
        problems=problems, splits={}, ancestors={}, verdicts={}, responses=groups, uncertainties=found,
        flags={row.id: flag_of(review.rows.get(row.id), row.id) for row in problems}, recipe=review.recipe,
    )  # fmt: skip
    fresh = {row.id: example(replace(row, parent_id=None), rows) for row in problems}
    for twin, first in review.twins.items():
        if first in fresh:
            fresh[twin] = twin_of(review.rows[twin], fresh[first])
            groups[twin] = [replace(response, problem_id=twin) for response in groups[first]]
    return fresh, groups


def twin_of(old: Example, fresh: Example) -> Example:
    """Return an old row with the fresh annotation of another row with the same text."""
    answer, right = fresh.majority_answer, fresh.majority_correct
    if old.answer != fresh.answer:
        right = None if old.answer is None else is_right(answer, old.answer)
    return replace(reannotated(old, fresh), majority_correct=right)


def with_twins(review: Review, rejects: Sequence[Reject]) -> list[Reject]:
    """Return the rejects, and a copy for every row with the text of a rejected one."""
    copies: dict[str, list[str]] = defaultdict(list)
    for twin, first in review.twins.items():
        copies[first].append(twin)
    return [
        replace(row, problem_id=row_id)
        for row in rejects
        for row_id in (row.problem_id, *copies[row.problem_id])
    ]


def flag_of(row: Example | None, row_id: str) -> Flag:
    """Return the flag of a row of the dataset; a new problem (None) was not compared with any benchmark."""
    if row is None:
        return no_flag(row_id)
    return Flag(
        problem_id=row_id, benchmark_overlap=row.benchmark_overlap, benchmarks=row.overlap_benchmarks,
        kinds=row.overlap_kinds,
    )  # fmt: skip


def move_of(old: Example, new: Example, cause: Cause, pocket: frozenset[str]) -> Move:
    """Describe the annotation of one row before and after. `pocket` are the names of the pocket sources."""
    rights = [majority_is_right(row, pocket) for row in (old, new)]
    return Move(
        id=old.id,
        problem=old.problem,
        tier=old.tier,
        cause=cause,
        old_weight=old.weight,
        new_weight=new.weight,
        old_entropy=old.semantic_entropy,
        new_entropy=new.semantic_entropy,
        old_answer=old.majority_answer,
        new_answer=new.majority_answer,
        old_right=rights[0],
        new_right=rights[1],
    )


def new_manifest(
    run: Run, review: Review, identity: str, outcome: Reannotation, artifacts: Artifacts
) -> Manifest:
    """Return the old manifest, updated to the current annotation, with one more stage in the counts."""
    old = review.manifest
    settings = annotation_settings(run)
    models = {**old.settings.get("models", {}), **settings.pop("models")}
    before = sum(count.stage.startswith("reannotate-") for count in old.stages)
    incoming = len(review.rows) + len(review.new)
    count = StageCount(
        stage=f"reannotate-{before + 1}",
        rows_in=incoming,
        kept=incoming - len(outcome.rejects),
        rejected=outcome.reasons,
    )
    seconds = timings(run.store, list(unique(artifacts)))
    prompts = {name: load_prompt(name).fingerprint for name in (TEACHER_PROMPT, JUDGE_PROMPT)}
    return replace(
        old,
        profile=run.config.profile,
        fingerprint=identity,
        stages=(*old.stages, count),
        models={**old.models, **run.identities},
        prompts={**old.prompts, **prompts},
        settings={**old.settings, **settings, "models": models},
        teacher=teacher_of(run),
        annotation=review.recipe.fingerprints,
        versions=versions(),
        timings={**old.timings, count.stage: round(sum(seconds.values()), 3)},
    )


def unique(artifacts: Artifacts) -> Iterator[Artifact]:
    """Yield each artifact once: without reused responses, the third is the same as the second."""
    return iter({artifact.name: artifact for artifact in artifacts}.values())


def cost_of(run: Run, review: Review, artifacts: Artifacts) -> Cost:
    """Return the cost of the annotation, and the number of requests that this run sent."""
    _, sampled, _, clustered = artifacts
    tokens = [row.token_count for row in run.store.rows(sampled, "responses", Response)]
    judged = judge_tokens(run.store, clustered)
    return Cost(
        sampled=len(review.to_sample),
        responses=len(tokens),
        tokens=sum(tokens),
        judged_pairs=run.store.record(clustered)["tables"].get("judged_pairs", 0),
        judge_prompt_tokens=judged.judge_prompt_tokens,
        judge_completion_tokens=judged.judge_completion_tokens,
        sent=ledger_size(run) - review.answers,
        seconds=timings(run.store, list(unique(artifacts))),
    )


def fill(place: Path, run: Run, review: Review, manifest: Manifest, outcome: Reannotation) -> None:
    """Write the files of a version."""
    (place / "dataset").mkdir()
    files = write_version(place / "dataset", review.dataset, outcome.changes, manifest)
    rows, responses = read_dataset(place / "dataset")
    report = ReportData(
        name=manifest.name, profile=manifest.profile, fingerprint=manifest.fingerprint, examples=rows,
        responses=responses, stages=manifest.stages, timings=manifest.timings, models=manifest.models,
        truths=majority_truths(rows, manifest.settings), num_problems=run.config.export.report_problems,
        benchmarks=manifest.benchmarks,
    )  # fmt: skip
    write_report(place / "report.html", report)
    drifted = DriftData(
        name=manifest.name, profile=manifest.profile, old=review.manifest.fingerprint, new=manifest.fingerprint,
        problems=len(rows), added=outcome.added, moves=outcome.moves, causes=Counter(review.causes.values()),
        rejects=outcome.rejects, cost=outcome.cost, files=files, models=manifest.models,
    )  # fmt: skip
    write_drift(place, drifted)


def record_latest(run: Run, review: Review, folder: Path) -> None:
    """Update `latest.json` so that this version is the newest."""
    manifest, root = read_manifest(folder / "dataset"), run.store.root
    contents, place = manifest.contents, folder.relative_to(root)
    note = {
        "fingerprint": manifest.fingerprint,
        "dataset": str(place / "dataset"),
        "report": str(place / "report.html"),
        "drift": str(place / PAGE),
        "previous": str(review.dataset.relative_to(root)),
        "counts": {row.split: row.problems for row in contents.splits} if contents else {},
    }
    write_latest(root, note)


def headline(outcome: Reannotation) -> dict[str, str]:
    """Return the main numbers as text, by label."""
    cost, numbers = outcome.cost, drift(outcome.moves)
    found = {
        "rows annotated again": f"{len(outcome.changes.updated):,}",
        "rows added": f"{outcome.added:,}",
        "rows rejected": f"{len(outcome.rejects):,}",
        "problems sampled": f"{cost.sampled:,}",
        "response tokens": f"{cost.tokens:,}",
        "prompt and completion tokens of the judge": f"{cost.judge_prompt_tokens:,}, {cost.judge_completion_tokens:,}",
        "new ledger entries of this run": f"{cost.sent:,}",
    }
    if numbers is not None:
        found["mean weight, before and after"] = f"{numbers.old_mean:.3f}, {numbers.new_mean:.3f}"
        found["change of the weight, mean and maximum"] = (
            f"{numbers.mean_absolute:.3f}, {numbers.largest:.3f}"
        )
    return found
