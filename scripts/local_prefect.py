"""A Prefect server and worker of this project that end with the process that started them, even after `kill -9`.

The server runs whatever a client asks it to, so it answers only to clients that send its auth string, which is in a file that no
other user can read. Without it, any page in the user's browser could reach the server on this machine.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import psutil
from command_line import log_line

from tasks.config import PROJECT_ROOT
from tasks.errors import UserError
from tasks.keys import environment_without_keys, shown
from tasks.processes.jobs import end
from tasks.runtime.run_names import MAKE_QUEUE, run_name
from tasks.storage.locks import read_note, take_lock, write_note

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

HOME = PROJECT_ROOT / ".prefect"
LOGS = PROJECT_ROOT / "output" / "logs"
POOLS = ("cpu", "gpu")
"""The work pools of prefect.yaml: `gpu` has the runs that start engines or train, `cpu` the others."""
DEFAULT_QUEUE = "default"
"""Queue of the runs that are started in the UI or by `prefect deployment run`; the worker of `make ui` runs them."""
OUR_STRING = "PREFECT_SERVER_API_AUTH_STRING"
"""The environment variable with the auth string of a server; one that the user has set is used for ours."""
USUAL_PORT = 4200
SERVER_START_S = 180.0
STOP_S = 15.0
"""Seconds that Prefect's own processes may take to end; a training run started by the worker may take longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """The address of a Prefect server, and whether it is the project's own (in `.prefect/`) or the user's.

    `owner`: the process id of another command of this project that started it and will end it, else None.
    """

    url: str
    own: bool
    owner: str | None = None

    def healthy(self) -> bool:
        """Whether the server answers its health check within five seconds."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5.0).is_success
        except httpx.HTTPError:
            return False

    def is_open(self) -> bool:
        """Whether the server answers a request without authentication."""
        try:
            return httpx.get(f"{self.url}/admin/version", timeout=5.0).is_success
        except httpx.HTTPError:
            return False

    @property
    def page(self) -> str:
        """Address of the UI, without a password that the user's address may have."""
        return shown(self.url).removesuffix("/api")

    @property
    def login(self) -> str:
        """Where the string is that the page asks for; empty for a server of the user's."""
        if not self.own:
            return ""
        return (
            f" (the page asks for the string in {OUR_STRING if os.environ.get(OUR_STRING) else auth_file()})"
        )

    def environment(self) -> dict[str, str]:
        """Return the environment for clients of this server. The pull step of prefect.yaml reads PWD."""
        bin_folder = str(Path(sys.executable).parent)
        inherited = dict(os.environ)
        mine = {
            "DO_NOT_TRACK": "1",
            "PATH": os.pathsep.join((bin_folder, inherited.get("PATH", os.defpath))),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PWD": str(PROJECT_ROOT),
            "PYTHONUNBUFFERED": "1",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        }
        if self.own:
            inherited.pop("PREFECT_PROFILE", None)  # the user's profiles do not exist in our PREFECT_HOME
            mine |= {"PREFECT_HOME": str(HOME), "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true"}
            if secret := auth_string():
                mine["PREFECT_API_AUTH_STRING"] = secret
        return {**inherited, **mine}

    def server_environment(self) -> dict[str, str]:
        """Return the environment of our server: no keys but its auth string, no pages of other origins, CSRF protection."""
        own = {name: value for name, value in self.environment().items() if name.startswith("PREFECT_")}
        rules = {
            "CORS_ALLOWED_ORIGINS": f"{self.page},{self.page.replace('127.0.0.1', 'localhost')}",
            "CSRF_PROTECTION_ENABLED": "true",
        }
        both = {
            f"PREFECT_SERVER_{part}{name}": value for name, value in rules.items() for part in ("", "API_")
        }
        return {**environment_without_keys(), **own, **both, OUR_STRING: own["PREFECT_API_AUTH_STRING"]}


def auth_file() -> Path:
    """Return the path of the file with the auth string of our server."""
    return HOME / "auth-string"


def auth_string() -> str:
    """Return the auth string of our server: the user's choice, else that of the file; empty if there is none yet."""
    chosen = os.environ.get(OUR_STRING, "")
    return chosen or (auth_file().read_text(encoding="ascii") if auth_file().exists() else "")


