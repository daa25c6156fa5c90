"""A PostgreSQL of the benchmark's own, as durable as it comes: started in a new directory, stopped, nothing is left.

It listens on a Unix socket in that directory, which nobody else can enter. Asked at any time, it tells what it uses.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from bench.postgres_programs import Account, PostgresFailure, find_programs
from bench.usage import TICKS_PER_S

SETTINGS = {
    # Both are the defaults. They make a commit durable, so they stand here for everybody to see.
    "fsync": "on",
    "synchronous_commit": "on",
    # What everybody raises: the defaults are for a machine of 1 GiB.
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    # The socket only.
    "listen_addresses": "",
}
USER = "bench"
READY_WITHIN_S = 30.0
LOOK_EVERY_S = 0.02
STOPPED_WITHIN_S = 30.0

PROC = Path("/proc")


class Postgres:
    """A server, from `with` to the end of it."""

    def __init__(self) -> None:
        """Does not start it yet. Raises PostgresFailure where root finds nobody to run it."""
        self._account = Account()
        self._ending = contextlib.ExitStack()
        self.conninfo = ""
        """As psycopg.connect takes it."""
        self.version = ""
        """Such as "16.2"."""

    def __enter__(self) -> Self:
        """Start it, and return when it answers. Raises PostgresFailure."""
        with contextlib.ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sequencer-postgres-")))
            try:
                self._start(directory)
                stack.callback(self._end)
                self._await_answer()
            except (OSError, subprocess.SubprocessError) as error:
                raise PostgresFailure(f"PostgreSQL in {directory}: {error}") from error
            self._ending = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ending.close()

    def _start(self, directory: Path) -> None:
        self._account.own(directory)
        programs = find_programs(self._account, directory)
        data = directory / "data"
        new = ("--username", USER, "--auth", "trust", "--no-locale", "--encoding", "UTF8", "--no-sync")
        self._account.run(directory, programs.directory / "initdb", "--pgdata", data, *new)
        settings = SETTINGS | {"unix_socket_directories": str(directory)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._log_file = directory / "log"
        with self._log_file.open("wb") as log:
            command = [str(programs.directory / "postgres"), "-D", str(data), *options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._account.options(directory))
        self.version = programs.version
        self.conninfo = f"host={directory} user={USER} dbname=postgres"

    def _await_answer(self) -> None:
        deadline_s = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                return psycopg.connect(self.conninfo).close()
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    raise PostgresFailure(f"PostgreSQL did not start: {self._log_file.read_text().strip()}") from error
                time.sleep(LOOK_EVERY_S)

    def _end(self) -> None:
        """Stop it, whoever is still connected: cleanly, or at once where that takes too long."""
        # SIGKILL would leave its children and its shared memory behind; on SIGQUIT it kills them first.
        for end in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            self._process.send_signal(end)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOPPED_WITHIN_S)
                return

    # --- what it uses ---

    def cpu_s(self) -> float:
        """CPU time of all its processes so far, in seconds, ended ones included. 0.0 where there is no /proc."""
        ticks = [_ticks(pid) for pid in self._processes()]
        # A process that has ended is in its parent's account of its children.
        return sum(own for own, _ in ticks) / TICKS_PER_S + sum(ended for _, ended in ticks[:1]) / TICKS_PER_S

    def memory_mib(self) -> float:
        """Memory of all its processes now, what they share counted once. 0.0 where there is no /proc."""
        found = (re.search(r"^Pss:\s+(\d+) kB", _text(pid, "smaps_rollup"), re.M) for pid in self._processes())
        return sum(int(match[1]) for match in found if match) / 1024

    def _processes(self) -> list[int]:
        """The server's and then those of its children."""
        pids = [int(path.name) for path in PROC.glob("[0-9]*")]
        return [self._process.pid, *(pid for pid in pids if _parent(pid) == self._process.pid)]


def _text(pid: int, name: str) -> str:
    """A file of a process; empty where the process is gone, or the system has no such files."""
    try:
        return (PROC / str(pid) / name).read_text()
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, so that field 3 of proc(5) is the first."""
    return _text(pid, "stat").rpartition(")")[2].split()


def _parent(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def _ticks(pid: int) -> tuple[int, int]:
    """CPU time of a process, and of its children that have ended."""
    fields = _stat(pid)
    if not fields:
        return 0, 0
    user, system, children_user, children_system = map(int, fields[11:15])
    return user + system, children_user + children_system
