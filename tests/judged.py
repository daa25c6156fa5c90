"""What was submitted, read and judged in both ways: message by message, and by columns where the messages are plain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from msgspec.structs import replace

from sequencer.decide import Decided, Overlay
from sequencer.entries import read_entry, read_submitted
from sequencer.event import MAX_ENTRY_BYTES, Accepted, Flawed, Forwarded, Rejected, Submission
from sequencer.packing import Messages, Output, accepted_messages, forwarded_message, pack, rejected_messages
from sequencer.plain import AcceptedRun, PlainBatch
from sequencer.pulsar.batches import decompress, split_batch
from sequencer.pulsar.frames import Entry
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata
from tests.submitted import MAX_MESSAGE_BYTES

Read = Submission | Flawed
Outcome = Accepted | Rejected | Forwarded


# --- reading ---


def read_all(entry: Entry, limit: int = MAX_MESSAGE_BYTES) -> list[Read]:
    """An entry as it is read message by message, after a look at whether it is the same by columns."""
    read = read_entry(entry, limit)
    assert list(each(read_submitted([entry], limit))) == read
    return read


def each(read: Iterable[Read | PlainBatch]) -> Iterator[Read]:
    """The same, with every message by itself."""
    for one in read:
        if isinstance(one, PlainBatch):
            yield from (one.submission(row) for row in range(len(one.keys)))
        else:
            yield one


def read_one(entry: Entry, limit: int = MAX_MESSAGE_BYTES) -> Read:
    (read,) = read_all(entry, limit)
    return read


def submission(entry: Entry, limit: int = MAX_MESSAGE_BYTES) -> Submission:
    read = read_one(entry, limit)
    assert isinstance(read, Submission), read
    return read


def flawed(entry: Entry, limit: int = MAX_MESSAGE_BYTES) -> Flawed:
    read = read_one(entry, limit)
    assert isinstance(read, Flawed), read
    return read


# --- judging ---


class ByColumns(Overlay):
    """An overlay that is given what is plain by columns, as a partition gives it, and still tells one by one."""

    def decide(self, submissions: Iterable[Read | PlainBatch], before: Decided | None = None) -> Decided:
        originals = list(each(submissions))
        placed = [replace(one, batch_index=place) for place, one in enumerate(originals)]
        arranged: list[Read | PlainBatch] = []
        for plain, group in groupby(placed, is_plain):
            together = list(group)
            arranged += [columns([one for one in together if isinstance(one, Submission)])] if plain else together
        decided = super().decide(arranged, before)
        outcomes = sorted(one_by_one(decided.outcomes), key=lambda outcome: outcome.submission.batch_index)
        assert [outcome.submission for outcome in outcomes] == placed
        told = (replace(one, submission=original) for one, original in zip(outcomes, originals, strict=True))
        return decided._replace(outcomes=list(told))


def is_plain(read: Read) -> bool:
    return type(read) is Submission and not (read.several or read.forwarded or read.clashing or read.reply_to)


def columns(submissions: Sequence[Submission]) -> PlainBatch:
    """Plain submissions of one entry as a batch of them."""
    heads = [one.head for one in submissions]
    return PlainBatch(
        submissions[0].source,
        [one.batch_index for one in submissions],
        [one.key for one in submissions],
        [one.id_text for one in submissions],
        [one.event_id for one in submissions],
        [one.expected for one in submissions],
        heads,
        heads,
        [one.payload for one in submissions],
    )


def one_by_one(outcomes: Iterable[Outcome | AcceptedRun]) -> list[Outcome]:
    """Every outcome by itself."""
    told: list[Outcome] = []
    for outcome in outcomes:
        told += outcome.outcomes() if isinstance(outcome, AcceptedRun) else [outcome]
    return told


def ids_of(decided: Decided) -> dict[tuple[bytes, str], tuple[int, int]]:
    """(id, aggregate) -> version and sequence, as the index keeps it."""
    return {(event_id, key): (version, sequence) for event_id, key, version, sequence in decided.ids.rows()}


# --- packing ---


class Outputs(NamedTuple):
    """What a batch adds to `events`, to `rejected_events` and to other partitions' `submitted_events`."""

    events: list[Output]
    rejected: list[Output]
    forwarded: dict[int, list[Output]]


def outputs(outcomes: Sequence[Outcome | AcceptedRun], limit: int = MAX_MESSAGE_BYTES) -> Outputs:
    """Outcomes as a partition sends them."""
    accepted = [accepted_messages(one) for one in outcomes if isinstance(one, Accepted | AcceptedRun)]
    rejected = rejected_messages(one for one in outcomes if isinstance(one, Rejected))
    forwarded: dict[int, list[Messages]] = {}
    for one in outcomes:
        if isinstance(one, Forwarded):
            forwarded.setdefault(one.home, []).append(forwarded_message(one))
    copies = {home: list(pack(messages, limit)) for home, messages in forwarded.items()}
    return Outputs(list(pack(accepted, limit)), list(pack(rejected, limit)), copies)


def accepted_head(accepted: Accepted) -> bytes:
    """Of a single event."""
    messages = accepted_messages(accepted)
    ((head,), (payload,)) = messages.heads, messages.payloads
    assert (payload, messages.source) == (accepted.submission.payload, accepted.submission.source)
    return head


def rejected_head(rejected: Rejected) -> bytes:
    messages = rejected_message(rejected)
    ((head,), (payload,)) = messages.heads, messages.payloads
    assert (payload, messages.source) == (rejected.submission.payload, rejected.submission.source)
    return head


def forwarded_head(forwarded: Forwarded) -> bytes:
    messages = forwarded_message(forwarded)
    ((head,), (payload,)) = messages.heads, messages.payloads
    assert payload == forwarded.submission.payload
    return head


def rejected_message(rejected: Rejected) -> Messages:
    """One by itself."""
    (messages,) = rejected_messages([rejected])
    return messages


def rejection(read: Flawed) -> Messages:
    return rejected_message(Rejected(read, read.reason, read.detail))


def opened(output: Output) -> list[tuple[SingleMessageMetadata, bytes]]:
    """The messages of an output, as a consumer sees them."""
    metadata = MessageMetadata.FromString(output.metadata)
    payload = decompress(metadata.compression, output.payload, metadata.uncompressed_size, MAX_ENTRY_BYTES)
    assert metadata.num_messages_in_batch == output.num_messages
    messages = [(single, body) for single, _, body in split_batch(payload, output.num_messages)]
    assert all(single.IsInitialized() for single, _ in messages), "a message that other clients cannot read"
    return messages
