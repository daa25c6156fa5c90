"""The reply that tells a publisher the outcome of what it has submitted. Pure.

A publisher that waits for outcomes names a topic in the property `reply_to` of what it submits. One message for each
outcome is sent there once the outcome is durable: a JSON object, with the aggregate as its key. It is best effort;
the outcome itself stands in `events` or `rejected_events`.

    {"id": "0f8fad5b-...", "outcome": "accepted", "submission": "8:22:0:3", "versions": [4, 6], "sequence": 1207}
    {"id": "0f8fad5b-...", "outcome": "duplicate", "submission": "8:23:0:0", "versions": [4, 6], "sequence": 1207}
    {"id": "0f8fad5b-...", "outcome": "rejected", "submission": "8:24:0:0", "reason": "wrong_expected_version",
     "detail": "expected 3, current version is 6", "expected_version": 3, "current_version": 6}

An acceptance and a duplicate are final. A rejection is final for this copy of the submission only: `submission` says
which one it speaks of, and another copy, sent after a time-out, may have been accepted before or after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from sequencer.event import MAX_DETAIL_BYTES, MAX_KEY_BYTES, Accepted, Flawed, Reason, Rejected, Submission, varint
from sequencer.packing import Output
from sequencer.pulsar.batches import join_batch
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata

REPLY_BATCH_BYTES = 1024 * 1024
"""Bytes of replies after which an entry is closed and another begun."""

METADATA_BYTES = 1024
"""What an entry's own metadata may take of the broker's limit."""

OutcomeName = Literal["accepted", "duplicate", "rejected"]


class Reply(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What is said of one submission; what is unknown or does not apply is absent from the JSON.

    Attributes:
        id: the submission's id as it was written; empty where it could not be read. Of a list, the list's own.
        outcome: `duplicate` is an acceptance that was told, or should have been, before.
        submission: which copy of it was judged, `ledger:entry:partition:batch index`.
        versions: of the first and the last event, inclusive; the same twice for a single event.
        sequence: of the first event.
        reason: why it was rejected, one of `Reason`.
        detail: the same in words.
        expected_version: what the submission expected.
        current_version: the aggregate's version when it was judged, -1 where there is no such aggregate.
    """

    id: str
    outcome: OutcomeName
    submission: str
    versions: tuple[int, int] | None = None
    sequence: int | None = None
    reason: str | None = None
    detail: str | None = None
    expected_version: int | None = None
    current_version: int | None = None


_encode = msgspec.json.Encoder().encode
decode_reply = msgspec.json.Decoder(Reply).decode
"""bytes -> Reply. Fields that it does not know are passed over. Raises: msgspec.MsgspecError."""


def reply_to(outcome: Accepted | Rejected) -> Reply:
    """What the publisher is told."""
    submission = outcome.submission
    position = f"{submission.source.position}{submission.batch_index}"
    if type(outcome) is Accepted:
        first, several = outcome.version, outcome.submission.several
        last = first if several is None else first + len(several) - 1
        return Reply(submission.id_text, "accepted", position, (first, last), outcome.sequence)
    assert isinstance(outcome, Rejected), outcome
    if outcome.reason == Reason.DUPLICATE and outcome.accepted is not None:
        first = outcome.accepted
        last = first if outcome.accepted_last is None else outcome.accepted_last
        return Reply(submission.id_text, "duplicate", position, (first, last), outcome.accepted_sequence)
    return Reply(
        submission.id_text,
        "rejected",
        position,
        reason=outcome.reason.value,
        detail=outcome.detail.encode()[:MAX_DETAIL_BYTES].decode(errors="ignore") or None,
        expected_version=outcome.expected,
        current_version=outcome.current,
    )


def reply_message(outcome: Accepted | Rejected) -> tuple[bytes, bytes]:
    """A reply as a message of a batch: serialized SingleMessageMetadata, and the JSON.

    The metadata is written out by hand, as in `accepted_properties`: partition_key is field 2, payload_size field 3.
    """
    payload = _encode(reply_to(outcome))
    size = b"\x18" + varint(len(payload))
    key = _key(outcome.submission).encode()
    return b"\x12%b%b%b" % (varint(len(key)), key, size) if key else size, payload


def _key(submission: Submission | Flawed) -> str:
    """The aggregate; empty where the message has none, or one that cannot be an aggregate's."""
    if type(submission) is Submission:
        return submission.key
    key = SingleMessageMetadata.FromString(submission.head).partition_key
    return key if isinstance(key, str) and len(key.encode()) <= MAX_KEY_BYTES else ""


def reply_entries(messages: Iterable[tuple[bytes, bytes]], max_message_bytes: int) -> Iterator[Output]:
    """Messages of one topic as entries, in order: one batch, or as many as the size asks for.

    Args:
        messages: made by `reply_message`.
        max_message_bytes: the broker's limit for metadata and payload of one entry.
    """
    limit = min(REPLY_BATCH_BYTES, max_message_bytes - METADATA_BYTES)
    batch: list[tuple[bytes, bytes]] = []
    size = 0
    for head, payload in messages:
        added = 4 + len(head) + len(payload)
        if batch and size + added > limit:
            yield _entry(batch)
            batch, size = [], 0
        batch.append((head, payload))
        size += added
    if batch:
        yield _entry(batch)


def _entry(batch: list[tuple[bytes, bytes]]) -> Output:
    payload = join_batch(batch)
    metadata = MessageMetadata(num_messages_in_batch=len(batch), uncompressed_size=len(payload))
    return Output(metadata.SerializePartialToString(), payload, len(batch))
