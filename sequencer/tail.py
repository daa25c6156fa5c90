"""`sequencer tail`: what is on the topics, as JSON lines, read by the official client.

Where the end is comes from our own client: GetLastMessageId names the last message that can be read, skipping
transaction markers, aborted messages and everything behind an open transaction. Stopping there cannot hang, as "read
until nothing comes" and "read to the ledger's end" do.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import pulsar

from sequencer import SequencerError
from sequencer.names import partition_of, short_name
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.frames import MessageId
from sequencer.topics import partition_count

POLL_MS = 500
"""How long the official client is left alone with a read: Ctrl-C waits for it."""
STALL_LIMIT_S = 15.0
"""How long a message that the broker has named as the last one may fail to arrive."""


class TailIncomplete(SequencerError):
    """The last message of a partition did not arrive: damaged, a part of an unfinished chunked message, or trimmed."""


class Message(NamedTuple):
    """One message of a topic, as `tail` shows it."""

    message_id: MessageId
    key: str | None
    properties: dict[str, str]
    payload: bytes

    def json_line(self) -> bytes:
        """{"key", "properties", "data" or "data_base64", "message_id", "partition"} and a line feed.

        A payload that is JSON is shown as `data`, its numbers as they were written; any other one as `data_base64`,
        the name that CloudEvents gives it.
        """
        line: dict[str, object] = {"key": self.key, "properties": self.properties}
        as_json = _compact_json(self.payload)
        if as_json is not None:
            line["data"] = msgspec.Raw(as_json)
        else:
            line["data_base64"] = base64.b64encode(self.payload).decode()
        line["message_id"] = str(self.message_id)
        line["partition"] = self.message_id.partition
        return msgspec.json.encode(line) + b"\n"


def _compact_json(payload: bytes) -> bytes | None:
    """The payload as JSON on one line; None where it is not JSON."""
    try:
        payload.decode()
        return msgspec.json.format(payload, indent=-1)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None


async def last_messages(client: PulsarClient, topic: str) -> dict[int, MessageId]:
    """The last readable message of every partition that has one.

    Raises: TopicMissing, PulsarError.
    """
    ends = {}
    for partition in range(await partition_count(client, topic)):
        reader = await client.reader(partition_of(topic, partition))
        last = await reader.last_message_id()
        await reader.close()
        if last.ledger >= 0:
            ends[partition] = last._replace(partition=partition)
    return ends


def read_topic(client: Any, topic: str, ends: Mapping[int, MessageId]) -> Iterator[Message]:
    """Every message of a topic up to the given ends; in order within a partition, partitions interleaved.

    Args:
        client: an official client.
        ends: from `last_messages`.

    Raises: TailIncomplete, pulsar.PulsarException.
    """
    open_ends = dict(ends)
    if not open_ends:
        return
    reader = client.create_reader(
        topic, pulsar.MessageId.earliest, crypto_failure_action=pulsar.ConsumerCryptoFailureAction.CONSUME
    )
    deadline = time.monotonic() + STALL_LIMIT_S
    while open_ends:
        message = next_message(reader, POLL_MS)
        if message is None:
            if time.monotonic() > deadline:
                end = min(open_ends.values())
                raise TailIncomplete(
                    f"{short_name(topic)}: the last message {end} did not arrive within {STALL_LIMIT_S:.0f} s"
                )
            continue
        deadline = time.monotonic() + STALL_LIMIT_S
        at = message.message_id
        end_of_partition = open_ends.get(at.partition)
        if end_of_partition is None:
            continue
        if at[:2] <= end_of_partition[:2]:
            yield message
        if _reached(at, end_of_partition):
            del open_ends[at.partition]


def _reached(at: MessageId, end: MessageId) -> bool:
    """Whether nothing before `end` can follow. An encrypted batch comes as one message, without an index of its own."""
    if at[:2] != end[:2]:
        return at[:2] > end[:2]
    return at.batch_index < 0 or at.batch_index >= end.batch_index


def follow_topic(client: Any, topic: str, *, from_latest: bool) -> Iterator[Message]:
    """Every message from the first, or from now on, without end.

    Raises: pulsar.PulsarException.
    """
    start = pulsar.MessageId.latest if from_latest else pulsar.MessageId.earliest
    reader = client.create_reader(topic, start, crypto_failure_action=pulsar.ConsumerCryptoFailureAction.CONSUME)
    while True:
        message = next_message(reader, POLL_MS)
        if message is not None:
            yield message


def next_message(reader: Any, timeout_ms: int) -> Message | None:
    """The next message of an official reader; None where none came in time.

    Raises: pulsar.PulsarException.
    """
    try:
        message = reader.read_next(timeout_ms)
    except pulsar.Timeout:
        return None
    at = message.message_id()
    return Message(
        MessageId(at.ledger_id(), at.entry_id(), at.partition(), at.batch_index()),
        message.partition_key() or None,
        dict(message.properties()),
        message.data(),
    )
