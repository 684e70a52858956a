"""Stage experiment: the job's command, the table of its cells, and the sentence when some have no result."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.processes.jobs import JobFailed
from tasks.runtime.experiment import command, job_failed_as_user_error, table
from tasks.stages import experiment
from training.experiments.__main__ import PROBLEMS, STATE, _parser

CELLS = [
    {"row": "OPD", "seed": 0, "state": "measured", "result": "pass@1 20.0% -> 39.0%"},
    {"row": "GRPO", "seed": 0, "state": "waiting", "result": ""},
]


def write_state(folder: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    (folder / STATE).write_text(json.dumps({"time": "5 s elapsed", "cells": cells}))


def test_the_command_is_what_the_program_accepts(tmp_path: Path) -> None:
    made = command(
        "pocket/x", tmp_path, only=["OPD", "UOPD, b 0.5"], seeds=[1, 2], max_hours=1.5, results="r"
    )
    assert made[:3] == [sys.executable, "-m", "training.experiments"]
    found = _parser().parse_args(made[3:])
    assert (found.experiment, found.only, found.seeds) == ("pocket/x", ["OPD", "UOPD, b 0.5"], [1, 2])
    assert (found.max_hours, found.results, found.report) == (1.5, Path("r"), tmp_path)
    found = _parser().parse_args(command("x", tmp_path, only=(), seeds=(), max_hours=None, results="r")[3:])
    assert (found.only, found.seeds, found.max_hours, found.check) == (None, None, None, False)


def test_texts_of_the_table_are_escaped(tmp_path: Path) -> None:
    write_state(tmp_path, [{**CELLS[0], "row": "<b>OPD</b> | x"}])
    (row,) = table(tmp_path)
    assert "<b>" not in row["row"] and row["seed"] == "0"


def test_a_failed_job_names_what_to_correct(tmp_path: Path) -> None:
    (tmp_path / PROBLEMS).write_text("of an earlier start\n")
    with pytest.raises(JobFailed, match="killed"), job_failed_as_user_error(tmp_path):
        raise JobFailed("killed")
    with pytest.raises(UserError, match=r"^row 'A': wrong$"), job_failed_as_user_error(tmp_path):
        (tmp_path / PROBLEMS).write_text("row 'A': wrong\n")
        raise JobFailed("exit status 2")
    with pytest.raises(UserError) as caught, job_failed_as_user_error(tmp_path):
        write_state(tmp_path, [CELLS[0], {**CELLS[1], "state": "failed", "result": "the loss is nan"}])
        raise JobFailed("exit status 1")
    assert str(caught.value) == (
        "1 of 2 cells have no result (GRPO, seed 0: failed, the loss is nan): correct what they name, and start again; the other"
        " results are kept"
    )


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the UI shows, without Prefect."""
    seen: list[Any] = []

    class Table:
        def __init__(self, *_: object) -> None: ...

        def show(self, rows: Callable[[], list[dict[str, str]]], *, last: bool = False) -> None:
            seen.append([row["state"] for row in rows()])

    class Bar:
        def __init__(self, _name: str, total: int, *_: object, unit: str) -> None:
            seen.append(f"of {total} {unit}s")

        def update(self, count: int) -> None:
            seen.append(count)

        def finish(self) -> None:
            seen.append("finished")

    monkeypatch.setattr(experiment, "LiveTable", Table)
    monkeypatch.setattr(experiment, "Progress", Bar)
    monkeypatch.setattr(experiment, "get_run_logger", logging.getLogger)
    return seen


def test_the_states_of_the_cells_are_shown_while_the_job_works(tmp_path: Path, shown: list[Any]) -> None:
    first = json.dumps({"time": "", "cells": [{**CELLS[0], "state": "waiting"}]})
    then = json.dumps({"time": "", "cells": CELLS[:1]})
    program = (
        "import sys, pathlib, time; state = pathlib.Path(sys.argv[1])\n"
        "print('experiment: 1 cell', flush=True); state.write_text(sys.argv[2]); time.sleep(0.5)\n"
        "print('train: step 1 of 2'); print('experiment: 1 to measure', flush=True); time.sleep(0.5)\n"
        "state.write_text(sys.argv[3]); print('experiment: cell 1 of 1', flush=True)"
    )
    experiment.run_job.fn([sys.executable, "-c", program, str(tmp_path / STATE), first, then], tmp_path)
    assert shown[0] == "of 1 cells" and shown[-3:] == [["measured"], "finished", ["measured"]]
    assert 0 in shown and 1 in shown


def test_the_step_of_the_cell_in_progress_is_shown(
    tmp_path: Path, shown: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []

    @contextmanager
    def phase(_say: object, notice: Callable[[float], str]) -> Iterator[None]:
        stop = threading.Event()

        def tick() -> None:
            while not stop.wait(0.02):
                notices.append(notice(60.0))

        thread = threading.Thread(target=tick)
        thread.start()
        yield
        stop.set()
        thread.join()

    monkeypatch.setattr(experiment, "phase", phase)
    program = (
        "import time\n"
        "for line in ('train: step 1 of 2, loss 0.5', 'experiment: cell 1 of 1'): print(line, flush=True); time.sleep(0.5)"
    )
    experiment.run_job.fn([sys.executable, "-c", program], tmp_path)
    seen = [notice for notice, _ in groupby(notices)]
    assert seen[-2:] == [
        "experiment: the cells go on, 60 s (step 1 of 2, loss 0.5)", "experiment: the cells go on, 60 s",
    ]  # fmt: skip
