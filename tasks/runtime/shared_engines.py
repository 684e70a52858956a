"""The engines of a build: shared by its roles, and started before they are needed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from tasks.processes.machine import available_cores, device_is_cpu
from tasks.runtime.driver import Run
from tasks.runtime.engine_pool import Engine, EnginePool
from tasks.runtime.models import server
from tasks.runtime.sampling import teacher

GPU_SHARE = 1.0


@contextmanager
def sharing_engines(run: Run, log: Callable[[str], None]) -> Iterator[Run]:
    """Yield the run with a pool of its engines, which ends with the block."""
    with EnginePool(engines_in_order(run), capacity(), log, run.timeline, starts=starts()) as pool:
        yield dataclasses.replace(run, engines=pool)


def engines_in_order(run: Run) -> tuple[Engine, ...]:
    """Return the engines of a build in the order of their first use.

    If both the stages without a model and the teacher's engines run on a Ray cluster, the engines cannot start before these
    stages have ended: this process has one connection to Ray, which ends with the stages.
    """
    sampler = teacher(run)
    if run.config.ray.address is not None and os.environ.get("RAY_ADDRESS"):
        sampler = dataclasses.replace(sampler, memory=None)
    judge = () if run.config.cluster.judge == "never" else (server(run, "equivalence_judge"),)
    return (server(run, "evolver"), server(run, "quality_judge"), sampler, *judge)


def starts() -> int:
    """Return how many engines may start at a time. A start occupies one core; on a GPU it measures the free memory."""
    return min(2, available_cores()) if device_is_cpu() else 1


def capacity() -> float:
    """Return the memory for all engines that are up at once: one GPU, or what is free on this machine."""
    return float(psutil.virtual_memory().available) if device_is_cpu() else GPU_SHARE
