"""When is an answer final? Pure.

An append is sent, and sent again with the same ids when no answer comes: each time is an *attempt*. All attempts go
through producers of one name, one after the other, so they stand in the log in the order in which they were sent. Each
that is stored has an outcome of its own, and the reply to it says where it was submitted. Hence:

- The outcome of the last attempt is the answer: nothing of this append comes after it in the log.
- An attempt that was accepted, or found to be in already, is the answer at once: the attempts after it can only be
  found to be in already. (The ids are remembered for 15 minutes, or until 5,000,000 later events were accepted in the
  partition; an append may take 10 minutes.)
- A rejection of an earlier attempt is no answer. It was true when it was given, but a later attempt with the same
  expected version may be accepted, if the aggregate has moved to that version in between.
- An attempt whose receipt never came, because its connection died, is stored or it is not, and nothing tells. It is
  settled by the next attempt, which the life after that connection begins with.

A reply is told from replies to other appends of the same id by its position: it must be that of one of the attempts.
"""

from __future__ import annotations

import msgspec

from sequencer.event import Reason
from sequencer.pulsar.batches import decompress, split_batch
from sequencer.pulsar.errors import CorruptBatch
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.reply import Reply, decode_reply

MAX_REPLY_ENTRY_BYTES = 32 * 1024 * 1024
"""Largest entry of replies that is opened."""

MAX_REPLIES_KEPT = 16
"""Replies to one append that are kept until a receipt tells whose they are: the newest. Receipts come soon, and a
stranger may send any number."""


def is_in(reply: Reply) -> bool:
    """Whether the events are in the log, by the submission that the reply speaks of or by an earlier one."""
    return reply.outcome != "rejected"


def read_replies(entry: Entry) -> list[Reply]:
    """The replies in an entry of a reply topic. What is none is passed over: anybody can send there."""
    metadata = entry.metadata
    try:
        if entry.damage:
            return []
        data = decompress(metadata.compression, entry.payload, metadata.uncompressed_size, MAX_REPLY_ENTRY_BYTES)
        if not metadata.HasField("num_messages_in_batch"):
            return [reply for reply in (_read(data),) if reply is not None]
        payloads = [payload for _, _, payload in split_batch(data, metadata.num_messages_in_batch)]
    except CorruptBatch:
        return []
    return [reply for reply in map(_read, payloads) if reply is not None]


def _read(payload: bytes) -> Reply | None:
    try:
        reply = decode_reply(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if is_in(reply):
        complete = reply.versions is not None and reply.sequence is not None
    elif reply.reason == Reason.WRONG_EXPECTED_VERSION:
        complete = reply.expected_version is not None and reply.current_version is not None
    else:
        complete = reply.reason is not None
    return reply if complete else None


class Attempts:
    """The attempts of one append and what has been heard of them."""

    __slots__ = ("_positions", "_replies")

    def __init__(self) -> None:
        self._positions: list[str | None] = []
        self._replies: dict[str, Reply] = {}

    def __len__(self) -> int:
        return len(self._positions)

    def begin(self) -> int:
        """It is about to be sent once more. Returns the attempt's number, for `stored`."""
        self._positions.append(None)
        return len(self._positions) - 1

    def stored(self, attempt: int, position: MessageId) -> None:
        """The receipt of an attempt has come."""
        self._positions[attempt] = str(position)

    def replied(self, reply: Reply) -> None:
        """A reply to something with this append's id has come, perhaps before the receipt."""
        if len(self._replies) == MAX_REPLIES_KEPT:
            del self._replies[next(iter(self._replies))]
        self._replies[reply.submission] = reply

    @property
    def answer(self) -> Reply | None:
        """The final answer; None as long as there is none."""
        if not self._replies:
            return None
        for position in self._positions:
            if position is not None:
                reply = self._replies.get(position)
                if reply is not None and (is_in(reply) or position == self._positions[-1]):
                    return reply
        return None
