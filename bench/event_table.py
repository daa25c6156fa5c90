"""The classic event store on PostgreSQL: one table, and its primary key keeps two writers from the same version.

An append is an INSERT of the version after the one that its writer expects; where somebody was quicker, the key is
there and PostgreSQL refuses it. With a transactional outbox the same transaction writes the event a second time, into
the table `outbox`, from where a relay (outbox_relay.py) publishes and deletes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import errors

from bench.numbered import event_id

Connection = psycopg.Connection[tuple[Any, ...]]

CHANNEL = "outbox"

SCHEMA = """
CREATE TABLE events (
    aggregate_id text NOT NULL,
    version bigint NOT NULL,
    id uuid NOT NULL,
    data jsonb NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (aggregate_id, version)
);
CREATE TABLE outbox (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    aggregate_id text NOT NULL,
    payload text NOT NULL
);
"""

# Each is one statement, and so one round trip and one transaction.
_EVENT = "INSERT INTO events (aggregate_id, version, id, data) VALUES (%(aggregate_id)s, %(version)s, %(id)s, %(data)s)"
_ROW = "INSERT INTO outbox (aggregate_id, payload) VALUES (%(aggregate_id)s, %(payload)s)"
APPEND = _EVENT
APPEND_WITH_OUTBOX = f"WITH event AS ({_EVENT}) {_ROW}"
APPEND_AND_NOTIFY = f"WITH event AS ({_EVENT}), row AS ({_ROW}) SELECT pg_notify('{CHANNEL}', '')"

COPY_EVENTS = "COPY events (aggregate_id, version, id, data) FROM STDIN"
COPY_OUTBOX = "COPY outbox (aggregate_id, payload) FROM STDIN"


class Event(NamedTuple):
    """A row of `events`, and what is published of it."""

    aggregate_id: str
    version: int
    id: str
    data: str
    """JSON: the event without what has a column of its own."""
    payload: str
    """JSON: the whole event, as a publisher of structured events sends it to a sequencer."""


def event(number: int, *, aggregates: int, event_bytes: int) -> Event:
    """Event `number`: aggregates take turns. `event_bytes` is the size of its payload.

    Its id holds its number, as those of numbered.py do.
    """
    version, aggregate = divmod(number, aggregates)
    head = f'{{"id":"{event_id(number)}","version":{version - 1},"data":'
    data = '{"note":"' + "x" * max(0, event_bytes - len(head) - len('{"note":""}}')) + '"}'
    return Event(f"aggregate-{aggregate}", version, event_id(number), data, head + data + "}")


def create(connection: Connection) -> None:
    """The tables, empty."""
    connection.execute(SCHEMA)


def append(connection: Connection, statement: str, event: Event) -> bool:
    """One event in a transaction of its own, by one of the three statements above. False: it was in conflict."""
    try:
        # Prepared the first time, and the same plan ever after.
        connection.execute(statement, event._asdict(), prepare=True)
    except errors.UniqueViolation:
        return False
    return True


def append_batch(connection: Connection, events: Sequence[Event], *, outbox: bool) -> bool:
    """All in one transaction, or none. False: one was in conflict.

    COPY is the fastest way in: no statement per row, and nothing is sent back.
    """
    try:
        with connection.transaction(), connection.cursor() as cursor:
            with cursor.copy(COPY_EVENTS) as copy:
                for event in events:
                    copy.write_row(event[:4])
            if outbox:
                with cursor.copy(COPY_OUTBOX) as copy:
                    for event in events:
                        copy.write_row((event.aggregate_id, event.payload))
    except errors.UniqueViolation:
        return False
    return True
