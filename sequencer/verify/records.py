"""What the verifier is fed with. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sequencer.pulsar.frames import MessageId
from sequencer.verify.tables import NO_POSITION, after_entry


class Submitted(NamedTuple):
    """One message of submitted_events."""

    message_id: MessageId
    key: str | None
    event_id: bytes | None  # 16 bytes; None where it has none or it cannot be read
    expected_version: int | None  # None = absent: accept at any version
    forwarded_from: str | None = None  # the property of that name: the message id of the original
    members: Sequence[bytes] = ()  # of a list the ids of its events, in order; none for a single event


class Accepted(NamedTuple):
    """One message of events; a property that is missing or malformed is given as None or UNREADABLE."""

    message_id: MessageId
    key: str | None
    event_id: bytes | None
    version: int
    sequence: int
    submission: str  # "ledger:entry:partition:batch"
    published_at_ms: int
    forwarded_from: str | None = None


class Rejected(NamedTuple):
    """One message of rejected_events; None = the property is absent."""

    message_id: MessageId
    key: str | None
    reason: str
    submission: str
    event_id: bytes | None = None
    expected_version: int | None = None
    current_version: int | None = None
    accepted_version: int | None = None
    forwarded_from: str | None = None
    published_at_ms: int | None = None


class Acknowledged(NamedTuple):
    """The subscription's state: all entries up to mark_delete, and those in ranges (first excluded, last included)."""

    mark_delete: MessageId
    ranges: Sequence[tuple[MessageId, MessageId]] = ()

    def end(self) -> bytes:
        """The position after everything that is acknowledged."""
        last = max([self.mark_delete, *(last for _, last in self.ranges)])
        return NO_POSITION if last.ledger < 0 else after_entry(last)


class IdWindow(NamedTuple):
    """For how long the sequencer promises to recognise an accepted id: until either limit is passed."""

    ms: int = 15 * 60 * 1000
    events: int = 5_000_000  # half of what it holds at most: the older of its two generations is dropped whole


def parse_message_id(text: str) -> MessageId | None:
    """The inverse of str(MessageId); None where the text is nothing of the kind."""
    try:
        ledger, entry, partition, batch_index = (int(part) for part in text.split(":"))
    except ValueError:
        return None
    if not (0 <= ledger < 2**63 and 0 <= entry < 2**63 and -1 <= partition < 2**31 and -1 <= batch_index < 2**31):
        return None
    return MessageId(ledger, entry, partition, batch_index)