def make_auth_string() -> None:
    """Write a random auth string to its file, readable by this user only, unless there is one."""
    if not auth_string():
        auth_file().parent.mkdir(parents=True, exist_ok=True)
        scratch = auth_file().with_suffix(f".{os.getpid()}")
        with open(
            os.open(scratch, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="ascii"
        ) as file:
            file.write(f"sure-math:{secrets.token_urlsafe(24)}")
        scratch.replace(auth_file())


@contextmanager
def supervised(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command that ends, with all its descendants, when the block ends or when this process dies.

    A training run among the descendants gets time to write a checkpoint first. The output replaces the content of `log`.
    The command runs in its own session, so that Ctrl-C reaches only this process.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.processes.supervisor", "--", *command],
            stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
            cwd=PROJECT_ROOT, env=dict(environment), start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        end(process, " ".join(command[2:4]), quiet_s=STOP_S)


@contextmanager
def prefect_api(port: int | None = None) -> Iterator[Api]:
    """Use the user's server (`PREFECT_API_URL`), else the server of another command of this project, else a new one.

    Raises `UserError` if the user's server does not respond, the port is in use, or our server does not start.
    """
    url = os.environ.get("PREFECT_API_URL")
    lock = None if url else take_lock(HOME / "server.lock")
    if url:
        yield _answering(Api(url=url.rstrip("/"), own=False))
    elif lock is None:
        yield _neighbours_server()
    else:
        with lock, _own_server(port) as api:
            write_note(lock, {"pid": os.getpid(), "url": api.url})
            yield api


def _answering(api: Api) -> Api:
    if not api.healthy():
        raise UserError(
            f"no Prefect server responds at {api.page}: start it, or unset PREFECT_API_URL to let this command start one"
        )
    if urlsplit(api.url).hostname not in ("127.0.0.1", "localhost", "::1") and api.is_open():
        log_line(
            f"the Prefect server at {api.page} has no authentication: whoever reaches it can run programs on this machine; set"
            f" {OUR_STRING} of the server and PREFECT_API_AUTH_STRING of its clients"
        )
    return api


def _neighbours_server() -> Api:
    deadline = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline:
        note = read_note(HOME / "server.lock")
        api = Api(url=note.get("url", ""), own=True, owner=note.get("pid", "unknown"))
        if api.url and api.healthy():
            return api
        time.sleep(0.5)
    raise UserError(
        f"the Prefect server of process {read_note(HOME / 'server.lock').get('pid', 'unknown')} does not respond: "
        "stop that process and try again"
    )


@contextmanager
def _own_server(port: int | None) -> Iterator[Api]:
    make_auth_string()
    api = Api(url=f"http://127.0.0.1:{choose_port(port)}/api", own=True)
    log = LOGS / "server.log"
    host, number = api.page.removeprefix("http://").split(":")
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", number]
    with supervised(command, environment=api.server_environment(), log=log) as process:
        deadline = time.monotonic() + SERVER_START_S
        _import_prefect(api)  # takes seconds, as does the start of the server
        while not api.healthy():
            if process.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"the Prefect server did not start: see {log}")
            time.sleep(0.3)
        yield api


def _import_prefect(api: Api) -> None:
    """Import what `client_of` and `ensure_pools` use."""
    os.environ.update(api.environment())
    import prefect.client.orchestration
    import prefect.workers.process  # noqa: F401


@contextmanager
def worker(
    api: Api, pool: str, queue: str, log: Path, *, limit: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process worker for one queue of a pool during the block, for at most `limit` runs at a time; its output goes to
    `log`."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool", pool]
    command += ["--work-queue", queue, *([] if limit is None else ["--limit", str(limit)])]
    with supervised(command, environment=api.environment(), log=log) as process:
        yield process


def choose_port(wanted: int | None) -> int:
    """Return `wanted` if given (raises `UserError` if it is in use), else 4200 if free, else any free port."""
    for port in (wanted,) if wanted is not None else (USUAL_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UserError(
        f"port {wanted} is in use: stop the process that listens on it, or leave PORT unset to use a free port"
    )


@contextmanager
def client_of(api: Api) -> Iterator[SyncPrefectClient]:
    """Open a client of the server. The environment is set first, since Prefect reads it when it is first imported."""
    os.environ.update(api.environment())
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


def ensure_pools(client: SyncPrefectClient) -> None:
    """Create the process work pools that do not exist."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    for pool in POOLS:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))


def create_run(
    client: SyncPrefectClient, deployment: str, *, what: str, parameters: Mapping[str, Any]
) -> FlowRun:
    """Create a run of a deployment in the queue that only the workers of `make` serve."""
    found = client.read_deployment_by_name(deployment)
    return client.create_flow_run_from_deployment(
        found.id,
        name=run_name(what, parameters),
        parameters=dict(parameters),
        tags=[str(parameters["profile"])],
        work_queue_name=MAKE_QUEUE,
    )


def pool_of(client: SyncPrefectClient, deployment: str) -> str:
    """Return the work pool of a deployment."""
    return str(client.read_deployment_by_name(deployment).work_pool_name)


def unfinished_runs(client: SyncPrefectClient) -> list[FlowRun]:
    """Return the runs of our work pools that are due and not in a final state. Paused runs are not included."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType

    active = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    wanted = filters.FlowRunFilter(
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=active))
    )
    pool = filters.WorkPoolFilter(name=filters.WorkPoolFilterName(any_=list(POOLS)))
    runs = client.read_flow_runs(flow_run_filter=wanted, work_pool_filter=pool)
    now = datetime.now(UTC)
    return [
        run for run in runs if run.start_time or not run.expected_start_time or run.expected_start_time <= now
    ]


def is_final(run: FlowRun) -> bool:
    """Whether the run is in a final state."""
    return run.state is not None and run.state.is_final()


def has_started(run: FlowRun) -> bool:
    """Whether the flow of the run has begun."""
    return run.start_time is not None or (run.state is not None and run.state.is_running())


def has_process(run: FlowRun) -> bool:
    """Whether the process of the run is alive on this machine."""
    number = (run.infrastructure_pid or "").rpartition(":")[2]
    if not number.isdecimal():
        return False
    try:
        process = psutil.Process(int(number))
        return process.status() != psutil.STATUS_ZOMBIE and "prefect" in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def runs_under(owner: int, run: FlowRun) -> bool:
    """Whether the process of `run` is alive and a descendant of process `owner`."""
    try:
        family = psutil.Process(owner).children(recursive=True)
        living = {str(process.pid) for process in family if process.status() != psutil.STATUS_ZOMBIE}
    except psutil.NoSuchProcess:
        return False
    return (run.infrastructure_pid or "").rpartition(":")[2] in living


def end_run(client: SyncPrefectClient, run: FlowRun, *, cancelled: bool, message: str) -> str:
    """Set the final state of a run without living processes, whatever state it was left in, and return that state's name.

    A run whose flow never began is Cancelled, never Crashed.
    """
    from prefect.states import Cancelled, Crashed

    if not has_started(run):
        state = Cancelled(message=f"Never started. {message}")
    else:
        state = Cancelled(message=message) if cancelled else Crashed(message=message)
    client.set_flow_run_state(run.id, state, force=True)
    return str(state.name)
