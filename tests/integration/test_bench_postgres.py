"""The benchmarks' PostgreSQL, a real one: started, used, and gone; and the event store on it: what is a conflict."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pulsar
import pytest

from bench import postgres_programs
from bench.event_table import (
    APPEND,
    APPEND_AND_NOTIFY,
    APPEND_WITH_OUTBOX,
    CHANNEL,
    Connection,
    append,
    append_batch,
    create,
    event,
)
from bench.outbox_relay import Relay
from bench.postgres import SETTINGS, Postgres
from bench.postgres_programs import PostgresFailure
from sequencer.admin import Admin
from sequencer.broker import EmbeddedBroker
from sequencer.official import official_client

ROWS = [event(number, aggregates=10, event_bytes=160) for number in range(40)]


def directory_of(server: Postgres) -> Path:
    return Path(psycopg.conninfo.conninfo_to_dict(server.conninfo)["host"])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def connection(postgres: Postgres) -> Iterator[Connection]:
    """With empty tables."""
    with psycopg.connect(postgres.conninfo, autocommit=True) as connected:
        connected.execute("DROP TABLE IF EXISTS events, outbox")
        create(connected)
        yield connected


def count(connection: Connection, table: str) -> int:
    (found,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone() or (None,)
    assert isinstance(found, int)
    return found


def test_nothing_is_left() -> None:
    with Postgres() as server:
        directory = directory_of(server)
        connected = psycopg.connect(server.conninfo)  # and it stays open
        (pid,) = connected.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        assert directory.is_dir()
    connected.close()
    assert not directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_one_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS, "shared_buffers", "none")
    with pytest.raises(PostgresFailure, match="shared_buffers"), Postgres():
        pytest.fail("it has started")


@pytest.mark.skipif(importlib.util.find_spec("pgserver") is None, reason="there is no pgserver for this machine")
def test_the_programs_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_programs, "installed", lambda _: [])
    with Postgres() as server, psycopg.connect(server.conninfo) as connected:
        (said,) = connected.execute("SHOW server_version").fetchone() or ("",)
        assert server.version == said


def test_a_commit_is_durable(connection: Connection) -> None:
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert connection.execute(f"SHOW {setting}").fetchone() == ("on",)


def test_it_tells_what_it_uses(postgres: Postgres, connection: Connection) -> None:
    before_s = postgres.cpu_s()
    with psycopg.connect(postgres.conninfo) as other:
        other.execute("SELECT sum(n) FROM generate_series(1, 1000000) n")
    while_it_runs_s = postgres.cpu_s() - before_s
    assert 0.02 < while_it_runs_s < 10
    assert postgres.memory_mib() > 1


@pytest.mark.parametrize("statement", [APPEND, APPEND_WITH_OUTBOX, APPEND_AND_NOTIFY])
def test_the_second_one_at_a_version_is_in_conflict(connection: Connection, statement: str) -> None:
    assert append(connection, statement, ROWS[0])
    assert not append(connection, statement, ROWS[0])
    assert append(connection, statement, ROWS[10])
    assert count(connection, "events") == 2
    assert count(connection, "outbox") == (0 if statement == APPEND else 2)


def test_a_batch_with_a_conflict_leaves_nothing(connection: Connection) -> None:
    assert append_batch(connection, ROWS[:20], outbox=True)
    assert not append_batch(connection, ROWS[19:], outbox=True)
    assert append_batch(connection, ROWS[20:], outbox=False)
    assert (count(connection, "events"), count(connection, "outbox")) == (40, 20)


def test_what_is_in_the_table(connection: Connection) -> None:
    append(connection, APPEND_WITH_OUTBOX, ROWS[11])
    found = connection.execute("SELECT aggregate_id, version, id::text, data::text FROM events").fetchone()
    assert found == (*ROWS[11][:3], ROWS[11].data.replace(":", ": "))
    assert connection.execute("SELECT aggregate_id, payload FROM outbox").fetchone() == (
        ROWS[11].aggregate_id,
        ROWS[11].payload,
    )


def test_a_relay_is_notified(postgres: Postgres, connection: Connection) -> None:
    with psycopg.connect(postgres.conninfo, autocommit=True) as relay:
        relay.execute(f"LISTEN {CHANNEL}")
        append(connection, APPEND_AND_NOTIFY, ROWS[0])
        (notice,) = relay.notifies(timeout=10, stop_after=1)
    assert notice.channel == CHANNEL


def test_a_relay_that_fails_before_it_deletes_publishes_again(
    connection: Connection, broker: EmbeddedBroker, namespace: str
) -> None:
    append_batch(connection, ROWS[:20], outbox=True)
    connection.execute("CREATE RULE refused AS ON DELETE TO outbox DO INSTEAD SELECT 1 / 0")
    topic = f"persistent://{namespace}/outbox"
    with Admin(broker.admin_url) as admin:
        admin.put(f"v2/persistent/{namespace}/outbox")
    with official_client(broker.service_url, None) as client:
        reader = client.create_reader(topic, pulsar.MessageId.earliest)
        relay = Relay(connection, client.create_producer(topic))
        with pytest.raises(psycopg.errors.DivisionByZero):
            relay.run(20, notified=False)
        connection.execute("DROP RULE refused ON outbox")
        append(connection, APPEND_WITH_OUTBOX, ROWS[20])
        relay.run(21, notified=False)
        published = [reader.read_next(10_000).data().decode() for _ in range(41)]
        assert not reader.has_message_available()
    assert published == [row.payload for row in (*ROWS[:20], *ROWS[:21])]
    assert count(connection, "outbox") == 0
