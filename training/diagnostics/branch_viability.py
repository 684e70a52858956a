"""`python -m training.diagnostics.branch_viability`: which branches of a response still lead to the right answer, and which
measure of the teacher finds those that do not (branch viability of PW-OPSD, phases A to G).

    python -m training.diagnostics.branch_viability --preset pocket
    python -m training.diagnostics.branch_viability SETTINGS.json --set passes=10

All settings are in `training/diagnostics/settings.py`, and `docs/diagnostics.md` describes the phases. A killed run continues
where it was and gives the same bytes. Exit codes: 0 success; 2 a problem that the user can fix, in one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.llm.ledger import Ledger
from tasks.processes.machine import device_is_cpu
from training.data.views import PROMPTS
from training.diagnostics.branch_report import finish
from training.diagnostics.command import Log, run_command
from training.diagnostics.models import check_pair, check_view, context_of, dtype_of, identity_of, opened
from training.diagnostics.network import Network
from training.diagnostics.phases import Run, phases
from training.diagnostics.problems import read_problems
from training.diagnostics.sampling import Progress, Sampler, engines
from training.diagnostics.settings import BranchSettings
from training.diagnostics.stored import Store
from training.evaluation.grading import Grade, GradingPool, Response, grade_response
from training.preflight.model_checks import shared_vocabulary

__all__ = ["branch_viability", "graded", "main"]

LEDGER = "ledger.sqlite"
BATCH = 32
"""Responses that a grading worker gets at once."""


def branch_viability(settings: BranchSettings, log: Log) -> Path:
    """Run all phases and return the folder of the results. Raises `UserError` for settings, models and problems that cannot be
    used."""
    problems = read_problems(settings, log)
    teacher = opened("model", settings.model)
    student = teacher if settings.student is None else opened("student", settings.student)
    check_pair(student, teacher, settings)
    check_view(teacher, PROMPTS[settings.view], settings)
    vocabulary = shared_vocabulary(student, teacher)
    if settings.top_k >= vocabulary:
        raise UserError(f"top_k is {settings.top_k}, but the models share {vocabulary} tokens: lower it")
    out, dtype = PROJECT_ROOT / settings.out.expanduser(), dtype_of(settings)
    start = partial(engines, student.folder, dtype, settings, context_of(student, settings), log)
    with (
        Ledger(out / LEDGER) as ledger,
        GradingPool(settings.cpu_workers) as pool,
        Sampler(identity_of(student, settings), context_of(student, settings), ledger, start, log) as sampler,
    ):

        def open_teacher() -> Network:
            if not device_is_cpu():  # where there is memory for one of them only
                sampler.release()
            return Network(teacher.folder, dtype=dtype, vocabulary=vocabulary, threads=settings.threads)

        run = Run(
            settings=settings, problems=problems, student=student, teacher=teacher, sampler=sampler,
            teacher_identity=identity_of(teacher, settings), open_teacher=open_teacher,
            grade=lambda asked: graded(pool, asked, log), log=log,
        )  # fmt: skip
        store = Store(out / "branch_viability", log)
        finish(run, store, phases(run, store))
    return store.folder


def graded(pool: GradingPool, asked: Sequence[Response], log: Callable[[str], None]) -> list[Grade]:
    """Return the grade of each response, in order."""
    parts = [asked[start : start + BATCH] for start in range(0, len(asked), BATCH)]
    progress = Progress("grading", "responses", len(asked), log)
    found: list[Grade] = []
    for future, part in [(pool.submit(grade_response, part), part) for part in parts]:
        found += future.result()
        progress.count(len(part))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    description = "Measure which branches of correct responses still lead to the right answer."
    return run_command("branch_viability", description, BranchSettings, branch_viability, argv)


if __name__ == "__main__":
    raise SystemExit(main())
