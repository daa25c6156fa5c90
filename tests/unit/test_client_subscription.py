"""What becomes of a subscription that nobody waits for any more."""

from __future__ import annotations

import asyncio

import pytest

from sequencer.client.subscription import Subscription
from sequencer.client.values import BEGINNING, StoreSettings, json_codec
from sequencer.names import Topics


def test_a_subscription_that_is_given_up_while_it_begins_lets_go_of_its_connection() -> None:
    """`async with` does not end what it could not enter; as a member of a group it would keep partitions to itself."""
    connected, left = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        while await reader.read(1024):
            pass
        writer.close()
        left.set()

    async def story() -> None:
        async with asyncio.timeout(10), await asyncio.start_server(silent, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            settings = StoreSettings(service_url=f"pulsar://{host}:{port}")
            subscription = Subscription(settings, Topics(), [0], BEGINNING, json_codec(int))
            entering = asyncio.create_task(subscription.__aenter__())
            await connected.wait()
            entering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await entering
            assert not subscription._lives.running, "at once, not when the connection gives up by itself"
            await left.wait()

    asyncio.run(story())
