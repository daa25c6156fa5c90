"""One run: topics are filled, then a process that works them off is timed from ready to its last commit."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.relay import RELAYING
from bench.sequencer_process import SEQUENCING, ChildProcess, SequencerProcess
from bench.workload import Loaded, Workload, load
from sequencer.broker import EmbeddedBroker
from sequencer.entries import read_events
from sequencer.names import Topics
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.frames import Entry, MessageId

LOOK_EVERY_S = 0.01
"""How exactly the end of a run is seen. It costs the broker one small request each time."""

QUIET_S = 0.1
"""So long must nothing new have been committed before it is looked whether that was the last."""

STUCK_AFTER_S = 120.0

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Run(NamedTuple):
    """One run's figures. CPU is counted while it is timed, peak memory over a process's whole life."""

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
            "transactions_per_s": round(self.transactions / self.seconds),
            "seconds": round(self.seconds, 3),
            "cpu_s": round(self.cpu_s, 2),
            "cpu_us_per_event": round(self.cpu_us_per_event, 2),
            "broker_cpu_s": round(self.broker_cpu_s, 2),
            "broker_cpu_us_per_event": round(self.broker_cpu_s / self.events * 1e6, 2),
            "peak_memory_mib": round(self.peak_memory_mib, 1),
        }


class Subject(NamedTuple):
    """What is measured: a program that works off what was submitted."""

    name: str
    ready: str
    """The log line that says so."""
    start: Callable[[EmbeddedBroker, Topics, Path], ChildProcess]
    """The directory is empty, for the program's files and its log."""
    is_last: Callable[[Entry, Loaded], bool]
    """Whether an entry of `events` is the last one that there will be."""


async def run_once(
    subject: Subject, broker: EmbeddedBroker, topics: Topics, workload: Workload, directory: Path
) -> Run:
    """One run on topics that are empty; `directory` is empty too."""
    async with PulsarClient(broker.service_url) as client:
        producer = await client.producer(topics.submitted_partition(0))
        loaded = await load(producer, workload)
        await producer.close()
        process = subject.start(broker, topics, directory)
        try:
            began_s = process.await_line(subject.ready).at_s
            cpu_s, broker_cpu_s = cpu_seconds(process.pid), cpu_seconds(broker.pid)
            ended_s = await _last_commit(client, topics.events_partition(0), lambda e: subject.is_last(e, loaded))
            cpu_s, broker_cpu_s = cpu_seconds(process.pid) - cpu_s, cpu_seconds(broker.pid) - broker_cpu_s
            usage = process.stop()
        finally:
            process.end()
    return Run(workload.events, ended_s - began_s, cpu_s, broker_cpu_s, usage.peak_memory_mib, usage.transactions)


async def _last_commit(client: PulsarClient, topic: str, is_last: Callable[[Entry], bool]) -> float:
    """When the last commit became readable, Unix time.

    Looks from outside, often, and opens what it sees only when nothing new has come for a while.
    """
    reader = await client.reader(topic)
    seen, since_s = await reader.last_message_id(), time.time()
    looked_at = None
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        last, now_s = await reader.last_message_id(), time.time()
        if last != seen:
            seen, since_s = last, now_s
        elif now_s - since_s > QUIET_S and seen != looked_at:
            if seen.ledger >= 0 and is_last(await _entry_at(client, topic, seen)):
                return since_s
            looked_at = seen
        if now_s - since_s > STUCK_AFTER_S:
            raise RuntimeError(f"no commit for {STUCK_AFTER_S:.0f} s, the last one is {seen}")


async def _entry_at(client: PulsarClient, topic: str, position: MessageId) -> Entry:
    reader = await client.reader(topic, start=MessageId(position.ledger, position.entry), inclusive=True)
    try:
        (entry,) = await reader.take(max_messages=1, max_bytes=1)
        return entry
    finally:
        await reader.close()


def cpu_seconds(pid: int) -> float:
    """What a process has used so far, to the hundredth of a second, its threads included."""
    # Of a clock, hours and minutes only where needed: 1:02:03.45 or 2:03.45; Linux's ps would leave the fraction out.
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    shown = subprocess.run(["ps", "-o", "time=", "-p", str(pid)], capture_output=True, text=True, check=True)
    seconds = 0.0
    for part in shown.stdout.strip().split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


# --- what can be measured ---


def _start_sequencer(broker: EmbeddedBroker, topics: Topics, directory: Path) -> ChildProcess:
    return SequencerProcess(broker, topics.namespace, directory / "index", directory / "sequencer.log")


def _is_last_event(entry: Entry, loaded: Loaded) -> bool:
    return list(read_events(entry))[-1].sequence == loaded.accepted - 1


def _start_relay(broker: EmbeddedBroker, topics: Topics, directory: Path) -> ChildProcess:
    arguments = ["-m", "bench.relay", "--service-url", broker.service_url, "--namespace", topics.namespace]
    return ChildProcess(arguments, directory / "relay.log")


def _is_last_entry(entry: Entry, loaded: Loaded) -> bool:
    return entry.payload == loaded.last_payload


SEQUENCER = Subject("sequencer", SEQUENCING, _start_sequencer, _is_last_event)
RELAY = Subject("relay", RELAYING, _start_relay, _is_last_entry)
