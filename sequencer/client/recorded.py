"""Accepted events as a subscription gives them: out of the entries of `events`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from sequencer.client.errors import SequenceGap, Undecodable
from sequencer.client.values import ATTRIBUTES, Checkpoint, Codec, PartitionPoint, Recorded, T
from sequencer.entries import is_priming
from sequencer.event import MAX_ENTRY_BYTES
from sequencer.pulsar.batches import decompress, split_batch
from sequencer.pulsar.errors import CorruptBatch
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata


class Stored(NamedTuple):
    """An accepted event as it stands in `events`, its payload not looked at yet."""

    partition: int
    position: MessageId
    key: str
    version: int
    sequence: int
    properties: dict[str, str]
    payload: bytes
    published_at_ms: int
    batch_size: int
    """Messages in its entry."""


class _Structured(msgspec.Struct, gc=False):
    id: str
    data: msgspec.Raw


_decode_structured = msgspec.json.Decoder(_Structured).decode


def read_new(entry: Entry, partition: int, point: PartitionPoint) -> tuple[list[Stored], PartitionPoint]:
    """The events of an entry that come after `point`, and the point after them.

    Raises:
        SequenceGap: one of them is not the next.
        Undecodable: the entry is damaged, or it was not written by a sequencer.
    """
    events: list[Stored] = []
    next_sequence, last = point
    for event in _read(entry, partition):
        if event.position <= last:
            if next_sequence is not None and event.sequence >= next_sequence:
                # A checkpoint of another topic, or of one that was made anew: everything would be passed over for ever.
                raise SequenceGap(partition, str(event.position), next_sequence, event.sequence)
            continue
        if next_sequence is not None and event.sequence != next_sequence:
            raise SequenceGap(partition, str(event.position), next_sequence, event.sequence)
        next_sequence, last = event.sequence + 1, event.position
        events.append(event)
    return events, PartitionPoint(next_sequence, last)


def _read(entry: Entry, partition: int) -> list[Stored]:
    if is_priming(entry):
        return []
    metadata = entry.metadata
    at = entry.message_id._replace(partition=partition, batch_index=-1)
    try:
        if entry.damage:
            raise CorruptBatch(entry.damage)
        if metadata.encryption_keys:
            return [_stored(metadata, entry.payload, at, metadata, 1)]
        data = decompress(metadata.compression, entry.payload, metadata.uncompressed_size, MAX_ENTRY_BYTES)
        if not metadata.HasField("num_messages_in_batch"):
            return [_stored(metadata, data, at, metadata, 1)]
        size = metadata.num_messages_in_batch
        return [
            _stored(single, payload, at._replace(batch_index=index), metadata, size)
            for index, (single, _, payload) in enumerate(split_batch(data, size))
            if not single.compacted_out and not _acknowledged(entry.ack_set, index)
        ]
    except (CorruptBatch, KeyError, ValueError) as broken:
        raise Undecodable(partition, str(at), str(broken)) from broken


def _acknowledged(ack_set: Sequence[int], index: int) -> bool:
    """Whether a group has acknowledged a message of a batch of which the rest is still to be read."""
    word, bit = divmod(index, 64)
    return word < len(ack_set) and not ack_set[word] >> bit & 1


def _stored(
    message: MessageMetadata | SingleMessageMetadata,
    payload: bytes,
    position: MessageId,
    entry: MessageMetadata,
    batch_size: int,
) -> Stored:
    properties = {field.key: field.value for field in message.properties}
    return Stored(
        position.partition,
        position,
        message.partition_key,
        int(properties["version"]),
        int(properties["sequence"]),
        properties,
        payload,
        entry.publish_time,
        batch_size,
    )


def recorded(stored: Stored, checkpoint: Checkpoint, codec: Codec[T]) -> Recorded[T]:
    """The event with its data decoded.

    An event was submitted in structured mode if its payload is a JSON object that has `data` and this event's own
    `id`; then its data is what `codec.decode` makes of `data`. Any other payload goes through `codec.binary`.

    Raises:
        Undecodable: the codec does not take it.
    """
    properties = stored.properties
    event_id = properties.get("id", "")
    try:
        own = _structured(stored.payload, event_id)
        data = codec.binary(stored.payload) if own is None else codec.decode(own)
    except Exception as wrong:  # somebody else's functions, anything may come
        raise Undecodable(stored.partition, str(stored.position), str(wrong)) from wrong
    return Recorded(
        key=stored.key,
        version=stored.version,
        sequence=stored.sequence,
        partition=stored.partition,
        id=event_id,
        data=data,
        attributes={name: properties[name] for name in ATTRIBUTES if name in properties},
        properties=properties,
        position=stored.position,
        published_at_ms=stored.published_at_ms,
        batch_size=stored.batch_size,
        checkpoint=checkpoint,
    )


def _structured(payload: bytes, event_id: str) -> bytes | None:
    """`data` of a structured payload; None where it is none."""
    try:
        found = _decode_structured(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return bytes(found.data) if found.id == event_id else None
