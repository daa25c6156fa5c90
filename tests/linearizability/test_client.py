"""The client process's inside, on stores in memory: one that is right, and some that break their promise in one way.

What the client does, and what is judged from its file, must be enough to find each of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sequencer.client import Appended, EventStore, NewEvent, OutcomeUnknown, WrongExpectedVersion
from sequencer.client.values import AnyVersion
from tests.linearizability.client import SETTLED_WITHIN_S, Client, Orders
from tests.linearizability.history import Appended as Told
from tests.linearizability.history import Operation, read
from tests.linearizability.register import check

SECONDS = 0.4
KEYS = [["a", "b"], ["c"]]
ANSWERS_TAKE_S = 0.004


class MemoryStore(EventStore[Any]):
    """A register for each aggregate. `broken` names what it does wrong."""

    def __init__(self, broken: str) -> None:
        super().__init__()
        self.log: dict[str, list[str]] = {}
        self._broken = broken
        self._random = Random(1)

    async def append(
        self, key: str, events: Any, expected_version: int | AnyVersion = AnyVersion.ANY, timeout_s: float = 30.0
    ) -> Appended:
        ids = [str(event.id) for event in events if isinstance(event, NewEvent)]
        await self._wait()
        if timeout_s < SETTLED_WITHIN_S:
            if self._random.random() < 0.5:
                asyncio.get_running_loop().call_later(0.02, self._judge, key, ids, expected_version)
            raise OutcomeUnknown(key, ids, 1, "no answer")
        log = self.log.setdefault(key, [])
        tail = len(log) - 1
        if self._broken == "looks, then writes":
            await self._wait()
            if ids[0] not in log and expected_version in (AnyVersion.ANY, tail):
                log += ids
                return Appended(tail + 1, tail + len(ids), 0, False)
        answer = self._judge(key, ids, expected_version)
        await self._wait()
        if isinstance(answer, int):
            assert isinstance(expected_version, int)
            raise WrongExpectedVersion(key, expected_version, answer)
        return answer

    def _judge(self, key: str, ids: Sequence[str], expected: int | AnyVersion) -> Appended | int:
        """Accepted or a duplicate, or the current version."""
        log = self.log.setdefault(key, [])
        tail = len(log) - 1
        if ids[0] in log and self._broken != "forgets ids":
            first = log.index(ids[0])
            return Appended(first, first + len(ids) - 1, 0, True)
        if expected not in (AnyVersion.ANY, tail):
            return max(-1, tail - 1) if self._broken == "names the version before" and tail - 1 != expected else tail
        if self._broken == "loses one in fifty" and self._random.random() < 0.02:
            return Appended(tail + 1, tail + len(ids), 0, False)
        log += ids
        return Appended(tail + 1, tail + len(ids), 0, False)

    async def _wait(self) -> None:
        await asyncio.sleep(self._random.expovariate(1 / ANSWERS_TAKE_S))


def history(broken: str, directory: Path) -> list[Operation]:
    """What a client did on such a store."""
    file = directory / "client.history"
    orders = Orders("", "", "client-0", "1", KEYS, 6, 0.002, [], str(file))

    async def work() -> None:
        client = Client(MemoryStore(broken), orders)
        asyncio.get_running_loop().call_later(SECONDS, client.stopping.set)
        await client.run()

    asyncio.run(work())
    return read([file])


def wrong(operations: Sequence[Operation]) -> str:
    return "".join(check([one for one in operations if one.key == key]) for keys in KEYS for key in keys)


def test_a_store_that_is_right(tmp_path: Path) -> None:
    operations = history("", tmp_path)
    assert wrong(operations) == ""
    answers = {type(one.answer).__name__ for one in operations}
    assert answers == {"Appended", "Conflict", "NoneType"}
    assert {one.answer.duplicate for one in operations if isinstance(one.answer, Told)} == {True, False}


@pytest.mark.parametrize(
    "broken", ["looks, then writes", "forgets ids", "names the version before", "loses one in fifty"]
)
def test_a_store_that_breaks_its_promise(broken: str, tmp_path: Path) -> None:
    assert wrong(history(broken, tmp_path)) != ""
