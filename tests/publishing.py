"""Publishes with the official client, as any application would: events, workloads of them, and what is no event."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import pulsar

from tests.model import home

IN_FLIGHT_MESSAGES = 20_000
SENT_WITHIN_S = 30.0
STREAM_TURN_MESSAGES = 300
STREAM_BATCH_MESSAGES = 50
STREAM_LEAD_MESSAGES = 5000  # how far it may be ahead of the judgement
RECENT = 20  # how far back in an aggregate a retry may reach
MOST_LISTED_EVENTS = 5

Router = Callable[[Any, int], int]


class Draft(NamedTuple):
    """A message to be sent; payload None = a null value, key None = no key."""

    key: str | None
    payload: bytes | None
    properties: Mapping[str, str] = MappingProxyType({})
    event_time_ms: int | None = None
    ordering_key: str | None = None


def canonical(message: Any, partitions: int) -> int:
    """The message_router that keeps an aggregate where every client finds it."""
    return home(message.partition_key(), partitions)


class Publisher:
    """One producer; sends in order."""

    def __init__(self, client: Any, topic: str, *, router: Router | None = canonical, **options: Any) -> None:
        self._failures: list[str] = []
        self._room = threading.Semaphore(IN_FLIGHT_MESSAGES)
        self._producer = client.create_producer(
            topic,
            message_router=router,
            max_pending_messages=2 * IN_FLIGHT_MESSAGES,
            block_if_queue_full=True,
            **options,
        )

    def send(self, drafts: Iterable[Draft]) -> None:
        """Send all and return when the broker has stored all of them; fail when it refused one."""
        for draft in drafts:
            assert self._room.acquire(timeout=SENT_WITHIN_S), f"nothing was answered within {SENT_WITHIN_S} s"
            self._producer.send_async(
                draft.payload,
                self._answered,
                properties=dict(draft.properties),
                partition_key=draft.key,
                event_timestamp=draft.event_time_ms,
                ordering_key=draft.ordering_key,
            )
        self._producer.flush()
        assert not self._failures, f"{len(self._failures)} were not stored, the first: {self._failures[0]}"

    def close(self) -> None:
        """End the producer."""
        self._producer.close()

    def _answered(self, result: Any, _: Any) -> None:
        if result != pulsar.Result.Ok:
            self._failures.append(str(result))
        self._room.release()


def publish(
    client: Any, topic: str, drafts: Iterable[Draft], *, router: Router | None = canonical, **options: Any
) -> None:
    """Send all, in order, through a producer of their own, and return when the broker has stored all of them."""
    publisher = Publisher(client, topic, router=router, **options)
    publisher.send(drafts)
    publisher.close()


def structured(key: str, event_id: UUID | str, version: Any = ..., data: Any = None, **more: Any) -> Draft:
    """An event in the structured content mode; version ... = absent."""
    versions = {} if version is ... else {"version": version}
    return Draft(key, json.dumps({"id": str(event_id), **versions, "data": data, **more}).encode())


def listed(key: str, list_id: UUID | str, event_ids: Iterable[UUID | str], version: Any = ..., **more: Any) -> Draft:
    """Several events in one message; version ... = absent. `more` is said of each of them."""
    versions = {} if version is ... else {"version": version}
    events = [{"id": str(event_id), "data": {"amount": 50}, **more} for event_id in event_ids]
    return Draft(key, json.dumps({"id": str(list_id), **versions, "events": events}).encode())


def binary(key: str, event_id: UUID | str, version: int | str | None, payload: bytes, **more: Any) -> Draft:
    """An event in the binary content mode; version None = absent."""
    versions = {} if version is None else {"version": str(version)}
    return Draft(key, payload, {"id": str(event_id), **versions}, **more)


class Workload:
    """Seeded events over aggregates: most expect the right version, some none, and a share is in conflict.

    It goes on where it stopped, so that several publishers can send one after another.
    """

    def __init__(
        self, seed: int, *, aggregates: int, conflicts: float, lists: float = 0.0, prefix: str = "account-"
    ) -> None:
        """Conflicts, lists: the shares of the submissions that are in conflict, and that hold several events."""
        self._random = random.Random(seed)
        self._keys = [f"{prefix}{number}" for number in range(aggregates)]
        self._conflicts = conflicts
        self._lists = lists
        self._sent: dict[str, list[tuple[UUID, int | None]]] = {key: [] for key in self._keys}  # what will be accepted
        self._sent_lists: dict[str, list[tuple[list[UUID], int | None]]] = {key: [] for key in self._keys}

    def take(self, count: int) -> Iterator[Draft]:
        """The next `count` events."""
        for _ in range(count):
            yield self._next()

    def _next(self) -> Draft:
        chance = self._random.random
        key = self._random.choice(self._keys)
        sent = self._sent[key]
        tail = len(sent) - 1
        if self._lists and chance() < self._lists:
            return self._next_list(key, tail)
        event_id = UUID(int=self._random.getrandbits(128))
        if chance() >= self._conflicts:
            expected = None if chance() < 0.1 else tail
            sent.append((event_id, expected))
        elif sent and chance() < 0.3:
            event_id, expected = self._random.choice(sent[-RECENT:])  # a retry
        else:
            expected = self._random.choice([tail - 1, tail - 2, tail + 1, tail + 7])
            expected = tail + 1 if expected < -1 else expected
        return self._draft(key, event_id, expected)

    def _next_list(self, key: str, tail: int) -> Draft:
        chance, sent = self._random.random, self._sent_lists[key]
        event_ids = [
            UUID(int=self._random.getrandbits(128)) for _ in range(self._random.randint(1, MOST_LISTED_EVENTS))
        ]
        expected = None if chance() < 0.1 else tail
        if chance() >= self._conflicts:
            versions = [None if expected is None else expected + n for n in range(len(event_ids))]
            self._sent[key] += zip(event_ids, versions, strict=True)
            sent.append((event_ids, expected))
        elif sent and chance() < 0.5:
            earlier, expected = self._random.choice(sent[-RECENT:])
            # A retry, or the half of one: its ids are known, others are not.
            event_ids = earlier if chance() < 0.5 else [*event_ids, earlier[0]]
        else:
            expected = tail + 2
        list_id = UUID(int=self._random.getrandbits(128))
        return listed(key, list_id, event_ids, expected, type="withdrawal", correlationid=str(list_id))

    def _draft(self, key: str, event_id: UUID, expected: int | None) -> Draft:
        if self._random.random() < 0.5:
            return binary(key, event_id, expected, b"\x00\xffbytes of its own")
        # By hand: json.dumps would take most of the time of a large test.
        version = "null" if expected is None else expected
        return Draft(key, f'{{"id":"{event_id}","version":{version},"data":{{"amount":50,"by":"someone"}}}}'.encode())


class Stream:
    """Publishes a workload in a thread of its own until it is stopped, in turns batched and one by one.

    So a sequencer that follows it is in mid-run for as long as a test wants. It waits for a sequencer that is slow, so
    that a test ends in time on a busy machine too.
    """

    def __init__(self, client: Any, topic: str, workload: Workload) -> None:
        self._publishers = [
            Publisher(client, topic, batching_enabled=True, batching_max_messages=STREAM_BATCH_MESSAGES),
            Publisher(client, topic, batching_enabled=False),
        ]
        self._workload = workload
        self._changed = threading.Condition()
        self._judged = 0
        self._stopped = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def follow(self, judged: int) -> None:
        """Tell it how many outcomes there are. Raises where it has failed."""
        if self._failure is not None:
            raise self._failure
        with self._changed:
            self._judged = judged
            self._changed.notify()

    def stop(self) -> None:
        """Return when all that was sent is stored."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        sent = 0
        try:
            for publisher in itertools.cycle(self._publishers):
                with self._changed:
                    while sent > self._judged + STREAM_LEAD_MESSAGES and not self._stopped:
                        self._changed.wait()
                    if self._stopped:
                        break
                publisher.send(self._workload.take(STREAM_TURN_MESSAGES))
                sent += STREAM_TURN_MESSAGES
            for publisher in self._publishers:
                publisher.close()
        except Exception as failure:
            self._failure = failure
