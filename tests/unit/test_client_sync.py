"""The twin without asyncio: what other threads see of a close."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError

import pytest

from sequencer.client import NotConnected, SyncEventStore

ENDS_WITHIN_S = 10.0
THREADS = 20


class Stand:
    """In place of the store: connects and closes at once; an append waits for ever."""

    def __init__(self) -> None:
        self.waiting = threading.Semaphore(0)

    async def connect(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def append(self, *_: object) -> None:
        self.waiting.release()
        await asyncio.Event().wait()


def connected(stand: Stand) -> SyncEventStore[object]:
    store = SyncEventStore[object]()
    store._store = stand  # type: ignore[assignment]
    return store.connect()


def test_threads_that_append_over_and_over_are_let_go_by_a_close() -> None:
    stand = Stand()
    store = connected(stand)
    ends: list[type[BaseException]] = []

    def work() -> None:
        while True:
            try:
                store.append("key", 1)
            except CancelledError:
                continue
            except NotConnected as end:
                ends.append(type(end))
                return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert stand.waiting.acquire(timeout=ENDS_WITHIN_S)
    store.close()
    for thread in threads:
        thread.join(ENDS_WITHIN_S)
    assert ends == [NotConnected] * THREADS


def test_before_and_after() -> None:
    store = SyncEventStore[object]()
    with pytest.raises(NotConnected):
        store.append("key", 1)
    store.close()
    store = connected(Stand())
    with pytest.raises(RuntimeError, match="already"):
        store.connect()
    store.close()
    store.close()
    with pytest.raises(NotConnected):
        store.append("key", 1)
