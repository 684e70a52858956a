"""The script behind `make build`: one build at a time, errors for bad settings, abandoned runs, no processes left behind."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import UserError

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture()
def local(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("local_prefect")


@pytest.fixture()
def runner(local: Any) -> Any:
    spec = importlib.util.spec_from_file_location(
        "make_build", SCRIPTS / "build.py"
    )  # flows/ has a build.py too
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_lock_is_held_once_and_released_with_its_holder(local: Any, tmp_path: Path) -> None:
    first = local.take_lock(tmp_path / "lock")
    local.write_note(first, {"pid": 7, "tag": "pocket-1"})
    assert local.take_lock(tmp_path / "lock") is None
    assert local.read_note(tmp_path / "lock") == {"pid": "7", "tag": "pocket-1"}
    first.close()
    assert local.take_lock(tmp_path / "lock") is not None


def test_a_torn_or_missing_note_reads_as_empty(local: Any, tmp_path: Path) -> None:
    (tmp_path / "torn").write_text('{"pid": 7')
    assert local.read_note(tmp_path / "torn") == local.read_note(tmp_path / "absent") == {}


def test_a_second_build_is_refused_with_the_pid_of_the_first(
    local: Any, runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LOCK", tmp_path / "lock")
    with runner.build_lock() as lock:
        local.write_note(lock, {"pid": 4711})
        with pytest.raises(UserError, match="another build is running \\(pid 4711\\)"), runner.build_lock():
            pass


def test_a_requested_port_in_use_is_an_error_and_the_default_port_is_avoided(
    local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use"):
            local.choose_port(port)
        monkeypatch.setattr(local, "USUAL_PORT", port)
        assert local.choose_port(None) != port


def test_an_unreachable_server_of_the_user_is_an_error(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with (
        pytest.raises(UserError, match="no Prefect server responds at http://127"),
        local.prefect_api(),
    ):
        pass


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_overrides_that_are_not_a_json_object_are_an_error(runner: Any, text: str) -> None:
    with pytest.raises(UserError, match=r"OVERRIDES='\{\"select.target\": 50\}'"):
        runner.read_overrides(text)


def test_overrides_and_port_are_read(runner: Any) -> None:
    assert runner.read_overrides('{"select.target": 50}') == {"select.target": 50}
    assert (
        runner.read_overrides("") == {} and runner.read_port("") is None and runner.read_port("4300") == 4300
    )
    for bad in ("0", "65536", "http"):
        with pytest.raises(UserError, match="from 1 to 65535"):
            runner.read_port(bad)


@pytest.mark.parametrize(("variable", "value", "words"), [
    ("PROFILE", "nowhere", "unknown profile 'nowhere'"),
    ("OVERRIDES", '{"select.aim": 5}', "select.aim: unknown key"),
])  # fmt: skip
def test_a_bad_setting_ends_the_build_before_anything_starts(
    runner: Any, variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(runner, "end_with_parent", lambda: None)
    monkeypatch.setattr(runner, "build_lock", lambda: pytest.fail("the build was started"))
    assert runner.main(["build"]) == 1
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("what", ["build", "distill", "validate"])
def test_all_problems_are_printed_before_anything_starts_and_without_a_traceback(
    runner: Any, local: Any, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    given = {"run.output": str(tmp_path), "models.teacher.model": "pocket/nobody"}
    monkeypatch.setenv("OVERRIDES", json.dumps(given))
    monkeypatch.setattr(runner, "end_with_parent", lambda: None)
    monkeypatch.setattr(runner, "build_lock", lambda: pytest.fail("the run was started"))
    monkeypatch.setattr(local, "prefect_api", lambda _port: pytest.fail("Prefect was started"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("PORT", str(taken.getsockname()[1]))
        assert runner.main([what]) == 1
    begun = "sure-math: checking settings, models and files"
    first, *lines = capsys.readouterr().out.splitlines()
    errors = [line for line in lines if not line.startswith(begun)]  # a slow machine shows the seconds
    assert first == begun
    assert all(line.startswith("sure-math: ") for line in errors)
    assert "is in use: stop the process that listens on it" in errors[0]
    missing = {
        "build": "models.teacher: model folder ",
        "distill": f"{tmp_path} contains no finished dataset",
        "validate": f"{tmp_path} contains no finished dataset",
    }
    assert any(missing[what] in line for line in errors[1:])


def test_our_server_and_its_clients_share_an_auth_string_that_no_other_user_can_read(
    local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "HOME", tmp_path / "home")
    monkeypatch.setenv("TEAM_API_KEY", "sk-12345")
    api = local.Api(url="http://127.0.0.1:4200/api", own=True)
    assert "PREFECT_API_AUTH_STRING" not in api.environment()
    local.make_auth_string()
    secret = local.auth_string()
    assert len(secret) > 40 and local.auth_file().stat().st_mode & 0o777 == 0o600
    local.make_auth_string()
    assert local.auth_string() == secret == api.environment()["PREFECT_API_AUTH_STRING"]
    server = api.server_environment()
    assert server["PREFECT_SERVER_API_AUTH_STRING"] == secret and "TEAM_API_KEY" not in server
    assert server["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4200,http://localhost:4200"
    assert server["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true" and server["PREFECT_HOME"] == str(
        tmp_path / "home"
    )
    assert api.login == f" (the page asks for the string in {tmp_path}/home/auth-string)"
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "admin:pass")
    assert api.environment()["PREFECT_API_AUTH_STRING"] == "admin:pass"
    assert api.server_environment()["PREFECT_SERVER_API_AUTH_STRING"] == "admin:pass"
    assert api.login == " (the page asks for the string in PREFECT_SERVER_API_AUTH_STRING)"
    assert api.environment()["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert api.environment()["TEAM_API_KEY"] == "sk-12345", "the flow needs it"


@pytest.mark.parametrize(
    ("host", "is_open", "warned"),
    [("prefect.invalid", True, True), ("me:pw@prefect.invalid", False, False), ("127.0.0.1", True, False)],
)
def test_a_server_of_the_user_is_left_as_it_is_with_a_line_if_anyone_can_use_it(
    host: str, is_open: bool, warned: bool, local: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://{host}/api")
    monkeypatch.setattr(local.Api, "healthy", lambda _api: True)
    monkeypatch.setattr(local.Api, "is_open", lambda _api: is_open)
    with local.prefect_api() as api:
        assert (api.own, api.url, api.login) == (False, f"http://{host}/api", "")
        assert "PREFECT_API_AUTH_STRING" not in api.environment() and "pw" not in api.page
    printed = capsys.readouterr().out
    assert ("has no authentication: whoever reaches it can run programs on this machine" in printed) is warned


def test_a_shell_runs_with_the_environment_and_its_exit_status_is_returned(
    runner: Any, local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "shell"
    program.write_text(f'#!/bin/sh\necho "$PREFECT_API_URL" > {tmp_path / "seen"}\nexit 7\n')
    program.chmod(0o755)
    api = local.Api(url="http://127.0.0.1:4242/api", own=True)
    monkeypatch.setattr(local, "prefect_api", lambda _port: contextlib.nullcontext(api))
    monkeypatch.setenv("SHELL", str(program))
    before = signal.getsignal(signal.SIGINT)
    try:
        assert runner.shell(None) == 7
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "seen").read_text().strip() == api.url


def test_a_failed_run_is_explained_by_the_sentence_alone(runner: Any, capsys: Any) -> None:
    from prefect.states import Completed, Crashed, Failed

    assert runner._completed(Completed(), "r") and capsys.readouterr().out == ""
    message = "Flow run encountered an exception: UserError: x is missing: add it"
    assert not runner._completed(Failed(message=message), "r")
    assert capsys.readouterr().out == "sure-math: x is missing: add it\n"
    assert not runner._completed(Crashed(message="gone"), "r")
    assert capsys.readouterr().out == "sure-math: run r ended as Crashed: gone\n"


def test_the_last_build_is_shown_with_three_rows(runner: Any, tmp_path: Path, capsys: Any) -> None:
    rows = [
        {
            "problem": f"p{i}", "tier": "easy", "majority_answer": str(i), "answer": None if i else "0",
            "semantic_entropy": i / 2, "weight": 1 - i / 10,
        }
        for i in range(5)
    ]  # fmt: skip
    (tmp_path / "dataset" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "dataset" / "data" / "train-00000.parquet")
    latest = {
        "dataset": "dataset",
        "report": "report.html",
        "counts": {"kept": 1234},
    }
    (tmp_path / "latest.json").write_text(json.dumps(latest))
    runner.show(tmp_path)
    printed = capsys.readouterr().out
    assert str(tmp_path / "report.html") in printed and "kept 1,234" in printed
    assert [line.strip() for line in printed.splitlines() if line.startswith("  p")] == ["p0", "p2", "p4"]
    assert "easy, majority answer 0, truth 0, semantic entropy 0.00 nats, weight 1.00" in printed
    assert "easy, majority answer 4, semantic entropy 2.00 nats, weight 0.60" in printed


@pytest.mark.parametrize(("asked", "shown"), [(None, True), ("d1", True), ("d2", False)])
def test_the_validation_is_shown_unless_it_belongs_to_another_dataset(
    runner: Any, tmp_path: Path, capsys: Any, asked: str | None, shown: bool
) -> None:
    runner.show_validation(tmp_path)
    assert capsys.readouterr().out == ""
    (tmp_path / "validation").mkdir()
    area = {"value": 0.875, "low": 0.85, "high": 0.9, "n": 1200}
    output = {"dataset": "d1", "known": 1200, "majority": {"detections": [{"auroc": area}]}}
    (tmp_path / "validation" / "validation.json").write_text(json.dumps(output))
    runner.show_validation(tmp_path, asked)
    printed = capsys.readouterr().out
    assert (str(tmp_path / "validation" / "report.html") in printed) is shown
    assert ("AUROC 0.875 [0.850, 0.900] on 1,200 problems" in printed) is shown


@pytest.mark.parametrize("asked", [None, "d1", "d2"])
def test_the_student_is_shown_unless_it_belongs_to_another_dataset(
    runner: Any, tmp_path: Path, capsys: Any, asked: str | None
) -> None:
    runner.show_student(tmp_path)
    assert capsys.readouterr().out == ""
    held_out = {
        "before": {"value": 0.25},
        "after": {"value": 0.5},
        "gain": {"value": 0.25, "low": 0.1, "high": 0.4, "n": 9},
    }
    (tmp_path / "distill/abc").mkdir(parents=True)
    (tmp_path / "distill/latest.json").write_text('{"run": "abc"}')
    (tmp_path / "distill/abc/result.json").write_text(json.dumps({"dataset": "d1", "held_out": held_out}))
    runner.show_student(tmp_path, asked)
    printed = capsys.readouterr().out
    assert (str(tmp_path / "distill/abc/student") in printed) == (asked != "d2")
    assert ("+25.0 points [+10.0, +40.0] on 9" in printed) == (asked != "d2")


def test_report_before_any_build_is_an_error_with_advice(runner: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="build one first"):
        runner.show(tmp_path)


def test_supervised_processes_end_after_kill_9_of_the_runner(tmp_path: Path) -> None:
    program = f"""
