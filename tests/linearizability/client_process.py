"""A client that is killed and started again: what one never heard of, the next may ask for again."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from random import Random

from tests.linearizability.client import READY, Orders, Wanted
from tests.linearizability.history import read
from tests.linearizability.plans import Plan

LEFT_WITHIN_S = 150.0
"""After a SIGTERM: what is under way ends, then what is unknown is asked for again."""

ASKED_AGAIN = 0.7
"""Of what a killed client never heard of."""


class ClientProcess:
    """One client, and those that come after it.

    Attributes:
        files: of history, one for each time that it was started.
    """

    def __init__(self, number: int, service_url: str, namespace: str, plan: Plan, directory: Path) -> None:
        self.number = number
        self.files: list[Path] = []
        self._service_url = service_url
        self._namespace = namespace
        self._plan = plan
        self._directory = directory
        self._random = Random(f"{plan.faults.seed}/client-{number}")
        self._log = (directory / f"client-{number}.log").open("ab")
        self._current: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it if it is dead."""
        if self._current is not None:
            return
        name = f"client-{self.number}.{len(self.files)}"
        file = self._directory / f"{name}.history"
        orders = Orders(
            self._service_url,
            self._namespace,
            name,
            f"{self._plan.faults.seed}/{name}",
            self._plan.keys,
            self._plan.tasks,
            self._plan.pause_s,
            self._unsettled(),
            str(file),
        )
        file.touch()
        self.files.append(file)
        self._current = subprocess.Popen(
            [sys.executable, "-m", "tests.linearizability.client", orders.to_json()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )

    def await_ready(self) -> None:
        """Return when it appends."""
        assert self._current is not None
        assert self._current.stdout is not None
        said = self._current.stdout.readline().decode().strip()
        assert said == READY, f"client {self.number} did not begin\n{self._said()}"

    def tend(self) -> None:
        """Raise where it has ended by itself."""
        if self._current is not None:
            code = self._current.poll()
            assert code is None, f"client {self.number} ended with {code}\n{self._said()}"

    def kill(self) -> bool:
        """kill -9. False: it is dead already."""
        if self._current is None:
            return False
        alive = self._current.poll() is None
        self._current.kill()
        self._current.wait()
        self._current = None
        return alive

    def signal(self, number: signal.Signals) -> bool:
        """False: it is dead."""
        if self._current is None:
            return False
        self._current.send_signal(number)
        return True

    def ask_to_leave(self) -> None:
        """SIGTERM."""
        assert self._current is not None
        self._current.send_signal(signal.SIGTERM)

    def await_end(self) -> None:
        """Return when it has left by itself. Raises AssertionError where it is stuck."""
        assert self._current is not None
        try:
            code = self._current.wait(LEFT_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"client {self.number} still waits for answers\n{self._said()}") from None
        assert code == 0, f"client {self.number} ended with {code}\n{self._said()}"
        self._current = None

    def _unsettled(self) -> list[Wanted]:
        """Most of what the last one asked for and never heard of."""
        return [
            Wanted(one.key, one.ids, one.expected)
            for one in read(self.files[-1:])
            if one.answer is None and self._random.random() < ASKED_AGAIN
        ]

    def _said(self) -> str:
        return (self._directory / f"client-{self.number}.log").read_text()[-3000:]
