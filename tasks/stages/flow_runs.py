"""The decorator of this project's flows: named runs, errors as sentences, nothing persisted by Prefect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import prefect
from prefect.runtime import flow_run

from tasks.runtime.plain_errors import log_plainly
from tasks.runtime.run_names import run_name
from tasks.stages.failure import report_failure

P = ParamSpec("P")
R = TypeVar("R")


def flow(*, name: str, what: str) -> Callable[[Callable[P, R]], prefect.Flow[P, R]]:
    """Make a function the flow `name`. Its runs are named after the profile, `what` they do, and the overrides, and report why
    they failed."""
    log_plainly()

    def current_name() -> str:
        parameters: Any = flow_run.parameters
        return run_name(what, parameters)

    return prefect.flow(
        name=name, flow_run_name=current_name, persist_result=False,
        on_failure=[report_failure], on_crashed=[report_failure],
    )  # fmt: skip
