"""What a process is said to have used."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from bench.usage import cpu_seconds, peak_memory_mib

MIB = 1024 * 1024
WAITS = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]


def test_cpu_of_a_process() -> None:
    assert abs(cpu_seconds(os.getpid()) - time.process_time()) < 0.1


def test_the_peak_of_a_process_is_its_own_and_stays() -> None:
    before = peak_memory_mib(os.getpid())
    large = bytearray(b"x") * (int(before) * MIB + 150 * MIB)
    assert peak_memory_mib(os.getpid()) > before + 100
    with subprocess.Popen(WAITS, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        assert 1 < peak_memory_mib(child.pid) < 100, "its parent's counts"
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert peak_memory_mib(child.pid) == 0
    del large
    assert peak_memory_mib(os.getpid()) > before + 100, "it is what was, not what is"
