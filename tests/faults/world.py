"""A run: publishers, sequencers behind the proxy, and a plan of faults; then quiet, and judgement."""

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
from typing import Any, NamedTuple

import httpx
import pulsar

from sequencer.broker import EmbeddedBroker
from sequencer.names import Topics
from tests.faults.broker_defect import pending_ack_replay_spins
from tests.faults.damage import damage_index, set_writable
from tests.faults.launcher import set_clock
from tests.faults.process import Process
from tests.faults.proxy import FaultProxy, Way
from tests.faults.publishers import Publisher
from tests.faults.schedule import Fault, Plan
from tests.outcomes import Logs
from tests.sequencer_process import SequencerProcess, init

BROKER_SETTINGS = {"keepAliveIntervalSeconds": "2"}
"""A frozen sequencer's connection is closed after 2 to 4 s instead of 30 to 60."""

PUBLISHERS = 3
SETTLED_WITHIN_S = 120.0
ADMIN_LIMIT_S = 30.0
UNLOAD_LIMIT_S = 8.0
FILE_LIMIT_BYTES = 1024
NEVER = re.compile(r"a bug ended this life|: stopped: |Traceback")
COORDINATOR = "persistent/pulsar/system/transaction_coordinator_assign-partition-0"
WAYS = {"to the broker": Way.TO_BROKER, "to the client": Way.TO_CLIENT}


class Figures(NamedTuple):
    """What a run really did."""

    submissions: int
    accepted: int
    rejected: int
    resubmitted: int
    took_s: float
    faults: Counter[str]
    """By kind; only those that met something: a kill of a dead process does not count."""