import os, sys, time
sys.path.insert(0, {str(SCRIPTS)!r})
import local_prefect
from pathlib import Path
command = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
with local_prefect.supervised(command, environment=dict(os.environ), log=Path({str(tmp_path / "log")!r})):
    time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", program])
    child = _first_number(tmp_path / "log")
    assert psutil.pid_exists(child)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(child)


def _first_number(log: Path) -> int:
    deadline = time.monotonic() + 30
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(log.read_text())


@pytest.fixture(scope="module")
def our_server(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """Run ON_OUR_SERVER; return its folder, what it found, and what it printed."""
    folder = tmp_path_factory.mktemp("server")
    done = subprocess.run(
        [sys.executable, "-c", ON_OUR_SERVER, str(SCRIPTS), str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, json.loads(done.stdout.splitlines()[-1]), done.stdout


@pytest.mark.slow
def test_our_server_refuses_pages_of_other_sites_and_a_run_starts_as_documented(
    our_server: tuple[Path, dict[str, Any], str],
) -> None:
    """Whatever a page in the user's browser can send gets 401 or 403; `prefect deployment run` in the environment of `make shell`
    starts a run, which the worker of `make ui` runs."""
    folder, found, _ = our_server
    assert found["refused"] == {
        "no authentication": 401, "another origin": 401, "another host": 401, "wrong string": 401, "CSRF token": 401,
        "no CSRF token": 403,
    }  # fmt: skip
    assert found["preflight"] == [None, "http://127.0.0.1"] and found["socket"] == "closed"
    assert found["health"] == 200 and found["open"] is False
    assert found["run"] == 0, found["said"]
    assert "Completed" in found["said"]
    secret = (folder / "prefect/auth-string").read_text(encoding="ascii").partition(":")[2]
    files = [file for file in folder.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]
    assert files == [folder / "prefect/auth-string"]


@pytest.mark.slow
def test_a_run_that_is_cancelled_ends_with_its_process(our_server: tuple[Path, dict[str, Any], str]) -> None:
    _, found, printed = our_server
    assert found["cancelled"] == {"completed": False, "state": "Cancelled", "has a process": False}
    assert "ended as Cancelled" in printed


@pytest.mark.slow
def test_an_announced_result_starts_the_next_flow_with_the_same_settings(
    our_server: tuple[Path, dict[str, Any], str],
) -> None:
    _, found, _ = our_server
    same = {
        "profile": "pocket",
        "overrides": {"select.target": 7, "export.name": "a <b> {{ c }}"},
        "chain": True,
    }
    assert found["chained"] == {
        "sure-math-distill": ["gpu", "default", {**same, "dataset": "data/set"}],
        "sure-math-evaluate": ["gpu", "default", {**same, "model": "data/student", "benchmarks": []}],
    }


@pytest.mark.slow
def test_abandoned_runs_get_a_final_state_on_a_real_server(
    our_server: tuple[Path, dict[str, Any], str],
) -> None:
    """A run left Running is Crashed and one that never started is Cancelled; a run with a process, one that waits for `make ui`
    (which the server marks as late) and one for tomorrow are unchanged."""
    _, found, printed = our_server
    assert found["states"] == {
        "running": "CRASHED", "due": "CANCELLED", "waits": "SCHEDULED", "tomorrow": "SCHEDULED", "done": "COMPLETED",
        "alive": "RUNNING", "mine": "CANCELLED", "unborn": "CANCELLED",
    }  # fmt: skip
    assert "was left unfinished by an earlier command and is now marked as Crashed" in printed
    assert "was never started by an earlier command and is now marked as Cancelled" in printed


# In a separate process, since Prefect reads the server's address when it is first imported.
ON_OUR_SERVER = """
import asyncio, contextlib, json, os, subprocess, sys, time
from datetime import UTC, datetime, timedelta
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import httpx
import local_prefect as local, build
from tasks.storage.locks import alone
from tasks.storage.ownership import RUN_LOCK
FOLDER = Path(sys.argv[2])
local.HOME, local.LOGS = FOLDER / "prefect", FOLDER / "logs"

def refused(api, right):
    evil = {"Origin": "https://evil.example"}
    def status(method, path, **how):
        return httpx.request(method, f"{api.url}/{path}", timeout=60, **how).status_code
    return {
        "no authentication": status("GET", "admin/version"),
        "another origin": status("GET", "admin/version", headers=evil),
        "another host": status("GET", "admin/version", headers={"Host": "rebound.example"}),
        "wrong string": status("GET", "admin/version", auth=("sure-math", "guess")),
        "CSRF token": status("GET", "csrf-token?client=page", headers=evil),
        "no CSRF token": status("POST", "deployments/", auth=right, headers=evil, json={}),
    }

def allowed(api, origin):
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = httpx.options(f"{api.url}/flows/filter", headers=asked, timeout=60)
    return answer.headers.get("access-control-allow-origin")

async def socket(api):
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed
    address = api.url.replace("http", "ws", 1) + "/events/in"
    async with connect(address, subprotocols=["prefect"], origin="https://evil.example") as one:
        await one.send(json.dumps({"type": "auth", "token": None}))
        try:
            return await asyncio.wait_for(one.recv(), 60)
        except ConnectionClosed:
            return "closed"

def documented_run(api):
    with local.worker(api, "gpu", local.DEFAULT_QUEUE, local.LOGS / "worker.log", limit=1):
        settings = ["-p", "profile=pocket", "-p", "dry_run=true", "-p", "overrides=" + json.dumps({"run.output": str(FOLDER)})]
        return subprocess.run(
            ["prefect", "deployment", "run", "sure-math/build", *settings, "--watch"], env=api.environment(),
            capture_output=True, text=True, check=False,
        )

def cancelled_run(api):
    # a run that waits for the lock of its folder
    from prefect.states import Cancelling
    held, log = FOLDER / "held", local.LOGS / "make-worker.log"
    parameters = {"profile": "pocket", "overrides": {"run.output": str(held), "run.lock_wait_s": 600}}
    with alone(held / RUN_LOCK, "an annotation"), local.client_of(api) as client:
        run = local.create_run(client, build.DEPLOYMENTS["build"], what="build", parameters=parameters)
        pool = local.pool_of(client, build.DEPLOYMENTS["build"])
        with local.worker(api, pool, local.MAKE_QUEUE, log) as worker:
            while "an annotation is already running" not in log.read_text():
                time.sleep(0.2)
            client.set_flow_run_state(run.id, Cancelling())
            completed = build.follow(api, run.id, worker)
            run = client.read_flow_run(run.id)
            return {"completed": completed, "state": run.state.name, "has a process": local.has_process(run)}

def chained_runs(api):
    # no worker is there, so that the runs of the triggers stay scheduled
    from prefect import flow
    from prefect.events.worker import EventsWorker
    from tasks.config import load_config
    from tasks.stages import chain
    overrides = {"select.target": 7, "export.name": "a <b> {{ c }}"}
    config = load_config("pocket", overrides)
    @flow
    def announcing():
        chain.announce_dataset(config, overrides, "data/set")
        chain.announce_student(config, overrides, "data/student")
    announcing()
    EventsWorker.drain_all(timeout=30)
    found, deadline = {}, time.monotonic() + 60
    with local.client_of(api) as client:
        while len(found) < 2 and time.monotonic() < deadline:
            time.sleep(0.5)
            for run in client.read_flow_runs():
                if (name := client.read_flow(run.flow_id).name).startswith("sure-math-"):
                    found[name] = [run.work_pool_name, run.work_queue_name, run.parameters]
    return found

def states_after_healing(api):
    other = subprocess.Popen([sys.executable, "-c", "'prefect'; import time; time.sleep(600)"])
    with local.client_of(api) as client:
        from prefect import flow
        from prefect.states import Completed, Running, Scheduled
        local.ensure_pools(client)
        empty = flow(lambda: None, name="empty")
        now = datetime.now(UTC)
        late, tomorrow = now - timedelta(minutes=1), now + timedelta(days=1)
        states = {
            "running": Running(), "due": Scheduled(scheduled_time=late), "waits": Scheduled(scheduled_time=late),
            "tomorrow": Scheduled(scheduled_time=tomorrow), "done": Completed(), "alive": Running(), "mine": Running(),
            "unborn": Scheduled(scheduled_time=late),
        }
        deployment = client.create_deployment(
            flow_id=client.create_flow(empty), name="d", work_pool_name="cpu", entrypoint="x:y"
        )
        def start(name):
            queue = local.DEFAULT_QUEUE if name == "waits" else local.MAKE_QUEUE
            at = states[name] if states[name].is_scheduled() else None
            made = client.create_flow_run_from_deployment(deployment, name=name, work_queue_name=queue, state=at)
            if at is None:
                client.set_flow_run_state(made.id, states[name], force=True)
            return made.id
        ids = {name: start(name) for name in states if name not in ("mine", "unborn")}
        client.update_flow_run(ids["alive"], infrastructure_pid=f"host:{other.pid}")
    build.heal(api, None)
    for name in ("mine", "unborn"):
        with local.client_of(api) as client:
            ids[name] = start(name)
        with contextlib.suppress(KeyboardInterrupt, ValueError), build.settled(api, ids[name]):
            raise KeyboardInterrupt if name == "mine" else ValueError
    other.kill()
    with local.client_of(api) as client:
        return {name: client.read_flow_run(id).state.type.value for name, id in ids.items()}

with local.prefect_api() as api:
    found = {"refused": refused(api, httpx.BasicAuth(*local.auth_string().split(":")))}
    ours = allowed(api, api.page)
    found["preflight"] = [allowed(api, "https://evil.example"), ours and ours.rpartition(":")[0]]
    found["socket"] = asyncio.run(socket(api))
    found |= {"health": httpx.get(f"{api.url}/health", timeout=60).status_code, "open": api.is_open()}
    build.deploy(api)
    run = documented_run(api)
    found |= {"run": run.returncode, "said": run.stdout[-3000:] + run.stderr[-1000:]}
    found["cancelled"] = cancelled_run(api)
    found["chained"] = chained_runs(api)
    found["states"] = states_after_healing(api)
    print(json.dumps(found))
"""
