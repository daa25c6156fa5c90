"""The other way round: withdrawals are requested without an expected version, and a reactor answers each exactly once.

Whoever requests does not wait and cannot conflict: a request is accepted as it comes. A reactor follows the events and
appends `Succeeded` or `Failed` to the same account. Its answer carries the version that it has seen, so it is refused
when anything has happened to the account in between, and decided anew. What it has answered it learns from the events
themselves (`causationid` is the request's id), so it needs no memory of its own: here it is killed (kill -9) in the
middle, and another one goes on.

    python examples/requests.py
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from dataclasses import dataclass, field
from uuid import NAMESPACE_OID, uuid4, uuid5

import msgspec

from sequencer.client import (
    END,
    NO_AGGREGATE,
    EventStore,
    NewEvent,
    Recorded,
    WrongExpectedVersion,
    json_codec,
)

SERVICE_URL = os.environ.get("SEQUENCER_SERVICE_URL", "pulsar://127.0.0.1:6650")
NAMESPACE = os.environ.get("SEQUENCER_NAMESPACE", "public/default")

OPENING_BALANCE = 500
REQUESTS = 60
AMOUNT = 10


class Opened(msgspec.Struct, tag=True):
    """The account's first event."""

    balance: int


class Requested(msgspec.Struct, tag=True):
    """Somebody wants to withdraw. A fact that can be recorded whatever the account's state is."""

    amount: int


class Succeeded(msgspec.Struct, tag=True):
    """The answer to a request: the money has left the account."""

    amount: int


class Failed(msgspec.Struct, tag=True):
    """The answer to a request: there was not enough."""


Event = Opened | Requested | Succeeded | Failed


@dataclass
class Account:
    """What the reactor knows of an account."""

    version: int = NO_AGGREGATE
    balance: int = 0
    unanswered: dict[str, Requested] = field(default_factory=dict)
    """Requests by their ids, in order."""

    def evolve(self, event: Recorded[Event]) -> None:
        """One more event."""
        self.version = event.version
        match event.data:
            case Opened(balance):
                self.balance = balance
            case Requested() as request:
                self.unanswered[event.id] = request
            case Succeeded(amount):
                self.balance -= amount
                del self.unanswered[event.attributes["causationid"]]
            case Failed():
                del self.unanswered[event.attributes["causationid"]]

    def decide(self) -> NewEvent[Event] | None:
        """The answer to the oldest request; None where all are answered."""
        for request_id, request in self.unanswered.items():
            answer: Event = Succeeded(request.amount) if self.balance >= request.amount else Failed()
            return NewEvent(answer, id=uuid5(NAMESPACE_OID, request_id), causationid=request_id)
        return None


def event_store() -> EventStore[Event]:
    return EventStore(service_url=SERVICE_URL, namespace=NAMESPACE, codec=json_codec(Event))


async def react() -> None:
    """Answer requests for ever.

    Everything is decided on what has been read. An answer that was refused is no failure: more events are on their way
    here, and with them comes the next occasion. So are our own answers.
    """
    accounts: dict[str, Account] = {}
    async with event_store() as store, store.subscribe() as events:
        async for event in events:
            account = accounts.setdefault(event.key, Account())
            account.evolve(event)
            answer = account.decide()
            if answer is not None:
                try:
                    await store.append(event.key, answer, account.version)
                except WrongExpectedVersion:
                    continue


def reactor() -> None:
    """The reactor's process."""
    asyncio.run(react())


async def main() -> None:
    """Request withdrawals while the reactor is killed and restarted, and look at the answers."""
    key = f"account-{uuid4()}"
    spawn = multiprocessing.get_context("spawn")
    async with event_store() as store, store.subscribe(END) as events:
        await store.append(key, Opened(OPENING_BALANCE), NO_AGGREGATE)
        process = spawn.Process(target=reactor, daemon=True)
        process.start()
        requesting = asyncio.create_task(withdraw(store, key))
        requests: list[str] = []
        answers: list[str] = []
        balance, killed = OPENING_BALANCE, False
        async for event in events:
            if event.key != key:
                continue
            match event.data:
                case Requested():
                    requests.append(event.id)
                case Succeeded(amount):
                    answers.append(event.attributes["causationid"])
                    balance -= amount
                case Failed():
                    answers.append(event.attributes["causationid"])
            if len(answers) == REQUESTS // 3 and not killed:
                process.kill()
                process.join()
                process, killed = spawn.Process(target=reactor, daemon=True), True
                process.start()
            if len(answers) == REQUESTS:
                break
        await requesting
        process.kill()
    print(f"{len(requests)} requests, {len(answers)} answers, the reactor killed once; balance {balance}")
    assert sorted(answers) == sorted(requests), "every request exactly once"
    assert balance == max(0, OPENING_BALANCE - REQUESTS * AMOUNT)


async def withdraw(store: EventStore[Event], key: str) -> None:
    """Ask for money over and over, at whatever version the account is."""
    for _ in range(REQUESTS):
        await store.append(key, Requested(AMOUNT))


if __name__ == "__main__":
    asyncio.run(main())
