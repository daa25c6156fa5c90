"""Stored entries as what they mean: those that were submitted, and those that stand in `events`. Pure.

Reading what was submitted never fails: an entry that cannot be opened is one `Flawed`, whose outcome keeps the entry's
bytes. `packing` goes the other way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from google.protobuf.message import Message
from msgspec.structs import replace

from sequencer import NeedsOperator
from sequencer.event import (
    FORWARDED_FROM,
    MAX_ENTRY_BYTES,
    MAX_ENTRY_MESSAGES,
    MAX_KEY_BYTES,
    MAX_LISTED_BYTES,
    MAX_REPLY_TO_BYTES,
    OUTCOME_BYTES,
    OUTCOME_PROPERTIES,
    PRIMING,
    REPLY_TO,
    BrokenContract,
    Envelope,
    Flawed,
    Member,
    Reason,
    Source,
    Submission,
    binary_envelope,
    structured_envelope,
    uuid_bytes,
)
from sequencer.plain import PlainBatch, holds_unknown_group, read_plain, read_plain_entries
from sequencer.pulsar.batches import decompress, split_batch
from sequencer.pulsar.errors import CorruptBatch
from sequencer.pulsar.frames import Entry, messages_counted
from sequencer.pulsar.pulsar_api_pb2 import CompressionType, MessageMetadata, SingleMessageMetadata

MAX_SCHEMA_VERSION_BYTES = 64
"""Longest schema version: the broker's own have 8 bytes. It is part of what an outcome adds to its messages."""

SMALL_BATCH_BYTES = 32 * 1024
"""Largest batch that is read together with its neighbours; what a larger one costs is in its messages."""

LIST_BYTES = 128 * 1024
MAX_LIST_GROWTH = 16
"""What a list may grow to, each event with its message's properties: so many bytes, or so many times its own. What a
transaction becomes stays within a small multiple of what it takes in; a list beyond it is `too_large`."""

FORWARDING_BYTES = 640
"""What a forwarded message has more than it had when it was submitted: `forwarded_from`, and its batch's `reply_to`.
Its outcome has room for that, since no outcome adds more than half of OUTCOME_BYTES."""

CHUNK_FIELDS: Final = (
    "uuid",
    "num_chunks_from_msg",
    "total_chunk_msg_size",
    "chunk_id",
    "compression",
    "uncompressed_size",
)
"""Metadata from which a client would put chunks together."""


# --- reading ---


def portions(entries: Sequence[Entry], max_messages: int) -> Iterator[Sequence[Entry]]:
    """The same entries in groups: each has one entry, or more with no more messages than that."""
    first = messages = 0
    for place, entry in enumerate(entries):
        added = messages_counted(entry)
        if place > first and messages + added > max_messages:
            yield entries[first:place]
            first, messages = place, 0
        messages += added
    yield entries[first:]


def read_submitted(entries: Sequence[Entry], max_message_bytes: int) -> list[Submission | Flawed | PlainBatch]:
    """Every message of submitted entries, in order: by columns where the messages are plain, else one by one.

    Columns are those of a batch, of small batches in a row, or of messages in a row that are in none.
    """
    read: list[Submission | Flawed | PlainBatch] = []
    for alike in _alike(entries):
        plain = _by_columns(alike, max_message_bytes)
        if plain is not None:
            read.append(plain)
        elif len(alike) > 1 and _is_batch(alike[0]):
            for entry in alike:
                read += read_submitted([entry], max_message_bytes)
        else:
            read += [one for entry in alike for one in read_entry(entry, max_message_bytes)]
    return read


def _alike(entries: Iterable[Entry]) -> Iterator[Sequence[Entry]]:
    """Large batches one by one, small ones together with their neighbours, and so what is in none."""
    for kind, group in groupby(entries, _kind):
        run = list(group)
        yield from ([entry] for entry in run) if kind is None else (run,)


def _kind(entry: Entry) -> tuple[object, ...] | None:
    """The same for entries that may be read together; None where one is read by itself."""
    metadata = entry.metadata
    if not _is_batch(entry):
        return ()
    if max(len(entry.payload), metadata.uncompressed_size) > SMALL_BATCH_BYTES:
        return None
    return metadata.compression, metadata.schema_version, _reply_to_of_batch(metadata)


def _is_batch(entry: Entry) -> bool:
    return entry.metadata.HasField("num_messages_in_batch")


