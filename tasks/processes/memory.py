"""Memory of a process that works with tensors on CPU."""

from __future__ import annotations

import ctypes
import os

CACHED_PRIMITIVES = "16"
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
_NEVER = 2**31 - 1


def bound_caches() -> None:
    """Limit the compiled primitives that oneDNN and PyTorch's wrapper of it keep. There is one for each shape of a batch, with
    its own buffers, so that training on texts of many lengths would use more memory with every step. Call this before the first
    operation of torch; it has no effect on results."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", CACHED_PRIMITIVES)
    os.environ.setdefault("LRU_CACHE_CAPACITY", CACHED_PRIMITIVES)  # the wrapper (ideep)


def keep_free_memory() -> None:
    """Keep freed memory in the process for its next tensors, instead of returning each large tensor to the system, which has to
    clear its pages again. Nothing with a C library other than glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _NEVER)
        mallopt(_TRIM_THRESHOLD, _NEVER)
