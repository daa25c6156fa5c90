"""`sequencer` commands as the real processes that they are."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from sequencer.broker import EmbeddedBroker

READY_WITHIN_S = 30.0
STOPPED_WITHIN_S = 15.0
COMMAND_WITHIN_S = 60.0
LOG_SHOWN_LINES = 40


def sequencer(
    broker: EmbeddedBroker, namespace: str, *arguments: str, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sequencer", *arguments],
        env=environment_of(broker, namespace),
        input=stdin,
        capture_output=True,
        timeout=COMMAND_WITHIN_S,
        check=False,
    )


def init(broker: EmbeddedBroker, namespace: str, partitions: int) -> None:
    """`sequencer init`, which must succeed."""
    done = sequencer(broker, namespace, "init", "--partitions", str(partitions))
    assert done.returncode == 0, done.stderr.decode()


class SequencerProcess:
    """`sequencer run` as a child process; as a context manager it is killed at the end if it still runs."""

    def __init__(
        self,
        broker: EmbeddedBroker,
        namespace: str,
        index_dir: Path,
        *,
        partitions: str | None = None,
        workers: int = 1,
        module: str = "sequencer",
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start it. `module` is what Python runs, `environment` overrides what it inherits."""
        options = [] if partitions is None else ["--partitions", partitions]
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                module,
                "run",
                "--index-dir",
                str(index_dir),
                "--workers",
                str(workers),
                *options,
            ],
            env=environment_of(broker, namespace) | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def await_line(self, pattern: str, *, count: int = 1, within_s: float = READY_WITHIN_S) -> None:
        """Return when `count` lines of its log match; fail when it ends or the time is up before that."""
        deadline = time.monotonic() + within_s
        with self._changed:
            while sum(1 for line in self._lines if re.search(pattern, line)) < count:
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"no {pattern!r} within {within_s} s\n{self.log()}"
                assert not self._ended, f"it ended without {pattern!r}\n{self.log()}"
                self._changed.wait(left_s)

    def await_sequencing(self, partitions: int) -> None:
        """Return when so many partitions are being sequenced."""
        self.await_line(r": sequencing, epoch \d+", count=partitions)

    def await_standby(self, partitions: int) -> None:
        """Return when it waits for so many partitions that another instance owns."""
        self.await_line("standing by", count=partitions)

    def check_running(self) -> None:
        """Raise where it has ended by itself."""
        assert self.process.poll() is None, f"it ended with {self.process.returncode}\n{self.log()}"

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, on which it must leave by itself with exit code 0."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs {STOPPED_WITHIN_S} s after SIGTERM\n{self.log()}") from None
        assert code == 0, f"exit code {code}\n{self.log()}"

    def lines(self) -> list[str]:
        """Its log so far."""
        with self._changed:
            return list(self._lines)

    def log(self) -> str:
        """The end of its log."""
        return "".join(self._lines[-LOG_SHOWN_LINES:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()
        if isinstance(error, Exception):
            error.add_note(f"log of {self.process.pid}:\n{self.log()}")

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def environment_of(broker: EmbeddedBroker, namespace: str) -> dict[str, str]:
    return os.environ | {
        "SEQUENCER_SERVICE_URL": broker.service_url,
        "SEQUENCER_ADMIN_URL": broker.admin_url,
        "SEQUENCER_NAMESPACE": namespace,
    }
