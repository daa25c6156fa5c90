"""The event store for programs without asyncio: the same, on a thread of its own.

with SyncEventStore() as store:
    store.append("account-42", {"opened": True}, NO_AGGREGATE)
    for event in store.subscribe():
        print(event.key, event.version, event.data)
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

from sequencer.client.errors import NotConnected
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
        self._lock = threading.Lock()
        """Held while work is given to the loop, and while the loop is taken away: none is given to one that ends."""
        self._subscriptions: weakref.WeakSet[Subscription[T]] = weakref.WeakSet()

    def connect(self) -> Self:
        """As `EventStore.connect`."""
        with self._lock:
            if self._loop is not None:
                raise RuntimeError("the store is connected already")
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="event-store", daemon=True)
            self._thread.start()
        try:
            self.wait(self._store.connect())
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """As `EventStore.close`; it ends the subscriptions too. Other threads' calls that still wait fail."""
        with self._lock:
            loop, thread = self._loop, self._thread
            if loop is None or thread is None:
                return
            self._loop = self._thread = None
            ending = asyncio.run_coroutine_threadsafe(self._end(), loop)
        try:
            ending.result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _end(self) -> None:
        for subscription in list(self._subscriptions):
            await subscription.close()
        await self._store.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

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
        return self.wait(self._store.append(key, events, expected_version, timeout_s))

    def subscribe(
        self, from_: From | Checkpoint = BEGINNING, partitions: Iterable[int] | None = None
    ) -> SyncSubscription[T]:
        """As `EventStore.subscribe`."""

        async def subscribe() -> Subscription[T]:
            return self._store.subscribe(from_, partitions)

        subscription = self.wait(subscribe())
        self._subscriptions.add(subscription)
        return SyncSubscription(subscription, self)

    @property
    def partitions(self) -> int:
        """How many partitions the log has."""
        return self._store.partitions

    def wait(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """The result of `work` on the store's thread. Ctrl-C gives the work up too.

        Raises:
            NotConnected: not yet, or not any more.
            concurrent.futures.CancelledError: it was closed meanwhile.
        """
        with self._lock:
            if self._loop is None:
                work.close()
                raise NotConnected("use `with`, or `connect`")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


class SyncSubscription(Generic[T]):
    """What `Subscription` does, as a plain iterator for one thread."""

    def __init__(self, subscription: Subscription[T], store: SyncEventStore[T]) -> None:
        self._subscription = subscription
        self._store = store

    @property
    def checkpoint(self) -> Checkpoint:
        """After the last event that was given out."""
        return self._subscription.checkpoint

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(NotConnected):  # the store has ended it
            self._store.wait(self._subscription.close())

    def __enter__(self) -> Self:
        self._store.wait(self._subscription.__aenter__())
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
            return self._store.wait(self._subscription.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None
