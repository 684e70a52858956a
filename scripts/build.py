"""`make build`, `make distill`, `make validate`, `make plan`, `make ui`, `make shell` and `make report`.

`build` first reports everything that would end the run later. Then it uses the Prefect server at PREFECT_API_URL or starts its
own, deploys prefect.yaml, starts a run of the deployment sure-math/build and a worker for it, and prints the result. `distill`
and `validate` do the same with their deployments, on the dataset that was built. The exit status is 0 if the run completed.
However the command ends (Ctrl-C, a failed stage, `kill -9`), its server, worker, flow, engines and model servers end with it.

`ui` keeps a server up, with a worker for the runs that are started in the UI or by `prefect deployment run`. `shell` opens a
shell in which the `prefect` command reaches that server.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import httpx
import local_prefect as local
import pyarrow.parquet as pq
from command_line import INTERRUPTED, end_with_parent, log_error, log_line, read_overrides, read_port, waiting

from tasks.config import PROJECT_ROOT, Config, load_config
from tasks.errors import UserError, attempt
from tasks.processes.ticker import LAYER_S, NOTICE_S
from tasks.processes.timeline import FILE, Phase, Timeline
from tasks.storage.checksums import read_sealed, verify
from tasks.storage.manifest import parquet_files
from tasks.storage.versions import latest
from tasks.text import counted, visible

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import State

Work = Literal["build", "distill", "validate"]

DEPLOYMENTS: dict[Work, str] = {
    "build": "sure-math/build",
    "distill": "sure-math-distill/uopd",
    "validate": "sure-math-validate/truth",
}
"""The deployment of each command; the profile is a parameter of every deployment."""
ALONE: dict[Work, dict[str, Any]] = {"build": {"chain": False}, "distill": {"chain": False}}
"""Parameters by which a command of `make` does one thing, also where prefect.yaml turns the chain on."""
LOCK = PROJECT_ROOT / "output" / ".lock"
WORKER_LOG = local.LOGS / "worker.log"
UI_WORKER_LOGS = {pool: local.LOGS / f"ui-worker-{pool}.log" for pool in local.POOLS}
UI_LOCK = local.HOME / "ui.lock"
POLL_S = 1.0
SERVER_SILENCE_S = 60.0
FLOW_MISSES = 4
"""Consecutive checks, POLL_S seconds apart, without a process of the flow; a single one may fail on a busy machine."""
CANCEL_MISSES = 60
"""The same while a run is being cancelled: the worker ends its process first and writes the final state afterwards."""


FAILED = "Flow run encountered an exception: "
"""The start of Prefect's message of a failed run; the type and the text of the exception follow."""


def build(what: Work, profile: str, overrides: Mapping[str, Any], port: int | None) -> int:
    """Run the deployment of the command `what`; return 0 if it completed, 1 if it failed, crashed or was cancelled.

    Raises `UserError` with every problem that can be found before anything is started.
    """
    parameters, began = {"profile": profile, "overrides": dict(overrides), **ALONE.get(what, {})}, time.time()
    config = checked(what, profile, overrides, port)
    with ExitStack() as stack:
        lock = stack.enter_context(build_lock())
        api = stack.enter_context(started_prefect(port))
        with waiting("deploying prefect.yaml"):
            heal(api, local.read_note(LOCK).get("run"))
            deploy(api)
            with local.client_of(api) as client:
                run = local.create_run(client, DEPLOYMENTS[what], what=what, parameters=parameters)
                pool = local.pool_of(client, DEPLOYMENTS[what])
        local.write_note(lock, {"pid": os.getpid(), "run": str(run.id)})
        stack.enter_context(settled(api, run.id))
        worker = stack.enter_context(local.worker(api, pool, local.MAKE_QUEUE, WORKER_LOG))
        stack.enter_context(shown(WORKER_LOG))
        prepared = time.time() - began
        log_line(
            f"running {DEPLOYMENTS[what]} with profile {profile}; the progress is shown here and at {api.page}"
        )
        completed = follow(api, run.id, worker)
    if completed:
        note = Phase(
            kind="stage", name="checks, Prefect, deployment", began=began, seconds=round(prepared, 3), cpu=0.0
        )
        Timeline(PROJECT_ROOT / config.run.output / "logs" / FILE).record(note)
        shown_after = {"build": show, "distill": show_student, "validate": show_validation}
        shown_after[what](PROJECT_ROOT / config.run.output)
    return 0 if completed else 1


