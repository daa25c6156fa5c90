"""What a process has used so far, asked from outside."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """What it has used with all its threads, to the hundredth of a second."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        # User and system time are fields 14 and 15; the name, field 2, stands in parentheses and may hold anything.
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    seconds = 0.0
    for part in _ps(pid, "time").split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def peak_memory_mib(pid: int) -> float:
    """The most that it has had resident; where there is no /proc, what it has now. 0 where it has ended.

    Not what `wait4` and `getrusage` tell: on Linux a process has its parent's peak as its own from the start, and one
    that has just filled a topic with large events is larger than any sequencer.
    """
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        _, _, peak_kib = status.read_text().partition("VmHWM:")
        return int(peak_kib.split(maxsplit=1)[0]) / 1024 if peak_kib else 0.0
    return int(_ps(pid, "rss")) / 1024


def _ps(pid: int, column: str) -> str:
    command = ["ps", "-o", f"{column}=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
