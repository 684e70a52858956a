"""`make annotate` and `make reannotate`: run a flow in this process, with the same Prefect server as `make build`.

    FILE=problems.jsonl OUT=output/mine scripts/annotate.py own
    scripts/annotate.py stale

`own` annotates a user's file of problems without the other stages of the factory; `stale` annotates only those rows of the
profile's dataset whose annotation is stale, and adds the problems of FILE. All settings come from the environment (`SETTINGS`),
so that no shell reads them. Invalid files and settings are reported before anything starts. An interrupted run continues from
the files on disk.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import local_prefect as local
from command_line import INTERRUPTED, end_with_parent, log_error, log_line, read_overrides, read_port, waiting

from tasks.config import load_config
from tasks.errors import UserError
from tasks.runtime.preflight import Work, require_ready
from tasks.seeds.columns import parse_columns
from tasks.seeds.own_file import OwnFile, load, own_file
from tasks.storage.ownership import annotation_of, check_owner
from tasks.text import counted, is_utf8

SETTINGS = {
    "FILE": "", "OUT": "", "COLUMNS": "", "TIER": "medium", "LICENCE": "unknown", "ANSWERS": "auto", "PROFILE": "pocket",
    "OVERRIDES": "",
}  # fmt: skip
"""Environment variables and their defaults, which also hold for empty ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The settings of one call."""

    profile: str
    overrides: Mapping[str, Any]
    file: Path | None
    out: Path | None
    columns: Mapping[str, str]
    tier: str
    licence: str
    answers: str

    def check_file(self, path: Path) -> OwnFile:
        """Read the file completely. Raises `UserError` if it is invalid."""
        found = own_file(path, self.columns, self.tier, self.licence, self.answers)
        log_line(f"{counted(len(load(found).given), 'problem')} in {path}")
        return found

    def check_run(self, work: Work, root: Path | None = None) -> None:
        """Raise `UserError` with every problem of the run that can be found before anything is started."""
        require_ready(load_config(self.profile, self.overrides), work, root=root)

    def reading(self) -> dict[str, Any]:
        """Return the parameters of a flow that say how the file is read."""
        how = {"tier": self.tier, "licence": self.licence, "answers": self.answers}
        return {"columns": dict(self.columns), **how}


def own(call: Call) -> None:
    """Run the flow sure-math-annotate on a file."""
    if call.file is None or call.out is None:
        raise UserError("FILE and OUT are required, e.g. make annotate FILE=problems.jsonl OUT=output/mine")
    check_owner(call.out, annotation_of(call.check_file(call.file).source))
    call.check_run("annotate", call.out)
    with served("flows.annotate"):
        from flows.annotate import annotate

        annotate(
            problems=str(call.file), out=str(call.out), profile=call.profile, overrides=dict(call.overrides),
            **call.reading(),
        )  # fmt: skip


def stale(call: Call) -> None:
    """Run the flow sure-math-reannotate."""
    if call.file is not None:
        call.check_file(call.file)
    call.check_run("reannotate")
    problems = None if call.file is None else str(call.file)
    with served("flows.reannotate"):
        from flows.reannotate import reannotate

        reannotate(profile=call.profile, overrides=dict(call.overrides), problems=problems, **call.reading())


def read_call(environment: Mapping[str, str]) -> Call:
    """Read the settings of a call. Raises `UserError` for an invalid one."""
    given = {name: environment.get(name) or default for name, default in SETTINGS.items()}
    for name in ("FILE", "OUT"):
        if not is_utf8(given[name]):
            raise UserError(f"{name} {given[name]} has a name that is not UTF-8: rename it")
    overrides = read_overrides(given["OVERRIDES"])
    load_config(given["PROFILE"], overrides)
    file, out = (
        Path(given[name]).expanduser().resolve() if given[name] else None for name in ("FILE", "OUT")
    )
    return Call(
        profile=given["PROFILE"], overrides=overrides, file=file, out=out, columns=parse_columns(given["COLUMNS"]),
        tier=given["TIER"], licence=given["LICENCE"], answers=given["ANSWERS"],
    )  # fmt: skip


@contextmanager
def served(flow: str) -> Iterator[None]:
    """Provide a Prefect server for the block, make this process its client, and load the module of a flow.

    Import flows only inside the block: Prefect reads the address of its server when it is first imported.
    """
    what = "starting Prefect" if "PREFECT_API_URL" not in os.environ else "connecting to Prefect"
    with ExitStack() as stack:
        with waiting(what):
            api = stack.enter_context(local.prefect_api(read_port(os.environ.get("PORT", ""))))
        os.environ.update(api.environment())
        with waiting("loading the flow"):
            importlib.import_module(flow)
        log_line(f"the progress is shown here and at {api.page}{api.login}")
        try:
            yield
        finally:
            drain()


def drain(patience_s: float = 10.0) -> None:
    """Let Prefect send its last logs and events while the server runs; without a server it would retry for a minute."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=patience_s)


def main(arguments: Sequence[str]) -> int:
    """Return 0 if the flow completed, 1 with a message after a `UserError`, 2 for an unknown command, 130 after Ctrl-C."""
    commands = {"own": own, "stale": stale}
    if len(arguments) != 1 or arguments[0] not in commands:
        log_line(f"usage: scripts/annotate.py {'|'.join(commands)}, with settings in {', '.join(SETTINGS)}")
        return 2
    try:
        commands[arguments[0]](read_call(os.environ))
        return 0
    except UserError as error:
        log_error(error)
        return 1
    except KeyboardInterrupt:
        log_line("interrupted; finished work is kept, run the same command again to continue")
        return INTERRUPTED


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(sys.argv[1:]))