def checked(what: Work, profile: str, overrides: Mapping[str, Any], port: int | None) -> Config:
    """Return the settings of a run. Raises `UserError` with every problem of the run, one per line."""
    from tasks.runtime.preflight import check_run
    from tasks.seeds.registry import resolve

    config = load_config(profile, overrides)  # before the other modules are loaded, which takes seconds
    with waiting("checking settings, models and files"):
        config, problems = resolve(config), list[str]()
        if "PREFECT_API_URL" not in os.environ:
            attempt(problems, lambda: local.choose_port(port))
        problems += check_run(config, what)
    if problems:
        raise UserError("\n".join(problems))
    return config


@contextmanager
def started_prefect(port: int | None) -> Iterator[local.Api]:
    """Provide the Prefect server for the block, and say where it is."""
    what = "starting Prefect" if "PREFECT_API_URL" not in os.environ else "connecting to Prefect"
    with ExitStack() as stack:
        with waiting(what):
            api = stack.enter_context(local.prefect_api(port))
        log_line(f"Prefect is ready at {api.page}{api.login}")
        yield api


@contextmanager
def build_lock() -> Iterator[IO[str]]:
    """Hold the lock of this project's builds for the block; raises `UserError` if another build holds it."""
    lock = local.take_lock(LOCK)
    if lock is None:
        raise UserError(
            f"another build is running (pid {local.read_note(LOCK).get('pid', 'unknown')}): wait until it ends, or stop it"
        )
    with lock:
        yield lock


def heal(api: local.Api, previous: str | None) -> None:
    """Write the final state of the unfinished runs that earlier commands left behind: their processes are gone.

    Runs without a process that wait in the default queue are left to the worker of `make ui`. On the user's own server, only
    `previous`, the run that the last build of this project started, is changed.
    """
    with local.client_of(api) as client:
        for run in local.unfinished_runs(client):
            waits = not local.has_started(run) and run.work_queue_name != local.MAKE_QUEUE
            if local.has_process(run) or waits or not (api.own or str(run.id) == previous):
                continue
            name = local.end_run(
                client,
                run,
                cancelled=False,
                message="Worker and process ended unexpectedly; marked by the next build.",
            )
            how = "was left unfinished by" if local.has_started(run) else "was never started by"
            log_line(f"run {run.name} {how} an earlier command and is now marked as {name}")


def deploy(api: local.Api) -> None:
    """Create the work pools and every deployment of prefect.yaml; raises `UserError` with Prefect's output on failure."""
    with local.client_of(api) as client:
        local.ensure_pools(client)
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=PROJECT_ROOT, env=api.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise UserError(
            f"prefect.yaml could not be deployed; the output of Prefect is:\n{done.stdout}{done.stderr}"
        )
    log_line("deployed prefect.yaml")


@contextmanager
def shown(log: Path) -> Iterator[None]:
    """Copy everything that is written to `log` to the standard output until the block ends; say so if that is nothing."""
    ended = threading.Event()

    def copy() -> None:
        with log.open("rb") as lines:
            last, said, began = False, time.monotonic(), time.monotonic()
            while not last:
                last = ended.wait(0.5)
                text, now = lines.read(), time.monotonic()
                sys.stdout.buffer.write(text)
                sys.stdout.buffer.flush()
                silent = not text and now - said >= NOTICE_S + 2 * LAYER_S  # flow and training speak first
                if silent:
                    log_line(f"the run goes on, {now - began:.0f} s (log: {log})")
                said = now if text or silent else said

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def settled(api: local.Api, run_id: UUID) -> Iterator[None]:
    """Leave the run in a final state. Enter it before the worker starts, so that it exits after the worker."""
    interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        try:
            with local.client_of(api) as client:
                run = client.read_flow_run(run_id)
                if not local.is_final(run):
                    why = (
                        "Interrupted by the user." if interrupted else "The worker ended before the run did."
                    )
                    local.end_run(client, run, cancelled=interrupted, message=why)
        except httpx.HTTPError as error:
            log_line(
                f"the final state of the run could not be written ({type(error).__name__}); the next build will write it"
            )


def follow(api: local.Api, run_id: UUID, worker: subprocess.Popen[bytes]) -> bool:
    """Wait until the run is in a final state; return whether that state is Completed.

    Raises `UserError` if the worker, the server or the process of the flow ends before the run does.
    """
    heard, seen, misses = time.monotonic(), False, 0
    with local.client_of(api) as client:
        while True:
            time.sleep(POLL_S)
            if worker.poll() is not None:
                raise UserError(f"the worker ended before the run did: see {WORKER_LOG}")
            if not api.healthy():
                _expect_recent(
                    heard, SERVER_SILENCE_S, f"the Prefect server at {api.page} no longer responds"
                )
                continue
            run, heard = client.read_flow_run(run_id), time.monotonic()
            if run.state and run.state.is_final():
                return _completed(run.state, run.name)
            here = local.runs_under(worker.pid, run)
            seen = seen or here
            misses = misses + 1 if seen and not here else 0
            if misses >= (CANCEL_MISSES if run.state and run.state.is_cancelling() else FLOW_MISSES):
                raise UserError(f"the process of the flow ended unexpectedly: see the logs in {local.LOGS}")


