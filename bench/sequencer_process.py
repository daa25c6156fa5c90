"""A real `sequencer run` to be measured: started, awaited, and asked for what it used."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

READY_WITHIN_S = 60.0


class Usage(NamedTuple):
    """What a process used, and did, from its start to its end."""

    cpu_s: float
    peak_memory_mib: float
    transactions: int


class SequencerProcess:
    """`sequencer run` on one namespace; ready when it sequences.

    Raises:
        RuntimeError: it ended, or was not ready in time.
    """

    def __init__(self, service_url: str, namespace: str, index_dir: Path, log_file: Path) -> None:
        command = [sys.executable, "-m", "sequencer", "run", "--index-dir", str(index_dir)]
        command += ["--service-url", service_url, "--namespace", namespace]
        self._log_file = log_file
        with log_file.open("wb") as log:
            self._process = subprocess.Popen(command, stderr=log)
        deadline_s = time.monotonic() + READY_WITHIN_S
        while b": sequencing, epoch" not in log_file.read_bytes():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self._process.kill()
                raise RuntimeError(f"the sequencer did not start: {log_file.read_text()[-2000:]}")
            time.sleep(0.005)

    def stop(self) -> Usage:
        """End it cleanly."""
        self._process.send_signal(signal.SIGTERM)
        _, status, usage = os.wait4(self._process.pid, 0)
        if status != 0:
            raise RuntimeError(f"the sequencer ended with {status}: {self._log_file.read_text()[-2000:]}")
        # Linux counts in KiB, macOS in bytes.
        unit = 1024 * 1024 if sys.platform == "darwin" else 1024
        said = re.search(r"messages in (\d+) transactions", self._log_file.read_text())
        if said is None:
            raise RuntimeError("the sequencer did not say how much it has done")
        return Usage(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit, int(said[1]))
