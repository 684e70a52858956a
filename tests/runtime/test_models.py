"""The batch invariance of the engines that answered: logged, recorded in the ledger, and summarised for the manifest."""

from __future__ import annotations

from pathlib import Path

from tasks.config import load_config
from tasks.llm.invariance import BatchInvariance
from tasks.llm.ledger import Ledger
from tasks.runtime.driver import Run
from tasks.runtime.models import batch_invariance, note_engine
from tasks.storage.artifacts import Store


def run_in(folder: Path) -> Run:
    return Run(
        config=load_config("pocket", {"models.evolver.dtype": "bfloat16"}),
        store=Store(folder),
        identities={"evolver": "assistant@1", "teacher": "teacher@1"},
    )


def test_a_run_without_a_ledger_has_nothing_to_report(tmp_path: Path) -> None:
    assert batch_invariance(run_in(tmp_path)) == {}


def test_the_manifest_names_every_machine_and_roles_that_were_not_checked(tmp_path: Path) -> None:
    run, lines = run_in(tmp_path), list[str]()
    checks = (
        BatchInvariance(different=0, dtype="float32", machine="cpu a"),
        BatchInvariance(different=3, dtype="float32", machine="cpu b"),
        BatchInvariance(different=0, dtype="bfloat16", machine="cpu c"),  # not the role's dtype
    )
    with Ledger(run.ledger_path) as ledger:
        for check in checks:
            note_engine(check, "teacher", "teacher@1", ledger, lines.append)
        note_engine(None, "evolver", "assistant@1", ledger, lines.append)
    assert batch_invariance(run) == {
        "evolver": "not checked",
        "teacher": "verified on cpu a; not invariant on cpu b",
    }
    assert lines[0].startswith("teacher: batch-invariant: 8 probes")
    assert lines[1].startswith("teacher: not batch-invariant: 3 of 8 probes")
    assert lines[3] == "evolver: served elsewhere, its batch invariance is not checked"
