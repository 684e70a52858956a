"""Free memory goes back to the system, and oneDNN keeps few primitives."""

from __future__ import annotations

import ctypes
import os

import psutil
import pytest

from tasks.processes.memory import bound_primitive_cache, release_free_memory

BLOCK, COUNT = 64 * 1024, 2000


def test_fragmented_free_memory_is_returned() -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        pytest.skip("not glibc")
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    blocks = [libc.malloc(BLOCK) for _ in range(COUNT)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    for number, block in enumerate(blocks):
        if number % 100 != 99:  # the last block in use keeps the allocator from shrinking its heap
            libc.free(block)
    process = psutil.Process()
    held = process.memory_info().rss
    release_free_memory()
    assert held - process.memory_info().rss > 0.8 * BLOCK * COUNT
    for block in blocks[99::100]:
        libc.free(block)


def test_the_cache_of_onednn_is_bounded_unless_the_user_has_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.delenv(name, raising=False)
    bound_primitive_cache()
    assert os.environ[name] == "16"
    monkeypatch.setenv(name, "64")
    bound_primitive_cache()
    assert os.environ[name] == "64"