def _by_columns(alike: Sequence[Entry], max_message_bytes: int) -> PlainBatch | None:
    """The messages of batches, or of entries that are none, where all of them are plain."""
    first = alike[0]
    read = read_plain_entries
    if _is_batch(first):
        if any(entry.metadata.encryption_keys or _refusal(entry) for entry in alike):
            return None
        read = read_plain
    return read(alike, _source(first), list(map(_position, alike)), max_message_bytes)


def read_entry(entry: Entry, max_message_bytes: int) -> list[Submission | Flawed]:
    """Every message of a submitted entry, in order; an entry that cannot be opened is one `Flawed` with index -1."""
    metadata = entry.metadata
    drop_groups(metadata)
    source = _source(entry)
    if refusal := _refusal(entry):
        return [_closed(entry, source, *refusal, max_message_bytes)]
    if metadata.encryption_keys:
        return [_read_sealed(entry, source, max_message_bytes)]
    try:
        payload = decompress(metadata.compression, entry.payload, metadata.uncompressed_size, MAX_ENTRY_BYTES)
        if not metadata.HasField("num_messages_in_batch"):
            single = _single_metadata(metadata, len(payload))
            return [_read_message(single, single.SerializeToString(), payload, source, -1, max_message_bytes, _Room())]
        if metadata.num_messages_in_batch < 1:
            raise CorruptBatch(f"a batch of {metadata.num_messages_in_batch} messages")
        room = _Room()
        return [
            _read_message(single, head, body, source, index, max_message_bytes, room)
            for index, (single, head, body) in enumerate(split_batch(payload, metadata.num_messages_in_batch))
        ]
    except CorruptBatch as broken:
        return [_closed(entry, source, Reason.MALFORMED, str(broken), max_message_bytes)]


def _source(entry: Entry) -> Source:
    metadata = entry.metadata
    schema_version = metadata.schema_version if len(metadata.schema_version) <= MAX_SCHEMA_VERSION_BYTES else b""
    return Source(_position(entry), metadata.compression, schema_version, None, _reply_to_of_batch(metadata))


def _position(entry: Entry) -> str:
    ledger, number, partition, _ = entry.message_id
    return f"{ledger}:{number}:{partition}:"


def _reply_to_of_batch(metadata: MessageMetadata) -> str:
    """What an open batch says for its messages. Every copy that is forwarded has it as its own property: there must be
    room for it."""
    if not metadata.HasField("num_messages_in_batch") or metadata.encryption_keys:
        return ""
    found = ""
    for field in metadata.properties:
        if field.key == REPLY_TO and isinstance(field.value, str) and len(field.value.encode()) <= MAX_REPLY_TO_BYTES:
            found = field.value
    return found


def drop_groups(metadata: MessageMetadata | SingleMessageMetadata) -> bool:
    """Take out the fields that nobody knows where one of them is a group, and say whether it was so.

    To the parser of Pulsar's broker and Java client, LightProto, a group is an error: one in `events` would end the
    topic's compaction, and stand in the way of every Java consumer. Other fields that nobody knows stay.
    """
    serialized = metadata.SerializePartialToString()
    metadata.DiscardUnknownFields()
    if len(metadata.SerializePartialToString()) == len(serialized):
        return False
    if _holds_group(type(metadata).FromString(serialized)):
        return True
    metadata.ParseFromString(serialized)
    return False


def _holds_group(message: Message) -> bool:
    if holds_unknown_group(message):
        return True
    inner = [value for field, value in message.ListFields() if field.message_type is not None]
    return any(_holds_group(one) for value in inner for one in (value if isinstance(value, Iterable) else (value,)))


class _Room:
    """What the lists of one entry may still grow to, so that a small entry cannot become a large burden.

    It does not depend on the broker's limit: whoever reads the entry again, with another one, must see the same.
    """

    def __init__(self) -> None:
        self.events = MAX_ENTRY_MESSAGES
        self._bytes = MAX_LISTED_BYTES

    def refusal(self, events: int, head_bytes: int, payload_bytes: int) -> str:
        """Takes room for a list whose events each get their message's metadata; says why where there is not so much."""
        self.events -= events
        grown = events * head_bytes + payload_bytes
        if grown > max(LIST_BYTES, MAX_LIST_GROWTH * (head_bytes + payload_bytes)):
            return f"{grown} bytes with its properties for every event, more than {MAX_LIST_GROWTH} times its own"
        if grown > self._bytes:
            return f"{grown} bytes with its properties for every event, {self._bytes} of {MAX_LISTED_BYTES} are left"
        self._bytes -= grown
        return ""


def _flawed(submission: Submission, reason: Reason, detail: str) -> Flawed:
    return Flawed(
        reason,
        detail,
        submission.id_text,
        submission.head,
        submission.clashing,
        submission.payload,
        submission.source,
        submission.batch_index,
        submission.reply_to,
    )