def _expect_recent(moment: float, patience: float, otherwise: str) -> None:
    if time.monotonic() - moment > patience:
        raise UserError(f"{otherwise}: see the logs in {local.LOGS}")


def _completed(state: State, name: str) -> bool:
    """Return whether a run completed; otherwise print why not: the sentence of a `UserError`, or the state and its message."""
    if state.is_completed():
        return True
    kind, _, sentence = (state.message or "").removeprefix(FAILED).partition(": ")
    if state.is_failed() and kind in ("UserError", "JobFailed"):
        for line in sentence.splitlines():
            log_line(line)
    else:
        log_line(f"run {name} ended as {state.name}: {state.message or 'no message'}")
    return False


def plan(profile: str, overrides: Mapping[str, Any], experiments: str) -> int:
    """Print the estimated requests, tokens and disk space of a build, without Prefect, and write them to `plan.json`; or with
    `experiments` (names with commas) print the cost of their cells."""
    if experiments:
        from training.experiments.cost import plan_lines
        from training.experiments.stored import read_cells

        print("\n".join(plan_lines(experiments, overrides, read_cells(PROJECT_ROOT / "results" / "cells"))))
        return 0
    from tasks.runtime.estimate import describe as describe_plan
    from tasks.runtime.plan import write_plan  # imported here, since stages take seconds to import

    path, found = write_plan(profile, overrides)
    print("\n".join(describe_plan(found)))
    log_line(f"plan written to {path}")
    return 0


def show(output: Path) -> None:
    """Print the paths of the newest dataset and report, the counts, and three rows of low, medium and high entropy."""
    found = latest(output)
    log_line(f"dataset  {found['dataset']}")
    log_line(f"report   {found['report']}")
    show_validation(output, dataset=found.get("fingerprint", ""))
    log_line(
        ", ".join(f"{key} {value:,}" for key, value in found["counts"].items() if isinstance(value, int))
    )
    for row in example_rows(Path(found["dataset"])):
        print(visible(f"\n  {row['problem']}\n  {describe(row)}"))
    show_student(output, dataset=found.get("fingerprint", ""))


def show_validation(output: Path, dataset: str | None = None) -> None:
    """Print the path of the last validation and its AUROC; nothing if there is none.

    With `dataset` (a fingerprint), a validation of any other dataset is not printed.
    """
    folder = output / "validation"
    if not (folder / "validation.json").exists():
        return
    found = read_sealed(folder / "validation.json", "run `make validate` again")
    if dataset is not None and found["dataset"] != dataset:
        return
    log_line(f"validation  {folder / 'report.html'}")
    area = found["majority"]["detections"][0]["auroc"]
    if area is not None:
        log_line(
            f"semantic entropy finds wrong majority answers with AUROC {area['value']:.3f}"
            f" [{area['low']:.3f}, {area['high']:.3f}] on {counted(found['known'], 'problem')}"
        )


def show_student(output: Path, dataset: str | None = None) -> None:
    """Print the path of the last distilled student and its gain; nothing if there is none.

    With `dataset` (a fingerprint), a student of any other dataset is not printed.
    """
    path = output / "distill" / "latest.json"
    if not path.exists():
        return
    folder = path.parent / str(read_sealed(path, "run `make distill` again").get("run"))
    if not (folder / "result.json").exists():
        return
    result = read_sealed(folder / "result.json", "run `make distill` again")
    if dataset is not None and result["dataset"] != dataset:
        return
    print()
    log_line(f"student  {folder / 'student'}")
    if result["held_out"] is not None:
        before, after, gain = (result["held_out"][name] for name in ("before", "after", "gain"))
        log_line(
            f"pass@1 {before['value']:.1%} before, {after['value']:.1%} after distillation: {100 * gain['value']:+.1f} points"
            f" [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}] on {counted(gain['n'], 'held-out problem')}"
        )


