"""Flows of this project: named runs, and an error of the user as one sentence in the log."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

from tasks.errors import UserError
from tasks.stages.flow_runs import flow

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@task(cache_policy=NO_CACHE, persist_result=False)
def fail() -> None:
    raise UserError("the file x is missing: add it")


@flow(name="sure-math-test", what="test")
def failing(profile: str = "pocket", overrides: dict[str, Any] | None = None) -> None:
    """Fail in a task."""
    fail()


def test_an_error_in_a_task_of_a_named_run_is_logged_once_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(UserError, match="x is missing"):
        failing("pocket", {"select.target": 50})
    ours = [
        record
        for record in caplog.records
        if record.name.startswith(("prefect.flow_runs", "prefect.task_runs"))
    ]
    assert [record.getMessage() for record in ours].count("the file x is missing: add it") == 1
    assert not any(record.exc_info for record in ours)
    with get_client(sync_client=True) as client:
        named = FlowRunFilter(name=FlowRunFilterName(any_=["pocket test, select.target=50"]))
        assert client.read_flow_runs(flow_run_filter=named)
