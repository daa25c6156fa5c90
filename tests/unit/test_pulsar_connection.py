"""The connection's timers, handshake and failures, against a scripted peer."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from sequencer.pulsar import commands, connection
from sequencer.pulsar.connection import Connection
from sequencer.pulsar.errors import (
    AuthFailed,
    ConnectionLost,
    EndpointClosed,
    ProtocolViolation,
    PulsarError,
    RequestTimedOut,
    ServerError,
    ServerRefused,
)
from sequencer.pulsar.protocol import NO_REQUEST_ID
from sequencer.pulsar.pulsar_api_pb2 import (
    AuthData,
    BaseCommand,
    CommandAuthChallenge,
    CommandError,
)
from sequencer.pulsar.settings import NO_AUTH, Auth, ClientSettings, parse_service_url, token_auth
from tests.pulsar_peer import CERTIFICATE, CONNECTED, PING, Peer, listening, server_tls

TEST_LIMIT_S = 20.0
QUICK = ClientSettings(request_timeout_s=0.1, connect_timeout_s=0.2, keep_alive_s=0.05, silent_limit_s=0.2)


def run(story: Awaitable[Any]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(TEST_LIMIT_S):
            await story

    asyncio.run(limited())


async def connect(url: str, settings: ClientSettings | None = None, auth: Auth = NO_AUTH) -> Connection:
    return await Connection.open(parse_service_url(url)[0], settings or ClientSettings(), auth)


async def welcome(peer: Peer) -> None:
    await peer.welcome()


def challenge(method: str) -> BaseCommand:
    content = CommandAuthChallenge(challenge=AuthData(auth_method_name=method))
    return BaseCommand(type=BaseCommand.AUTH_CHALLENGE, authChallenge=content)


def error(number: int, message: str) -> BaseCommand:
    content = CommandError(request_id=NO_REQUEST_ID, error=number, message=message)
    return BaseCommand(type=BaseCommand.ERROR, error=content)


# --- Handshake ---


def test_the_handshake_brings_the_brokers_limit() -> None:
    async def story() -> None:
        async with listening(welcome) as url:
            opened = await connect(url)
            assert opened.max_message_bytes == 5 << 20
            opened.close()
            assert isinstance(opened.lost.result(), EndpointClosed)

    run(story())


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (ServerError.AUTHENTICATION_ERROR, AuthFailed),
        (ServerError.AUTHORIZATION_ERROR, AuthFailed),
        (ServerError.SERVICE_NOT_READY, ServerRefused),
    ],
)
def test_the_broker_does_not_let_us_in(number: int, kind: type[PulsarError]) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.hear(BaseCommand.CONNECT)
        peer.say(error(number, "not you"))

    async def story() -> None:
        async with listening(refuse) as url:
            with pytest.raises(kind, match="not you"):
                await connect(url)

    run(story())


def test_a_peer_that_says_nothing_is_given_up() -> None:
    async def listen_only(peer: Peer) -> None:
        await peer.hear(BaseCommand.CONNECT)

    async def story() -> None:
        async with listening(listen_only) as url:
            with pytest.raises(ConnectionLost, match=r"not connected within 0\.2 s"):
                await connect(url, QUICK)

    run(story())


def test_a_peer_that_hangs_up() -> None:
    async def hang_up(peer: Peer) -> None:
        await peer.hear(BaseCommand.CONNECT)
        peer.writer.close()

    async def story() -> None:
        async with listening(hang_up) as url:
            with pytest.raises(ConnectionLost, match="closed by the peer"):
                await connect(url)

    run(story())


def test_a_peer_of_another_kind() -> None:
    async def http(peer: Peer) -> None:
        peer.writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def story() -> None:
        async with listening(http) as url:
            with pytest.raises(ProtocolViolation):
                await connect(url)

    run(story())


def test_giving_up_a_connect_closes_the_socket() -> None:
    async def story() -> None:
        heard = asyncio.Event()

        async def silent(peer: Peer) -> None:
            await peer.hear(BaseCommand.CONNECT)
            heard.set()
            await peer.ended()

        async with listening(silent) as url:
            opening = asyncio.create_task(connect(url))
            await heard.wait()
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening

    run(story())


def test_a_challenge_gets_a_fresh_token_each_time() -> None:
    tokens = iter(["first", "second", "third"])

    async def story() -> None:
        refreshed = asyncio.Event()

        async def ask(peer: Peer) -> None:
            connect = await peer.hear(BaseCommand.CONNECT)
            assert (connect.connect.auth_method_name, connect.connect.auth_data) == ("token", b"first")
            for expected in (b"second", b"third"):
                peer.say(challenge("token"))
                answer = await peer.hear(BaseCommand.AUTH_RESPONSE)
                assert answer.authResponse.response.auth_data == expected
                if expected == b"second":
                    peer.say(CONNECTED)
            refreshed.set()

        async with listening(ask) as url:
            opened = await connect(url, auth=token_auth(lambda: next(tokens)))
            await refreshed.wait()
            opened.close()

    run(story())


def test_a_challenge_that_we_cannot_answer() -> None:
    async def ask(peer: Peer) -> None:
        await peer.hear(BaseCommand.CONNECT)
        peer.say(challenge("sasl"))

    async def story() -> None:
        async with listening(ask) as url:
            with pytest.raises(AuthFailed, match="asks for sasl, we have none"):
                await connect(url)

    run(story())


def test_a_token_that_cannot_be_had() -> None:
    def broken() -> str:
        raise FileNotFoundError("/no/token")

    async def nothing(peer: Peer) -> None:
        await peer.ended()

    async def story() -> None:
        async with listening(nothing) as url:
            with pytest.raises(AuthFailed, match="/no/token"):
                await connect(url, auth=token_auth(broken))

    run(story())


def test_tls() -> None:
    async def story() -> None:
        trusting = ClientSettings(tls=ssl.create_default_context(cadata=CERTIFICATE))
        async with listening(welcome, tls=True) as url:
            opened = await connect(url, trusting)
            opened.close()

    run(story())


def test_tls_with_somebody_whom_we_do_not_trust() -> None:
    async def story() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=server_tls())
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionLost, match="certificate"):
            await connect(f"pulsar+ssl://127.0.0.1:{port}")
        server.close()

    run(story())


# --- Keeping alive ---


def test_a_ping_is_answered() -> None:
    async def story() -> None:
        answered = asyncio.Event()

        async def ping(peer: Peer) -> None:
            await peer.welcome()
            peer.say(PING)
            await peer.hear(BaseCommand.PONG)
            answered.set()

        async with listening(ping) as url:
            opened = await connect(url)
            await answered.wait()
            opened.close()

    run(story())


def test_silence_ends_the_connection() -> None:
    async def story() -> None:
        async with listening(welcome) as url:
            opened = await connect(url, QUICK)
            waiting = opened.start(commands.new_txn(0, 1000), "NEW_TXN")
            assert "silent for" in str(await opened.lost)
            with pytest.raises(PulsarError):
                await waiting

    run(story())


def test_answers_to_our_pings_keep_it_alive() -> None:
    async def answer(peer: Peer) -> None:
        await peer.welcome()
        await peer.hear(BaseCommand.CLOSE_PRODUCER)

    async def story() -> None:
        async with listening(answer) as url:
            opened = await connect(url, QUICK)
            done, _ = await asyncio.wait([opened.lost], timeout=4 * QUICK.silent_limit_s)
            assert not done
            opened.start(commands.close_producer(1), "CLOSE_PRODUCER")
            opened.close()

    run(story())


def test_a_process_that_stood_still_reads_before_it_judges() -> None:
    async def story() -> None:
        async with listening(welcome) as url:
            opened = await connect(url, QUICK)
            # The whole process stands still, peer included, for longer than anybody may be silent.
            asyncio.get_running_loop().call_soon(time.sleep, 2 * QUICK.silent_limit_s)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not opened.lost.done()
            opened.close()

    run(story())


# --- Requests ---


def test_a_request_has_its_time() -> None:
    async def ignore(peer: Peer) -> None:
        await peer.welcome()
        await peer.hear(BaseCommand.NEW_TXN)
        await peer.succeed(BaseCommand.CLOSE_CONSUMER, "close_consumer")

    async def story() -> None:
        async with listening(ignore) as url:
            opened = await connect(url, ClientSettings(request_timeout_s=0.1))
            with pytest.raises(RequestTimedOut, match=r"NEW_TXN: no answer from 127\.0\.0\.1:\d+ within 0\.1 s"):
                await opened.start(commands.new_txn(0, 1000), "NEW_TXN")
            # One that is not answered does not disturb the others.
            await opened.start(commands.close_consumer(1), "CLOSE_CONSUMER")
            opened.close()

    run(story())


def test_a_cancelled_request_is_forgotten() -> None:
    async def late(peer: Peer) -> None:
        await peer.welcome()
        await peer.succeed(BaseCommand.CLOSE_PRODUCER, "close_producer")
        await peer.succeed(BaseCommand.CLOSE_CONSUMER, "close_consumer")

    async def story() -> None:
        async with listening(late) as url:
            opened = await connect(url)
            opened.start(commands.close_producer(1), "CLOSE_PRODUCER").cancel()
            await opened.start(commands.close_consumer(1), "CLOSE_CONSUMER")
            opened.close()

    run(story())


def test_there_is_a_limit_to_waiting_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_PENDING_REQUESTS", 3)

    async def story() -> None:
        async with listening(welcome) as url:
            opened = await connect(url)
            waiting = [opened.start(commands.new_txn(0, 1), "NEW_TXN") for _ in range(4)]
            with pytest.raises(ServerRefused, match="too many requests"):
                await waiting[3]
            assert not waiting[2].done()
            opened.close()

    run(story())


@pytest.mark.parametrize("way", ["drop", "hang up", "garbage", "refusal"])
def test_the_end_of_a_connection_is_the_end_of_all_on_it(way: str) -> None:
    async def end(peer: Peer) -> None:
        await peer.welcome()
        await peer.hear(BaseCommand.NEW_TXN)
        match way:
            case "hang up":
                peer.writer.close()
            case "garbage":
                peer.writer.write(bytes(100))
            case "refusal":
                peer.say(error(ServerError.NOT_ALLOWED_ERROR, "out"))

    async def story() -> None:
        async with listening(end) as url:
            opened = await connect(url)
            waiting = opened.start(commands.new_txn(0, 1), "NEW_TXN")
            if way == "drop":
                opened.drop(ConnectionLost("dropped"))
            reason = await opened.lost
            for future in (waiting, opened.start(commands.new_txn(0, 1), "NEW_TXN")):
                with pytest.raises(type(reason)):
                    await future
            with pytest.raises(type(reason)):
                await opened.drain()
            opened.tell(commands.flow(1, 1))
            opened.close()
            assert opened.lost.result() is reason

    run(story())


# --- Back-pressure ---


def test_drain_waits_for_a_peer_that_does_not_read() -> None:
    async def story() -> None:
        read = asyncio.Event()

        async def reluctant(peer: Peer) -> None:
            await peer.welcome()
            await read.wait()

        async with listening(reluctant) as url:
            opened = await connect(url)
            for sequence_id in range(40):
                opened.send(commands.send(1, sequence_id, 1, None), b"", bytes(1 << 20))
            draining = asyncio.create_task(opened.drain())
            done, _ = await asyncio.wait([draining], timeout=0.1)
            assert not done
            read.set()
            await draining
            opened.close()

    run(story())


def test_who_never_drains_loses_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_UNSENT_BYTES", 20 << 20)

    async def story() -> None:
        read = asyncio.Event()

        async def reluctant(peer: Peer) -> None:
            await peer.welcome()
            await read.wait()

        async with listening(reluctant) as url:
            opened = await connect(url)
            for sequence_id in range(60):
                if not opened.lost.done():
                    opened.send(commands.send(1, sequence_id, 1, None), b"", bytes(1 << 20))
            assert "unsent" in str(opened.lost.result())
            read.set()

    run(story())


def test_a_flood_of_pings_does_not_fill_our_memory() -> None:
    async def story() -> None:
        flooded = asyncio.Event()

        async def flood(peer: Peer) -> None:
            await peer.welcome()
            for _ in range(100):
                for _ in range(1000):
                    peer.say(PING)
                await peer.writer.drain()
            flooded.set()

        async with listening(flood) as url:
            opened = await connect(url)
            await flooded.wait()
            assert opened._transport is not None
            assert opened._transport.get_write_buffer_size() < 1 << 20
            opened.close()

    run(story())
