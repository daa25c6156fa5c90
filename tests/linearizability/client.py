"""One client process: python -m tests.linearizability.client ORDERS, where ORDERS is a line of JSON (`Orders`).

It appends to a few aggregates from many tasks at once until it gets a SIGTERM. Then it asks again for what is unknown,
and leaves; or it is killed before. Whatever it asks and hears is in its file of history.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import uuid
from pathlib import Path
from random import Random
from typing import NamedTuple

from sequencer.client import (
    ANY,
    NO_AGGREGATE,
    EventStore,
    NewEvent,
    OutcomeUnknown,
    Rejected,
    WrongExpectedVersion,
)
from sequencer.pulsar.errors import PulsarError
from tests.linearizability.history import NOT_SENT, Answer, Appended, Conflict, Ids, Recorder, Refused

SETTLED_WITHIN_S = 60.0
"""For an append that is to have an answer; longer than any fault lasts."""

OPEN_PAUSE_S = 0.3
LIST_SIZES = (1, 1, 1, 1, 2, 3, 5)
IMPATIENT_S = (0.02, 0.2, 1.0, 3.0)
"""Limits that are sometimes too short for an answer."""

SETTLES = 0.2
"""Chance of asking for something again that is unknown, where there is any."""
REPEATS = 0.03
"""Chance of asking for something again that is in."""
ABANDONS = 0.02
"""Chance of giving up an append by cancelling it."""
IMPATIENT = 0.1
"""Chance of a limit of IMPATIENT_S."""

READY = "appending"


class Wanted(NamedTuple):
    """An append that may have to be asked for more than once. `expected` None = any."""

    key: str
    ids: Ids
    expected: int | None


class Orders(NamedTuple):
    """What a client is to do.

    Attributes:
        name: of this client, a new one each time that it is started.
        histories: the aggregates of each history.
        tasks: that append to each history at once.
        pause_s: mean, between two appends of a task.
        unsettled: what its predecessor never heard of: asked for again at once.
        file: its file of history.
    """

    service_url: str
    namespace: str
    name: str
    seed: str
    histories: list[list[str]]
    tasks: int
    pause_s: float
    unsettled: list[Wanted]
    file: str

    def to_json(self) -> str:
        """One line."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, line: str) -> Orders:
        """What `to_json` gave."""
        orders = cls._make(json.loads(line))
        unsettled = [Wanted(key, tuple(ids), expected) for key, ids, expected in orders.unsettled]
        return orders._replace(unsettled=unsettled)


class Client:
    """What all tasks of one process share: the store, and what they know of the aggregates."""

    def __init__(self, store: EventStore[object], orders: Orders) -> None:
        self.stopping = asyncio.Event()
        self._store = store
        self._orders = orders
        self._recorder = Recorder(Path(orders.file), orders.name)
        self._tails: dict[str, int] = {}
        self._unsettled: list[Wanted] = []
        self._done: list[Wanted] = []

    async def run(self) -> None:
        """Append until `stopping` is set, then settle what is left."""
        async with asyncio.TaskGroup() as tasks:
            for wanted in self._orders.unsettled:
                tasks.create_task(self._append(wanted, SETTLED_WITHIN_S))
            for number, keys in enumerate(self._orders.histories):
                for task in range(self._orders.tasks):
                    tasks.create_task(self._work(keys, Random(f"{self._orders.seed}/{number}/{task}")))
        async with asyncio.TaskGroup() as tasks:
            # Every second one is left as it is: that, too, happens to applications.
            for wanted in self._unsettled[::2]:
                tasks.create_task(self._settle(wanted))

    async def _settle(self, wanted: Wanted) -> None:
        """Ask again, now that nothing is in the way any more."""
        answer = await self._append(wanted, SETTLED_WITHIN_S)
        assert isinstance(answer, Appended | Conflict), f"no answer within {SETTLED_WITHIN_S} s: {wanted}"

    async def _work(self, keys: list[str], random: Random) -> None:
        while not await self._stopped_within(random.expovariate(1 / self._orders.pause_s)):
            wanted = self._next(keys, random)
            if random.random() < ABANDONS:
                await self._abandon(wanted, random.choice(IMPATIENT_S))
            else:
                impatient = random.random() < IMPATIENT
                await self._append(wanted, random.choice(IMPATIENT_S) if impatient else SETTLED_WITHIN_S)

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _next(self, keys: list[str], random: Random) -> Wanted:
        if self._unsettled and random.random() < SETTLES:
            return self._unsettled.pop(random.randrange(len(self._unsettled)))
        if self._done and random.random() < REPEATS:
            return random.choice(self._done)
        key = random.choice(keys)
        tail = self._tails.get(key, NO_AGGREGATE)
        expected = random.choice(
            [None, None, tail, tail, tail, tail, tail, max(NO_AGGREGATE, tail - 1), tail + 1, NO_AGGREGATE]
        )
        ids = tuple(str(uuid.UUID(int=random.getrandbits(128))) for _ in range(random.choice(LIST_SIZES)))
        return Wanted(key, ids, expected)

    async def _abandon(self, wanted: Wanted, within_s: float) -> None:
        """Append, and give up waiting by being cancelled."""
        task = asyncio.create_task(self._append(wanted, SETTLED_WITHIN_S))
        await asyncio.wait([task], timeout=within_s)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()  # raises what went wrong

    async def _append(self, wanted: Wanted, timeout_s: float) -> Answer | None:
        key, ids, expected = wanted
        number = self._recorder.asked(key, ids, expected)
        try:
            answer = await self._answer(wanted, timeout_s)
        except asyncio.CancelledError:
            self._recorder.answered(number, None)
            self._unsettled.append(wanted)
            raise
        self._recorder.answered(number, answer)
        match answer:
            case None | Refused():
                self._unsettled.append(wanted)
            case Appended():
                self._tails[key] = max(answer.last, self._tails.get(key, NO_AGGREGATE))
                self._done.append(wanted)
            case Conflict():
                self._tails[key] = max(answer.current, self._tails.get(key, NO_AGGREGATE))
        return answer

    async def _answer(self, wanted: Wanted, timeout_s: float) -> Answer | None:
        key, ids, expected = wanted
        try:
            got = await self._store.append(
                key,
                [NewEvent({"by": self._orders.name}, id=event_id) for event_id in ids],
                ANY if expected is None else expected,
                timeout_s=timeout_s,
            )
        except WrongExpectedVersion as wrong:
            return Conflict(wrong.current)
        except Rejected as rejected:
            return Refused(f"{rejected.reason}: {rejected.detail}")
        except OutcomeUnknown as unknown:
            return None if unknown.attempts else Refused(NOT_SENT)
        return Appended(*got)


async def main(orders: Orders) -> None:
    """Everything that one client does."""
    store = await _connected(orders)
    try:
        client = Client(store, orders)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, client.stopping.set)
        print(READY, flush=True)
        await client.run()
    finally:
        await store.close()


async def _connected(orders: Orders) -> EventStore[object]:
    """What every application has to do that starts while the broker does not."""
    while True:
        try:
            return await EventStore(service_url=orders.service_url, namespace=orders.namespace).connect()
        except PulsarError as failure:
            logging.info("cannot begin yet: %s", failure)
            await asyncio.sleep(OPEN_PAUSE_S)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    asyncio.run(main(Orders.from_json(sys.argv[1])))
