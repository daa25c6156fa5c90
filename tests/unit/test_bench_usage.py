"""What a process is said to have used."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from bench.usage import cpu_seconds, peak_memory_mib

MIB = 1024 * 1024
SMALL = "import sys; print(flush=True); sys.stdin.read()"
ONCE_LARGE = f"large = bytearray(b'x') * {200 * MIB}; del large; {SMALL}"


def test_cpu_of_a_process() -> None:
    assert abs(cpu_seconds(os.getpid()) - time.process_time()) < 0.1


def peak_when_it_waits(program: str) -> float:
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        peak = peak_memory_mib(child.pid)
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert peak_memory_mib(child.pid) == 0
    return peak


def test_the_peak_of_a_process_is_what_was() -> None:
    assert peak_when_it_waits(ONCE_LARGE) > 200


def test_the_peak_of_a_process_is_not_its_parents() -> None:
    large = bytearray(b"x") * (150 * MIB)
    assert peak_memory_mib(os.getpid()) > 150
    assert 1 < peak_when_it_waits(SMALL) < 100
    del large
