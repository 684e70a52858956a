"""The engines of a build's stages."""

from __future__ import annotations

from contextlib import AbstractContextManager

from prefect.logging import get_run_logger

from tasks.runtime import shared_engines
from tasks.runtime.driver import Run


def sharing_engines(run: Run) -> AbstractContextManager[Run]:
    """Yield the run with engines that its stages share, and that start while the stage before works. They end with the block."""
    return shared_engines.sharing_engines(run, get_run_logger().info)
