"""One run: topics are filled, then processes that work them off are timed, from ready to the last commit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import existing
from bench.relay import RELAYING, kept_metadata
from bench.sequencer_process import SEQUENCING, ChildProcess, SequencerProcess
from bench.usage import cpu_seconds
from bench.workload import Loaded, Workload, load
from sequencer.broker import EmbeddedBroker
from sequencer.entries import read_events
from sequencer.names import Topics, index_directory
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.frames import Entry, MessageId

LOOK_EVERY_S = 0.01
"""How exactly the end of a run is seen. It costs the broker one small request each time."""

QUIET_S = 0.1
"""So long must nothing new have been committed before it is looked whether that was the last."""

STUCK_AFTER_S = 120.0


class Layout(NamedTuple):
    """Over what the work is spread."""

    partitions: int = 1
    processes: int = 1

    def shares(self) -> list[Sequence[int]]:
        """The partitions of each process."""
        return [range(first, self.partitions, self.processes) for first in range(self.processes)]


ALONE = Layout()


class Subject(NamedTuple):
    """What is measured: a program that works off what was submitted."""

    name: str
    ready: str
    """The log line that says so."""
    start: Callable[[EmbeddedBroker, Topics, Sequence[int], Path, Path], ChildProcess]
    """On these partitions of the topics, with a directory for its indexes, and a log file."""
    is_last: Callable[[Entry, Loaded], bool]
    """Whether an entry of `events` is the last one that there will be."""


class Run(NamedTuple):
    """One run's figures, of all processes together. CPU is counted while they are timed, peak memory all their life."""

    events: int
    seconds: float
    cpu_s: float
    broker_cpu_s: float
    peak_memory_mib: float
    transactions: int

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds

    @property
    def cpu_us_per_event(self) -> float:
        return self.cpu_s / self.events * 1e6

    def figures(self) -> dict[str, float]:
        """As they are reported."""
        return {
            "events_per_s": round(self.events_per_s),
            "transactions_per_s": round(self.transactions / self.seconds, 1),
            "seconds": round(self.seconds, 3),
            "cpu_s": round(self.cpu_s, 2),
            "cpu_us_per_event": round(self.cpu_us_per_event, 2),
            "broker_cpu_s": round(self.broker_cpu_s, 2),
            "broker_cpu_us_per_event": round(self.broker_cpu_s / self.events * 1e6, 2),
            "peak_memory_mib": round(self.peak_memory_mib, 1),
        }


async def run_once(
    subject: Subject,
    broker: EmbeddedBroker,
    topics: Topics,
    workload: Workload,
    directory: Path,
    layout: Layout = ALONE,
    templates: Mapping[int, Path] | None = None,
) -> Run:
    """One run on topics that are empty.

    Args:
        directory: empty too, for indexes and logs.
        templates: of the partitions' indexes, by `existing.build`; without them the indexes are empty.
    """
    processes: list[ChildProcess] = []
    async with PulsarClient(broker.service_url) as client:
        loaded = [
            await _fill(client, topics, workload, number, layout.partitions) for number in range(layout.partitions)
        ]
        for number, template in (templates or {}).items():
            place = index_directory(directory / "index", topics.namespace, number)
            existing.copy(template, place, identity=topics.events_partition(number))
        try:
            for number, share in enumerate(layout.shares()):
                log_file = directory / f"{number}.log"
                processes.append(subject.start(broker, topics, share, directory / "index", log_file))
            began_s = min([process.await_line(subject.ready).at_s for process in processes])
            cpu_s, broker_cpu_s = _used(processes), cpu_seconds(broker.pid)
            ended = [
                _last_commit(client, topics.events_partition(number), subject, there)
                for number, there in enumerate(loaded)
            ]
            ended_s = max(await asyncio.gather(*ended))
            cpu_s, broker_cpu_s = _used(processes) - cpu_s, cpu_seconds(broker.pid) - broker_cpu_s
            usages = [process.stop() for process in processes]
        finally:
            for process in processes:
                process.end()
    return Run(
        events=workload.events * layout.partitions,
        seconds=ended_s - began_s,
        cpu_s=cpu_s,
        broker_cpu_s=broker_cpu_s,
        peak_memory_mib=sum(usage.peak_memory_mib for usage in usages),
        transactions=sum(usage.transactions for usage in usages),
    )


