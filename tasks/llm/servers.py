"""Model servers: existing ones at `base_url`, or a vLLM server that is started and stopped here.

A server started here runs under `tasks.processes.supervisor`: it ends with its `with` block, on any exception or signal, and
within ten seconds of a `kill -9` of its owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from tasks.config import ModelRole, Serve
from tasks.errors import UserError
from tasks.keys import environment_without_keys
from tasks.llm.callbacks import WAIT_NOTICE_S, OnWait
from tasks.llm.chat_templates import role_template
from tasks.llm.endpoint import BadStatus, ConnectionFailed, open_client
from tasks.llm.engine_log import last_complaint, last_step
from tasks.llm.invariance import BatchInvariance, check_invariance, server_probes
from tasks.llm.model_folder import model_folder
from tasks.llm.offers import MODELS_TIMEOUT_S, Offer, Silent, difference, request_offer
from tasks.llm.vllm_options import MIN_BATCHED_TOKENS, engine_environment
from tasks.processes.machine import device_is_cpu, engine_device

STOP_S = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerHandle:
    """The addresses of a role's model, as the OpenAI client takes them, usually ending in `/v1`, and how they serve it."""

    base_urls: tuple[str, ...]
    model_name: str
    offer: Offer
    invariance: BatchInvariance | None = None  # None: not checked, the server was not started here


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
    template = _write_template(role_template(role, root), log.with_suffix(".jinja"))
    port = free_port(role.serve)
    command = server_command(
        role,
        role.serve,
        model=str(folder or role.model),
        port=port,
        on_cpu=device_is_cpu(),
        template=template,
    )
    environment = environment_without_keys() | engine_environment(
        role.serve, local=folder is not None, on_cpu=device_is_cpu()
    )
    process = _start(command, environment, log)
    try:
        _wait_until_healthy(process, role, port, log, on_wait)
        base_url = f"http://127.0.0.1:{port}/v1"
        yield ServerHandle(
            base_urls=(base_url,),
            model_name=role.model,
            offer=Offer(is_vllm=True, context=role.max_model_len),
            invariance=_check_server(base_url, role, log),
        )
    finally:
        _stop(process)


# --- a server that already runs ----------------------------------------------------------------------------------


def check_endpoint(
    role: ModelRole, timeout_s: float = MODELS_TIMEOUT_S, *, all_of_them: bool = False
) -> ServerHandle:
    """Request the list of models at every `base_url`.

    Raises `UserError` if one of them offers another model or rejects the key, if two differ in what decides the answers, and if
    none answers (`all_of_them`: if one does not). It has all sentences, one per line.
    """
    found = asyncio.run(_offers(role, timeout_s))
    offers = {url: offer for url, offer in found.items() if isinstance(offer, Offer)}
    errors = [
        offer for offer in found.values()
        if isinstance(offer, UserError) and (all_of_them or not offers or not isinstance(offer, Silent))
    ]  # fmt: skip
    if errors:
        raise UserError("\n".join(map(str, errors)))
    first = next((url for url, offer in offers.items() if offer.context is not None), next(iter(offers)))
    for url, offer in offers.items():
        if (wrong := difference(offer, offers[first])) is not None:
            raise UserError(f"model servers {first} and {url} differ in {wrong}: name servers that are alike")
    return ServerHandle(base_urls=role.base_urls, model_name=role.model, offer=offers[first])


async def _offers(role: ModelRole, timeout_s: float) -> dict[str, Offer | UserError]:
    """Return what each server of the role offers, or why it cannot be used."""

    async def ask(base_url: str) -> Offer | UserError:
        try:
            async with open_client(role, base_url) as client:
                return await request_offer(client, base_url, role, timeout_s)
        except UserError as error:
            return error

    return dict(zip(role.base_urls, await asyncio.gather(*map(ask, role.base_urls)), strict=True))


# --- a local server -----------------------------------------------------------------------------------------------


def _write_template(template: str | None, path: Path) -> Path | None:
    """Write a chat template for the server and return its path; None for the checkpoint's own."""
    if template is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(template, encoding="utf-8")
    return path


def server_command(
    role: ModelRole, serve: Serve, *, model: str, port: int, on_cpu: bool, template: Path | None = None
) -> list[str]:
    """Return the command of vLLM's OpenAI server for `role` on the loopback address; `template` replaces its chat template.

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
    if template is not None:
        options["--chat-template"] = str(template)
    if not on_cpu:
        options["--gpu-memory-utilization"] = serve.gpu_memory_fraction
    flags = ["--disable-uvicorn-access-log", "--disable-log-stats"]
    flags += ["--enforce-eager", "--no-enable-chunked-prefill"] if on_cpu else []
    pairs = [text for name, value in options.items() for text in (name, str(value))]
    return [sys.executable, "-P", "-m", "tasks.llm.vllm_server", *pairs, *flags]


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
    supervisor = Path(__file__).resolve().parents[1] / "processes" / "supervisor.py"
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
                    f"the server of {role.model} was not healthy after {role.serve.health_timeout_s:.0f} s"
                    f"{f' ({step})' if (step := last_step(log)) else ''}: read {log}, or raise `serve.health_timeout_s`"
                )
            if on_wait is not None and now - noticed >= WAIT_NOTICE_S:
                noticed = now
                on_wait(now - started, last_step(log))
            time.sleep(0.5)


def _check_server(base_url: str, role: ModelRole, log: Path) -> BatchInvariance:
    """Check the batch invariance of a server that has just started. `UserError` if it does not complete the probes."""
    probes = server_probes(role, base_url)
    try:
        return check_invariance(probes, dtype=role.dtype, machine=engine_device())
    except (BadStatus, ConnectionFailed, TimeoutError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"the server of {role.model} does not complete a test prompt ({error!r}): read {log}"
        ) from error


def _healthy(client: httpx.Client, port: int) -> bool:
    try:
        return client.get(f"http://127.0.0.1:{port}/health").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
