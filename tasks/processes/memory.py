"""Memory that a process on CPU would otherwise keep for ever."""

from __future__ import annotations

import ctypes
import os

ONEDNN_PRIMITIVES = "16"


def bound_primitive_cache() -> None:
    """Limit the compiled primitives that oneDNN keeps, one for each shape of a batch. Call this before the first operation of
    torch; it has no effect on results."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", ONEDNN_PRIMITIVES)


def release_free_memory() -> None:
    """Return the free memory of glibc's allocator to the system; tensors of varying sizes fragment it. Nothing with another C
    library."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
