"""Between stored entries and the verifier's records. Pure.

Submissions are read with the code that the sequencer reads them with: what breaks the contract is its decision, and the
invariants are about what follows. Outcomes are read here, from what they say, whoever wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from sequencer.entries import is_priming, read_entry
from sequencer.event import FORWARDED_FROM, MAX_ENTRY_BYTES, BrokenContract, Submission, uuid_bytes
from sequencer.pulsar.batches import decompress, split_batch
from sequencer.pulsar.errors import CorruptBatch
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata
from sequencer.verify.verifier import UNREADABLE, Accepted, Rejected, Submitted

NO_LIMIT_BYTES: Final = 2**31  # an event that was too large for its outcome is an event all the same
MAX_DIGITS: Final = 19
_FORWARDED_FROM: Final = FORWARDED_FROM.encode()


def submitted_records(entry: Entry) -> Iterator[Submitted]:
    """The messages of an entry of submitted_events; an entry that cannot be opened is one."""
    for message in read_entry(entry, NO_LIMIT_BYTES):
        message_id = entry.message_id._replace(batch_index=message.batch_index)
        origin = None
        if _FORWARDED_FROM in message.head:
            origin = _properties(SingleMessageMetadata.FromString(message.head)).get(FORWARDED_FROM)
        if isinstance(message, Submission):
            members = tuple(member.event_id for member in message.several or ())
            yield Submitted(message_id, message.key, message.event_id, message.expected, origin, members)
        else:
            yield Submitted(message_id, _key(SingleMessageMetadata.FromString(message.head)), None, None, origin)


def accepted_records(entry: Entry) -> Iterator[Accepted]:
    """The messages of an entry of events."""
    for message_id, key, properties in _outcomes(entry):
        yield Accepted(
            message_id,
            key,
            _event_id(properties.get("id")),
            _number(properties.get("version", "")),
            _number(properties.get("sequence", "")),
            properties.get("submission", ""),
            entry.metadata.publish_time,
            properties.get(FORWARDED_FROM),
        )


def rejected_records(entry: Entry) -> Iterator[Rejected]:
    """The messages of an entry of rejected_events."""
    for message_id, key, properties in _outcomes(entry):
        yield Rejected(
            message_id,
            key,
            properties.get("reason", ""),
            properties.get("submission", ""),
            _event_id(properties.get("id")),
            _number_if_given(properties, "expected_version"),
            _number_if_given(properties, "current_version"),
            _number_if_given(properties, "accepted_version"),
            properties.get(FORWARDED_FROM),
            entry.metadata.publish_time,
        )


def _outcomes(entry: Entry) -> Iterator[tuple[MessageId, str | None, Mapping[str, str]]]:
    """Message id, key and properties; an entry that cannot be opened is one outcome that says nothing."""
    if is_priming(entry):
        return
    metadata = entry.metadata
    try:
        if entry.damage:
            raise CorruptBatch(entry.damage)
        if not metadata.HasField("num_messages_in_batch"):
            yield entry.message_id._replace(batch_index=-1), _key(metadata), _properties(metadata)
            return
        payload = decompress(metadata.compression, entry.payload, metadata.uncompressed_size, MAX_ENTRY_BYTES)
        singles = [single for single, _, _ in split_batch(payload, metadata.num_messages_in_batch)]
    except CorruptBatch:
        yield entry.message_id._replace(batch_index=-1), None, {}
        return
    for index, single in enumerate(singles):
        yield entry.message_id._replace(batch_index=index), _key(single), _properties(single)


def _key(metadata: SingleMessageMetadata | MessageMetadata) -> str | None:
    key: str | bytes = metadata.partition_key
    # A key that is not UTF-8 comes as bytes.
    return (key if isinstance(key, str) else key.decode(errors="surrogateescape")) or None


def _properties(metadata: SingleMessageMetadata | MessageMetadata) -> dict[str, str]:
    return {
        field.key: field.value if isinstance(field.value, str) else field.value.decode(errors="replace")
        for field in metadata.properties
    }


def _event_id(text: str | None) -> bytes | None:
    try:
        return None if text is None else uuid_bytes(text)
    except BrokenContract:
        return None


def _number(text: str) -> int:
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS:
        return int(text)
    return UNREADABLE


def _number_if_given(properties: Mapping[str, str], name: str) -> int | None:
    return _number(properties[name]) if name in properties else None