def _refusal(entry: Entry) -> tuple[Reason, str] | None:
    """Why an entry must stay closed, as far as its metadata tells."""
    metadata = entry.metadata
    if entry.damage:
        return Reason.MALFORMED, entry.damage
    if not metadata.IsInitialized():
        return Reason.MALFORMED, "its metadata lacks a required field"
    if (size := len(metadata.schema_version)) > MAX_SCHEMA_VERSION_BYTES:
        return Reason.MALFORMED, f"a schema version of {size} bytes, at most {MAX_SCHEMA_VERSION_BYTES} are kept"
    if metadata.num_chunks_from_msg > 1:
        return Reason.CHUNKED, "chunks are judged one by one"
    if metadata.encryption_keys:
        return None  # nobody here opens it, so its inner size is no burden
    if (count := metadata.num_messages_in_batch) > MAX_ENTRY_MESSAGES:
        return Reason.TOO_LARGE, f"{count} messages in one batch, at most {MAX_ENTRY_MESSAGES} are judged"
    if (size := metadata.uncompressed_size) > MAX_ENTRY_BYTES and metadata.compression != CompressionType.NONE:
        return Reason.TOO_LARGE, f"{size} bytes uncompressed, at most {MAX_ENTRY_BYTES} are opened"
    return None


def _read_message(
    single: SingleMessageMetadata, head: bytes, payload: bytes, source: Source, index: int, limit: int, room: _Room
) -> Submission | Flawed:
    """One message out of an entry. Runs once per submitted message: it allocates little and asks the likely first.

    Raises:
        CorruptBatch: its metadata lacks a required field; other clients could not read an outcome that has it.
    """
    clashing: SingleMessageMetadata | None = None
    properties: dict[str, str] | None = None
    envelope: Envelope | None = None
    reason, detail, id_text, reply_to = Reason.MALFORMED, "", "", source.reply_to
    key = single.partition_key
    fields = single.properties
    # Only a property, or the payload's size, can be incomplete; the parser does not mind.
    if (fields or not payload) and not single.IsInitialized():
        raise CorruptBatch(f"the metadata of message {index} lacks a required field")
    if drop_groups(single):
        head = single.SerializeToString()
    forwarded = False
    if fields:
        properties = {field.key: field.value for field in fields}
        reply_to = properties.get(REPLY_TO, reply_to)
        forwarded = FORWARDED_FROM in properties
        if not OUTCOME_PROPERTIES.isdisjoint(properties):
            clashing = single
    if single.compacted_out:
        # A flag of the broker's compaction, with which a publisher could hide the outcome from every consumer.
        single.ClearField("compacted_out")
        head = single.SerializeToString()
    # What forwarding has added must not make the difference between two partitions' verdicts.
    added = FORWARDING_BYTES if forwarded else 0
    limit += added
    try:
        envelope = _envelope(properties, payload, single, max(0, len(head) - added), room)
        id_text = envelope.id_text
    except BrokenContract as broken:
        reason, detail, id_text = broken.reason, broken.detail, broken.id_text
    if not key or single.null_partition_key:
        reason, detail = Reason.MISSING_KEY, "a message needs a partition key: the id of its aggregate"
    elif len(key) * 4 > MAX_KEY_BYTES and (refusal := _key_refusal(key)):
        reason, detail = Reason.MALFORMED, refusal
    elif type(key) is not str:
        reason, detail = Reason.MALFORMED, "the partition key is not UTF-8"
    elif envelope is not None and len(head) + len(payload) + OUTCOME_BYTES <= limit:
        event_id, expected = envelope.event_id, envelope.expected
        submission = Submission(
            key, event_id, id_text, expected, head, clashing, payload, source, index, forwarded, reply_to
        )
        return submission if envelope.members is None else _list_of(submission, single, envelope.members, limit)
    return _fitted(Flawed(reason, detail, id_text, head, clashing, payload, source, index, reply_to), limit)


def _list_of(
    submission: Submission, single: SingleMessageMetadata, members: Sequence[Member], limit: int
) -> Submission | Flawed:
    """The submission with the events of its list: the list's metadata, to which each adds its own attributes."""
    events = []
    shared = _with_attributes(single, {})
    for member in members:
        own = _with_attributes(single, member.attributes) if member.attributes or submission.clashing else shared
        own.payload_size = len(member.payload)
        head = own.SerializeToString()
        if len(head) + len(member.payload) + OUTCOME_BYTES > limit:
            return _fitted(_flawed(submission, Reason.TOO_LARGE, "an event of the list, with its properties"), limit)
        events.append(
            Submission(
                submission.key,
                member.event_id,
                member.id_text,
                submission.expected,
                head,
                submission.clashing and own,
                member.payload,
                submission.source,
                submission.batch_index,
                submission.forwarded,
            )
        )
    return replace(submission, several=tuple(events))


