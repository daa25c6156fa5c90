"""What must become of submissions, predicted from the contract alone: a plain dict per partition.

Written to be right at a glance, with json and uuid, and with nothing of the sequencer's own code, whose judge it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple
from uuid import UUID

from sequencer.pulsar.frames import MessageId

MAX_MESSAGE_BYTES = 5 * 1024 * 1024
# Properties and framing count towards the limit. Tests stay out of the zone in which that decides.
SURELY_FITS_BYTES = MAX_MESSAGE_BYTES - 16 * 1024
SURELY_TOO_LARGE_BYTES = MAX_MESSAGE_BYTES - 1024
MAX_BATCH_MESSAGES = 10_000  # a larger batch is not opened, and has one outcome for all its messages
MAX_LIST_EVENTS = 1_000
MAX_LISTED_EVENTS = 10_000  # in all the lists of a batch: one for which there is no room left is not looked into.
# Tests stay out of the zone in which the properties that each event of a list gets make the list too large.

UUID_SPELLING = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
INTEGER_SPELLING = re.compile(r"-?[0-9]+", re.ASCII)
ATTRIBUTES = (
    "type", "source", "subject", "time", "datacontenttype", "correlationid", "causationid", "traceparent"
)  # fmt: skip


class Message(NamedTuple):
    """One message of any topic as the official client reads it."""

    message_id: MessageId
    key: str
    properties: dict[str, str]
    payload: bytes
    null_value: bool = False
    event_time_ms: int = 0
    ordering_key: str = ""
    published_at_ms: int = 0
    chunks: tuple[MessageId, ...] = ()  # the stored messages that it was put together from

    @property
    def stored(self) -> tuple[MessageId, ...]:
        """What the topic holds of it: each of these is a submission."""
        return self.chunks or (self.message_id,)


class Outcome(NamedTuple):
    """What became of one submission; `reason` is empty where it was accepted."""

    submission: str
    reason: str
    version: int | None = None
    sequence: int | None = None
    expected_version: int | None = None
    current_version: int | None = None
    accepted_version: int | None = None
    messages: int = 1  # that say so: of a list that was accepted, one for each of its events


class Member(NamedTuple):
    """One event of a list."""

    event_id: UUID
    content: dict[str, object]

    @property
    def attributes(self) -> dict[str, str]:
        """What becomes properties of its message."""
        return {name: value for name in ATTRIBUTES if isinstance(value := self.content.get(name), str)}


class Envelope(NamedTuple):
    """What the contract asks of a message besides its key."""

    event_id: UUID
    expected: int | None
    members: tuple[Member, ...] = ()  # of a list

    @property
    def event_ids(self) -> list[UUID]:
        """Those of the events that it becomes."""
        return [member.event_id for member in self.members] or [self.event_id]


class Refused(ValueError):
    """Why a message breaks the contract."""


FORWARDED_FROM = "forwarded_from"


def home(key: str, partitions: int) -> int:
    """The partition of an aggregate: Java's String.hashCode, as its definition says it."""
    units = memoryview(key.encode("utf-16-be")).cast("B")
    value = 0
    for high, low in zip(units[::2], units[1::2], strict=True):
        value = (value * 31 + (high << 8 | low)) % 2**32
    return value % 2**31 % partitions


def envelope(message: Message, room_events: int = MAX_LISTED_EVENTS) -> Envelope:
    """The id, the expected version and the list of a submission. Raises Refused with the reason.

    Args:
        room_events: how many events more the lists of its batch may hold.
    """
    size = len(message.payload)
    assert not SURELY_FITS_BYTES < size < SURELY_TOO_LARGE_BYTES, f"{size} bytes may or may not be too large"
    if message.chunks:
        raise Refused("chunked")
    if size >= SURELY_TOO_LARGE_BYTES:
        raise Refused("too_large")
    if not message.key:
        raise Refused("missing_key")
    if not message.payload or message.null_value:
        raise Refused("malformed")
    if "id" in message.properties:
        return Envelope(_uuid(message.properties["id"]), _version_property(message.properties.get("version")))
    try:
        content = json.loads(message.payload.decode())
    except ValueError:
        raise Refused("malformed") from None
    if not isinstance(content, dict):
        raise Refused("malformed")
    events = content.get("events")
    if ("data" in content) == (events is not None):
        raise Refused("malformed")
    event_id, expected = _uuid(content.get("id")), _version(content.get("version"))
    return Envelope(event_id, expected, () if events is None else _members(events, room_events))


