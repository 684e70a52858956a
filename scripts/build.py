"""`make build`, `make distill`, `make validate`, `make plan`, `make ui` and `make report`.

`build` uses the Prefect server at PREFECT_API_URL or starts its own, deploys prefect.yaml, starts a worker, runs
`prefect deployment run sure-math/build --watch` and prints the result. `distill` and `validate` do the same with their
deployments, on the dataset that was built. The exit status is 0 if the run completed. However the command ends (Ctrl-C, a
failed stage, `kill -9`), its server, worker, flow, engines and model servers end with it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import httpx
import local_prefect as local
import pyarrow.parquet as pq
from command_line import INTERRUPTED, end_with_parent, log_line, read_overrides, read_port

from tasks.config import PROJECT_ROOT, load_config
from tasks.errors import UserError
from tasks.storage.versions import latest
from tasks.text import counted, visible

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

DEPLOYMENTS = {
    "build": "sure-math/build",
    "distill": "sure-math-distill/pocket",
    "validate": "sure-math-validate/pocket",
}
"""The deployment of each command; the profile is a parameter of every deployment."""
LOCK = PROJECT_ROOT / "output" / ".lock"
WATCH_LOG = local.LOGS / "watch.log"
WORKER_LOG = local.LOGS / "worker.log"
POLL_S = 1.0
SERVER_SILENCE_S = 60.0
FLOW_MISSES = 4
"""Consecutive checks, LOOK_S seconds apart, without a process of the flow; a single one may fail on a busy machine."""
CANCEL_MISSES = 60
"""The same while a run is being cancelled: the worker ends its process first and writes the final state afterwards."""


def build(what: str, profile: str, overrides: Mapping[str, Any], port: int | None) -> int:
    """Run the deployment of the command `what`; return 0 if it completed, 1 if it failed, crashed or was cancelled."""
    config = load_config(profile, overrides)  # raises for a bad profile or override before anything starts
    tag = f"{profile}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    with ExitStack() as stack:
        lock = stack.enter_context(build_lock())
        log_line("starting Prefect" if "PREFECT_API_URL" not in os.environ else "connecting to Prefect")
        api = stack.enter_context(local.prefect_api(port))
        log_line(f"Prefect is ready at {api.page}")
        heal(api, local.read_note(LOCK).get("tag"))
        local.write_note(lock, {"pid": os.getpid(), "tag": tag})
        deploy(api)
        stack.enter_context(settled(api, tag))
        worker = stack.enter_context(started_worker(api))
        stack.enter_context(shown(WORKER_LOG))
        log_line(
            f"running {DEPLOYMENTS[what]} with profile {profile}; the progress is shown here and at {api.page}"
        )
        command = run_command(DEPLOYMENTS[what], tag, profile, overrides)
        watch = stack.enter_context(local.supervised(command, environment=api.environment(), log=WATCH_LOG))
        completed = follow(api, tag, worker, watch)
    if completed:
        shown_after = {"build": show, "distill": show_student, "validate": show_validation}
        shown_after[what](PROJECT_ROOT / config.run.output)
    return 0 if completed else 1


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
    """Mark the unfinished runs of earlier builds as Crashed. Since we hold the lock, none of their processes is alive.

    On the user's own server, only the run that the last build of this project started is changed.
    """
    if not api.own and previous is None:
        return
    with local.client_of(api) as client:
        for run in local.abandoned_runs(client, tag=None if api.own else previous):
            local.end_run(
                client,
                run,
                cancelled=False,
                message="Worker and process ended unexpectedly; marked by the next build.",
            )
            log_line(f"run {run.name} was left unfinished by an earlier build and is now marked as Crashed")


def deploy(api: local.Api) -> None:
    """Create the work pool and every deployment of prefect.yaml; raises `UserError` with Prefect's output on failure."""
    with local.client_of(api) as client:
        local.ensure_pool(client)
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
    """Copy everything that is written to `log` to the standard output until the block ends."""
    ended = threading.Event()

    def copy() -> None:
        with log.open("rb") as lines:
            last = False
            while not last:
                last = ended.wait(0.5)
                sys.stdout.buffer.write(lines.read())
                sys.stdout.buffer.flush()

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def started_worker(api: local.Api) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process worker of our pool during the block; its output goes to output/logs/worker.log."""
    command = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "--type",
        "process",
        "--pool",
        local.POOL,
    ]
    with local.supervised(command, environment=api.environment(), log=WORKER_LOG) as process:
        yield process


def run_command(deployment: str, tag: str, profile: str, overrides: Mapping[str, Any]) -> list[str]:
    """Return the `prefect deployment run` command of the deployment."""
    parameters = ["-p", f"profile={json.dumps(profile)}", "-p", f"overrides={json.dumps(overrides)}"]
    return [
        sys.executable,
        "-m",
        "prefect",
        "deployment",
        "run",
        deployment,
        "--watch",
        "--tag",
        tag,
        *parameters,
    ]


@contextmanager
def settled(api: local.Api, tag: str) -> Iterator[None]:
    """Leave the run with the tag in a final state. Enter it before the worker starts, so that it exits after the worker."""
    interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        try:
            with local.client_of(api) as client:
                for run in local.abandoned_runs(client, tag=tag):
                    why = (
                        "Interrupted by the user." if interrupted else "The worker ended before the run did."
                    )
                    local.end_run(client, run, cancelled=interrupted, message=why)
        except httpx.HTTPError as error:
            log_line(
                f"the final state of run {tag} could not be written ({type(error).__name__}); the next build will write it"
            )


def follow(api: local.Api, tag: str, worker: subprocess.Popen[bytes], watch: subprocess.Popen[bytes]) -> bool:
    """Wait until the run with the tag is in a final state; return whether that state is Completed.

    Only the state of the run counts, so a failure of the watching command is harmless. Raises `UserError` if the worker, the
    server or the process of the flow ends before the run does, or if the run was never created.
    """
    heard, seen, misses = time.monotonic(), False, 0
    with local.client_of(api) as client:
        while True:
            ended, now = _ended(watch), time.monotonic()
            if worker.poll() is not None:
                raise UserError(f"the worker ended before the run did: see {WORKER_LOG}")
            if not api.healthy():
                _expect_recent(
                    heard, SERVER_SILENCE_S, f"the Prefect server at {api.page} no longer responds"
                )
                continue
            run, heard = local.tagged_run(client, tag), now
            if run is None and ended:
                raise UserError(f"run {tag} could not be started: see {WATCH_LOG}")
            if run and run.state and run.state.is_final():
                return _completed(run.state, tag)
            here = run is not None and local.runs_under(worker.pid, run)
            seen = seen or here
            misses = misses + 1 if seen and not here else 0
            if misses >= (CANCEL_MISSES if run and run.state and run.state.is_cancelling() else FLOW_MISSES):
                raise UserError(f"the process of the flow ended unexpectedly: see the logs in {local.LOGS}")


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Wait LOOK_S seconds, then return whether the process has ended."""
    time.sleep(POLL_S)
    return process.poll() is not None


