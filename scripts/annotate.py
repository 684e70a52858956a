"""`make annotate` and `make reannotate`: run a flow in this process, with the same Prefect server as `make build`.

    scripts/annotate.py own problems.jsonl --out output/mine --profile pocket
    scripts/annotate.py stale --profile pocket

`own` annotates a user's file of problems without the other stages of the factory; `stale` annotates only those rows of the
profile's dataset whose annotation is stale. Invalid files and settings are reported before anything starts. An interrupted
run continues from the files on disk.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import local_prefect as local
from command_line import INTERRUPTED, end_with_parent, log_error, log_line, read_overrides, read_port, waiting

from tasks.config import load_config
from tasks.errors import UserError
from tasks.rows import Tier
from tasks.runtime.preflight import require_ready
from tasks.seeds.own_file import load, own_file


def own(arguments: argparse.Namespace, overrides: Mapping[str, Any]) -> None:
    """Run the flow sure-math-annotate on a file."""
    columns = dict(pair.partition("=")[::2] for pair in arguments.column)
    found = load(own_file(arguments.problems, columns, Tier(arguments.tier), arguments.licence))
    log_line(f"{found.problems:,} problems in {arguments.problems}")
    with served():
        from flows.annotate import annotate

        annotate(
            problems=str(arguments.problems.resolve()), out=str(arguments.out.resolve()), profile=arguments.profile,
            overrides=dict(overrides), columns=columns, tier=arguments.tier, licence=arguments.licence,
        )  # fmt: skip


def stale(arguments: argparse.Namespace, overrides: Mapping[str, Any]) -> None:
    """Run the flow sure-math-reannotate."""
    if arguments.problems is not None:
        load(own_file(arguments.problems))
    problems = None if arguments.problems is None else str(arguments.problems.resolve())
    with served():
        from flows.reannotate import reannotate

        reannotate(profile=arguments.profile, overrides=dict(overrides), problems=problems)


def check_before(arguments: argparse.Namespace, overrides: Mapping[str, Any]) -> None:
    """Raise `UserError` with every problem of the run that can be found before anything is started."""
    config = load_config(arguments.profile, overrides)
    if arguments.command == "own":
        require_ready(config, "annotate", root=arguments.out.resolve())
    else:
        require_ready(config, "reannotate")


@contextmanager
def served() -> Iterator[None]:
    """Provide a Prefect server for the block and make this process its client.

    Import flows only inside the block: Prefect reads the address of its server when it is first imported.
    """
    what = "starting Prefect" if "PREFECT_API_URL" not in os.environ else "connecting to Prefect"
    with ExitStack() as stack:
        with waiting(what):
            api = stack.enter_context(local.prefect_api(read_port(os.environ.get("PORT", ""))))
        os.environ.update(api.environment())
        with waiting("loading the flows"):
            importlib.import_module("flows.annotate")
            importlib.import_module("flows.reannotate")
        log_line(f"the progress is shown here and at {api.page}")
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


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/annotate.py", description="Annotate problems outside a build."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("own", help="annotate a file of problems")
    one.add_argument("problems", type=Path, help=".jsonl, .csv or .parquet")
    one.add_argument(
        "--out", type=Path, required=True, help="output folder; the dataset is written to OUT/dataset"
    )
    one.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="FIELD=COLUMN",
        help="column of the file for a field, e.g. text=question; may be repeated",
    )
    one.add_argument(
        "--tier", choices=[tier.value for tier in Tier], default="medium", help="tier of rows without one"
    )
    one.add_argument("--licence", default="unknown", help="licence of the problems")
    other = commands.add_parser("stale", help="annotate the stale rows of the profile's dataset again")
    other.add_argument("--problems", type=Path, help="a file of problems to add to the dataset")
    for command in (one, other):
        command.add_argument(
            "--profile", default="pocket", help="name of a file in configs/, without its extension"
        )
        command.add_argument("--overrides", default="", help="""JSON, e.g. '{"sample.num_samples": 16}'""")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Return 0 if the flow completed, 1 with a message after a `UserError`, 130 after Ctrl-C."""
    found = parse(arguments)
    try:
        overrides = read_overrides(found.overrides)
        check_before(found, overrides)
        {"own": own, "stale": stale}[found.command](found, overrides)
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
