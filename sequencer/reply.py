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

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, repeat
from typing import Literal, NamedTuple

import msgspec

from sequencer.decide import Outcome
from sequencer.event import (
    MAX_DETAIL_BYTES,
    MAX_KEY_BYTES,
    ONE_BYTE_MAX,
    Accepted,
    Flawed,
    Forwarded,
    Reason,
    Rejected,
    Submission,
    varint,
)
from sequencer.packing import Output
from sequencer.plain import AcceptedRun
from sequencer.pulsar.batches import join_columns
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


def accepted_replies(run: AcceptedRun) -> bytes:
    """What `reply_message` says of every outcome of a run, as the messages of a batch.

    A publisher that waits waits for all of its batch, so this runs as often as an event is accepted. All of it is text
    until the end, one character a byte: to join so many small pieces of text and encode them once takes half the
    time. The JSON is written out by hand; nothing in it needs to be escaped, the id of a plain message is a UUID.
    """
    batch, keys = run.batch, run.batch.keys
    if not all(map(str.isascii, keys)):
        keys = [key.encode().decode("latin-1") for key in keys]
    payloads = [
        f'{{"id":"{id_text}","outcome":"accepted","submission":"{position}{index}",'
        f'"versions":[{version},{version}],"sequence":{sequence}}}'
        for id_text, position, index, version, sequence in zip(
            batch.id_texts,
            repeat(batch.source.position) if batch.positions is None else batch.positions,
            batch.batch_indexes,
            run.versions,
            count(run.sequence),
            strict=False,
        )
    ]
    return "".join(
        [
            f"{_HEAD_BEGINS[len(payload) > ONE_BYTE_MAX][len(key)]}{key}{_HEAD_ENDS[len(payload)]}{payload}"
            for key, payload in zip(keys, payloads, strict=True)
        ]
    ).encode("latin-1")


MAX_ACCEPTED_BYTES = 256
"""More than the JSON of an acceptance takes: an id has 36 characters, a number at most 19, a submission at most 63."""


def _head_begins(key_bytes: int, size_bytes: int) -> str:
    """How many bytes of metadata follow, and of these the key's tag and length."""
    key_size = varint(key_bytes)
    metadata_bytes = 1 + len(key_size) + key_bytes + 1 + size_bytes
    return (b"%b\x12%b" % (metadata_bytes.to_bytes(4, "big"), key_size)).decode("latin-1")


_HEAD_BEGINS = [[_head_begins(key, size) for key in range(MAX_KEY_BYTES + 1)] for size in (1, 2)]
"""By the bytes of the size that follows (less one), and by those of the key."""

_HEAD_ENDS = [(b"\x18" + varint(size)).decode("latin-1") for size in range(MAX_ACCEPTED_BYTES)]
"""The payload's size, after the key; by that size."""


# --- Many replies ---


class ReplyRun(NamedTuple):
    """Consecutive replies to one topic."""

    topic: str
    data: bytes
    """As they stand in a batch."""
    replies: int


def reply_runs(outcomes: Iterable[Outcome], max_message_bytes: int) -> Iterator[ReplyRun]:
    """A reply to every outcome whose publisher waits for one, in order.

    What was forwarded is replied to where its outcome comes about.

    Args:
        max_message_bytes: the broker's limit for metadata and payload of one entry.
    """
    limit = _payload_limit(max_message_bytes)
    for outcome in outcomes:
        if isinstance(outcome, AcceptedRun):
            # A batch has asked, or nobody.
            if outcome.batch.source.reply_to:
                yield from _accepted_runs(outcome, limit)
        elif not isinstance(outcome, Forwarded) and (topic := outcome.submission.reply_to):
            head, payload = reply_message(outcome)
            yield ReplyRun(topic, join_columns([head], [payload]), 1)


def _accepted_runs(run: AcceptedRun, limit: int) -> Iterator[ReplyRun]:
    """One run of replies, or halves of it where it does not fit into one entry."""
    data, rows = accepted_replies(run), range(len(run.versions))
    half = len(rows) // 2
    if len(data) <= limit or half == 0:
        yield ReplyRun(run.batch.source.reply_to, data, len(rows))
        return
    for part in rows[:half], rows[half:]:
        batch, versions = run.batch.only([row in part for row in rows]), run.versions[part.start : part.stop]
        yield from _accepted_runs(AcceptedRun(batch, versions, run.sequence + part.start), limit)


def reply_entries(runs: Iterable[ReplyRun], max_message_bytes: int) -> Iterator[Output]:
    """Runs of one topic as entries, in order: one batch, or as many as the size asks for.

    Args:
        max_message_bytes: as in `reply_runs`; where it was more there, an entry may be larger.
    """
    limit = _payload_limit(max_message_bytes)
    batch: list[ReplyRun] = []
    size = 0
    for run in runs:
        if batch and size + len(run.data) > limit:
            yield _entry(batch)
            batch, size = [], 0
        batch.append(run)
        size += len(run.data)
    if batch:
        yield _entry(batch)


def _payload_limit(max_message_bytes: int) -> int:
    return min(REPLY_BATCH_BYTES, max_message_bytes - METADATA_BYTES)


def _entry(batch: Sequence[ReplyRun]) -> Output:
    payload = b"".join([run.data for run in batch])
    replies = sum(run.replies for run in batch)
    metadata = MessageMetadata(num_messages_in_batch=replies, uncompressed_size=len(payload))
    return Output(metadata.SerializePartialToString(), payload, replies)
