"""The relay of a transactional outbox: reads the rows in order, publishes them, deletes them when the broker has them.

`python -m bench.outbox_relay CONNINFO SERVICE_URL TOPIC` reads from standard input, for each run, how many events are
to be relayed, and `notified` or `polling`; answers `ready`; and writes a report (JSON) when the broker has confirmed
the last one. It ends with its input.

Delivery is at least once: a relay that dies between the receipts and the DELETE publishes those rows again. So the
DELETE need not be durable, and is not waited for. Order is kept per aggregate: whoever appends an event has seen the
one before it committed, and that has the lower position. Rows of different aggregates may become visible out of the
order of their positions: so the relay takes what is there, and does not go by how far it was.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
import pulsar

from bench.event_table import CHANNEL, Connection
from bench.usage import peak_memory_mib
from sequencer.official import official_client

ROWS_MAX = 5_000
"""Read, published and deleted together."""

POLL_EVERY_S = 0.001
"""While there is nothing to relay, and nobody tells when there is."""

NOTIFIED_WITHIN_S = 1.0
"""How often a relay that is notified looks all the same."""

STUCK_AFTER_S = 60.0
BATCH_DELAY_MS = 10
"""Never waited for: every round ends with a flush."""

TAKE = f"SELECT position, aggregate_id, payload FROM outbox ORDER BY position LIMIT {ROWS_MAX}"
DELETE = "DELETE FROM outbox WHERE position = ANY(%s)"

Row = tuple[int, str, str]


class Report(NamedTuple):
    """What came of a run."""

    ended_s: float
    """When the broker had confirmed the last event, by time.monotonic."""
    cpu_s: float
    peak_memory_mib: float
    """Of the process's life so far."""
    rounds: int


class Relay:
    """One connection to PostgreSQL and one producer of the official client."""

    def __init__(self, connection: Connection, producer: Any) -> None:
        self._connection = connection
        self._producer = producer
        self._failures: list[Any] = []
        # What is lost of it in a crash is published a second time.
        connection.execute("SET synchronous_commit = off")
        # However stale the statistics: the rows that are left are the first of the primary key.
        connection.execute("SET enable_seqscan = off")
        connection.execute(f"LISTEN {CHANNEL}")

    def run(self, events: int, *, notified: bool) -> Report:
        """Relay so many events.

        Raises:
            RuntimeError: the broker has refused one, or none came for a while.
        """
        cpu_s = time.process_time()
        relayed, rounds, since_s = 0, 0, time.monotonic()
        while relayed < events:
            rows = self._connection.execute(TAKE, prepare=True).fetchall()
            if rows:
                self._publish(rows)
                since_s = time.monotonic()
                self._connection.execute(DELETE, ([row[0] for row in rows],), prepare=True)
                relayed, rounds = relayed + len(rows), rounds + 1
            elif time.monotonic() - since_s > STUCK_AFTER_S:
                raise RuntimeError(f"{relayed} of {events} events relayed, and no more in {STUCK_AFTER_S:.0f} s")
            else:
                self._await_more(notified)
        return Report(since_s, time.process_time() - cpu_s, peak_memory_mib(os.getpid()), rounds)

    def _publish(self, rows: Sequence[Row]) -> None:
        """Return when the broker has confirmed all of them."""
        for _, aggregate_id, payload in rows:
            self._producer.send_async(payload.encode(), self._sent, partition_key=aggregate_id)
        self._producer.flush()
        if self._failures:
            raise RuntimeError(f"{len(self._failures)} of {len(rows)} events not published: {self._failures[0]}")

    def _sent(self, result: Any, _: Any) -> None:
        if result != pulsar.Result.Ok:
            self._failures.append(result)

    def _await_more(self, notified: bool) -> None:
        if notified:
            for _ in self._connection.notifies(timeout=NOTIFIED_WITHIN_S, stop_after=1):
                pass
        else:
            time.sleep(POLL_EVERY_S)


def serve(conninfo: str, service_url: str, topic: str) -> None:
    """Run after run."""
    with psycopg.connect(conninfo, autocommit=True) as connection, official_client(service_url, None) as client:
        producer = client.create_producer(
            topic,
            batching_enabled=True,
            batching_max_publish_delay_ms=BATCH_DELAY_MS,
            batching_max_messages=ROWS_MAX,
            max_pending_messages=2 * ROWS_MAX,
            block_if_queue_full=True,
        )
        relay = Relay(connection, producer)
        while line := sys.stdin.readline():
            events, how = line.split()
            print("ready", flush=True)
            print(json.dumps(relay.run(int(events), notified=how == "notified")), flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
