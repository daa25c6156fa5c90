"""A scripted peer that speaks the broker's side of the protocol, for what a real broker cannot be made to do.

Falling silent, redirecting, sitting behind a proxy, lying: each test says word for word what is answered.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from sequencer.pulsar.frames import encode_command
from sequencer.pulsar.pulsar_api_pb2 import (
    BaseCommand,
    CommandConnected,
    CommandLookupTopicResponse,
    CommandPing,
    CommandPong,
    CommandSuccess,
)

# A self-signed certificate for localhost and 127.0.0.1, valid until 2126. Its key protects nothing.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBmjCCAUGgAwIBAgIUJpDhtpyNXG5d7zJQojWbiPDmfbcwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNDExMjM0MFoYDzIxMjYxMDMx
MTEyMzQwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAShXbCz6GKZBlqqihX4sNN8ucRiDpsBSGJVT0Q2Z1qy7iwKBW0sUE/i
7CkYuA+UQ7vso+oOTLIFqAhTQQeUkZKxo28wbTAdBgNVHQ4EFgQUl7CkazXpxfIm
H6wDQYWNqIpAmqwwHwYDVR0jBBgwFoAUl7CkazXpxfImH6wDQYWNqIpAmqwwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDRwAwRAIgK+y0VkKu6A6OLl+KX2W4vNAlZWn6VsWIwYwpB0sZUEECICnD
sLPEFepf/C7rDkGnTVgf0vZWBslS6h7YlCT1XWM9
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg8jQRUrC7rF+eM8lh
VoiMQ3AP4Ps/GQWIpLqRuFcEmsqhRANCAAShXbCz6GKZBlqqihX4sNN8ucRiDpsB
SGJVT0Q2Z1qy7iwKBW0sUE/i7CkYuA+UQ7vso+oOTLIFqAhTQQeUkZKx
-----END PRIVATE KEY-----
"""


class Peer:
    """One connection, seen from the broker's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def hear(self, kind: int) -> BaseCommand:
        """The next command, which must be of `kind`; PINGs are answered in passing, the payload of a SEND dropped."""
        while True:
            total, size = struct.unpack(">II", await self._reader.readexactly(8))
            content = await self._reader.readexactly(total - 4)
            command = BaseCommand.FromString(content[:size])
            if command.type == kind:
                return command
            assert command.type == BaseCommand.PING, f"unexpected: {command}"
            self.say(BaseCommand(type=BaseCommand.PONG, pong=CommandPong()))

    def say(self, command: BaseCommand) -> None:
        """Send a command."""
        self.writer.write(encode_command(command))

    async def ended(self) -> None:
        """Wait until the client has closed the connection; what it still says is not looked at."""
        while await self._read_any():
            pass

    async def _read_any(self) -> bytes:
        try:
            return await self._reader.read(1 << 16)
        except ConnectionError:
            return b""

    async def welcome(self) -> BaseCommand:
        """Complete the handshake and return the CONNECT."""
        connect = await self.hear(BaseCommand.CONNECT)
        self.say(CONNECTED)
        return connect

    async def answer_lookup(self, url: str, *, redirect: bool = False, proxied: bool = False) -> BaseCommand:
        """Answer the next LOOKUP with `url`, for TLS too."""
        command = await self.hear(BaseCommand.LOOKUP)
        answer = CommandLookupTopicResponse(
            request_id=command.lookupTopic.request_id,
            response="Redirect" if redirect else "Connect",
            brokerServiceUrl=url,
            brokerServiceUrlTls=url,
            authoritative=redirect,
            proxy_through_service_url=proxied,
        )
        self.say(BaseCommand(type=BaseCommand.LOOKUP_RESPONSE, lookupTopicResponse=answer))
        return command

    async def succeed(self, kind: int, field: str) -> BaseCommand:
        """Answer the next command, of `kind` in `field`, with SUCCESS."""
        command = await self.hear(kind)
        request_id = getattr(command, field).request_id
        self.say(BaseCommand(type=BaseCommand.SUCCESS, success=CommandSuccess(request_id=request_id)))
        return command


CONNECTED = BaseCommand(
    type=BaseCommand.CONNECTED, connected=CommandConnected(server_version="peer", max_message_size=5 << 20)
)
PING = BaseCommand(type=BaseCommand.PING, ping=CommandPing())

Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def listening(*scripts: Script, tls: bool = False) -> AsyncIterator[str]:
    """The service URL of a listener that plays the scripts, one per connection, in the order of their arrival.

    A script that fails fails the test, and so does one that was never played. At its end a script's connection stays
    open until the client closes it.
    """
    left = list(scripts)
    playing: list[asyncio.Task[None]] = []

    async def play(script: Script, peer: Peer) -> None:
        try:
            await script(peer)
            await peer.ended()
        finally:
            peer.writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert left, "one connection more than there are scripts"
        playing.append(asyncio.create_task(play(left.pop(0), Peer(reader, writer))))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=server_tls() if tls else None)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"pulsar{'+ssl' if tls else ''}://127.0.0.1:{port}"
    finally:
        server.close()
        for task in playing:
            async with asyncio.timeout(5):
                await task
    assert not left, f"{len(left)} connections were never made"


def server_tls() -> ssl.SSLContext:
    """What a TLS listener needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        certificate, key = Path(directory, "certificate.pem"), Path(directory, "key.pem")
        certificate.write_text(CERTIFICATE)
        key.write_text(KEY)
        context.load_cert_chain(certificate, key)
    return context
