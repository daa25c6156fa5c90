"""A read model: balances in SQLite, exactly as the events say, though its process is killed in the middle.

What an event changes and the checkpoint after it are written in one SQLite transaction. So whenever the process dies,
the database holds whole events, and says after which one to go on: nothing is counted twice, nothing is left out.

    python examples/projection.py [DATABASE]
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import msgspec

from sequencer.client import BEGINNING, Checkpoint, EventStore, Recorded, json_codec

SERVICE_URL = os.environ.get("SEQUENCER_SERVICE_URL", "pulsar://127.0.0.1:6650")
NAMESPACE = os.environ.get("SEQUENCER_NAMESPACE", "public/default")

ACCOUNTS = 5
DEPOSITS = 400
LOOK_EVERY_S = 0.05


class Deposited(msgspec.Struct, tag=True):
    """Money has come in."""

    amount: int


def event_store() -> EventStore[Deposited]:
    return EventStore(service_url=SERVICE_URL, namespace=NAMESPACE, codec=json_codec(Deposited))


# --- the read model ---


def opened(database: Path) -> sqlite3.Connection:
    """The database, with its tables."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("pragma journal_mode = wal")  # others may read while we write
    connection.execute("create table if not exists balances (account text primary key, balance integer not null)")
    connection.execute("create table if not exists progress (only_row integer primary key, checkpoint text not null)")
    return connection


def checkpoint(connection: sqlite3.Connection) -> Checkpoint | None:
    """After which event the database is; None where it is empty."""
    row = connection.execute("select checkpoint from progress").fetchone()
    return None if row is None else Checkpoint.from_json(row[0])


def project(connection: sqlite3.Connection, event: Recorded[Deposited]) -> None:
    """One event, and how far we are, in one transaction: all of it is there or nothing."""
    connection.execute("begin immediate")
    connection.execute(
        "insert into balances values (?, ?) on conflict (account) do update set balance = balance + excluded.balance",
        (event.key, event.data.amount),
    )
    connection.execute("insert or replace into progress values (1, ?)", (event.checkpoint.to_json(),))
    connection.execute("commit")


async def follow(database: Path) -> None:
    """Keep the read model up to date for ever."""
    with closing(opened(database)) as connection:
        async with event_store() as store, store.subscribe(checkpoint(connection) or BEGINNING) as events:
            async for event in events:
                project(connection, event)


def projector(database: Path) -> None:
    """The read model's process."""
    asyncio.run(follow(database))


# --- the show ---


async def main(database: Path) -> None:
    """Deposit money while the read model's process is killed and started again, and compare."""
    accounts = [f"account-{uuid4()}" for _ in range(ACCOUNTS)]
    expected = {account: sum(range(n, DEPOSITS, ACCOUNTS)) for n, account in enumerate(accounts)}
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=projector, args=(database,), daemon=True)
    process.start()
    async with event_store() as store:
        for n in range(DEPOSITS):
            await store.append(accounts[n % ACCOUNTS], Deposited(n))
            if n == DEPOSITS // 2:
                process.kill()
                process.join()
                process = spawn.Process(target=projector, args=(database,), daemon=True)
                process.start()
    with closing(opened(database)) as connection:
        while (found := balances(connection, accounts)) != expected:
            assert all(found[account] <= expected[account] for account in accounts), (found, expected)
            await asyncio.sleep(LOOK_EVERY_S)  # SQLite does not tell other processes of a commit
    process.kill()
    print(f"{DEPOSITS} deposits to {ACCOUNTS} accounts, the projection killed once; balances {[*found.values()]}")


def balances(connection: sqlite3.Connection, accounts: list[str]) -> dict[str, int]:
    """What the read model says of these accounts."""
    rows = dict(connection.execute("select account, balance from balances").fetchall())
    return {account: rows.get(account, 0) for account in accounts}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(Path(sys.argv[1])))
    else:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(main(Path(directory) / "balances.db"))
