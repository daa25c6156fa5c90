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
)
from sequencer.pulsar.batches import compress, join_batch
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


def accepted_messages(outcomes: Iterable[Accepted]) -> list[tuple[bytes, Submission]]:
    """Of every accepted event its serialized SingleMessageMetadata, and the submission whose payload goes with it.

    The events of a list follow each other, each with its own head and payload. Runs once per accepted event.
    """
    messages = []
    for accepted in outcomes:
        submission, version, sequence = accepted.submission, accepted.version, accepted.sequence
        submitted_as = f"{submission.source.position}{submission.batch_index}"
        for event in submission.several or (submission,):
            properties = accepted_properties(event.id_text, version, sequence, submitted_as)
            messages.append((_head(event, ACCEPTED_PROPERTIES) + properties, event))
            version, sequence = version + 1, sequence + 1
    return messages


def rejected_message(rejected: Rejected) -> bytes:
    """The serialized SingleMessageMetadata of a rejected event."""
    submission = rejected.submission
    return _head(submission, REJECTED_PROPERTIES) + rejected_properties(
        rejected, f"{submission.source.position}{submission.batch_index}"
    )


def forwarded_message(forwarded: Forwarded) -> bytes:
    """The serialized SingleMessageMetadata of a message on its way to its own partition: nothing of it changes.

    What its batch said for it, it says itself now: the copies of several batches may travel in one.
    """
    submission = forwarded.submission
    head = submission.head + forwarded_property(f"{submission.source.position}{submission.batch_index}")
    if submission.source.reply_to:
        own = SingleMessageMetadata.FromString(head).properties
        if all(field.key != REPLY_TO for field in own):
            head += reply_property(submission.reply_to)
    return head


def _head(submission: Submission | Flawed, replaced: frozenset[str]) -> bytes:
    if submission.clashing is None:
        return submission.head
    single = SingleMessageMetadata()
    single.CopyFrom(submission.clashing)
    kept = [field for field in submission.clashing.properties if field.key not in replaced]
    del single.properties[:]
    single.properties.extend(kept)
    return single.SerializeToString()


def pack(messages: Iterable[tuple[bytes, Submission | Flawed]], max_message_bytes: int) -> Iterator[Output]:
    """Outcomes as entries, in order: one batch as long as compression and schema stay the same and the size allows.

    Args:
        messages: serialized SingleMessageMetadata and the submission whose payload goes with it.
        max_message_bytes: the broker's limit for metadata and payload of one entry.
    """
    limit = min(OUTPUT_BATCH_BYTES, max_message_bytes - OUTCOME_BYTES)
    batch: list[tuple[bytes, bytes]] = []
    size, source = 0, None
    for head, submission in messages:
        added = len(head) + len(submission.payload) + 4
        full = size + added > limit or len(batch) == OUTPUT_BATCH_MESSAGES
        if batch and (full or not _may_share(submission.source, source)):
            yield _batch(batch, source)
            batch, size = [], 0
        source = submission.source
        if source.sealed is not None:
            yield _sealed(head, submission.payload, source.sealed)
            continue
        batch.append((head, submission.payload))
        size += added
    if batch:
        yield _batch(batch, source)


def _may_share(source: Source, other: Source | None) -> bool:
    """Whether messages of two submitted entries may stand in one output entry."""
    return source is other or (
        other is not None
        and source.sealed is None
        and source.compression == other.compression
        and source.schema_version == other.schema_version
    )


def _batch(parts: Sequence[tuple[bytes, bytes]], source: Source | None) -> Output:
    assert source is not None
    plain = join_batch(parts)
    metadata = MessageMetadata(num_messages_in_batch=len(parts), uncompressed_size=len(plain))
    payload = plain
    if source.compression != CompressionType.NONE:
        payload = compress(source.compression, plain)
        if len(payload) < len(plain):
            metadata.compression = source.compression
        else:
            payload = plain  # what does not shrink would grow, perhaps beyond the broker's limit
    if source.schema_version:
        metadata.schema_version = source.schema_version
    return Output(metadata.SerializePartialToString(), payload, len(parts))


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
