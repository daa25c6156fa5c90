"""The C library's memory allocator, set so that a process holds little more than it uses.

RocksDB takes and gives back pieces of 4 KiB (blocks) to 2 MiB (what it merges) all the time, from several threads, and
often one gives back what another took. By default glibc lets each thread have a heap of its own, whose holes no other
one fills: with ten million aggregates they were a third of an index's memory (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import os

MAX_HEAPS = 2
"""The first thread's, and one for all others."""

_M_ARENA_MAX = -8  # malloc.h


def hold_little() -> bool:
    """Set it, for the whole process; before other threads begin, whose heaps would stay.

    Whoever has set `MALLOC_ARENA_MAX` in the environment keeps that.

    Returns: whether this C library can be told. Elsewhere than on glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: on Windows
        return False
    return "MALLOC_ARENA_MAX" in os.environ or mallopt(_M_ARENA_MAX, MAX_HEAPS) == 1
