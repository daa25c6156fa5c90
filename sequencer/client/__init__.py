"""The library for applications: append with an expected version and learn what happened, and follow what was accepted.

    from sequencer.client import NO_AGGREGATE, EventStore

    async with EventStore() as store:
        await store.append("account-42", {"opened": True}, NO_AGGREGATE)
        async for event in store.subscribe():
            print(event.key, event.version, event.data)

`SyncEventStore` is the same for programs without asyncio.
"""

from sequencer.client.errors import (
    NotConnected,
    OutcomeUnknown,
    Rejected,
    SequenceGap,
    Undecodable,
    WrongExpectedVersion,
)
from sequencer.client.group import GroupSubscription
from sequencer.client.store import EventStore
from sequencer.client.subscription import Subscription
from sequencer.client.sync import SyncEventStore, SyncSubscription
from sequencer.client.values import (
    ANY,
    BEGINNING,
    END,
    JSON,
    NO_AGGREGATE,
    Appended,
    Checkpoint,
    Codec,
    NewEvent,
    Recorded,
    StoreSettings,
    json_codec,
)

__all__ = [
    "ANY",
    "BEGINNING",
    "END",
    "JSON",
    "NO_AGGREGATE",
    "Appended",
    "Checkpoint",
    "Codec",
    "EventStore",
    "GroupSubscription",
    "NewEvent",
    "NotConnected",
    "OutcomeUnknown",
    "Recorded",
    "Rejected",
    "SequenceGap",
    "StoreSettings",
    "Subscription",
    "SyncEventStore",
    "SyncSubscription",
    "Undecodable",
    "WrongExpectedVersion",
    "json_codec",
]
