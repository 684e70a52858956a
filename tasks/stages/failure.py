"""Report a failed run: an artifact of the run, and the notification block of the user's, if there is one."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from prefect import Flow
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging.loggers import flow_run_logger

from tasks.config import Config, load_config
from tasks.errors import UserError
from tasks.runtime.failures import Failure, deployment_command, failure, make_command
from tasks.runtime.run_names import MAKE_QUEUE

PATIENCE_S = 15.0
"""Longest time that a notification may take."""


def report_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Publish the artifact `failure` of a failed or crashed run, and call the block that `run.failure_block` names.

    A hook of Prefect's: the state of the run stays as it is, and what fails here is a warning without details, which may have
    the address of a webhook.
    """
    log = flow_run_logger(flow_run, flow)
    try:
        found = describe(flow, flow_run, state)
    except Exception as error:
        log.warning("the failure could not be described (%s)", type(error).__name__)
        return
    try:
        with get_client(sync_client=True) as client:
            client.create_artifact(
                ArtifactCreate(
                    type="markdown", key="failure", flow_run_id=flow_run.id, data=found.as_markdown(),
                    description="Why the run failed, and the command that continues it",
                )
            )  # fmt: skip
    except Exception as error:
        log.warning("the artifact of the failure could not be written (%s)", type(error).__name__)
    if (block := failure_block(flow_run.parameters or {})) is not None:
        try:
            with _unlogged_requests(), ThreadPoolExecutor(1) as pool:  # the caller may have an event loop
                pool.submit(asyncio.run, _notify(block, found)).result()
            log.info("the block %s was called", block)
        except Exception as error:
            log.warning("the block %s could not be called (%s)", block, type(error).__name__)


def describe(flow: Flow[..., Any], run: FlowRun, state: State) -> Failure:
    """Describe a failed run by its exception, if it is at hand, and its state."""
    return failure(
        run=run.name, run_id=str(run.id), flow=flow.name, state=str(state.name), message=state.message or "no message",
        error=exception_of(state), command=continuing(flow, run),
    )  # fmt: skip


def exception_of(state: State) -> BaseException | None:
    """Return the exception of a state that was made in this process, else None."""
    found = getattr(state.data, "result", state.data)
    return found if isinstance(found, BaseException) else None


def continuing(flow: Flow[..., Any], run: FlowRun) -> str:
    """Return the command that continues a run: of its deployment, or of `make` if that started it."""
    parameters = run.parameters or {}
    if run.deployment_id is not None and run.work_queue_name != MAKE_QUEUE:
        try:
            with get_client(sync_client=True) as client:
                deployment = client.read_deployment(run.deployment_id)
                return deployment_command(f"{flow.name}/{deployment.name}", parameters)
        except Exception:
            pass  # the deployment was deleted, or the server does not answer
    return make_command(flow.name.removeprefix("sure-math").removeprefix("-") or "build", parameters)


def failure_block(parameters: dict[str, Any]) -> str | None:
    """Return the block of a run's settings; of the profile alone if the overrides are what is wrong."""
    profile = str(parameters.get("profile") or "pocket")
    for overrides in (parameters.get("overrides"), None):
        try:
            return load_config(profile, overrides).run.failure_block
        except UserError:
            continue
    return None


@contextmanager
def _unlogged_requests() -> Iterator[None]:
    """Within the block, httpx does not log the addresses of requests: that of a webhook is a secret."""
    client = logging.getLogger("httpx")
    level = client.level
    client.setLevel(logging.WARNING)
    try:
        yield
    finally:
        client.setLevel(level)


async def _notify(name: str, found: Failure) -> None:
    """Call a block: a notification block with the text, any other one, such as a webhook, with JSON."""
    block: Any = await Block.aload(name)
    if hasattr(block, "notify"):
        called = block.notify(found.as_text(), f"{found.run} ended as {found.state}")
    else:
        called = block.call(found.as_json())
    answer = await asyncio.wait_for(called, PATIENCE_S) if inspect.isawaitable(called) else called
    if hasattr(answer, "raise_for_status"):
        answer.raise_for_status()


def check_block(config: Config) -> None:
    """Raise `UserError` if the block that is to be called on a failure does not exist or cannot be called."""
    name = config.run.failure_block
    if name is None:
        return
    try:
        block: Any = Block.load(name)
    except Exception as error:  # its text may have the address of the block
        raise UserError(
            f"run.failure_block: Prefect has no block {name} ({type(error).__name__}): create it, or remove this setting"
        ) from None
    if not (hasattr(block, "notify") or hasattr(block, "call")):
        raise UserError(
            f"run.failure_block: the block {name} is no webhook and no notification: name another one"
        )
