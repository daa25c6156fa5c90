"""Outcomes as entries: what an outcome's message says, and as many of them in an entry as may share one. Pure.

Packing never fails: whatever could grow beyond the broker's message limit was already read as `too_large`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
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
    """Consecutive messages of one output that come from one submitted entry, or from entries alike, in two columns."""

    heads: Sequence[bytes]
    """Of each its serialized SingleMessageMetadata."""
    payloads: Sequence[bytes]
    source: Source


def accepted_in(outcomes: Iterable[Accepted | AcceptedRun | Rejected | Forwarded]) -> Iterator[Messages]:
    """What goes to `events`."""
    return (accepted_messages(outcome) for outcome in outcomes if isinstance(outcome, Accepted | AcceptedRun))


def accepted_messages(outcome: Accepted | AcceptedRun) -> Messages:
    """An accepted event, the events of an accepted list, or a whole run."""
    if isinstance(outcome, AcceptedRun):
        batch, versions, sequence = outcome.batch, outcome.versions, outcome.sequence
        heads = with_accepted_properties(
            batch.bare_heads,
            batch.id_texts,
            versions,
            sequence,
            batch.source.position if batch.positions is None else batch.positions,
            batch.batch_indexes,
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


def rejected_messages(rejections: Iterable[Rejected]) -> Iterator[Messages]:
    """Rejected events, those of an entry that come one after the other together."""
    for source, together in groupby(rejections, _source_of):
        heads, payloads = [], []
        for rejected in together:
            submission = rejected.submission
            submitted_as = f"{source.position}{submission.batch_index}"
            heads.append(_head(submission, REJECTED_PROPERTIES) + rejected_properties(rejected, submitted_as))
            payloads.append(submission.payload)
        yield Messages(heads, payloads, source)


_source_of = attrgetter("submission.source")


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


def pack(outcomes: Iterable[Messages], max_message_bytes: int) -> list[Output]:
    """Outcomes as entries, see `Packer`."""
    packer = Packer(max_message_bytes)
    for messages in outcomes:
        packer.add(messages)
    return packer.close()


class Packer:
    """Makes entries out of outcomes, in order: one batch as long as compression and schema stay the same and the size
    allows.

    What is added is copied at once, so that nobody has to hold, and later to look for, the many small objects.
    """

    def __init__(self, max_message_bytes: int) -> None:
        """`max_message_bytes` is the broker's limit for metadata and payload of one entry."""
        self._limit = min(OUTPUT_BATCH_BYTES, max_message_bytes - OUTCOME_BYTES)
        self._outputs: list[Output] = []
        self._parts: list[bytes] = []
        self._size = self._messages = 0
        self._source: Source | None = None

    def add(self, messages: Messages) -> None:
        """More outcomes; they need not fit into one entry."""
        joined = join_columns(messages.heads, messages.payloads)
        if len(joined) <= self._limit and len(messages.heads) <= OUTPUT_BATCH_MESSAGES:
            self._add(messages, joined)
            return
        for head, payload in zip(messages.heads, messages.payloads, strict=True):
            self._add(Messages([head], [payload], messages.source), join_columns([head], [payload]))

    def close(self) -> list[Output]:
        """All entries."""
        self._end()
        return self._outputs

    def _add(self, messages: Messages, joined: bytes) -> None:
        count = len(messages.heads)
        full = self._size + len(joined) > self._limit or self._messages + count > OUTPUT_BATCH_MESSAGES
        if full or not _may_share(messages.source, self._source):
            self._end()
        if messages.source.sealed is not None:
            self._outputs.append(_sealed(messages.heads[0], messages.payloads[0], messages.source.sealed))
            return
        self._parts.append(joined)
        self._size += len(joined)
        self._messages += count
        self._source = messages.source

    def _end(self) -> None:
        """Close the entry that is being filled, and begin another one."""
        if self._source is not None:
            self._outputs.append(_batch(b"".join(self._parts), self._messages, self._source))
            self._parts, self._size, self._messages, self._source = [], 0, 0, None


def _may_share(source: Source, other: Source | None) -> bool:
    """Whether messages of two submitted entries may stand in one output entry."""
    return source is other or (
        other is not None
        and source.sealed is None
        and source.compression == other.compression
        and source.schema_version == other.schema_version
    )


def _batch(plain: bytes, num_messages: int, source: Source) -> Output:
    metadata = MessageMetadata(num_messages_in_batch=num_messages, uncompressed_size=len(plain))
    payload = plain
    if source.compression != CompressionType.NONE:
        payload = compress(source.compression, plain)
        if len(payload) < len(plain):
            metadata.compression = source.compression
        else:
            payload = plain  # what does not shrink would grow, perhaps beyond the broker's limit
    if source.schema_version:
        metadata.schema_version = source.schema_version
    return Output(metadata.SerializePartialToString(), payload, num_messages)


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
