"""A TCP proxy between sequencers and the broker that understands frames, so that it can do exactly what a network may.

Every sequencer has a link of its own: a port that stands for the broker, for it alone. A link can be cut, stalled in
either direction (held bytes arrive later, as from a zombie), delayed, left half open, and told to lose the next frame
of a kind, be it a request or its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from types import TracebackType
from typing import Self

from sequencer.pulsar.frames import encode_command
from sequencer.pulsar.pulsar_api_pb2 import BaseCommand

HOST = "127.0.0.1"
READ_BYTES = 256 * 1024
MAX_FRAME_BYTES = 8 * 1024 * 1024
CONNECT_LIMIT_S = 5.0
CALL_LIMIT_S = 10.0
GONE = (ConnectionError, OSError, asyncio.IncompleteReadError, TimeoutError)

Watch = Callable[[int, BaseCommand], object]


class Way(Enum):
    """A direction."""

    TO_BROKER = "to the broker"
    TO_CLIENT = "to the client"


@dataclass
class _Loss:
    """Frames that are to be lost."""

    way: Way
    kind: int  # BaseCommand.Type
    left: int
    cut: bool  # and the connection ends with the first of them


@dataclass(eq=False)
class _Pair:
    """One connection of a client and the one that stands for it at the broker."""

    client: asyncio.StreamWriter
    broker: asyncio.StreamWriter
    keeps_client: bool = False  # the client is not told when the broker's side has ended
    keeps_broker: bool = False

    def abort(self, *, client: bool = True, broker: bool = True) -> None:
        for writer, wanted in ((self.client, client), (self.broker, broker)):
            if wanted:
                writer.transport.abort()


@dataclass(eq=False)
class _Link:
    port: int = 0
    pairs: set[_Pair] = field(default_factory=set)
    losses: list[_Loss] = field(default_factory=list)
    open: dict[Way, asyncio.Event] = field(default_factory=dict)
    delay_s: float = 0.0
    accepts: bool = True


class FaultProxy:
    """The proxy, in a thread with a loop of its own; every method may be called from anywhere else.

    Attributes:
        effects: what really happened to connections and frames, counted.
    """

    def __init__(self, broker_port: int, links: int, watch: Watch | None = None) -> None:
        """`watch` is told of every command that is passed on, with its link, in the proxy's thread."""
        self.effects: Counter[str] = Counter()
        self._watch = watch
        self._broker_port = broker_port
        self._links = [_Link() for _ in range(links)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(CALL_LIMIT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(CALL_LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_LIMIT_S)
        self._loop.close()

    def url(self, link: int) -> str:
        """What the sequencer of this link takes for the broker's service URL."""
        return f"pulsar://{HOST}:{self._links[link].port}"

    # --- Faults ---

    def cut(self, link: int) -> None:
        """Reset all connections."""
        self._do(lambda: self._cut(self._links[link]))

    def refuse(self, link: int, refused: bool) -> None:
        """Reset all connections, and every new one until told otherwise."""

        def refuse() -> None:
            self._links[link].accepts = not refused
            if refused:
                self._cut(self._links[link])

        self._do(refuse)

    def hold(self, link: int, way: Way) -> None:
        """Keep back what flows in one direction; nothing is lost, `release` lets it go on."""
        self._do(self._links[link].open[way].clear)

    def release(self, link: int, way: Way) -> None:
        """End `hold`."""
        self._do(self._links[link].open[way].set)

    def delay(self, link: int, seconds: float) -> None:
        """Make every frame wait in both directions; 0 ends it."""

        def delay() -> None:
            self._links[link].delay_s = seconds

        self._do(delay)

    def half_open(self, link: int, gone: Way) -> None:
        """End one side of every connection without a word to the other side.

        Args:
            gone: TO_BROKER = the broker sees the connection end and the client does not; TO_CLIENT = the reverse.
        """

        def half_open() -> None:
            for pair in self._links[link].pairs:
                self.effects["connections half open"] += 1
                if gone is Way.TO_BROKER:
                    pair.keeps_client = True
                    pair.abort(client=False)
                else:
                    pair.keeps_broker = True
                    pair.abort(broker=False)

        self._do(half_open)

    def lose(self, link: int, way: Way, kind: str, count: int, *, cut: bool) -> None:
        """Lose the next `count` frames of a kind, such as END_TXN_RESPONSE; with `cut` the connection ends there."""
        loss = _Loss(way, BaseCommand.Type.Value(kind), count, cut)
        self._do(lambda: self._links[link].losses.append(loss))

    def heal(self) -> None:
        """End every fault; connections that are half open end."""

        def heal() -> None:
            for link in self._links:
                link.accepts, link.delay_s = True, 0.0
                link.losses.clear()
                for gate in link.open.values():
                    gate.set()
                for pair in link.pairs:
                    if pair.keeps_client or pair.keeps_broker:
                        pair.abort()

        self._do(heal)

    # --- The inside ---

    def _do(self, work: Callable[[], object]) -> None:
        async def call() -> None:
            work()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(CALL_LIMIT_S)

    def _cut(self, link: _Link) -> None:
        for pair in link.pairs:
            self.effects["connections cut"] += 1
            pair.abort()

    async def _listen(self) -> None:
        for link in self._links:
            for way in Way:
                link.open[way] = asyncio.Event()
                link.open[way].set()
            server = await asyncio.start_server(partial(self._accepted, link), HOST, 0, limit=READ_BYTES)
            link.port = server.sockets[0].getsockname()[1]
            self._servers.append(server)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in self._links:
            for pair in link.pairs:
                pair.abort()

    def _accepted(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(link, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, link: _Link, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            if not link.accepts:
                raise ConnectionRefusedError
            async with asyncio.timeout(CONNECT_LIMIT_S):
                from_broker, to_broker = await asyncio.open_connection(HOST, self._broker_port, limit=READ_BYTES)
        except GONE:
            to_client.transport.abort()
            return
        pair = _Pair(to_client, to_broker)
        link.pairs.add(pair)
        try:
            await asyncio.gather(
                self._pump(link, pair, Way.TO_BROKER, from_client, to_broker),
                self._pump(link, pair, Way.TO_CLIENT, from_broker, to_client),
            )
        finally:
            link.pairs.discard(pair)
            pair.abort()

    async def _pump(
        self, link: _Link, pair: _Pair, way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        """Carry frames one way until its source ends; then end the sink too, unless it is not to be told."""
        with contextlib.suppress(*GONE):
            while True:
                head = await source.readexactly(4)
                size = struct.unpack(">I", head)[0]
                if size > MAX_FRAME_BYTES:
                    break
                body = await source.readexactly(size)
                await self._pass_on(link, pair, way, head + body, sink)
        if way is Way.TO_BROKER:
            pair.abort(client=False, broker=not pair.keeps_broker)
        else:
            pair.abort(client=not pair.keeps_client, broker=False)
        if pair.keeps_client or pair.keeps_broker:
            # Half open: what the other side still says is read, and goes nowhere.
            with contextlib.suppress(*GONE):
                while await source.read(READ_BYTES):
                    pass

    async def _pass_on(self, link: _Link, pair: _Pair, way: Way, frame: bytes, sink: asyncio.StreamWriter) -> None:
        if link.delay_s:
            await asyncio.sleep(link.delay_s)
        await link.open[way].wait()
        command = BaseCommand.FromString(frame[8 : 8 + struct.unpack_from(">I", frame, 4)[0]])
        for loss in link.losses:
            if loss.way is way and loss.kind == command.type:
                loss.left -= 1
                if loss.left == 0:
                    link.losses.remove(loss)
                self.effects[f"{BaseCommand.Type.Name(command.type)} lost"] += 1
                if loss.cut:
                    pair.abort()
                return
        if command.type == BaseCommand.LOOKUP_RESPONSE and command.lookupTopicResponse.brokerServiceUrl:
            # The broker names its own address; its client must stay on this link.
            command.lookupTopicResponse.brokerServiceUrl = f"pulsar://{HOST}:{link.port}"
            frame = encode_command(command)
        if pair.keeps_client or pair.keeps_broker:
            return
        if self._watch is not None:
            self._watch(self._links.index(link), command)
        sink.write(frame)
        await sink.drain()