def _with_attributes(single: SingleMessageMetadata, attributes: Mapping[str, str]) -> SingleMessageMetadata:
    """A copy with these properties; they replace others of the same name."""
    copy = SingleMessageMetadata()
    copy.CopyFrom(single)
    if attributes:
        kept = [field for field in single.properties if field.key not in attributes]
        del copy.properties[:]
        copy.properties.extend(kept)
        for name, value in attributes.items():
            copy.properties.add(key=name, value=value)
    return copy


def _envelope(
    properties: dict[str, str] | None, payload: bytes, single: SingleMessageMetadata, head_bytes: int, room: _Room
) -> Envelope:
    if not payload or single.null_value:
        raise BrokenContract("empty payload: compaction would take the event for a tombstone")
    if properties is not None and "id" in properties:
        return binary_envelope(properties)
    envelope = structured_envelope(payload, room.events)
    if envelope.members and (refusal := room.refusal(len(envelope.members), head_bytes, len(payload))):
        raise BrokenContract(refusal, envelope.id_text, Reason.TOO_LARGE)
    return envelope


def _key_refusal(key: str | bytes) -> str:
    length = len(key.encode() if isinstance(key, str) else key)
    return f"a key of {length} bytes, at most {MAX_KEY_BYTES} are allowed" if length > MAX_KEY_BYTES else ""


def _fitted(flawed: Flawed, limit: int) -> Flawed:
    """The same, small enough for its outcome: beyond the broker's limit it keeps its properties only, or nothing."""
    size = len(flawed.head) + len(flawed.payload) + OUTCOME_BYTES
    if size <= limit:
        return flawed
    single = SingleMessageMetadata.FromString(flawed.head)
    single.payload_size = 0
    if single.ByteSize() + OUTCOME_BYTES > limit:
        single = SingleMessageMetadata(payload_size=0)
    detail = f"{size} bytes with its outcome, the broker takes at most {limit}"
    return replace(
        flawed,
        # All chunks but the last are as large as a message may be; that they are chunks says more.
        reason=flawed.reason if flawed.reason == Reason.CHUNKED else Reason.TOO_LARGE,
        detail=detail,
        head=single.SerializeToString(),
        clashing=single if flawed.clashing else None,
        payload=b"",
        # Nobody could decrypt a payload that is not there, and how it was compressed nobody needs to know.
        source=flawed.source._replace(sealed=None, compression=CompressionType.NONE),
    )


def _closed(entry: Entry, source: Source, reason: Reason, detail: str, limit: int) -> Flawed:
    """An entry that stays closed: one outcome for all of it, with its bytes as they were stored."""
    head = _single_metadata(entry.metadata, len(entry.payload))
    clashing = head if any(field.key in OUTCOME_PROPERTIES for field in head.properties) else None
    kept = source._replace(compression=CompressionType.NONE)
    if entry.metadata.encryption_keys and entry.metadata.IsInitialized():
        sealed = _to_decrypt(entry.metadata)
        kept = source._replace(sealed=sealed)
        limit += head.ByteSize() - sealed.ByteSize()
    return _fitted(Flawed(reason, detail, "", head.SerializeToString(), clashing, entry.payload, kept, -1), limit)


def _to_decrypt(metadata: MessageMetadata) -> MessageMetadata:
    """What whoever has the key needs to get at the bytes of a closed entry; to his client they are one message's."""
    sealed = MessageMetadata()
    sealed.CopyFrom(metadata)
    sealed.ClearField("num_messages_in_batch")
    if sealed.num_chunks_from_msg > 1:
        # A chunk is a piece of what was compressed, and the others stand elsewhere.
        for name in CHUNK_FIELDS:
            sealed.ClearField(name)
    return sealed


