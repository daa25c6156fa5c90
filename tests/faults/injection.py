"""What a plan of faults happens to: topics, sequencers behind the proxy, perhaps clients; and how it happens."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import re
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import httpx

from sequencer.broker import EmbeddedBroker
from sequencer.names import Topics
from tests.faults.brokers import create_namespace, restart_if_spinning
from tests.faults.damage import damage_index, discard_damaged, set_writable
from tests.faults.launcher import set_clock
from tests.faults.process import Process
from tests.faults.proxy import FaultProxy, Way
from tests.faults.quiet import await_quiet
from tests.faults.schedule import Fault, Plan
from tests.sequencer_process import SequencerProcess, init

UNLOAD_LIMIT_S = 8.0
FILE_LIMIT_BYTES = 1024
QUIET_WITHIN_S = 60.0
OWNED_WITHIN_S = 60.0
POLL_S = 0.05
NEVER = re.compile(r"a bug ended this life|: stopped: |Traceback")
COORDINATOR = "persistent/pulsar/system/transaction_coordinator_assign-partition-0"
WAYS = {"to the broker": Way.TO_BROKER, "to the client": Way.TO_CLIENT}


class Client(Protocol):
    """An application in a process of its own, with a link of its own, as far as faults meet it."""

    number: int

    def start(self) -> None: ...
    def tend(self) -> None: ...
    def kill(self) -> bool: ...
    def signal(self, number: signal.Signals) -> bool: ...


class World:
    """Everything that one plan runs in: topics, the proxy, sequencers, and what happens to them.

    Attributes:
        clients: to be put in here once their links are known, see `client_url`.
    """

    def __init__(
        self, plan: Plan, broker: EmbeddedBroker, namespace: str, directory: Path, *, client_links: int = 0
    ) -> None:
        self.plan = plan
        self.clients: list[Client] = []
        self._faults: Counter[str] = Counter()
        self._broker = broker
        self._namespace = namespace
        self._directory = directory
        self._proxy = FaultProxy(broker.port, plan.processes + client_links)
        self._processes = [self._process(number) for number in range(plan.processes)]
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._background: list[threading.Thread] = []
        self._broker_busy = threading.Event()

    def __enter__(self) -> Self:
        """Make the topics, and start the sequencers."""
        create_namespace(self._broker, self._namespace)
        init(self._broker, self._namespace, self.plan.partitions)
        self._proxy.__enter__()
        for process in self._processes:
            process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self.clients:
            client.kill()
        for process in self._processes:
            process.kill()
            (self._directory / f"process-{process.number}.log").write_text("".join(process.lines()))
        self._proxy.__exit__(kind, error, trace)

    def client_url(self, number: int) -> str:
        """What a client takes for the broker's service URL."""
        return self._proxy.url(self.plan.processes + number)

    @property
    def faults(self) -> Counter[str]:
        """What really happened, counted by kind: a kill of a dead process does not count."""
        return self._faults + self._proxy.effects

    def follow_plan(self) -> None:
        """Let the faults happen, each in its time after every partition has had an owner."""
        deadline = time.monotonic() + OWNED_WITHIN_S
        while not all(any(one.epoch(n) for one in self._processes) for n in range(self.plan.partitions)):
            assert time.monotonic() < deadline, f"a partition without an owner after {OWNED_WITHIN_S} s"
            self.tend()
            time.sleep(POLL_S)
        began_s = time.monotonic()
        for fault in self.plan.faults:
            self._later(began_s + fault.at_s, partial(self._apply, fault))
        self._later(began_s + self.plan.seconds, lambda: None)
        end_s = began_s + self.plan.seconds
        while self._agenda and self._agenda[0][0] <= end_s:
            at_s, _, work = heapq.heappop(self._agenda)
            time.sleep(max(0.0, at_s - time.monotonic()))
            work()
            self.tend()

    def heal(self) -> None:
        """End every fault, now."""
        while self._agenda:
            heapq.heappop(self._agenda)[2]()
        for thread in self._background:
            thread.join()
        self._proxy.heal()
        if restart_if_spinning(self._broker):
            self._faults["broker restarted that answered no more (apache/pulsar#26368)"] += 1
        for process in (*self._processes, *self.clients):
            process.start()

    def tend(self) -> None:
        """What a service manager does. To be called over and over."""
        for process in (*self._processes, *self.clients):
            process.tend()

    def stop(self) -> Path:
        """End every sequencer as it ought to end, when nobody publishes any more.

        The last one sees to it that everything is judged. Returns its index directory.

        Raises:
            AssertionError: one did not leave by itself, or has said what none may ever say, or something stays undone.
        """
        for process in self._processes:
            process.stop()
        last, topics = self._processes[0], Topics(self._namespace)
        # What a bit has been flipped in may be looked at by nobody, except by `sequencer verify` in the end.
        discard_damaged(last.index_dir, topics, self.plan.partitions)
        last.start()
        assert last.current is not None
        last.current.await_sequencing(self.plan.partitions)
        await_quiet(self._broker, topics, self.plan.partitions, QUIET_WITHIN_S, last.current.check_running)
        last.stop()
        strange = [line for process in self._processes for line in process.lines() if NEVER.search(line)]
        assert not strange, "".join(strange[:5])
        return last.index_dir

    # --- The plan ---

    def _process(self, number: int) -> Process:
        index_dir = self._directory / ("index" if self.plan.shared_index else f"index-{number}")
        index_dir.mkdir(parents=True, exist_ok=True)
        clock = self._directory / f"clock-{number}"
        set_clock(clock, 0)

        def start() -> SequencerProcess:
            environment = {"SEQUENCER_SERVICE_URL": self._proxy.url(number), "FAULTS_CLOCK": str(clock)}
            if self.plan.hurry:
                environment["FAULTS_HURRY"] = "1"
            if self.plan.ttl_s:
                environment["FAULTS_TTL_S"] = str(self.plan.ttl_s)
            return SequencerProcess(
                self._broker, self._namespace, index_dir, module="tests.faults.launcher", environment=environment
            )

        return Process(number, start, index_dir, clock)

    def _later(self, at_s: float, work: Callable[[], object]) -> None:
        heapq.heappush(self._agenda, (at_s, next(self._order), work))

    def _undo_later(self, fault: Fault, undo: Callable[[], object]) -> None:
        self._later(time.monotonic() + fault.for_s, undo)

    def _apply(self, fault: Fault) -> None:
        if fault.target.startswith("client"):
            self._meet_client(fault, self.clients[int(fault.target.split()[1]) % len(self.clients)])
            return
        process = self._target(fault.target)
        match fault.kind:
            case "broker":
                self._restart_broker(fault)
            case "unload" | "compact":
                self._administer(fault)
            case "cut" | "refuse" | "half open" | "hold" | "delay" | "lose":
                self._disturb(fault, process.number)
            case "usurp":
                self._usurp(fault, process)
            case _:
                self._harm(fault, process)

    def _target(self, name: str) -> Process:
        what, _, number = name.partition(" ")
        if what == "owner":
            return max(self._processes, key=lambda process: process.epoch(int(number)))
        return self._processes[int(number or 0) % len(self._processes)]

    # --- Kinds of faults ---

    def _harm(self, fault: Fault, process: Process) -> None:
        """What happens to a process and its host."""
        match fault.kind:
            case "kill":
                if process.kill():
                    self._faults["kill -9 of a sequencer"] += 1
                self._undo_later(fault, process.start)
            case "stop":
                self._freeze(fault, process)
            case "index":
                process.kill()
                if damage_index(process.index_dir, fault.detail):
                    self._faults[f"index {fault.detail.split()[0]}"] += 1
                self._undo_later(fault, process.start)
            case "read-only":
                set_writable(process.index_dir, False)
                self._faults["index read-only"] += 1
                self._undo_later(fault, lambda: set_writable(process.index_dir, True))
            case "disk full":
                self._fill_disk(fault, process)
            case "clock":
                set_clock(process.clock, float(fault.detail.split()[0]))
                self._faults["clock jump"] += 1
            case _:
                raise AssertionError(fault)

    def _meet_client(self, fault: Fault, client: Client) -> None:
        match fault.kind:
            case "kill":
                if client.kill():
                    self._faults["kill -9 of a client"] += 1
                self._undo_later(fault, client.start)
            case "stop":
                if client.signal(signal.SIGSTOP):
                    self._faults["SIGSTOP of a client"] += 1
                self._undo_later(fault, lambda: client.signal(signal.SIGCONT))
            case _:
                self._disturb(fault, self.plan.processes + client.number)

    def _freeze(self, fault: Fault, process: Process) -> None:
        if process.stopped or not process.signal(signal.SIGSTOP):
            return
        self._faults["SIGSTOP of a sequencer"] += 1
        frozen = process.current
        owned = {n: process.epoch(n) for n in range(self.plan.partitions)}

        def wake() -> None:
            if process.current is frozen and process.signal(signal.SIGCONT):
                others = [other for other in self._processes if other is not process]
                if any(0 < epoch < max(other.epoch(n) for other in others) for n, epoch in owned.items()):
                    self._faults["zombie woke up after its partition was taken over"] += 1

        self._undo_later(fault, wake)

    def _usurp(self, fault: Fault, process: Process) -> None:
        partition = int(fault.target.split()[1])
        if fault.detail == "stopped":
            self._freeze(fault, process)
        else:
            way = Way.TO_BROKER if fault.detail == "its bytes held" else Way.TO_CLIENT
            self._proxy.hold(process.number, way)
            self._faults["connections held"] += 1
            self._undo_later(fault, lambda: self._proxy.release(process.number, way))
        topic = Topics(self._namespace).owners_partition(partition).replace("persistent://", "persistent/")
        self._put(f"{topic}/unload", "unload of the owner topic of a zombie")

    def _fill_disk(self, fault: Fault, process: Process) -> None:
        if process.current is None:
            return
        pid = process.current.process.pid
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, resource.RLIM_INFINITY))
        self._faults["disk full"] += 1

        def undo() -> None:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

        self._undo_later(fault, undo)

    def _disturb(self, fault: Fault, link: int) -> None:
        """What happens to a network."""
        match fault.kind:
            case "cut":
                self._proxy.cut(link)
            case "refuse":
                self._proxy.refuse(link, True)
                self._faults["connections refused"] += 1
                self._undo_later(fault, lambda: self._proxy.refuse(link, False))
            case "half open":
                self._proxy.half_open(link, WAYS[fault.detail])
            case "hold":
                self._proxy.hold(link, WAYS[fault.detail])
                self._faults["connections held"] += 1
                self._undo_later(fault, lambda: self._proxy.release(link, WAYS[fault.detail]))
            case "delay":
                self._proxy.delay(link, int(fault.detail.split()[0]) / 1000)
                self._faults["connections delayed"] += 1
                self._undo_later(fault, lambda: self._proxy.delay(link, 0))
            case "lose":
                count, kind, *after = fault.detail.split()
                answer = kind.endswith(("_RESPONSE", "_RECEIPT", "SUCCESS", "MESSAGE"))
                way = Way.TO_CLIENT if answer else Way.TO_BROKER
                self._proxy.lose(link, way, kind, int(count), cut=after == ["then", "cut"])

    def _administer(self, fault: Fault) -> None:
        if fault.detail == "transaction coordinator":
            self._put(f"{COORDINATOR}/unload", "unload of the transaction coordinator")
            return
        partition = int(fault.target.split()[1])
        topic = f"persistent/{self._namespace}/{fault.detail}-partition-{partition}"
        if fault.kind == "compact":
            self._put(f"{topic}/compaction", "compaction")
        else:
            self._put(f"{topic}/unload", f"unload of {fault.detail}")

    def _put(self, path: str, counted_as: str) -> None:
        def put() -> None:
            # A broker that is down, or still busy with the last one, refuses; then nothing has happened.
            with contextlib.suppress(httpx.HTTPError):
                url = f"{self._broker.admin_url}/admin/v2/{path}"
                if httpx.put(url, timeout=UNLOAD_LIMIT_S, trust_env=False).is_success:
                    self._faults[counted_as] += 1

        self._in_background(put)

    def _restart_broker(self, fault: Fault) -> None:
        if self._broker_busy.is_set():
            return
        self._broker_busy.set()

        def restart() -> None:
            self._broker.kill()
            time.sleep(fault.for_s)
            self._broker.start()
            self._faults["kill -9 and restart of the broker"] += 1
            self._broker_busy.clear()

        self._in_background(restart)

    def _in_background(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._background.append(thread)
        thread.start()
