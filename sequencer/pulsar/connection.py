"""The asyncio shell around one connection's protocol core: sockets, timers and futures."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

from sequencer.pulsar import protocol
from sequencer.pulsar.errors import (
    AuthFailed,
    ConnectionLost,
    EndpointClosed,
    PulsarError,
    RequestTimedOut,
    ServerError,
    ServerRefused,
    refusal,
)
from sequencer.pulsar.events import (
    Answer,
    Answered,
    Broken,
    Challenged,
    Connected,
    ConnectionRefused,
    ConsumerClosed,
    Delivered,
    Event,
    ProducerClosed,
    ProducerGrant,
    Refused,
    SendRefused,
    Stored,
    TurnChanged,
)
from sequencer.pulsar.frames import DEFAULT_MAX_MESSAGE_BYTES
from sequencer.pulsar.ports import ConsumerPort, ProducerPort, fail
from sequencer.pulsar.pulsar_api_pb2 import BaseCommand
from sequencer.pulsar.settings import Address, Auth, ClientSettings

WRITE_HIGH_WATER_BYTES = 4 * 1024 * 1024
"""Unsent bytes above which `drain` waits."""

MAX_UNSENT_BYTES = 512 * 1024 * 1024
"""Unsent bytes above which the connection is given up: somebody sends without ever draining."""

MAX_PENDING_REQUESTS = 50_000
"""Requests that may wait for their answers on one connection."""

AnswerT = TypeVar("AnswerT", bound=Answer)


class _Waiting(NamedTuple):
    future: asyncio.Future[Answer]
    what: str
    timer: asyncio.TimerHandle


class Connection(asyncio.BufferedProtocol):
    """One connection to a broker, open from `open` until `lost`."""

    def __init__(self, address: Address, settings: ClientSettings, auth: Auth, proxy_to: str | None) -> None:
        loop = asyncio.get_running_loop()
        self.address = address
        self.settings = settings
        self.max_message_bytes = DEFAULT_MAX_MESSAGE_BYTES
        self.lost: asyncio.Future[PulsarError] = loop.create_future()
        """Done when the connection has ended; the result is the reason."""
        self._loop = loop
        self._auth = auth
        self._proxy_to = proxy_to
        self._core = protocol.Protocol()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._producers: dict[int, ProducerPort] = {}
        self._consumers: dict[int, ConsumerPort] = {}
        self._last_endpoint_id = 0
        self._reason: PulsarError | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._keep_alive: asyncio.TimerHandle | None = None
        self._heard_at_s = loop.time()

    @classmethod
    async def open(
        cls, address: Address, settings: ClientSettings, auth: Auth, proxy_to: str | None = None
    ) -> Connection:
        """Connect and complete the handshake; `proxy_to` is the host:port of the broker behind a proxy.

        Raises:
            ConnectionLost: nobody answers there, or not in time, or not in this protocol.
            AuthFailed, ServerRefused: the broker does not let us in.
        """
        connection = cls(address, settings, auth, proxy_to)
        tls = (settings.tls or ssl.create_default_context()) if address.tls else None
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                await connection._loop.create_connection(lambda: connection, address.host, address.port, ssl=tls)
                await connection._opened
        except TimeoutError:
            connection.drop(ConnectionLost(f"{address}: not connected within {settings.connect_timeout_s} s"))
        except OSError as failure:
            connection.drop(ConnectionLost(f"{address}: {failure}"))
        except asyncio.CancelledError:
            connection.drop(ConnectionLost(f"{address}: no longer wanted"))
            raise
        if connection._reason is not None:
            raise connection._reason
        return connection

    # --- For producers, consumers and coordinators ---

    def new_endpoint_id(self) -> int:
        """An id for a new producer or consumer on this connection."""
        self._last_endpoint_id += 1
        return self._last_endpoint_id

    def attach_producer(self, producer_id: int, port: ProducerPort) -> None:
        """Tell `port` from now on what concerns `producer_id`."""
        self._producers[producer_id] = port

    def attach_consumer(self, consumer_id: int, port: ConsumerPort) -> None:
        """Tell `port` from now on what concerns `consumer_id`."""
        self._consumers[consumer_id] = port

    def detach_producer(self, producer_id: int) -> None:
        """Drop whatever still comes for `producer_id`."""
        self._producers.pop(producer_id, None)

    def detach_consumer(self, consumer_id: int) -> None:
        """Drop whatever still comes for `consumer_id`."""
        self._consumers.pop(consumer_id, None)

    def start(self, command: BaseCommand, what: str) -> asyncio.Future[Answer]:
        """Send a request and return the future of its answer. `what` names it in errors.

        The future fails with ServerRefused (or a subclass), RequestTimedOut, or the reason why the connection ended.
        Cancelling it means: the answer, should it come, is dropped.
        """
        future: asyncio.Future[Answer] = self._loop.create_future()
        if self._reason is not None:
            fail(future, self._reason)
            return future
        if len(self._waiting) >= MAX_PENDING_REQUESTS:
            fail(future, ServerRefused(what, ServerError.TOO_MANY_REQUESTS, "too many requests wait for an answer"))
            return future
        request_id = self._core.request(command)
        timer = self._loop.call_later(self.settings.request_timeout_s, self._time_out, request_id)
        self._waiting[request_id] = _Waiting(future, what, timer)
        future.add_done_callback(lambda _: self._finish(request_id))
        self._flush()
        return future

    async def ask(self, command: BaseCommand, what: str, kind: type[AnswerT]) -> AnswerT:
        """Send a request and wait for its answer, which is of `kind`.

        Raises:
            ServerRefused, RequestTimedOut, ConnectionLost: see `start`.
        """
        answer = await self.start(command, what)
        assert isinstance(answer, kind), answer
        return answer

    def tell(self, command: BaseCommand) -> None:
        """Send a command that has no answer. On a dead connection it is dropped."""
        if self._reason is None:
            self._core.tell(command)
            self._flush()

    def send(self, command: BaseCommand, metadata: bytes, payload: bytes) -> None:
        """Send an entry. The connection must be alive."""
        assert self._reason is None, self._reason
        self._core.send(command, metadata, payload)
        self._flush()

    @property
    def writable(self) -> bool:
        """Whether no more than WRITE_HIGH_WATER_BYTES are unsent."""
        return self._writable.is_set()

    async def drain(self) -> None:
        """Wait while more than WRITE_HIGH_WATER_BYTES are unsent.

        Raises:
            PulsarError: why the connection has ended.
        """
        await self._writable.wait()
        if self._reason is not None:
            raise self._reason

    def close(self) -> None:
        """Send what is queued, then end the connection."""
        self._flush()
        self._end(EndpointClosed(f"the connection to {self.address} was closed by this client"), abort=False)

    def drop(self, reason: PulsarError) -> None:
        """End the connection at once. Everything on it fails with `reason`."""
        self._end(reason, abort=True)

    # --- asyncio's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        # Not checked with isinstance: uvloop's transports are transports by their methods only.
        stream = cast(asyncio.Transport, transport)
        if self._reason is not None:
            stream.abort()
            return
        self._transport = stream
        stream.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)
        self._with_credentials(lambda data: self._core.connect(self._auth.method, data, self._proxy_to))
        self._heard_at_s = self._loop.time()
        self._await_next_tick()

    def get_buffer(self, sizehint: int) -> memoryview:
        """The core's own buffer: received bytes are copied only once after this."""
        return self._core.writable()

    def buffer_updated(self, nbytes: int) -> None:
        """Act on what has come."""
        self._heard_at_s = self._loop.time()
        for event in self._core.written(nbytes):
            self._handle(event)
        # PONGs for a peer that does not read would pile up; they go out when it reads again.
        if self._writable.is_set():
            self._flush()

    def pause_writing(self) -> None:
        """The transport holds enough; see `drain`."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The transport takes more again."""
        self._writable.set()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport has closed, for whatever reason."""
        self.drop(ConnectionLost(f"{self.address}: {exc or 'closed by the peer'}"))

    # --- The inside ---

    def _flush(self) -> None:
        if self._transport is None or self._reason is not None:
            return
        data = self._core.data_to_send()
        if data:
            self._transport.writelines(data)
        if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.drop(ConnectionLost(f"{self.address}: more than {MAX_UNSENT_BYTES} bytes are unsent"))

    def _handle(self, event: Event) -> None:
        match event:
            case Delivered(consumer_id, epoch, entry):
                consumer = self._consumers.get(consumer_id)
                if consumer is not None:
                    consumer.on_entry(entry, epoch)
            case Stored(producer_id, sequence_id, message_id):
                producer = self._producers.get(producer_id)
                if producer is not None:
                    producer.on_stored(sequence_id, message_id)
            case Answered(request_id, answer):
                self._answered(request_id, answer)
            case Refused(request_id, error, message):
                waiting = self._waiting.get(request_id)
                if waiting is not None:
                    fail(waiting.future, refusal(waiting.what, error, message))
            case SendRefused(producer_id, sequence_id, error, message):
                producer = self._producers.get(producer_id)
                if producer is not None:
                    producer.on_send_refused(sequence_id, error, message)
            case ProducerClosed(producer_id):
                producer = self._producers.pop(producer_id, None)
                if producer is not None:
                    producer.on_closed(EndpointClosed("the broker has closed the producer"))
            case ConsumerClosed(consumer_id):
                consumer = self._consumers.pop(consumer_id, None)
                if consumer is not None:
                    consumer.on_closed(EndpointClosed("the broker has closed the consumer"))
            case TurnChanged(consumer_id, active):
                consumer = self._consumers.get(consumer_id)
                if consumer is not None:
                    consumer.on_turn_changed(active)
            case Connected(_, max_message_bytes):
                self.max_message_bytes = max_message_bytes
                if not self._opened.done():
                    self._opened.set_result(None)
            case Challenged(method):
                self._challenged(method)
            case ConnectionRefused(error, message):
                self._connection_refused(error, message)
            case Broken(violation):
                self.drop(violation)

    def _answered(self, request_id: int, answer: Answer) -> None:
        waiting = self._waiting.get(request_id)
        if waiting is None:
            return
        if isinstance(answer, ProducerGrant) and not answer.ready:
            # Parked: the broker has answered, and the grant may take as long as another producer lives.
            waiting.timer.cancel()
        elif not waiting.future.done():
            waiting.future.set_result(answer)

    def _finish(self, request_id: int) -> None:
        waiting = self._waiting.pop(request_id, None)
        if waiting is not None:
            waiting.timer.cancel()
            self._core.forget(request_id)

    def _time_out(self, request_id: int) -> None:
        waiting = self._waiting[request_id]
        seconds = self.settings.request_timeout_s
        fail(waiting.future, RequestTimedOut(f"{waiting.what}: no answer from {self.address} within {seconds} s"))

    def _challenged(self, method: str) -> None:
        if method and method != self._auth.method:
            self.drop(AuthFailed(f"{self.address} asks for {method}, we have {self._auth.method}"))
            return
        self._with_credentials(lambda data: self._core.answer_challenge(self._auth.method, data))

    def _with_credentials(self, use: Callable[[bytes], None]) -> None:
        try:
            data = self._auth.data()
        except Exception as failure:  # somebody else's callable, anything may come
            self.drop(AuthFailed(f"no credentials for {self.address}: {failure}"))
            return
        use(data)
        self._flush()

    def _connection_refused(self, error: int, message: str) -> None:
        if error in (ServerError.AUTHENTICATION_ERROR, ServerError.AUTHORIZATION_ERROR):
            self.drop(AuthFailed(f"{self.address}: {message}"))
        else:
            self.drop(refusal(f"CONNECT to {self.address}", error, message))

    def _await_next_tick(self) -> None:
        due_at_s = self._loop.time() + self.settings.keep_alive_s
        self._keep_alive = self._loop.call_at(due_at_s, self._tick, due_at_s)

    def _tick(self, due_at_s: float) -> None:
        now_s = self._loop.time()
        # When this process itself stood still, what the peer sent meanwhile has not been read yet.
        stood_still = now_s - due_at_s > self.settings.keep_alive_s
        silent_s = now_s - self._heard_at_s
        if silent_s > self.settings.silent_limit_s and not stood_still:
            self.drop(ConnectionLost(f"{self.address}: silent for {silent_s:.0f} s"))
            return
        if self._writable.is_set():
            self._core.ping()
            self._flush()
        self._await_next_tick()

    def _end(self, reason: PulsarError, *, abort: bool) -> None:
        if self._reason is not None:
            return
        self._reason = reason
        if self._transport is not None:
            self._transport.abort() if abort else self._transport.close()
        if self._keep_alive is not None:
            self._keep_alive.cancel()
        if not self._opened.done():
            self._opened.set_result(None)
        self._writable.set()
        for waiting in list(self._waiting.values()):
            fail(waiting.future, reason)
        ports: list[ProducerPort | ConsumerPort] = [*self._producers.values(), *self._consumers.values()]
        self._producers.clear()
        self._consumers.clear()
        for port in ports:
            port.on_closed(reason)
        if not self.lost.done():
            self.lost.set_result(reason)
