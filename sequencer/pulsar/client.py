"""The client: finds who serves a topic, keeps one connection per broker, and opens what runs on them."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

from sequencer.pulsar import commands
from sequencer.pulsar.commands import AccessMode
from sequencer.pulsar.connection import Connection
from sequencer.pulsar.consumer import Consumer
from sequencer.pulsar.coordinator import ASSIGN_TOPIC, Coordinator
from sequencer.pulsar.errors import (
    ConnectionLost,
    EndpointClosed,
    LookupFailed,
    ServerError,
    ServerRefused,
)
from sequencer.pulsar.events import LookupAnswer, PartitionCount, ProducerGrant
from sequencer.pulsar.frames import EARLIEST, LATEST, MessageId
from sequencer.pulsar.ports import Opening
from sequencer.pulsar.producer import Producer
from sequencer.pulsar.pulsar_api_pb2 import BaseCommand
from sequencer.pulsar.settings import NO_AUTH, Address, Auth, ClientSettings, parse_service_url, token_auth

__all__ = [
    "EARLIEST",
    "LATEST",
    "NO_AUTH",
    "AccessMode",
    "Auth",
    "ClientSettings",
    "Consumer",
    "Coordinator",
    "Producer",
    "PulsarClient",
    "token_auth",
]

MAX_REDIRECTS = 20
"""Brokers that one LOOKUP may send us to, one after the other."""

RETRY_FIRST_S = 0.1
RETRY_MOST_S = 2.0
"""Pauses before something is asked again: the first, doubled each time up to the longest, and shortened by chance."""

NOT_YET = frozenset(
    {
        ServerError.UNKNOWN_ERROR,
        ServerError.METADATA_ERROR,
        ServerError.SERVICE_NOT_READY,
        ServerError.TOO_MANY_REQUESTS,
        ServerError.TRANSACTION_COORDINATOR_NOT_FOUND,
    }
)
"""Refusals that pass while a broker loads a topic or a coordinator, or while another takes it over."""

ResultT = TypeVar("ResultT")


class PulsarClient:
    """A client of one cluster. Everything in it lives on the event loop that it was made on.

    Nothing is repaired behind the caller's back: when a connection dies, all that ran on it ends and says so through
    its `lost`, and the caller opens it anew.
    """

    def __init__(self, service_url: str, *, auth: Auth = NO_AUTH, settings: ClientSettings | None = None) -> None:
        """Connections are made when they are needed.

        Args:
            service_url: pulsar://host:port, several hosts separated by commas, or pulsar+ssl://...
            auth: NO_AUTH or `token_auth(...)`.
            settings: limits of waiting, and TLS.

        Raises:
            ValueError: the URL is not one.
        """
        self._addresses = parse_service_url(service_url)
        self._auth = auth
        self._settings = settings or ClientSettings()
        self._pool: dict[tuple[Address, str | None], asyncio.Task[Connection]] = {}
        self._closed = False

    async def __aenter__(self) -> PulsarClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections, and with them all that runs on them."""
        self._closed = True
        opening = {task for task in self._pool.values() if task.cancel()}
        for task in list(self._pool.values()):
            if task not in opening and not task.cancelled() and task.exception() is None:
                task.result().close()
        if opening:
            # Those end by themselves. To await one of them would take our own cancellation for its.
            await asyncio.wait(opening)
        # One turn of the loop, in which the transports close their sockets.
        await asyncio.sleep(0)

    # --- What can be opened ---

    async def partitions(self, topic: str) -> int:
        """The number of partitions of `topic`; 0 where it is not partitioned.

        Raises:
            ServerRefused, RequestTimedOut, ConnectionLost, AuthFailed.
        """

        async def ask() -> int:
            connection = await self._service_connection()
            what = f"PARTITIONED_METADATA of {topic}"
            return (await connection.ask(commands.partitioned_metadata(topic), what, PartitionCount)).partitions

        return await self._retried(ask)

    async def producer(
        self,
        topic: str,
        *,
        access_mode: AccessMode = AccessMode.SHARED,
        name: str | None = None,
    ) -> Producer:
        """Open a producer. With WAIT_FOR_EXCLUSIVE this waits until the topic is free.

        Cancelled meanwhile, it tells the broker that nobody waits any longer. The broker (4.2.4) keeps also a request
        that is withdrawn, and grants it before the next one: do not ask again and again.

        Args:
            topic: a topic or one partition of it.
            access_mode: who else may produce.
            name: unique on the topic; None lets the broker choose.

        Raises:
            ProducerFenced: an exclusive producer holds the topic, or a newer one has taken over.
            EndpointClosed: the topic was unloaded while we were waiting.
            ServerRefused, RequestTimedOut, ConnectionLost, AuthFailed, LookupFailed.
        """

        async def open_producer() -> Producer:
            connection = await self._locate(topic)
            producer_id = connection.new_endpoint_id()
            opening = Opening()
            connection.attach_producer(producer_id, opening)
            grant = await _opened(
                connection,
                opening,
                commands.create_producer(topic, producer_id, name, access_mode),
                commands.close_producer(producer_id),
                f"PRODUCER on {topic}",
                lambda: connection.detach_producer(producer_id),
            )
            assert isinstance(grant, ProducerGrant)
            return Producer(connection, topic, producer_id, grant)

        return await self._retried(open_producer)

    async def subscribe(
        self,
        topic: str,
        subscription: str,
        *,
        consumer_name: str | None = None,
        initial_position: MessageId = EARLIEST,
        failover: bool = False,
    ) -> Consumer:
        """Consume through a durable subscription, exclusively. Nothing is delivered before the first `take`.

        Args:
            topic: a topic or one partition of it.
            subscription: made if it does not exist, at `initial_position`: EARLIEST or LATEST.
            consumer_name: shows in the broker's statistics.
            failover: share the subscription with others, one of which has its turn; of several partitions the broker
                gives each a fair share, in the order of their names. See `Consumer.turn`.

        Raises:
            ConsumerBusy: another consumer holds the subscription.
            ServerRefused, RequestTimedOut, ConnectionLost, AuthFailed, LookupFailed.
        """
        assert initial_position in (EARLIEST, LATEST), initial_position
        return await self._consumer(
            topic,
            lambda consumer_id: commands.subscribe_durable(
                topic, subscription, consumer_id, consumer_name, initial_position, failover
            ),
            f"SUBSCRIBE {subscription} to {topic}",
            failover=failover,
        )

    async def reader(
        self,
        topic: str,
        *,
        start: MessageId = EARLIEST,
        inclusive: bool = False,
        read_compacted: bool = False,
        rollback_s: int = 0,
        window_messages: int | None = None,
    ) -> Consumer:
        """Read `topic` without leaving a trace in the broker. Entries come whole, whatever batch index `start` has.

        Args:
            topic: a topic or one partition of it.
            start: delivery begins after this entry; EARLIEST and LATEST are the ends of the topic.
            inclusive: begin with the entry `start` itself.
            read_compacted: the compacted view, as far as the topic is compacted, then the rest.
            rollback_s: where above 0, begin with what was published so many seconds ago instead of at `start`.
            window_messages: allowed ahead from the first moment on, whatever their size; None lets their size decide.
                For a non-persistent topic, where the broker drops what is not allowed at the moment that it comes.

        Raises:
            ServerRefused, RequestTimedOut, ConnectionLost, AuthFailed, LookupFailed.
        """
        subscription = f"reader-{secrets.token_hex(5)}"
        return await self._consumer(
            topic,
            lambda consumer_id: commands.subscribe_reader(
                topic,
                subscription,
                consumer_id,
                start=start,
                read_compacted=read_compacted,
                rollback_s=rollback_s,
            ),
            f"SUBSCRIBE a reader to {topic}",
            after=None if inclusive or rollback_s else start,
            window_messages=window_messages,
        )

    async def coordinators(self) -> int:
        """The number of transaction coordinators; 0 where transactions are not enabled.

        Raises:
            ServerRefused, RequestTimedOut, ConnectionLost, AuthFailed.
        """
        return await self.partitions(ASSIGN_TOPIC)

    async def coordinator(self, tc_id: int) -> Coordinator:
        """Have coordinator `tc_id` loaded by its broker. That also makes it finish what it had begun to end.

        Raises:
            ServerRefused, RequestTimedOut, ConnectionLost, AuthFailed, LookupFailed.
        """

        async def connect() -> Coordinator:
            connection = await self._locate(f"{ASSIGN_TOPIC}-partition-{tc_id}")
            await connection.start(commands.connect_coordinator(tc_id), f"TC_CLIENT_CONNECT {tc_id}")
            return Coordinator(connection, tc_id)

        return await self._retried(connect)

    # --- The inside ---

    async def _consumer(
        self,
        topic: str,
        command: Callable[[int], BaseCommand],
        what: str,
        after: MessageId | None = None,
        window_messages: int | None = None,
        failover: bool = False,
    ) -> Consumer:
        async def open_consumer() -> Consumer:
            connection = await self._locate(topic)
            consumer_id = connection.new_endpoint_id()
            opening = Opening()
            connection.attach_consumer(consumer_id, opening)
            await _opened(
                connection,
                opening,
                command(consumer_id),
                commands.close_consumer(consumer_id),
                what,
                lambda: connection.detach_consumer(consumer_id),
            )
            has_turn = opening.has_turn or not failover
            return Consumer(connection, topic, consumer_id, after, window_messages, has_turn)

        return await self._retried(open_consumer)

    async def _retried(self, attempt: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """What `attempt` returns, tried again while it is refused for a reason that passes."""
        loop = asyncio.get_running_loop()
        give_up_at_s = loop.time() + self._settings.retry_for_s
        pause_s = RETRY_FIRST_S
        while True:
            try:
                return await attempt()
            except ServerRefused as refused:
                if refused.error not in NOT_YET or loop.time() + pause_s > give_up_at_s:
                    raise
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, RETRY_MOST_S)

    async def _locate(self, topic: str) -> Connection:
        """A connection to the broker that serves `topic`."""
        what = f"LOOKUP of {topic}"
        connection = await self._service_connection()
        authoritative = False
        for _ in range(MAX_REDIRECTS):
            try:
                answer = await connection.ask(commands.lookup(topic, authoritative), what, LookupAnswer)
            except ServerRefused as refused:
                raise LookupFailed(what, refused.error, refused.message) from None
            url = answer.url_tls if connection.address.tls else answer.url
            try:
                address = parse_service_url(url)[0]
            except ValueError as wrong:
                raise LookupFailed(what, ServerError.UNKNOWN_ERROR, str(wrong)) from None
            if answer.proxied:
                connection = await self._connection(connection.address, proxy_to=f"{address.host}:{address.port}")
            else:
                connection = await self._connection(address)
            if not answer.redirect:
                return connection
            authoritative = answer.authoritative
        raise LookupFailed(what, ServerError.UNKNOWN_ERROR, f"more than {MAX_REDIRECTS} redirects")

    async def _service_connection(self) -> Connection:
        """A connection to the first address of the service URL that can be reached."""
        failure: ConnectionLost | None = None
        for address in self._addresses:
            try:
                return await self._connection(address)
            except ConnectionLost as lost:
                failure = lost
        assert failure is not None
        raise failure

    async def _connection(self, address: Address, proxy_to: str | None = None) -> Connection:
        """The one connection to `address` (and through it to `proxy_to`), made if there is none."""
        if self._closed:
            raise EndpointClosed("this client is closed")
        key = (address, proxy_to)
        task = self._pool.get(key)
        if task is None:
            task = asyncio.create_task(Connection.open(address, self._settings, self._auth, proxy_to))
            self._pool[key] = task
            task.add_done_callback(lambda done: self._pooled(key, done))
        # Others may wait for the same connection: it is made even if this caller gives up.
        return await asyncio.shield(task)

    def _pooled(self, key: tuple[Address, str | None], task: asyncio.Task[Connection]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._pool.pop(key, None)
        else:
            task.result().lost.add_done_callback(lambda _: self._pool.pop(key, None))


async def _opened(
    connection: Connection,
    opening: Opening,
    command: BaseCommand,
    undo: BaseCommand,
    what: str,
    detach: Callable[[], None],
) -> object:
    """Open a producer or consumer and return the broker's answer.

    Where that fails, or the caller gives up, the broker is told to close it: it may have opened it all the same.
    """
    opening.answer = connection.start(command, what)
    try:
        answer = await opening.answer
        if opening.closed is not None:
            raise opening.closed
    except BaseException as failure:
        detach()
        if not isinstance(failure, ServerRefused | ConnectionLost | EndpointClosed):
            connection.start(undo, f"CLOSE after {what}")
        raise
    return answer