class World:
    """Everything that one plan runs in. Use `run`."""

    def __init__(self, plan: Plan, broker: EmbeddedBroker, namespace: str, directory: Path) -> None:
        self.plan = plan
        self.faults: Counter[str] = Counter()
        self._broker = broker
        self._namespace = namespace
        self._directory = directory
        self._topics = Topics(namespace)
        self._proxy = FaultProxy(broker.port, plan.processes)
        self._processes = [self._process(number) for number in range(plan.processes)]
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._background: list[threading.Thread] = []
        self._broker_busy = threading.Event()

    def run(self) -> Figures:
        """Run the plan and judge what came out. Raises AssertionError with what is wrong."""
        began_s = time.monotonic()
        create_namespace(self._broker, self._namespace)
        init(self._broker, self._namespace, self.plan.partitions)
        client = pulsar.Client(self._broker.service_url, logger=self._client_log())
        try:
            with self._proxy:
                publishers = [
                    Publisher(client, self._topics.submitted, f"publisher-{n}", str(self.plan.seed))
                    for n in range(PUBLISHERS)
                ]
                for process in self._processes:
                    process.start()
                for publisher in publishers:
                    publisher.start()
                self._follow_plan()
                self._heal()
                for publisher in publishers:
                    publisher.stop()
                logs = Logs(client, self._broker, self._namespace, self.plan.partitions)
                self._judge(logs, publishers)
            events = [len(logs.events(n)) for n in logs.partitions]
            rejected = [len(logs.rejected(n)) for n in logs.partitions]
            return Figures(
                sum(len(logs.submitted(n)) for n in logs.partitions),
                sum(events),
                sum(rejected),
                sum(publisher.resubmitted for publisher in publishers),
                time.monotonic() - began_s,
                self.faults + self._proxy.effects,
            )
        finally:
            for process in self._processes:
                process.kill()
            self._write_logs()
            client.shutdown()

    def _client_log(self) -> Any:
        """The official client tells of every lost connection: into a file."""
        return pulsar.FileLogger(pulsar.LoggerLevel.Warn, str(self._directory / "client.log"))

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

    def _follow_plan(self) -> None:
        began_s = time.monotonic()
        for fault in self.plan.faults:
            self._later(began_s + fault.at_s, partial(self._apply, fault))
        self._later(began_s + self.plan.seconds, lambda: None)
        end_s = began_s + self.plan.seconds
        while self._agenda and self._agenda[0][0] <= end_s:
            at_s, _, work = heapq.heappop(self._agenda)
            time.sleep(max(0.0, at_s - time.monotonic()))
            work()
            self._tend()

    def _later(self, at_s: float, work: Callable[[], object]) -> None:
        heapq.heappush(self._agenda, (at_s, next(self._order), work))

    def _undo_later(self, fault: Fault, undo: Callable[[], object]) -> None:
        self._later(time.monotonic() + fault.for_s, undo)

    def _heal(self) -> None:
        """End every fault, now."""
        while self._agenda:
            heapq.heappop(self._agenda)[2]()
        for thread in self._background:
            thread.join()
        self._proxy.heal()
        if pending_ack_replay_spins(self._broker):
            # What an operator has to do, too: nothing else ends it.
            self._broker.kill()
            self._broker.start()
            self.faults["broker restarted that answered no more (apache/pulsar#26368)"] += 1
        for process in self._processes:
            process.start()

    def _apply(self, fault: Fault) -> None:
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
                    self.faults["kill -9 of a sequencer"] += 1
                self._undo_later(fault, process.start)
            case "stop":
                self._freeze(fault, process)
            case "index":
                process.kill()
                if damage_index(process.index_dir, fault.detail):
                    self.faults[f"index {fault.detail.split()[0]}"] += 1
                self._undo_later(fault, process.start)
            case "read-only":
                set_writable(process.index_dir, False)
                self.faults["index read-only"] += 1
                self._undo_later(fault, lambda: set_writable(process.index_dir, True))
            case "disk full":
                self._fill_disk(fault, process)
            case "clock":
                set_clock(process.clock, float(fault.detail.split()[0]))
                self.faults["clock jump"] += 1
            case _:
                raise AssertionError(fault)

    def _freeze(self, fault: Fault, process: Process) -> None:
        if process.stopped or not process.signal(signal.SIGSTOP):
            return
        self.faults["SIGSTOP of a sequencer"] += 1
        frozen = process.current
        owned = {n: process.epoch(n) for n in range(self.plan.partitions)}

        def wake() -> None:
            if process.current is frozen and process.signal(signal.SIGCONT):
                others = [other for other in self._processes if other is not process]
                if any(0 < epoch < max(other.epoch(n) for other in others) for n, epoch in owned.items()):
                    self.faults["zombie woke up after its partition was taken over"] += 1

        self._undo_later(fault, wake)

    def _usurp(self, fault: Fault, process: Process) -> None:
        partition = int(fault.target.split()[1])
        if fault.detail == "stopped":
            self._freeze(fault, process)
        else:
            way = Way.TO_BROKER if fault.detail == "its bytes held" else Way.TO_CLIENT
            self._proxy.hold(process.number, way)
            self.faults["connections held"] += 1
            self._undo_later(fault, lambda: self._proxy.release(process.number, way))
        self._put(f"{_path(self._topics.owners_partition(partition))}/unload", "unload of the owner topic of a zombie")

    def _fill_disk(self, fault: Fault, process: Process) -> None:
        if process.current is None:
            return
        pid = process.current.process.pid
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, resource.RLIM_INFINITY))
        self.faults["disk full"] += 1

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
                self.faults["connections refused"] += 1
                self._undo_later(fault, lambda: self._proxy.refuse(link, False))
            case "half open":
                self._proxy.half_open(link, WAYS[fault.detail])
            case "hold":
                self._proxy.hold(link, WAYS[fault.detail])
                self.faults["connections held"] += 1
                self._undo_later(fault, lambda: self._proxy.release(link, WAYS[fault.detail]))
            case "delay":
                self._proxy.delay(link, int(fault.detail.split()[0]) / 1000)
                self.faults["connections delayed"] += 1
                self._undo_later(fault, lambda: self._proxy.delay(link, 0))
            case "lose":
                count, kind, *after = fault.detail.split()
                answer = kind.endswith(("_RESPONSE", "_RECEIPT", "SUCCESS"))
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
                    self.faults[counted_as] += 1

        self._in_background(put)

    def _restart_broker(self, fault: Fault) -> None:
        if self._broker_busy.is_set():
            return
        self._broker_busy.set()

        def restart() -> None:
            self._broker.kill()
            time.sleep(fault.for_s)
            self._broker.start()
            self.faults["kill -9 and restart of the broker"] += 1
            self._broker_busy.clear()

        self._in_background(restart)

    def _in_background(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._background.append(thread)
        thread.start()

    # --- Judgement ---

    def _judge(self, logs: Logs, publishers: list[Publisher]) -> None:
        logs.read_submitted()
        stored = {str(message.message_id) for n in logs.partitions for message in logs.submitted(n)}
        for publisher in publishers:
            lost = [receipt for receipt in publisher.receipts if receipt not in stored]
            assert not lost, f"the broker has lost {len(lost)} submissions that it had acknowledged: {lost[:5]}"
        logs.await_all(SETTLED_WITHIN_S, self._tend)
        for process in self._processes:
            process.stop()
        last = self._processes[0]
        last.start()
        assert last.current is not None
        last.current.await_sequencing(self.plan.partitions)
        last.stop()
        strange = [line for process in self._processes for line in process.lines() if NEVER.search(line)]
        assert not strange, "".join(strange[:5])
        logs.check(last.index_dir)

    def _tend(self) -> None:
        for process in self._processes:
            process.tend()

    def _write_logs(self) -> None:
        for process in self._processes:
            (self._directory / f"process-{process.number}.log").write_text("".join(process.lines()))


def create_namespace(broker: EmbeddedBroker, name: str) -> None:
    """Make a namespace with infinite retention."""
    policies = {"retention_policies": {"retentionTimeInMinutes": -1, "retentionSizeInMB": -1}}
    url = f"{broker.admin_url}/admin/v2/namespaces/{name}"
    httpx.put(url, json=policies, timeout=ADMIN_LIMIT_S, trust_env=False).raise_for_status()


def _path(topic: str) -> str:
    return topic.replace("persistent://", "persistent/")


def run(plan: Plan, broker: EmbeddedBroker, namespace: str, directory: Path) -> Figures:
    """Run a plan on a broker that was started with `BROKER_SETTINGS`.

    Raises:
        AssertionError: what is wrong.
        BrokerDefect: nothing can be said.
    """
    world = World(plan, broker, namespace, directory)
    try:
        return world.run()
    except BaseException as failure:
        failure.add_note(f"{plan}\nlogs in {directory}")
        if isinstance(failure, Exception) and pending_ack_replay_spins(broker):
            raise BrokerDefect(f"pending-ack replay spins in the broker (apache/pulsar#26368): {failure}") from failure
        raise


class BrokerDefect(Exception):
    """A run that came to nothing because the broker answers no more, for a reason that is known and not ours."""