def _members(events: object, room_events: int) -> tuple[Member, ...]:
    if not isinstance(events, list) or not 1 <= len(events) <= MAX_LIST_EVENTS:
        raise Refused("malformed")
    if len(events) > room_events:
        raise Refused("too_large")
    members = tuple(map(_member, events))
    if len({member.event_id for member in members}) < len(members):
        raise Refused("malformed")
    return members


def _member(event: object) -> Member:
    if not isinstance(event, dict) or "data" not in event:
        raise Refused("malformed")
    if any(not isinstance(event.get(name), str | None) for name in ATTRIBUTES):
        raise Refused("malformed")
    return Member(_uuid(event.get("id")), event)


def _uuid(text: object) -> UUID:
    if not isinstance(text, str) or not UUID_SPELLING.fullmatch(text):
        raise Refused("malformed")
    return UUID(text)


def _version(value: object) -> int | None:
    if value is not None and (type(value) is not int or not -1 <= value <= 2**53):
        raise Refused("malformed")
    return value


def _version_property(text: str | None) -> int | None:
    if text is None:
        return None
    return _version(int(text) if INTEGER_SPELLING.fullmatch(text) else text)


def predict(partition: int, partitions: int, messages: Iterable[Message]) -> Iterator[Outcome]:
    """The outcome of each submission of one partition, in order. Ids are remembered for ever: tests are short."""
    judge = _Judge(partition, partitions)
    for _, group in groupby(messages, key=lambda message: message.message_id[:2]):
        batch = list(group)
        if len(batch) > MAX_BATCH_MESSAGES:
            yield Outcome(str(batch[0].message_id._replace(batch_index=-1)), "too_large")
        else:
            yield from judge.batch(batch)


class _Judge:
    """What one partition knows while it judges."""

    def __init__(self, partition: int, partitions: int) -> None:
        self._partition, self._partitions = partition, partitions
        self._tails: dict[str, int] = {}
        self._accepted: dict[tuple[str, UUID], int] = {}
        self._sequence = 0

    def batch(self, messages: Iterable[Message]) -> Iterator[Outcome]:
        """One for each stored message that a message was put together from; none for what is forwarded."""
        room_events = MAX_LISTED_EVENTS
        for message in messages:
            try:
                asked = envelope(message, room_events)
            except Refused as refused:
                yield from (Outcome(str(message_id), str(refused)) for message_id in message.stored)
                continue
            room_events -= len(asked.members)
            at_home = home(message.key, self._partitions) == self._partition
            if at_home or FORWARDED_FROM in message.properties:  # otherwise its copy has the outcome
                yield self._judge(str(message.message_id), message.key, asked, at_home=at_home)

    def _judge(self, submission: str, key: str, asked: Envelope, *, at_home: bool) -> Outcome:
        expected, event_ids = asked.expected, asked.event_ids
        if not at_home:
            return Outcome(submission, "misrouted", expected_version=expected)
        tail = self._tails.get(key, -1)
        before = [self._accepted[key, event_id] for event_id in event_ids if (key, event_id) in self._accepted]
        if expected == tail and not asked.members:
            before = []  # a single event that matches is new, whatever its id
        if before and len(before) == len(event_ids):
            return Outcome(submission, "duplicate", None, None, expected, tail, before[0])
        if before:
            return Outcome(submission, "conflicting_ids", None, None, expected, tail)
        if expected not in (None, tail):
            return Outcome(submission, "wrong_expected_version", None, None, expected, tail)
        outcome = Outcome(submission, "", version=tail + 1, sequence=self._sequence, messages=len(event_ids))
        for event_id in event_ids:
            self._tails[key] = self._accepted[key, event_id] = self._tails.get(key, -1) + 1
            self._sequence += 1
        return outcome
