"""The SQL event store, set up and measured: writers, and where there is an outbox the relay, each a process of its own.

The table holds one event of every aggregate to begin with, and grows from run to run, as it would.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import NamedTuple, Self

import psycopg
import pulsar

from bench import appender, outbox_relay
from bench.appender import Job
from bench.event_table import append_batch, create
from bench.line_child import LineChild
from bench.onlooker import NUMBER
from bench.postgres import Postgres
from bench.usage import cpu_seconds
from sequencer.broker import EmbeddedBroker
from sequencer.official import official_client

BATCH_EVENTS = 1_000
RECEIVED_WITHIN_MS = 10_000


class Shape(NamedTuple):
    """How the store is used."""

    outbox: bool
    connections: int
    per_transaction: int
    """Events per transaction."""


class Stored(NamedTuple):
    """What events are like: numbered, aggregates taking turns."""

    aggregates: int
    event_bytes: int
    """Payload of one event."""


class SqlStore:
    """One database, its writers and its relay, from `with` to the end of it."""

    def __init__(
        self, postgres: Postgres, broker: EmbeddedBroker, topic: str, stored: Stored, *, connections: int
    ) -> None:
        """`topic` is where the outbox is relayed to; it exists and is empty. There are `connections` writers."""
        self._postgres, self._broker, self._topic, self._stored = postgres, broker, topic, stored
        self._connections = connections
        self.conninfo = postgres.conninfo
        self._next = 0
        self._ending = ExitStack()

    def __enter__(self) -> Self:
        """Make the tables, and start everybody."""
        conninfo, service_url = self.conninfo, self._broker.service_url
        with ExitStack() as stack:
            self._fill()
            children = [LineChild("bench.appender", conninfo) for _ in range(self._connections)]
            self._writers = [stack.enter_context(child) for child in children]
            self.relay = stack.enter_context(LineChild("bench.outbox_relay", conninfo, service_url, self._topic))
            client = stack.enter_context(official_client(service_url, None))
            self._relayed = client.create_reader(self._topic, pulsar.MessageId.earliest)
            self._ending = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ending.close()

    def _fill(self) -> None:
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            create(connection)
            first = self.number(self._stored.aggregates)
            for begin in range(first, self._next, BATCH_EVENTS):
                job = Job(begin, min(begin + BATCH_EVENTS, self._next), 1, *self._stored, BATCH_EVENTS, outbox=False)
                append_batch(connection, list(job.events()), outbox=False)

    def number(self, events: int) -> int:
        """Take the next so many numbers; return the first."""
        self._next += events
        return self._next - events

    def run(self, shape: Shape, events: int) -> dict[str, float]:
        """Append so many events, and where there is an outbox relay them. The figures of that.

        Raises:
            RuntimeError: a conflict, where there can be none; or the broker has not every event once and in order.
        """
        assert self._stored.aggregates % shape.connections == 0, "two writers would have an aggregate in common"
        first = self.number(events)
        writers = self._writers[: shape.connections]
        for number, writer in enumerate(writers):
            job = Job(first + number, first + events, len(writers), *self._stored, shape.per_transaction, shape.outbox)
            writer.tell(job.to_json())
        for writer in writers:
            writer.await_ready()
        if shape.outbox:
            self.relay.tell(f"{events} polling")
            self.relay.await_ready()
        usage = self._usage()
        began_s = time.monotonic()
        for writer in writers:
            writer.tell("go")
        reports = [appender.Report(*writer.hear_report()) for writer in writers]
        relayed = outbox_relay.Report(*self.relay.hear_report()) if shape.outbox else None
        usage = {name: used - usage[name] for name, used in self._usage().items()}
        if any(report.conflicts for report in reports):
            raise RuntimeError("somebody else appends to the same aggregates")
        figures = _figures(began_s, events, reports, relayed, usage) | {"postgres_memory_mib": self._memory_mib()}
        if relayed:
            check_relayed(self._numbers(events), range(first, first + events), self._stored.aggregates)
        return figures

    def _usage(self) -> dict[str, float]:
        return {"postgres_cpu_s": self._postgres.cpu_s(), "broker_cpu_s": cpu_seconds(self._broker.pid)}

    def _memory_mib(self) -> float:
        return round(self._postgres.memory_mib(), 1)

    def _numbers(self, events: int) -> Iterator[int]:
        """Of the next so many events that the broker has."""
        for _ in range(events):
            yield int(self._relayed.read_next(RECEIVED_WITHIN_MS).data()[NUMBER], 16)
        if self._relayed.has_message_available():
            raise RuntimeError("the broker has more events than were appended")


def _figures(
    began_s: float,
    events: int,
    reports: list[appender.Report],
    relayed: outbox_relay.Report | None,
    usage: dict[str, float],
) -> dict[str, float]:
    """Of one run. With an outbox its end is the broker's confirmation of the last event, else the last commit."""
    appended_s = max(report.ended_s for report in reports) - began_s
    seconds = relayed.ended_s - began_s if relayed else appended_s
    figures = {"events_per_s": round(events / seconds), "seconds": round(seconds, 3)}
    used = {
        "postgres": usage["postgres_cpu_s"],
        "writers": sum(report.cpu_s for report in reports),
    }
    if relayed:
        figures["appended_per_s"] = round(events / appended_s)
        figures["rows_per_round"] = round(events / relayed.rounds)
        figures["relay_peak_memory_mib"] = round(relayed.peak_memory_mib, 1)
        used |= {"relay": relayed.cpu_s, "broker": usage["broker_cpu_s"]}
    return figures | {f"{name}_cpu_us_per_event": round(cpu_s / events * 1e6, 2) for name, cpu_s in used.items()}


def check_relayed(numbers: Iterable[int], expected: range, aggregates: int) -> None:
    """Raises RuntimeError unless every number is there once, and those of an aggregate in their order."""
    last: dict[int, int] = {}
    seen = 0
    for number in numbers:
        if number not in expected:
            raise RuntimeError(f"event {number} was relayed, and not appended")
        if number <= last.get(number % aggregates, -1):
            raise RuntimeError(f"event {number} was relayed after event {last[number % aggregates]}")
        last[number % aggregates] = number
        seen += 1
    if seen != len(expected):
        raise RuntimeError(f"{seen} of {len(expected)} events were relayed")
