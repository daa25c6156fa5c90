"""Outcomes as entries: what an outcome's message says, and as many of them in an entry as may share one. Pure.

Packing never fails: whatever could grow beyond the broker's message limit was already read as `too_large`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from sequencer.event import (
    ACCEPTED_PROPERTIES,
    OUTCOME_BYTES,
    REJECTED_PROPERTIES,
    REPLY_TO,
    Accepted,
    Flawed,
    Forwarded,
    Rejected,
    Source,
    Submission,
    accepted_properties,
    forwarded_property,
    rejected_properties,
    reply_property,
    with_accepted_properties,
)
from sequencer.plain import AcceptedRun
from sequencer.pulsar.batches import compress, join_columns
from sequencer.pulsar.pulsar_api_pb2 import CompressionType, MessageMetadata, SingleMessageMetadata

OUTPUT_BATCH_BYTES = 1024 * 1024
"""Uncompressed bytes after which an output entry is closed and another begun."""

OUTPUT_BATCH_MESSAGES = 10_000
"""Messages after which an output entry is closed and another begun."""

SENDERS_OWN_FIELDS: Final = (
    "producer_name",
    "sequence_id",
    "publish_time",
    "highest_sequence_id",
    "replicated_from",
    "replicate_to",
    "deliver_at_time",
    "marker_type",
    "txnid_least_bits",
    "txnid_most_bits",
)
"""Metadata that says how an entry was sent, not what it says: an outcome has its own."""


class Output(NamedTuple):
    """One entry to be sent: metadata without the fields that the producer adds, and the payload as on the wire."""

    metadata: bytes
    payload: bytes
    num_messages: int


class Messages(NamedTuple):
    """Consecutive messages of one output that come from one submitted entry, in two columns."""

    heads: Sequence[bytes]
    """Of each its serialized SingleMessageMetadata."""
    payloads: Sequence[bytes]
    source: Source


def accepted_in(outcomes: Iterable[Accepted | AcceptedRun | Rejected | Forwarded]) -> list[Messages]:
    """What goes to `events`."""
    return [accepted_messages(outcome) for outcome in outcomes if isinstance(outcome, Accepted | AcceptedRun)]


def accepted_messages(outcome: Accepted | AcceptedRun) -> Messages:
    """An accepted event, the events of an accepted list, or a whole run."""
    if isinstance(outcome, AcceptedRun):
        batch, versions, sequence = outcome.batch, outcome.versions, outcome.sequence
        position = batch.source.position
        heads = with_accepted_properties(
            batch.bare_heads, batch.id_texts, versions, sequence, position, batch.batch_indexes
        )
        return Messages(heads, batch.payloads, batch.source)
    submission, version, sequence = outcome.submission, outcome.version, outcome.sequence
    submitted_as = f"{submission.source.position}{submission.batch_index}"
    heads, payloads = [], []
    for event in submission.several or (submission,):
        properties = accepted_properties(event.id_text, version, sequence, submitted_as)
        heads.append(_head(event, ACCEPTED_PROPERTIES) + properties)
        payloads.append(event.payload)
        version, sequence = version + 1, sequence + 1
    return Messages(heads, payloads, submission.source)


def rejected_message(rejected: Rejected) -> Messages:
    """A rejected event."""
    submission = rejected.submission
    submitted_as = f"{submission.source.position}{submission.batch_index}"
    head = _head(submission, REJECTED_PROPERTIES) + rejected_properties(rejected, submitted_as)
    return Messages([head], [submission.payload], submission.source)


def forwarded_message(forwarded: Forwarded) -> Messages:
    """A message on its way to its own partition: nothing of it changes.

    What its batch said for it, it says itself now: the copies of several batches may travel in one.
    """
    submission = forwarded.submission
    head = submission.head + forwarded_property(f"{submission.source.position}{submission.batch_index}")
    if submission.source.reply_to:
        own = SingleMessageMetadata.FromString(head).properties
        if all(field.key != REPLY_TO for field in own):
            head += reply_property(submission.reply_to)
    return Messages([head], [submission.payload], submission.source)


def _head(submission: Submission | Flawed, replaced: frozenset[str]) -> bytes:
    if submission.clashing is None:
        return submission.head
    single = SingleMessageMetadata()
    single.CopyFrom(submission.clashing)
    kept = [field for field in submission.clashing.properties if field.key not in replaced]
    del single.properties[:]
    single.properties.extend(kept)
    return single.SerializeToString()


def pack(outcomes: Iterable[Messages], max_message_bytes: int) -> Iterator[Output]:
    """Outcomes as entries, in order: one batch as long as compression and schema stay the same and the size allows.

    Args:
        max_message_bytes: the broker's limit for metadata and payload of one entry.
    """
    limit = min(OUTPUT_BATCH_BYTES, max_message_bytes - OUTCOME_BYTES)
    heads: list[bytes] = []
    payloads: list[bytes] = []
    size, source = 0, None
    for messages, added in _with_room(outcomes, limit):
        full = size + added > limit or len(heads) + len(messages.heads) > OUTPUT_BATCH_MESSAGES
        if heads and (full or not _may_share(messages.source, source)):
            yield _batch(heads, payloads, source)
            heads, payloads, size = [], [], 0
        source = messages.source
        if source.sealed is not None:
            yield _sealed(messages.heads[0], messages.payloads[0], source.sealed)
            continue
        heads += messages.heads
        payloads += messages.payloads
        size += added
    if heads:
        yield _batch(heads, payloads, source)


def _with_room(outcomes: Iterable[Messages], limit: int) -> Iterator[tuple[Messages, int]]:
    """The same messages and their size, but one by one where they are too large for one entry."""
    for messages in outcomes:
        size = _size(messages)
        if size <= limit and len(messages.heads) <= OUTPUT_BATCH_MESSAGES:
            yield messages, size
            continue
        for head, payload in zip(messages.heads, messages.payloads, strict=True):
            single = Messages([head], [payload], messages.source)
            yield single, _size(single)


def _size(messages: Messages) -> int:
    """Bytes in a batch."""
    return sum(map(len, messages.heads)) + sum(map(len, messages.payloads)) + 4 * len(messages.heads)


def _may_share(source: Source, other: Source | None) -> bool:
    """Whether messages of two submitted entries may stand in one output entry."""
    return source is other or (
        other is not None
        and source.sealed is None
        and source.compression == other.compression
        and source.schema_version == other.schema_version
    )


def _batch(heads: Sequence[bytes], payloads: Sequence[bytes], source: Source | None) -> Output:
    assert source is not None
    plain = join_columns(heads, payloads)
    metadata = MessageMetadata(num_messages_in_batch=len(heads), uncompressed_size=len(plain))
    payload = plain
    if source.compression != CompressionType.NONE:
        payload = compress(source.compression, plain)
        if len(payload) < len(plain):
            metadata.compression = source.compression
        else:
            payload = plain  # what does not shrink would grow, perhaps beyond the broker's limit
    if source.schema_version:
        metadata.schema_version = source.schema_version
    return Output(metadata.SerializePartialToString(), payload, len(heads))


def _sealed(head: bytes, payload: bytes, sealed: MessageMetadata) -> Output:
    """An encrypted message by itself: its entry's own metadata, which holds the keys, with the outcome's properties."""
    single = SingleMessageMetadata.FromString(head)
    metadata = MessageMetadata()
    metadata.CopyFrom(sealed)
    for name in SENDERS_OWN_FIELDS:
        metadata.ClearField(name)
    del metadata.properties[:]
    metadata.properties.extend(single.properties)
    return Output(metadata.SerializePartialToString(), payload, 1)
