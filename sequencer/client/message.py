"""How an append looks on the wire: one structured message, whether it holds one event or several. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import msgspec

from sequencer.client.values import AnyVersion, Codec, NewEvent
from sequencer.event import (
    MAX_KEY_BYTES,
    MAX_LIST_EVENTS,
    MAX_VERSION,
    NO_AGGREGATE,
    REPLY_TO,
    BrokenContract,
    uuid_bytes,
)
from sequencer.pulsar.batches import join_batch
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata

_check_json = msgspec.json.Decoder(msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode


class Message(NamedTuple):
    """An append, ready to be sent as often as it takes."""

    id_text: str
    """What the reply names it by: the event's id, or for a list one that is made up for it."""
    ids: tuple[str, ...]
    """Of the events, in order."""
    head: bytes
    """Serialized SingleMessageMetadata."""
    payload: bytes


def message_of(
    key: str,
    events: Sequence[NewEvent[Any]],
    expected: int | AnyVersion,
    codec: Codec[Any],
) -> Message:
    """The message that submits `events`.

    Raises:
        ValueError: the key, the expected version, an id or what the codec gave breaks the contract.
    """
    _check_key(key)
    _check_expected(expected)
    if not 1 <= len(events) <= MAX_LIST_EVENTS:
        raise ValueError(f"{len(events)} events, 1 to {MAX_LIST_EVENTS} can be appended at once")
    ids = tuple(checked_id(event.id) for event in events)
    if len(ids) > 1 and len({uuid_bytes(text) for text in ids}) < len(ids):
        raise ValueError("two of the events have the same id")
    version = "null" if isinstance(expected, AnyVersion) else str(expected)
    attributes: dict[str, str] = {}
    if len(events) == 1:
        id_text = ids[0]
        attributes = events[0].attributes()
        content = b'"data":' + _data(events[0], codec)
    else:
        id_text = str(uuid4())
        members = [
            _encode({"id": text, "data": msgspec.Raw(_data(event, codec)), **event.attributes()})
            for text, event in zip(ids, events, strict=True)
        ]
        content = b'"events":[' + b",".join(members) + b"]"
    payload = f'{{"id":"{id_text}","version":{version},'.encode() + content + b"}"
    return Message(id_text, ids, _head(key, len(payload), attributes), payload)


def _head(key: str, payload_bytes: int, attributes: dict[str, str]) -> bytes:
    head = SingleMessageMetadata(partition_key=key, payload_size=payload_bytes)
    for name, value in attributes.items():
        head.properties.add(key=name, value=value)
    return head.SerializeToString()


def _check_key(key: str) -> None:
    size_bytes = len(key.encode())
    if not 1 <= size_bytes <= MAX_KEY_BYTES:
        raise ValueError(f"a key of {size_bytes} bytes, 1 to {MAX_KEY_BYTES} are allowed")


def _check_expected(expected: int | AnyVersion) -> None:
    if isinstance(expected, AnyVersion):
        return
    if isinstance(expected, bool) or not isinstance(expected, int) or not NO_AGGREGATE <= expected <= MAX_VERSION:
        raise ValueError(f"not an expected version: {expected!r} (ANY, NO_AGGREGATE or a version)")


def checked_id(event_id: str | UUID | None) -> str:
    """The id of an event as text; a random one where there is none.

    Raises:
        ValueError: it is not a UUID.
    """
    if event_id is None:
        # Random: nothing here needs ids in the order of time, and a clock that is set back cannot repeat one.
        return str(uuid4())
    text = str(event_id)
    try:
        uuid_bytes(text)
    except BrokenContract as broken:
        raise ValueError(broken.detail) from None
    return text


def _data(event: NewEvent[Any], codec: Codec[Any]) -> bytes:
    data = codec.encode(event.data)
    try:
        if not data.isascii():
            data.decode()
        _check_json(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as broken:
        raise ValueError(f"what the codec gave is not JSON: {broken}") from None
    return data


def batch_of(messages: Sequence[Message], reply_to: str) -> tuple[bytes, bytes]:
    """Metadata and payload of the entry that holds the messages, all of which are answered on one topic."""
    payload = join_batch([(message.head, message.payload) for message in messages])
    metadata = MessageMetadata(num_messages_in_batch=len(messages), uncompressed_size=len(payload))
    metadata.properties.add(key=REPLY_TO, value=reply_to)
    return metadata.SerializePartialToString(), payload
