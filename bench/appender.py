"""A writer of the SQL event store: a process with one connection that appends, the next event after the last.

`python -m bench.appender CONNINFO` reads from standard input, for each run, a job (JSON), which it answers with `ready`
when it has made the events; then `go`; then it writes a report (JSON) when the last one is committed. It ends with its
input.
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple, Self

import psycopg

from bench.event_table import APPEND, APPEND_WITH_OUTBOX, Connection, Event, append, append_batch, event


class Job(NamedTuple):
    """One run of one writer: its share of the events."""

    first: int
    """Number of its first event."""
    end: int
    """It appends all its numbers below this one."""
    step: int
    """From one of its events to the next: how many writers there are. It must divide the number of aggregates, so that
    no two writers have one in common."""
    aggregates: int
    event_bytes: int
    per_transaction: int
    outbox: bool

    def events(self) -> Iterator[Event]:
        """Its share, in order."""
        for number in range(self.first, self.end, self.step):
            yield event(number, aggregates=self.aggregates, event_bytes=self.event_bytes)

    def to_json(self) -> str:
        """In one line."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """What `to_json` made."""
        return cls(*json.loads(line))


class Report(NamedTuple):
    """What came of a job."""

    ended_s: float
    """By time.monotonic, which all processes of a machine share."""
    cpu_s: float
    conflicts: int


def serve(conninfo: str) -> None:
    """Job after job, on one connection."""
    gc.disable()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        while line := sys.stdin.readline():
            job = Job.from_json(line)
            events = list(job.events())
            print("ready", flush=True)
            sys.stdin.readline()
            print(json.dumps(work(connection, job, events)), flush=True)


def work(connection: Connection, job: Job, events: list[Event]) -> Report:
    """Append them all. What is in conflict is counted, and left."""
    cpu_s = time.process_time()
    if job.per_transaction == 1:
        statement = APPEND_WITH_OUTBOX if job.outbox else APPEND
        conflicts = sum(not append(connection, statement, event) for event in events)
    else:
        batches = _batches(events, job.per_transaction)
        conflicts = sum(not append_batch(connection, batch, outbox=job.outbox) for batch in batches)
    return Report(time.monotonic(), time.process_time() - cpu_s, conflicts)


def _batches(events: list[Event], size: int) -> Iterator[list[Event]]:
    remaining = iter(events)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


if __name__ == "__main__":
    serve(sys.argv[1])
