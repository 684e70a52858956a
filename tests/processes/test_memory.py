"""A process on CPU keeps freed memory for its next tensors, and few compiled primitives."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tasks.processes.memory import bound_caches

LIMITS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")

FREED_AND_ALLOCATED = """
import ctypes, platform, resource
from tasks.processes.memory import keep_free_memory

assert platform.libc_ver()[0] == "glibc", "skip"
keep_free_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def use(size):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)

use(64 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use(60 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

MANY_SHAPES = """
from tasks.processes.memory import bound_caches

bound_caches()
import psutil, torch

torch.set_num_threads(1)
layer = torch.nn.Linear(256, 512).to(torch.bfloat16)

def steps(rows):
    for count in rows:
        layer(torch.ones(count, 256, dtype=torch.bfloat16)).sum().backward()

steps(range(1, 20))
before = psutil.Process().memory_info().rss
steps(range(100, 250))
print(psutil.Process().memory_info().rss - before)
"""


def _number(script: str) -> int:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if "skip" in done.stderr:
        pytest.skip("not glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_freed_memory_is_used_again_without_new_pages() -> None:
    assert _number(FREED_AND_ALLOCATED) < 100  # by default each block is mapped anew: 15,360 pages each


def test_memory_does_not_grow_with_the_number_of_shapes() -> None:
    assert _number(MANY_SHAPES) < 40e6  # without a bound 213 MB on a CPU with AMX


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for limit in LIMITS:
        monkeypatch.delenv(limit, raising=False)
    bound_caches()
    assert os.environ[name] == "16"
    monkeypatch.setenv(name, "64")
    bound_caches()
    assert os.environ[name] == "64"
