"""Asks the C library to keep the memory that it was given back.

A training takes and returns the same large blocks at every step, and getting each page of them anew from the system
took half of its time. It knows glibc only; elsewhere, or where the user has set such things, nothing is changed.
"""

from __future__ import annotations

import ctypes
import os
import sys

# numbers from malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_PAD = 256 << 20


def keep_freed_memory() -> bool:
    """Whether it was asked for. The process keeps its peak from then on."""
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return all(mallopt(what, value) for what, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _PAD)))
