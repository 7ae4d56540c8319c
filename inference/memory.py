"""Settings of the C library's memory for the engine's own process."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt, from malloc.h
KEPT = 128 * 2**20  # bytes of freed memory that are kept
LARGEST = 32 * 2**20  # bytes, the most that glibc accepts


def keep_freed_memory() -> bool:
    """Let the process keep freed memory for its next frame, instead of returning it to the system.

    Each frame of 512 px otherwise maps some hundred pages anew. Only for glibc; `malloc_trim` still returns everything.
    Returns whether the C library supports it.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST) and mallopt(_TRIM_THRESHOLD, KEPT))
