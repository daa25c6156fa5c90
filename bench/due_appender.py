"""The writer of an open loop: every event is appended to the SQL event store when it is due, and the relay is notified.

`python -m bench.due_appender CONNINFO AGGREGATES EVENT_BYTES` speaks as due_publisher.py does; the topic that it is
told is the relay's. An append that takes longer than until the next one is due delays that one: its latency counts from
when it was due, all the same.
"""

from __future__ import annotations

import gc
import json
import sys
import time

import psycopg

from bench.event_table import APPEND_AND_NOTIFY, Connection, append, event
from bench.schedule import NS_PER_S, Schedule


def serve(conninfo: str, aggregates: int, event_bytes: int) -> None:
    """Append run after run, on one connection."""
    gc.disable()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        while sys.stdin.readline():
            print("ready", flush=True)
            schedule = Schedule.from_json(sys.stdin.readline())
            late_ms = append_when_due(connection, schedule, aggregates=aggregates, event_bytes=event_bytes)
            print(json.dumps({"late_p99_ms": late_ms[len(late_ms) * 99 // 100]}), flush=True)


def append_when_due(connection: Connection, schedule: Schedule, *, aggregates: int, event_bytes: int) -> list[float]:
    """Append every event when it is due, or at once where that is past.

    Returns: for every event, sorted, how many milliseconds after its time its append began.
    """
    late_ms = []
    for number in range(schedule.first, schedule.first + schedule.events):
        due = event(number, aggregates=aggregates, event_bytes=event_bytes)  # made before its time comes
        due_ns = schedule.due_ns(number)
        time.sleep(max(0, due_ns - time.monotonic_ns()) / NS_PER_S)
        late_ms.append((time.monotonic_ns() - due_ns) / 1e6)
        if not append(connection, APPEND_AND_NOTIFY, due):
            raise RuntimeError(f"event {number} is in conflict")
    return sorted(late_ms)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