def _expect_recent(moment: float, patience: float, otherwise: str) -> None:
    if time.monotonic() - moment > patience:
        raise UserError(f"{otherwise}: see the logs in {local.LOGS}")


def _completed(state: State, tag: str) -> bool:
    if not state.is_completed():
        log_line(f"run {tag} ended as {state.name}: {state.message or 'no message'}")
    return state.is_completed()


def plan(profile: str, overrides: Mapping[str, Any]) -> int:
    """Print the estimated requests, tokens and disk space of a build, without Prefect, and write them to `plan.json`."""
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
    found = json.loads((folder / "validation.json").read_text(encoding="utf-8"))
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
    folder = path.parent / json.loads(path.read_text(encoding="utf-8"))["run"]
    if not (folder / "result.json").exists():
        return
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
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
    files = sorted((dataset / "data").glob("train-*.parquet"))
    rows = [row for file in files for row in pq.read_table(file, columns=columns).to_pylist()]
    rows.sort(key=lambda row: (row["semantic_entropy"], row["problem"]))
    return [rows[place] for place in sorted({0, len(rows) // 2, len(rows) - 1})] if rows else []


def describe(row: Mapping[str, Any]) -> str:
    """Describe a row: 'easy, majority answer 12, truth 12, semantic entropy 0.00 nats, weight 1.00'."""
    truth = "" if row["answer"] is None else f", truth {row['answer']}"
    entropy = f"semantic entropy {row['semantic_entropy']:.2f} nats, weight {row['weight']:.2f}"
    return f"{row['tier']}, majority answer {row['majority_answer'] or 'none'}{truth}, {entropy}"


def ui(port: int | None) -> int:
    """Keep a Prefect server running until Ctrl-C, or follow the server of a running build and start one after it."""
    while True:
        with local.prefect_api(port) as api:
            log_line(f"the Prefect UI is at {api.page} (press Ctrl-C to stop)")
            while api.healthy():
                time.sleep(2.0)
        log_line("the Prefect server stopped")


def main(arguments: Sequence[str]) -> int:
    """Run a command. The settings come from the environment variables PROFILE, OVERRIDES and PORT, which `make` sets."""
    parser = argparse.ArgumentParser(prog="scripts/build.py", description=__doc__)
    parser.add_argument("what", choices=(*DEPLOYMENTS, "plan", "ui", "report"))
    what = parser.parse_args(arguments).what
    end_with_parent()
    try:
        profile = os.environ.get("PROFILE") or "pocket"
        overrides = read_overrides(os.environ.get("OVERRIDES", ""))
        port = read_port(os.environ.get("PORT", ""))
        if what in DEPLOYMENTS:
            return build(what, profile, overrides, port)
        if what == "ui":
            return ui(port)
        if what == "plan":
            return plan(profile, overrides)
        show(PROJECT_ROOT / load_config(profile, overrides).run.output)
        return 0
    except UserError as error:
        log_line(str(error))
        return 1
    except KeyboardInterrupt:
        log_line("interrupted; all started processes have ended")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
