"""What the arithmetic runs on: the CPU with the instruction sets that matrix products use, or the GPU."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from pathlib import Path

_ISA = ("amx_fp16", "amx_bf16", "avx512_fp16", "avx512_bf16", "avx512f", "avx2", "asimd", "sve")


@cache
def cpu() -> str:
    """Model name of the CPU and those of its instruction sets that decide which kernels are chosen."""
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
    """Model name of the first GPU, as the driver's tool gives it."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split(
            "\n"
        )
    except (OSError, subprocess.SubprocessError):
        return "GPU of unknown model"
    return found[0].strip() or "GPU of unknown model"
