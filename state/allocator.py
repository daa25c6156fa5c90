"""The C library's memory allocator, set so that a process holds little more than it uses.

RocksDB takes and gives back pieces of 4 KiB (blocks) to 2 MiB (what it merges) all the time, from several threads, and
often one gives back what another took. By default glibc lets each thread have a heap of its own, whose holes no other
one fills, and keeps large pieces in it as well: half of the memory of a large index were holes (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import os

MAX_HEAPS = 2
"""The first thread's, and one for all others."""

MAPPED_FROM_BYTES = 128 * 1024
"""Larger pieces are mapped by themselves, and so given back whole. This is where glibc begins, too, but it goes up."""

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h


def hold_little() -> bool:
    """Set it, for the whole process; before other threads begin, whose heaps would stay.

    Whoever has set `MALLOC_ARENA_MAX` or `MALLOC_MMAP_THRESHOLD_` in the environment keeps that.

    Returns: whether this C library can be told. Elsewhere than on glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: on Windows
        return False
    if "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, MAX_HEAPS)
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)
    return True
