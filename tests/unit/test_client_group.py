"""Commits of a group's member that the broker does not take."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sequencer.client.group import GroupSubscription
from sequencer.client.values import BEGINNING, JSON, Recorded, StoreSettings
from sequencer.names import Topics
from sequencer.pulsar.client import Consumer
from sequencer.pulsar.errors import ServerError, ServerRefused
from sequencer.pulsar.frames import MessageId
from sequencer.pulsar.ports import fail


class Refusing:
    """In place of a consumer that lives, and whose acknowledgements are refused."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ack_up_to(self, message_id: MessageId, batch_size: int) -> asyncio.Future[None]:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        fail(answer, ServerRefused("ACK", ServerError.NOT_ALLOWED_ERROR, "no"))
        return answer


def test_a_refused_commit_is_told_and_not_waited_for() -> None:
    async def story() -> None:
        member: GroupSubscription[Any] = GroupSubscription(StoreSettings(), Topics(), [0], BEGINNING, JSON, "g")
        member._consumers[0] = cast(Consumer, Refusing())
        event = cast(Recorded[Any], SimpleNamespace(partition=0, position=MessageId(1, 2), batch_size=1))
        for _ in range(2):
            with pytest.raises(ServerRefused, match="no"):
                await member.commit(event)

    asyncio.run(story())