def _read_sealed(entry: Entry, source: Source, limit: int) -> Submission | Flawed:
    """An encrypted entry: in binary mode a single message can be judged by its properties and travel on unopened."""
    if entry.metadata.HasField("num_messages_in_batch"):
        count = entry.metadata.num_messages_in_batch
        detail = f"the keys of an encrypted batch cannot be seen; messages in it: {count}"
        return _closed(entry, source, Reason.ENCRYPTED, detail, limit)
    single = _single_metadata(entry.metadata, len(entry.payload))
    if all(field.key != "id" for field in single.properties):
        return _closed(entry, source, Reason.ENCRYPTED, "an encrypted event needs its id as a property", limit)
    head = single.SerializeToString()
    # The entry's whole metadata travels on, not only what is in the message's head.
    limit += len(head) - entry.metadata.ByteSize()
    read = _read_message(single, head, entry.payload, source._replace(sealed=entry.metadata), -1, limit, _Room())
    if isinstance(read, Submission) and not _survives_compaction(entry.metadata):
        detail = f"an uncompressed size of {entry.metadata.uncompressed_size}: compaction would take it for a tombstone"
        return _flawed(read, Reason.MALFORMED, detail)
    return read


def _survives_compaction(metadata: MessageMetadata) -> bool:
    """Of a message that is in no batch, compaction asks for the stated size, as a Java int, and drops the aggregate
    where that is not above 0 (AbstractTwoPhaseCompactor of Pulsar 4)."""
    return not metadata.HasField("uncompressed_size") or 0 < metadata.uncompressed_size < 2**31


def _single_metadata(metadata: MessageMetadata, payload_bytes: int) -> SingleMessageMetadata:
    """What an unbatched entry's metadata says of its message, in the form that it has inside a batch."""
    single = SingleMessageMetadata(payload_size=payload_bytes)
    single.properties.extend(field for field in metadata.properties if field.IsInitialized())
    if metadata.HasField("partition_key"):
        _set_key(single, metadata.partition_key)
    for name in ("partition_key_b64_encoded", "event_time", "ordering_key"):
        if metadata.HasField(name):
            setattr(single, name, getattr(metadata, name))
    for name in ("null_value", "null_partition_key"):
        if getattr(metadata, name):
            setattr(single, name, True)
    return single


def _set_key(single: SingleMessageMetadata, key: str | bytes) -> None:
    if isinstance(key, str):
        single.partition_key = key
    else:
        # A string field that is not UTF-8 can be parsed, not assigned: field 2, in the form of field 7, which is bytes.
        single.MergeFromString(b"\x12" + SingleMessageMetadata(ordering_key=key).SerializePartialToString()[1:])


# --- reading back ---


class StoredEvent(NamedTuple):
    """What the index needs of an accepted event that stands in `events`."""

    key: str
    event_id: bytes
    version: int
    sequence: int
    accepted_at_ms: int
    """When its owner published it, Unix time."""
    position: str


class ForeignWriter(NeedsOperator):
    """`events`-n is not as a single sequencer writes it: somebody else wrote there. The partition must not go on."""


def is_priming(entry: Entry) -> bool:
    """Whether an entry of an output is the one that stands there from the time before there were any: see PRIMING."""
    return entry.payload == PRIMING and not entry.metadata.partition_key and not entry.metadata.properties


def read_events(entry: Entry) -> Iterator[StoredEvent]:
    """The accepted events of an entry of `events`; what compaction has taken out of a batch is passed over.

    Raises:
        ForeignWriter: the entry holds something that the sequencer does not write.
    """
    if is_priming(entry):
        return
    metadata = entry.metadata
    at = _position(entry)
    if entry.damage:
        raise ForeignWriter(f"message {at}-1: {entry.damage}")
    try:
        if not metadata.HasField("num_messages_in_batch"):
            singles = [_single_metadata(metadata, len(entry.payload))]
        else:
            payload = decompress(metadata.compression, entry.payload, metadata.uncompressed_size, MAX_ENTRY_BYTES)
            singles = [single for single, _, _ in split_batch(payload, metadata.num_messages_in_batch)]
    except CorruptBatch as broken:
        raise ForeignWriter(f"message {at}-1: {broken}") from None
    for index, single in enumerate(singles):
        if not single.compacted_out:
            yield _stored_event(single, metadata.publish_time, f"{at}{index}")


def _stored_event(single: SingleMessageMetadata, accepted_at_ms: int, position: str) -> StoredEvent:
    properties = {field.key: field.value for field in single.properties}
    try:
        if not isinstance(single.partition_key, str):
            raise TypeError("the partition key is not UTF-8")
        return StoredEvent(
            single.partition_key,
            uuid_bytes(properties["id"]),
            _count(properties["version"]),
            _count(properties["sequence"]),
            accepted_at_ms,
            position,
        )
    except (KeyError, ValueError, TypeError) as broken:
        raise ForeignWriter(f"message {position}: not written by a sequencer: {broken!r}") from None


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise ValueError(f"{text[:40]} is not a version or sequence")
    return number
