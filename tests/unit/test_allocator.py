from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from state.allocator import MAX_HEAPS

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is nothing to set")

# Threads that have taken memory at the same time; glibc says on standard error what heaps there are.
PROGRAM = """
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
TOLD = "from state.allocator import hold_little\nassert hold_little()\n" + PROGRAM


def heaps(program: str, **environment: str) -> int:
    """In a process of its own: what is set stays set."""
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return run.stderr.count("\nsystem bytes") - 1  # the last is the sum


def test_all_threads_but_the_first_share_a_heap() -> None:
    assert heaps(PROGRAM) > MAX_HEAPS
    assert heaps(TOLD) == MAX_HEAPS


def test_who_has_set_it_by_environment_keeps_it() -> None:
    assert heaps(TOLD, MALLOC_ARENA_MAX="4") == 4
