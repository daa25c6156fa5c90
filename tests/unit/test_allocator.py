from __future__ import annotations

import platform
import re
import subprocess
import sys

import pytest

from state.allocator import MAX_HEAPS

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is nothing to set")

TOLD = "from state.allocator import hold_little\nassert hold_little()\n"

# glibc says on standard error what its heaps hold, and then all of it, with what is mapped beside them.
THREADS_AT_THE_SAME_TIME = """
import ctypes, threading
libc = ctypes.CDLL(None)
together = threading.Barrier(6)
def take():
    together.wait()
    libc.malloc(1000)
    together.wait()  # a thread that ends leaves its heap to the next
threads = [threading.Thread(target=take) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.malloc_stats()
"""
A_LARGE_PIECE_AGAIN = """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.free(libc.malloc(8 << 20))  # glibc concludes that pieces of this size do not last
libc.malloc(4 << 20)
libc.malloc_stats()
"""


def sizes(program: str, **environment: str) -> list[int]:
    """Of each heap, and the sum of all memory, after a program in a process of its own: what is set stays set."""
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return [int(size) for size in re.findall(r"^system bytes +=\s+(\d+)", run.stderr, re.MULTILINE)]


def heaps(program: str, **environment: str) -> int:
    return len(sizes(program, **environment)) - 1


def mapped_bytes(program: str, **environment: str) -> int:
    *of_heaps, total = sizes(program, **environment)
    return total - sum(of_heaps)


def test_all_threads_but_the_first_share_a_heap() -> None:
    assert heaps(THREADS_AT_THE_SAME_TIME) > MAX_HEAPS
    assert heaps(TOLD + THREADS_AT_THE_SAME_TIME) == MAX_HEAPS


def test_large_pieces_stay_out_of_the_heaps() -> None:
    assert mapped_bytes(A_LARGE_PIECE_AGAIN) < 4 << 20
    assert mapped_bytes(TOLD + A_LARGE_PIECE_AGAIN) > 4 << 20


def test_who_has_set_it_by_environment_keeps_it() -> None:
    assert heaps(TOLD + THREADS_AT_THE_SAME_TIME, MALLOC_ARENA_MAX="4") == 4
    assert mapped_bytes(TOLD + A_LARGE_PIECE_AGAIN, MALLOC_MMAP_THRESHOLD_=str(32 << 20)) < 4 << 20
