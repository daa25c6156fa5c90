"""The event store: appends and subscriptions over one set of settings.

How an append finds its answer whatever crashes in between: `appender` and `answer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Generic, Self, cast, overload

from sequencer.client.answer import is_in
from sequencer.client.appender import Append, Appender
from sequencer.client.errors import NotConnected, OutcomeUnknown, Rejected, WrongExpectedVersion
from sequencer.client.group import GroupSubscription
from sequencer.client.lives import pulsar_client
from sequencer.client.message import message_of
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
    StoreSettings,
    T,
)
from sequencer.event import Reason, canonical_partition
from sequencer.names import DEFAULT_NAMESPACE, Topics
from sequencer.reply import Reply
from sequencer.topics import partition_count

MAX_IN_FLIGHT_APPENDS = 10_000
"""Appends of one store that are under way; further ones wait until it is their turn."""

DEFAULT_TIMEOUT_S = 30.0
MAX_TIMEOUT_S = 600.0
"""Longest time for one append: its ids have to be remembered by the sequencer while it is sent again. It does so for 15
minutes, or until 5,000,000 later events were accepted in the partition: at more than 8,000 events/s that is sooner."""

SERVICE_URL = StoreSettings().service_url


class EventStore(Generic[T]):
    """The event log of one namespace. Lives on the event loop that it was connected on.

    Connect it with `async with`, or with `connect` and `close`. One store serves a whole process: thousands of appends
    may run at the same time.
    """

    @overload
    def __init__(
        self: EventStore[Any], *, service_url: str = ..., namespace: str = ..., token: str | None = ...
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
        """Nothing is connected yet.

        Args:
            service_url: pulsar://host:port, several hosts separated by commas, or pulsar+ssl://...
            namespace: where the topics are, tenant/namespace.
            token: to authenticate with.
            codec: how data becomes JSON and comes back; `json_codec(Type)` checks it, JSON takes whatever comes.

        Raises:
            NamespaceInvalid: not of the form tenant/namespace.
        """
        self.settings = StoreSettings(service_url, namespace, token)
        self._topics = Topics(namespace)
        self._codec: Codec[T] = codec
        self._partitions = 0
        self._appender: Appender | None = None
        self._room = asyncio.Semaphore(MAX_IN_FLIGHT_APPENDS)

    async def connect(self) -> Self:
        """Connect, so that appends and subscriptions can begin.

        Raises:
            TopicMissing: `sequencer init` has not been run.
            PulsarError: the broker cannot be reached, or refuses something.
            ValueError: the service URL is not one.
        """
        if self._appender is not None:
            raise RuntimeError("the store is connected already")
        async with pulsar_client(self.settings) as client:
            self._partitions = await partition_count(client, self._topics.submitted)
        appender = Appender(self.settings, self._topics, self._partitions)
        try:
            await appender.start()
        except BaseException:
            await appender.close()
            raise
        self._appender = appender
        return self

    async def close(self) -> None:
        """End it. Appends that still wait raise OutcomeUnknown. Subscriptions go on: each has a `close` of its own."""
        if self._appender is not None:
            await self._appender.close()

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def append(
        self,
        key: str,
        events: T | NewEvent[T] | Sequence[T | NewEvent[T]],
        expected_version: int | AnyVersion = ANY,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Appended:
        """Append events to an aggregate and return when it is known what became of them.

        Several events get consecutive versions, or none of them is appended. While no answer comes they are sent again
        with the same ids, also over lost connections and restarts of anything, so the answer is never a guess.

        Appends that are awaited one after the other keep their order; so do, per aggregate, those that are begun at
        the same time, in the order of their calls.

        A retry after WrongExpectedVersion is a new decision: give it new ids. The same id with a newer version that
        matches is a new event for the sequencer, so keep the ids only where you know that the first try came to
        nothing and mean this one as the same event.

        After OutcomeUnknown, append the same again, with the ids that it names and the same expected version: that
        settles it, with `duplicate` where the events were in already. It has to be done while the ids are remembered:
        15 minutes, or until 5,000,000 later events were accepted in the partition. And with this store, or, from
        another one, when this one's connection has ended: attempts are in order within a store only.

        Cancelled, it says nothing of the outcome. Whoever wants to settle that gives the events ids of their own.

        Args:
            key: the aggregate, 1 to 1024 bytes in UTF-8.
            events: data, or a `NewEvent`; a list or tuple of up to 1000 of them is several events. Data that is itself
                a list has to be put in a `NewEvent`.
            expected_version: of the aggregate's last event; NO_AGGREGATE where it must not exist, ANY where it does
                not matter.
            timeout_s: seconds to wait for the answer, at most 600.

        Raises:
            WrongExpectedVersion: the aggregate is at another version. Nothing was appended.
            Rejected: the sequencer rejected it for another reason. Nothing was appended.
            OutcomeUnknown: no answer came in time.
            ValueError: an argument breaks the contract, or the message is larger than the broker takes.
        """
        appender = self._connected()
        if not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise ValueError(f"a time-out of {timeout_s} s, more than 0 and at most {MAX_TIMEOUT_S} are allowed")
        message = message_of(key, _several(events), expected_version, self._codec)
        append: Append | None = None
        try:
            async with asyncio.timeout(timeout_s), self._room:
                append = appender.submit(key, message, canonical_partition(key, self._partitions))
                reply = await append.answered
        except TimeoutError:
            why = appender.why_unanswered()
            if append is None:
                raise OutcomeUnknown(key, message.ids, 0, why) from None
            if not append.answered.done() or append.answered.cancelled():
                raise append.unknown(why) from None
            reply = append.answered.result()  # it came at the very last moment
        finally:
            if append is not None:
                appender.forget(append)
        return _outcome(key, reply)

    @overload
    def subscribe(
        self, from_: From | Checkpoint = ..., partitions: Iterable[int] | None = ..., group: None = ...
    ) -> Subscription[T]: ...
    @overload
    def subscribe(
        self, from_: From = ..., partitions: Iterable[int] | None = ..., *, group: str
    ) -> GroupSubscription[T]: ...
    def subscribe(
        self,
        from_: From | Checkpoint = BEGINNING,
        partitions: Iterable[int] | None = None,
        group: str | None = None,
    ) -> Subscription[T]:
        """Accepted events, in order within each partition, and so for each aggregate; without end.

        Args:
            from_: BEGINNING, END (what is accepted from now on), or a checkpoint: after the event that it belongs to.
            partitions: of `events`; None means all.
            group: share the partitions with other subscriptions of this name; the broker remembers what they `commit`,
                and `from_` matters to the first of them only. Each partition is read by one of them at a time.

        Raises:
            ValueError: there is no such partition, the group's name is none, or a group has been given a checkpoint.
        """
        self._connected()
        chosen = range(self._partitions) if partitions is None else sorted(set(partitions))
        if not chosen or chosen[0] < 0 or chosen[-1] >= self._partitions:
            raise ValueError(f"partitions {list(chosen)}, there are {self._partitions}")
        if group is None:
            return Subscription(self.settings, self._topics, chosen, from_, self._codec)
        if isinstance(from_, Checkpoint):
            raise ValueError("a group's checkpoint is kept by the broker")
        return GroupSubscription(self.settings, self._topics, chosen, from_, self._codec, group)

    def _connected(self) -> Appender:
        if self._appender is None:
            raise NotConnected("use `async with`, or `connect`")
        return self._appender

    @property
    def partitions(self) -> int:
        """How many partitions the log has."""
        return self._partitions


def _several(events: T | NewEvent[T] | Sequence[T | NewEvent[T]]) -> list[NewEvent[T]]:
    listed: Sequence[T | NewEvent[T]]
    listed = events if isinstance(events, list | tuple) else [cast("T | NewEvent[T]", events)]
    return [event if isinstance(event, NewEvent) else NewEvent(event) for event in listed]


def _outcome(key: str, reply: Reply) -> Appended:
    """What an append returns, or raises, for the final reply."""
    if is_in(reply):
        assert reply.versions is not None
        assert reply.sequence is not None
        first, last = reply.versions
        return Appended(first, last, reply.sequence, reply.outcome == "duplicate")
    if reply.reason == Reason.WRONG_EXPECTED_VERSION:
        assert reply.expected_version is not None
        assert reply.current_version is not None
        raise WrongExpectedVersion(key, reply.expected_version, reply.current_version)
    raise Rejected(key, reply.reason or "", reply.detail or "")
