"""One sequencer under faults: killed, frozen, and started again and again."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

from tests.sequencer_process import SequencerProcess

SEQUENCING = re.compile(r"partition (\d+): sequencing, epoch (\d+)")


class Process:
    """One sequencer, started again and again."""

    def __init__(self, number: int, start: Callable[[], SequencerProcess], index_dir: Path, clock: Path) -> None:
        self.number = number
        self.index_dir = index_dir
        self.clock = clock
        self.stopped = False
        self.past: list[str] = []
        self._start = start
        self._current: SequencerProcess | None = None

    @property
    def current(self) -> SequencerProcess | None:
        """The running one; None where it is dead."""
        return self._current

    def start(self) -> None:
        """Start it if it is dead."""
        if self._current is None:
            self._current = self._start()

    def tend(self) -> None:
        """What a service manager does: start it again where it found no broker to start with."""
        if self._current is not None and self._current.process.poll() is not None:
            code = self._current.process.returncode
            assert code == 1, f"it ended with {code}\n{self._current.log()}"
            assert self._current.log().startswith("error: Pulsar: "), self._current.log()
            self._buried()
            self.start()

    def kill(self) -> bool:
        """kill -9. False: it is dead already."""
        if self._current is None:
            return False
        alive = self._current.process.poll() is None
        self._current.kill()
        self._buried()
        return alive

    def stop(self) -> None:
        """SIGTERM; it must leave by itself."""
        if self._current is not None:
            # Until it has said something it does not know of signals.
            self._current.await_line(".")
            self._current.stop()
            self._buried()

    def signal(self, number: signal.Signals) -> bool:
        """False: it is dead."""
        if self._current is None:
            return False
        self._current.process.send_signal(number)
        self.stopped = number == signal.SIGSTOP
        return True

    def lines(self) -> list[str]:
        """Everything that it ever said."""
        return self.past + ([] if self._current is None else self._current.lines())

    def epoch(self, partition: int) -> int:
        """The last epoch in which the running one sequenced a partition; 0 = never."""
        lines = [] if self._current is None else self._current.lines()
        found = [SEQUENCING.search(line) for line in lines]
        return max((int(m[2]) for m in found if m and int(m[1]) == partition), default=0)

    def _buried(self) -> None:
        assert self._current is not None
        self.past += [*self._current.lines(), f"--- ended with {self._current.process.returncode}\n"]
        self._current = None
        self.stopped = False
