"""`python -m training.diagnostics.token_entropy`: the token entropy of a teacher and of students on the students' own rollouts,
over the checkpoints of a training (the figures of EOPD).

    python -m training.diagnostics.token_entropy --preset pocket --students start=pocket/student,end=output/run/student

All settings are in `training/diagnostics/settings.py`, and `docs/diagnostics.md` describes the results. A killed run continues
where it was and gives the same bytes. Exit codes: 0 success; 2 a problem that the user can fix, in one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.identity import request_seed
from tasks.llm.ledger import Ledger
from tasks.storage.tables import read_rows
from training.data.model_files import PROMPT, ModelFiles
from training.diagnostics.command import Log, run_command
from training.diagnostics.entropy_report import write_report
from training.diagnostics.models import check_pair, context_of, dtype_of, identity_of, opened, prompt_tokens
from training.diagnostics.network import Network
from training.diagnostics.problems import Problem, Problems, read_problems
from training.diagnostics.sampling import OpenEngine, Progress, Sample, Sampler, engines
from training.diagnostics.settings import EntropySettings
from training.diagnostics.stored import Made, Store, counted_rows
from training.diagnostics.token_measures import TokenScores, pair_scores
from training.preflight.model_checks import shared_vocabulary
from training.rollouts.engine import RolloutRequest, RolloutSampling

__all__ = ["Student", "main", "measure", "token_entropy"]

VERSION = 1
LEDGER = "ledger.sqlite"
_ENTRY = re.compile(r"(?:([\w.-]{1,40})=)?(.+)")


@dataclass(frozen=True, kw_only=True)
class Student:
    """A student with its name in tables and figures."""

    name: str
    model: ModelFiles


def token_entropy(settings: EntropySettings, log: Log) -> Path:
    """Measure all students and return the folder of the results. Raises `UserError` for settings, models and problems that cannot
    be used."""
    problems = read_problems(settings, log)
    teacher = opened("teacher", settings.teacher)
    students = named_students(settings)
    for one in students:
        check_pair(one.model, teacher, settings)
        if max(settings.top_ks) > shared_vocabulary(one.model, teacher):
            raise UserError(
                f"top_ks has {max(settings.top_ks):,}, but the models share {shared_vocabulary(one.model, teacher):,} tokens:"
                " lower it"
            )
    store = Store(PROJECT_ROOT / settings.out.expanduser() / "token_entropy", log)
    dtype, found = dtype_of(settings), {}
    with Ledger(store.folder.parent / LEDGER) as ledger:
        for number, one in enumerate(students):
            context = context_of(one.model, settings)
            start = partial(engines, one.model.folder, dtype, settings, context, log)
            phase = store.phase(
                f"{number:02d}-{one.name}", TokenScores, VERSION, deciding(settings),
                (problems.digest, identity_of(teacher, settings), identity_of(one.model, settings)),
                partial(measure, settings, problems, teacher, one, ledger, start, log),
            )  # fmt: skip
            found[one.name] = read_rows(phase.table, TokenScores)
    identities = {one.name: identity_of(one.model, settings) for one in students}
    write_report(store.folder, found, settings, identity_of(teacher, settings), identities, problems.digest)
    log(f"results in {store.folder}")
    return store.folder


def deciding(settings: EntropySettings) -> dict[str, Any]:
    """Return the settings that decide the scores of tokens."""
    names = ("thinking", "context", "seed", "samples", "temperature", "top_p", "max_tokens", "top_ks")
    day = None if settings.template_date is None else settings.template_date.isoformat()
    return {**{name: getattr(settings, name) for name in names}, "day": day}


def named_students(settings: EntropySettings) -> list[Student]:
    """Return the students of the settings, opened. Raises `UserError` for a name that is given twice."""
    found: dict[str, Student] = {}
    for entry in settings.students:
        match = _ENTRY.fullmatch(entry.strip())
        if match is None:
            raise UserError(f"students: {entry!r} is no folder: write it as name=FOLDER")
        name, folder = match[1] or Path(match[2]).name, match[2]
        if name in found:
            raise UserError(f"students: two of them have the name {name}: write name=FOLDER")
        found[name] = Student(name=name, model=opened("students", folder))
    return list(found.values())


def measure(
    settings: EntropySettings,
    problems: Problems,
    teacher: ModelFiles,
    student: Student,
    ledger: Ledger,
    open_engine: OpenEngine,
    log: Log,
) -> Made:
    """Generate a student's rollouts, and score their tokens by both models."""
    pairs = {one.id: _prompts(one, student.model, teacher, settings) for one in problems.items}
    prompts = {name: pair for name, pair in pairs.items() if not isinstance(pair, str)}
    places = [(one.id, number) for one in problems.items for number in range(settings.samples)]
    asked = [place for place in places if place[0] in prompts]
    requests = [
        RolloutRequest(
            prompt=prompts[name][0],
            seed=request_seed(name, f"rollout/{number}/{settings.seed}", "token entropy"),
        )
        for name, number in asked
    ]
    sampling = RolloutSampling(
        temperature=settings.temperature, top_p=settings.top_p, max_tokens=settings.max_tokens,
        stop_token_ids=student.model.end_tokens,
    )  # fmt: skip
    context = context_of(student.model, settings)
    with Sampler(identity_of(student.model, settings), context, ledger, open_engine, log) as sampler:
        samples = dict(zip(asked, sampler.sample(requests, sampling, student.name), strict=True))
    scored = iter(_scored(settings, teacher, student, [prompts[name] for name, _ in asked], samples, log))
    rows = []
    for name, number in places:
        pair = pairs[name]
        if isinstance(pair, str):
            rows.append(_row(name, number, pair, None))
        else:
            found = next(scored)
            rows.append(_row(name, number, "prompt_too_long" if found is None else None, found))
    return Made(rows=rows, counts=counted_rows("rollouts", rows))


Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""The token ids of the student's and of the teacher's prompt."""


def _prompts(
    problem: Problem, student: ModelFiles, teacher: ModelFiles, settings: EntropySettings
) -> Pair | str:
    """Return the prompts of a problem, or why there are none."""
    first, second = (
        prompt_tokens(one, PROMPT, {"problem": problem.text}, settings) for one in (student, teacher)
    )
    if isinstance(first, str):
        return first
    if isinstance(second, str):
        return second
    return "prompt_too_long" if len(first) >= context_of(student, settings) else (first, second)


def _scored(
    settings: EntropySettings,
    teacher: ModelFiles,
    student: Student,
    prompts: Sequence[Pair],
    samples: Mapping[tuple[str, int], Sample],
    log: Log,
) -> Iterator[dict[str, Any] | None]:
    """Yield the scores of each sample; None where it does not fit into the teacher's context."""
    shared, limit = shared_vocabulary(student.model, teacher), context_of(teacher, settings)
    options = {"dtype": dtype_of(settings), "vocabulary": shared, "threads": settings.threads}
    with (
        Network(teacher.folder, **options) as first,
        Network(student.model.folder, **options) as second,
    ):
        progress = Progress(f"{student.name}: scoring", "rollouts", len(samples), log)
        for (own, theirs), sample in zip(prompts, samples.values(), strict=True):
            progress.count()
            if len(theirs) + len(sample.tokens) > limit:
                yield None
                continue
            positions = range(len(sample.tokens))
            states = (first.states(theirs, sample.tokens, positions), first.head)
            yield pair_scores(
                states, (second.states(own, sample.tokens, positions), second.head), settings.top_ks
            )


def _row(name: str, number: int, reason: str | None, scores: Mapping[str, Any] | None) -> TokenScores:
    values = {
        key: () if scores is None else tuple(scores[key].ravel().tolist())
        for key in ("teacher_entropy", "student_entropy", "forward_kl", "mass")
    }
    return TokenScores(problem_id=name, number=number, reason=reason, **values)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    description = "Measure the token entropy of a teacher and of students on the students' rollouts."
    return run_command("token_entropy", description, EntropySettings, token_entropy, argv)


if __name__ == "__main__":
    raise SystemExit(main())
