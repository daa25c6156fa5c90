"""The event store for programs without asyncio: the same, on a thread of its own.

with SyncEventStore() as store:
    store.append("account-42", {"opened": True}, NO_AGGREGATE)
    for event in store.subscribe():
        print(event.key, event.version, event.data)
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

from sequencer.client.store import DEFAULT_TIMEOUT_S, SERVICE_URL, EventStore
from sequencer.client.subscription import Subscription
from sequencer.client.values import (
    ANY,
    BEGINNING,
    JSON,
    AnyVersion,
    Appended,
    Checkpoint,
    Codec,
    From,
    NewEvent,
    Recorded,
    T,
)
from sequencer.names import DEFAULT_NAMESPACE

ResultT = TypeVar("ResultT")


class SyncEventStore(Generic[T]):
    """What `EventStore` does, with methods that block. They may be called from any thread, by several at a time."""

    @overload
    def __init__(
        self: SyncEventStore[Any], *, service_url: str = ..., namespace: str = ..., token: str | None = ...
    ) -> None: ...
    @overload
    def __init__(
        self, *, service_url: str = ..., namespace: str = ..., token: str | None = ..., codec: Codec[T]
    ) -> None: ...
    def __init__(
        self,
        *,
        service_url: str = SERVICE_URL,
        namespace: str = DEFAULT_NAMESPACE,
        token: str | None = None,
        codec: Codec[Any] = JSON,
    ) -> None:
        """As `EventStore`."""
        self._store: EventStore[T] = EventStore(service_url=service_url, namespace=namespace, token=token, codec=codec)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._subscriptions: weakref.WeakSet[SyncSubscription[T]] = weakref.WeakSet()

    def connect(self) -> Self:
        """As `EventStore.connect`."""
        assert self._loop is None, "already connected"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event-store", daemon=True)
        self._thread.start()
        try:
            self._wait(self._store.connect())
        except BaseException:
            self._stop()
            raise
        return self

    def close(self) -> None:
        """As `EventStore.close`; it ends the subscriptions too."""
        if self._loop is not None:
            for subscription in list(self._subscriptions):
                subscription.close()
            self._wait(self._store.close())
            self._stop()

    def __enter__(self) -> Self:
        return self.connect()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(
        self,
        key: str,
        events: T | NewEvent[T] | Sequence[T | NewEvent[T]],
        expected_version: int | AnyVersion = ANY,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Appended:
        """As `EventStore.append`."""
        return self._wait(self._store.append(key, events, expected_version, timeout_s))

    def subscribe(
        self, from_: From | Checkpoint = BEGINNING, partitions: Iterable[int] | None = None
    ) -> SyncSubscription[T]:
        """As `EventStore.subscribe`."""

        async def subscribe() -> Subscription[T]:
            return self._store.subscribe(from_, partitions)

        made = self._wait(subscribe())
        assert self._loop is not None
        subscription = SyncSubscription(made, self._loop)
        self._subscriptions.add(subscription)
        return subscription

    @property
    def partitions(self) -> int:
        """How many partitions the log has."""
        return self._store.partitions

    def _wait(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        assert self._loop is not None, "the store is not connected"
        return _wait(work, self._loop)

    def _stop(self) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None


class SyncSubscription(Generic[T]):
    """What `Subscription` does, as a plain iterator for one thread."""

    def __init__(self, subscription: Subscription[T], loop: asyncio.AbstractEventLoop) -> None:
        self._subscription = subscription
        self._loop = loop

    @property
    def checkpoint(self) -> Checkpoint:
        """After the last event that was given out."""
        return self._subscription.checkpoint

    def close(self) -> None:
        """End it."""
        _wait(self._subscription.close(), self._loop)

    def __enter__(self) -> Self:
        _wait(self._subscription.__aenter__(), self._loop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Recorded[T]:
        """The next event; waits for it."""
        try:
            return _wait(self._subscription.__anext__(), self._loop)
        except StopAsyncIteration:
            raise StopIteration from None


def _wait(work: Coroutine[Any, Any, ResultT], loop: asyncio.AbstractEventLoop) -> ResultT:
    """The result of `work` on the loop's thread. Ctrl-C gives the work up too."""
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
