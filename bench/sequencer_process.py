"""A real `sequencer run` to be measured: started, awaited, killed, stopped, and asked for what it used and logged."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from bench.usage import peak_memory_mib
from sequencer.broker import EmbeddedBroker

READY_WITHIN_S = 60.0
LOOK_EVERY_S = 0.005
SEQUENCING = r": sequencing, epoch"
STANDING_BY = r"standing by"

_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (.*)")


class Usage(NamedTuple):
    """What a process used from its start until it was told to end, and the transactions that it committed."""

    cpu_s: float
    peak_memory_mib: float
    transactions: int


class LogLine(NamedTuple):
    """A line of its log, and the time that stands on it: Unix time, to the millisecond."""

    at_s: float
    text: str


class ChildProcess:
    """A Python program to be measured. It starts at once; `await_line` tells when it is ready, SIGTERM must end it."""

    def __init__(self, arguments: Sequence[str], log_file: Path) -> None:
        """`arguments` follow the interpreter; `log_file` gets its standard error."""
        self._log_file = log_file
        with log_file.open("wb") as log:
            self._process = subprocess.Popen([sys.executable, *arguments], stderr=log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def await_line(self, pattern: str, *, since_s: float = 0.0, within_s: float = READY_WITHIN_S) -> LogLine:
        """The first line that matches and is not older than `since_s` (Unix time), as soon as it is there.

        Raises:
            RuntimeError: it ended, or the line did not come in time.
        """
        deadline_s = time.monotonic() + within_s
        while True:
            for line in self.lines():
                if line.at_s >= since_s and re.search(pattern, line.text):
                    return line
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"it did not log {pattern!r}: {self._last_words()}")
            time.sleep(LOOK_EVERY_S)

    def lines(self) -> list[LogLine]:
        """Everything that it has logged."""
        found = map(_LINE.match, self._log_file.read_text().splitlines())
        return [
            LogLine(datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S,%f").timestamp(), match[2])
            for match in found
            if match is not None
        ]

    def kill(self) -> None:
        """kill -9. Returns as soon as the signal is sent."""
        self._process.kill()

    def suspend(self) -> None:
        """SIGSTOP: frozen, with all its connections open."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def wait(self) -> None:
        """Return when it is gone."""
        self._process.wait()

    def stop(self) -> Usage:
        """End it cleanly.

        Raises:
            RuntimeError: it ended in another way.
        """
        peak_mib = peak_memory_mib(self.pid)
        self._process.send_signal(signal.SIGTERM)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if status != 0:
            raise RuntimeError(f"it ended with {status}: {self._last_words()}")
        said = re.findall(r"messages in (\d+) transactions", self._log_file.read_text())
        return Usage(usage.ru_utime + usage.ru_stime, peak_mib, sum(map(int, said)))

    def end(self) -> None:
        """Kill it if it still runs, whatever state it is in."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        return self._log_file.read_text()[-2000:]


class SequencerProcess(ChildProcess):
    """`sequencer run` on one namespace: all its partitions, or those that are named."""

    def __init__(
        self,
        broker: EmbeddedBroker,
        namespace: str,
        index_dir: Path,
        log_file: Path,
        *,
        partitions: Sequence[int] = (),
        program: str = "sequencer",
    ) -> None:
        arguments = ["-m", program, "run", "--index-dir", str(index_dir)]
        arguments += ["--service-url", broker.service_url, "--namespace", namespace]
        if partitions:
            arguments += ["--partitions", ",".join(map(str, partitions))]
        super().__init__(arguments, log_file)
        self.index_dir = index_dir
