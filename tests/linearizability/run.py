"""A run: clients append while everything fails; then quiet, and judgement."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from sequencer.broker import EmbeddedBroker
from sequencer.names import Topics
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.frames import Entry
from sequencer.verify.read import accepted_records
from sequencer.verify.topics import TopicLog
from tests.faults.injection import World
from tests.faults.verified import check_verified
from tests.faults.world import blamed_on
from tests.linearizability.agreement import Event, disagreements, places
from tests.linearizability.client_process import ClientProcess
from tests.linearizability.history import Appended, Conflict, Operation, Refused, read
from tests.linearizability.plans import Plan
from tests.linearizability.register import check

STUCK_AFTER_S = 90.0
"""Without a further operation in the shortest history, although nothing is in the way any more."""

POLL_S = 1.0
SHOWN = 5


class Figures(NamedTuple):
    """What a run really did.

    Attributes:
        counts: operations by what was answered, events, histories.
        faults: by kind; only those that met something.
    """

    counts: Counter[str]
    faults: Counter[str]
    took_s: float


def run(plan: Plan, broker: EmbeddedBroker, namespace: str, directory: Path) -> Figures:
    """Run a plan on a broker that was started with `tests.faults.brokers.BROKER_SETTINGS`.

    Raises:
        AssertionError: what is wrong.
        BrokerDefect: nothing can be said.
    """
    began_s = time.monotonic()
    directory.mkdir(parents=True, exist_ok=True)
    with blamed_on(broker, plan, directory):
        world = World(plan.faults, broker, namespace, directory, client_links=plan.clients)
        operations, index_dir = _history(world, plan, namespace, directory)
        events = asyncio.run(_events(broker.service_url, Topics(namespace), plan.faults.partitions))
        judge(plan, operations, events)
        check_verified(broker, namespace, index_dir, submissions=len({one.ids for one in operations if one.answer}))
    return Figures(_counted(plan, operations, events), world.faults, time.monotonic() - began_s)


def _history(world: World, plan: Plan, namespace: str, directory: Path) -> tuple[list[Operation], Path]:
    with world:
        clients = [
            ClientProcess(number, world.client_url(number), namespace, plan, directory)
            for number in range(plan.clients)
        ]
        for client in clients:
            client.start()
        world.clients += clients
        for client in clients:
            client.await_ready()
        world.follow_plan()
        world.heal()
        _await_operations(world, plan, clients)
        for client in clients:
            client.ask_to_leave()
        for client in clients:
            client.await_end()
        index_dir = world.stop()
    return read(file for client in clients for file in client.files), index_dir


def _await_operations(world: World, plan: Plan, clients: Sequence[ClientProcess]) -> None:
    """Return when every history is as long as it is to be, however slow the machine is."""
    fewest, since_s = 0, time.monotonic()
    while fewest < plan.operations:
        now = _fewest(plan, clients)
        if now > fewest:
            fewest, since_s = now, time.monotonic()
        assert time.monotonic() < since_s + STUCK_AFTER_S, f"stuck: a history of only {fewest} operations"
        world.tend()
        time.sleep(POLL_S)


def _fewest(plan: Plan, clients: Sequence[ClientProcess]) -> int:
    """Operations of the shortest history so far; files are only searched, for reading them all takes its time."""
    written = [file.read_bytes() for client in clients for file in client.files]
    return min(sum(text.count(f'"{name}'.encode()) for text in written) for name in plan.names)


async def _events(service_url: str, topics: Topics, partitions: int) -> list[Event]:
    """All of `events`, as the verifier reads it."""
    events: list[Event] = []
    async with PulsarClient(service_url) as client:
        for number in range(partitions):

            def feed(entry: Entry, number: int = number) -> None:
                for record in accepted_records(entry):
                    assert record.event_id is not None
                    event_id = str(UUID(bytes=record.event_id))
                    key = record.key or ""
                    events.append(Event(key, record.version, number, record.sequence, event_id, record.submission))

            log = TopicLog(client, topics.events_partition(number))
            await log.find_end()
            await log.read(feed)
            await log.let_go()
    return events


def judge(plan: Plan, operations: Sequence[Operation], events: Sequence[Event]) -> None:
    """Every history by the clients' answers alone, then together with the log.

    Raises:
        AssertionError: what is wrong.
    """
    wrong = list(disagreements(operations, events))
    found = places(operations, events)
    by_key: dict[str, list[Operation]] = {key: [] for key in found}
    for one in operations:
        by_key[one.key].append(one)
    for key, asked in by_key.items():
        wrong += [f"{key}, by the answers: {trouble}" for trouble in [check(asked)] if trouble]
        wrong += [f"{key}, with the log: {trouble}" for trouble in [check(asked, found[key])] if trouble]
    assert not wrong, f"{len(wrong)} things are wrong\n" + "\n".join(wrong[:SHOWN])
    assert set(by_key) == {key for keys in plan.keys for key in keys}


def _counted(plan: Plan, operations: Sequence[Operation], events: Sequence[Event]) -> Counter[str]:
    counts = Counter({"histories": plan.histories, "operations": len(operations), "events accepted": len(events)})
    seen: set[tuple[str, ...]] = set()
    for one in operations:
        match one.answer:
            case Appended(duplicate=True):
                counts["answered: duplicate"] += 1
            case Appended():
                counts["answered: accepted"] += 1
            case Conflict():
                counts["answered: another version"] += 1
            case Refused():
                counts["answered: not sent"] += 1
            case None:
                counts["unknown"] += 1
        if one.ids in seen:
            counts["operations that asked again"] += 1
        seen.add(one.ids)
    return counts