async def _fill(client: PulsarClient, topics: Topics, workload: Workload, partition: int, partitions: int) -> Loaded:
    producer = await client.producer(topics.submitted_partition(partition))
    loaded = await load(producer, workload, partition, partitions)
    await producer.close()
    return loaded


async def _last_commit(client: PulsarClient, topic: str, subject: Subject, loaded: Loaded) -> float:
    """When the last commit on a partition became readable, Unix time.

    Looks from outside, often, and opens what it sees only when nothing new has come for a while.
    """
    reader = await client.reader(topic)
    seen, since_s = await reader.last_message_id(), time.time()
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        last, now_s = await reader.last_message_id(), time.time()
        if last[:2] > seen[:2]:
            seen, since_s = last, now_s
        elif now_s - since_s > QUIET_S and seen.ledger >= 0:
            if subject.is_last(await _entry_after(client, topic, seen, inclusive=True), loaded):
                return since_s
            # A broker (4.2.4) that is asked during a commit may answer with the end before it from then on.
            async with asyncio.timeout(STUCK_AFTER_S):
                seen = (await _entry_after(client, topic, seen, inclusive=False)).message_id
            since_s = time.time()
        if now_s - since_s > STUCK_AFTER_S:
            raise RuntimeError(f"no commit for {STUCK_AFTER_S:.0f} s, the last one is {seen}")


async def _entry_after(client: PulsarClient, topic: str, position: MessageId, *, inclusive: bool) -> Entry:
    """The next readable entry, as soon as there is one."""
    reader = await client.reader(topic, start=MessageId(position.ledger, position.entry), inclusive=inclusive)
    try:
        return (await reader.take(max_messages=1, max_bytes=1))[0]
    finally:
        await reader.close()


def _used(processes: Sequence[ChildProcess]) -> float:
    return sum(cpu_seconds(process.pid) for process in processes)


# --- what can be measured ---


def _start_sequencer(
    broker: EmbeddedBroker, topics: Topics, partitions: Sequence[int], index_dir: Path, log_file: Path
) -> ChildProcess:
    return SequencerProcess(broker, topics.namespace, index_dir, log_file, partitions=partitions)


def _start_without_transactions(
    broker: EmbeddedBroker, topics: Topics, partitions: Sequence[int], index_dir: Path, log_file: Path
) -> ChildProcess:
    program = "bench.without_transactions"
    return SequencerProcess(broker, topics.namespace, index_dir, log_file, partitions=partitions, program=program)


def _start_relay(
    broker: EmbeddedBroker, topics: Topics, partitions: Sequence[int], index_dir: Path, log_file: Path
) -> ChildProcess:
    arguments = ["-m", "bench.relay", "--service-url", broker.service_url, "--namespace", topics.namespace]
    return ChildProcess([*arguments, *(f"--partition={number}" for number in partitions)], log_file)


def _is_last_event(entry: Entry, loaded: Loaded) -> bool:
    return list(read_events(entry))[-1].sequence == loaded.accepted - 1


def _is_last_entry(entry: Entry, loaded: Loaded) -> bool:
    return entry.payload == loaded.last.payload and kept_metadata(entry) == loaded.last.metadata


SEQUENCER = Subject("sequencer", SEQUENCING, _start_sequencer, _is_last_event)
AT_LEAST_ONCE = Subject("at_least_once", SEQUENCING, _start_without_transactions, _is_last_event)
RELAY = Subject("relay", RELAYING, _start_relay, _is_last_entry)