def example_rows(dataset: Path) -> list[dict[str, Any]]:
    """Return the training rows with the lowest, median and highest semantic entropy (fewer if there are fewer rows)."""
    columns = ["problem", "tier", "majority_answer", "answer", "semantic_entropy", "weight"]
    files = parquet_files(dataset, "data/train-*.parquet")
    for file in files:
        verify(file)
    rows = [row for file in files for row in pq.read_table(file, columns=columns).to_pylist()]
    rows.sort(key=lambda row: (row["semantic_entropy"], row["problem"]))
    return [rows[place] for place in sorted({0, len(rows) // 2, len(rows) - 1})] if rows else []


def describe(row: Mapping[str, Any]) -> str:
    """Describe a row: 'easy, majority answer 12, truth 12, semantic entropy 0.00 nats, weight 1.00'."""
    truth = "" if row["answer"] is None else f", truth {row['answer']}"
    entropy = f"semantic entropy {row['semantic_entropy']:.2f} nats, weight {row['weight']:.2f}"
    return f"{row['tier']}, majority answer {row['majority_answer'] or 'none'}{truth}, {entropy}"


def ui(port: int | None) -> int:
    """Keep a Prefect server and a worker running until Ctrl-C.

    The server of another command ends with that command. Until then only its pages are available; afterwards a server is
    started here, with a worker, which also runs what was scheduled meanwhile.
    """
    lock = local.take_lock(UI_LOCK)
    if lock is None:
        raise UserError(
            f"`make ui` is already running (pid {local.read_note(UI_LOCK).get('pid', 'unknown')})"
        )
    with lock:
        local.write_note(lock, {"pid": os.getpid()})
        while True:
            with started_prefect(port) as api, ExitStack() as stack:
                if api.owner is None:
                    with waiting("deploying prefect.yaml"):
                        heal(api, None)
                        deploy(api)
                    stack.callback(stop_runs, api)
                    for pool, log in UI_WORKER_LOGS.items():
                        limit = (
                            1 if pool == "gpu" else None
                        )  # engines that start together measure the same free memory
                        stack.enter_context(local.worker(api, pool, local.DEFAULT_QUEUE, log, limit=limit))
                    log_line(
                        f"two workers run what you start in the UI or by `prefect deployment run` (logs: {local.LOGS})"
                    )
                else:
                    log_line(
                        f"this server ends with process {api.owner}; runs that you start in the UI wait until then"
                    )
                log_line(
                    f"the Prefect UI is at {api.page}; `make shell` gives the environment (press Ctrl-C to stop)"
                )
                if api.own and not os.environ.get(local.OUR_STRING):
                    log_line(f"the page asks for this string: {local.auth_string()}")
                while api.healthy():
                    time.sleep(2.0)
            log_line("the Prefect server stopped")


def stop_runs(api: local.Api) -> None:
    """Mark the runs whose processes ended together with the worker of `make ui` as Cancelled."""
    with suppress(httpx.HTTPError), local.client_of(api) as client:
        for run in local.unfinished_runs(client):
            if local.has_started(run) and not local.has_process(run):
                local.end_run(client, run, cancelled=True, message="`make ui` was stopped.")
                log_line(f"run {run.name} is now marked as Cancelled; start it again to continue")


def shell(port: int | None) -> int:
    """Run the user's shell with the environment of the Prefect server's clients; return its exit status."""
    with started_prefect(port) as api:
        environment = api.environment()
        names = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME", "PATH")
        log_line(
            f"a shell with {', '.join(name for name in names if name in environment)}; leave it with `exit`"
        )
        log_line(
            "e.g. prefect deployment run sure-math/build -p profile=pocket --watch (`make ui` starts a worker)"
        )
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the program that runs in the shell
        return subprocess.run([os.environ.get("SHELL") or "/bin/sh"], env=environment, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Run a command. The settings come from the environment variables PROFILE, OVERRIDES, PORT and EXPERIMENT, which `make`
    sets."""
    parser = argparse.ArgumentParser(prog="scripts/build.py", description=__doc__)
    parser.add_argument("what", choices=(*DEPLOYMENTS, "plan", "ui", "shell", "report"))
    what = parser.parse_args(arguments).what
    end_with_parent()
    try:
        profile = os.environ.get("PROFILE") or "pocket"
        overrides = read_overrides(os.environ.get("OVERRIDES", ""))
        port = read_port(os.environ.get("PORT", ""))
        if what in DEPLOYMENTS:
            return build(what, profile, overrides, port)
        if what in ("ui", "shell"):
            return {"ui": ui, "shell": shell}[what](port)
        if what == "plan":
            return plan(profile, overrides, os.environ.get("EXPERIMENT", ""))
        show(PROJECT_ROOT / load_config(profile, overrides).run.output)
        return 0
    except UserError as error:
        log_error(error)
        return 1
    except KeyboardInterrupt:
        log_line("interrupted; all started processes have ended")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
