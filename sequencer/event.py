"""The message contract: what a submitted message must say, and what its outcome says. Pure.

A submitted message carries its aggregate in the partition key and the rest in one of two content modes, named as in
CloudEvents:

- structured: the payload is a JSON object ``{"id": UUID, "version": int | null | absent, "data": any JSON}``, or with
  ``"events": [{"id": UUID, "data": any JSON}, ...]`` instead of ``data``: several events and one decision, all or none;
- binary: the message property ``id`` is present, ``id`` and ``version`` are properties, and the payload is the
  application's own bytes, which nobody here opens.

A message that says less, or something else, is a `Flawed`: a value like any other, for it has an outcome like any
other. Nothing in this module raises because of what a publisher wrote.
"""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import count, repeat
from typing import Annotated, NamedTuple

import msgspec
from msgspec.structs import astuple

from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata

NO_AGGREGATE = -1
"""The tail of an aggregate that does not exist, and the expected version of its first event."""

MAX_VERSION = 2**53
"""The largest expected version: beyond it a JSON number is no longer exact in every client."""

MAX_KEY_BYTES = 1024
"""Longest aggregate key: it is held in memory and in the index for every aggregate."""

MAX_ENTRY_BYTES = 32 * 1024 * 1024
"""Largest submitted entry once decompressed; the whole entry is `too_large` beyond it, unopened."""

MAX_ENTRY_MESSAGES = 10_000
"""Most messages in one submitted batch; the whole entry is `too_large` beyond it, unopened."""

MAX_LIST_EVENTS = 1_000
"""Most events in one list; more is `malformed`."""

MAX_LISTED_BYTES = 32 * 1024 * 1024
"""Most that the lists of one submitted entry may grow to: each event gets its message's properties. A list beyond it is
`too_large`, like one that would make it more than MAX_ENTRY_MESSAGES listed events."""

OUTCOME_BYTES = 2048
"""What an outcome may add to a message: our properties and the batch's own metadata."""

MAX_DETAIL_BYTES = 512
"""Longest `detail` property, in UTF-8: it must fit into OUTCOME_BYTES with everything else."""


class Reason(StrEnum):
    """Why a submission was rejected: the `reason` property on `rejected_events`."""

    WRONG_EXPECTED_VERSION = "wrong_expected_version"
    DUPLICATE = "duplicate"
    CONFLICTING_IDS = "conflicting_ids"
    MALFORMED = "malformed"
    MISSING_KEY = "missing_key"
    CHUNKED = "chunked"
    ENCRYPTED = "encrypted"
    MISROUTED = "misrouted"
    TOO_LARGE = "too_large"


ACCEPTED_PROPERTIES = frozenset({"id", "version", "sequence", "submission"})
"""Properties that an accepted event carries; a publisher's own of these names is replaced."""

REJECTED_PROPERTIES = frozenset(
    {"id", "version", "expected_version", "current_version", "accepted_version", "reason", "detail", "submission"}
)
"""Properties that a rejected event carries; a publisher's own of these names is replaced."""

OUTCOME_PROPERTIES = ACCEPTED_PROPERTIES | REJECTED_PROPERTIES

REPLY_TO = "reply_to"
"""Property of a submitted message, or of a whole batch: the topic on which its publisher waits for the outcome. What
stands in the batch's metadata is not stored once more with every event."""

MAX_REPLY_TO_BYTES = 512
"""Longest one that a batch may say for its messages; a longer one is ignored. It is part of what an outcome may add."""

PRIMING = b"priming"
"""Payload of the message in an output's first transaction, which is aborted (prime.py); it has no key and no property.
A broker (4.2.4) that was killed may show it all the same: whoever reads an output passes it over."""

FORWARDED_FROM = "forwarded_from"
"""Property of a forwarded message: the submission that it is a copy of. Its outcome keeps it."""


# The values below are made once or more for every event, so they are Structs: those are made in a third of a named
# tuple's time, and without gc=True the garbage collector need not walk over them; they hold no cycles.


class Source(NamedTuple):
    """The submitted entry that a message came in, as far as its outcome must resemble it."""

    position: str
    """`ledger:entry:partition:`, the submission without its batch index."""
    compression: int
    schema_version: bytes
    sealed: MessageMetadata | None
    """The entry's own metadata where its payload is encrypted: it travels on unopened, by itself."""
    reply_to: str = ""
    """What a batch's own properties say for all of its messages that do not say it themselves."""


class Submission(msgspec.Struct, frozen=True, gc=False):
    """One submitted message that keeps the contract."""

    key: str
    event_id: bytes
    """The UUID's 16 bytes: two spellings of one id are one id."""
    id_text: str
    expected: int | None
    """The expected version; None accepts any."""
    head: bytes
    """Its serialized SingleMessageMetadata, to which the outcome's properties are appended."""
    clashing: SingleMessageMetadata | None
    """`head` parsed, where it holds properties that an outcome replaces; otherwise None."""
    payload: bytes
    source: Source
    batch_index: int
    """Position in the submitted batch; -1 where the entry was not a batch."""
    forwarded: bool = False
    """Whether it says that it has been forwarded: it is not forwarded again."""
    reply_to: str = ""
    """Where its publisher waits for the outcome; empty where nobody does."""
    several: tuple[Submission, ...] | None = None
    """The events of a list, in order, each with its own id, head and payload; None for a single event."""


class Flawed(msgspec.Struct, frozen=True, gc=False):
    """One submitted message, or a whole entry that cannot be opened, that breaks the contract."""

    reason: Reason
    detail: str
    id_text: str
    """The event's id where it could be read, else empty."""
    head: bytes
    clashing: SingleMessageMetadata | None
    payload: bytes
    source: Source
    batch_index: int
    reply_to: str = ""


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The outcome on `events`: the submission became this version of its aggregate.

    The events of a list became this version and those that follow, at this sequence and those that follow.
    """

    submission: Submission
    version: int
    sequence: int


class Forwarded(msgspec.Struct, frozen=True, gc=False):
    """No outcome yet: the submission belongs to another partition, and gets its outcome there."""

    submission: Submission
    home: int
    """The partition that its key belongs to."""


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """The outcome on `rejected_events`, with what the publisher needs to understand it."""

    submission: Submission | Flawed
    reason: Reason
    detail: str = ""
    expected: int | None = None
    current: int | None = None
    """The aggregate's tail when the submission was judged; None where it was not looked at."""
    accepted: int | None = None
    """With `duplicate`: the version under which the same id was accepted before; of a list, its first event's."""
    accepted_last: int | None = None
    """With `duplicate`: the version of the list's last event; the same as `accepted` for a single one."""
    accepted_sequence: int | None = None
    """With `duplicate`: the sequence that belongs to `accepted`."""


class Member(msgspec.Struct, frozen=True, gc=False):
    """One event of a list."""

    id_text: str
    event_id: bytes
    payload: bytes
    """Its own JSON object, as it stands in the list."""
    attributes: dict[str, str]
    """Those of ATTRIBUTES that it has."""


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """What the contract asks of a message besides its key."""

    id_text: str
    event_id: bytes
    expected: int | None
    members: list[Member] | None = None
    """The events of a list; None for a single event."""


class BrokenContract(ValueError):
    """Says in one line what is wrong with a message. Caught where the message is read; never leaves the package."""

    def __init__(self, detail: str, id_text: str = "", reason: Reason = Reason.MALFORMED) -> None:
        super().__init__(detail)
        self.detail = detail
        self.id_text = id_text
        self.reason = reason


_ABSENT = msgspec.Raw()


class _Structured(msgspec.Struct, gc=False):
    id: str
    data: msgspec.Raw = _ABSENT
    version: Annotated[int, msgspec.Meta(ge=NO_AGGREGATE, le=MAX_VERSION)] | None = None
    events: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=MAX_LIST_EVENTS)] | None = None


class _Event(msgspec.Struct, gc=False):
    """An event of a list, with the attributes that become its message's properties: see ATTRIBUTES."""

    id: str
    data: msgspec.Raw
    type: str | None = None
    source: str | None = None
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    correlationid: str | None = None
    causationid: str | None = None
    traceparent: str | None = None


ATTRIBUTES = _Event.__struct_fields__[2:]
"""What says more about an event, with CloudEvents' names where it has them. A single event has them as properties of
its message, which are kept and never opened; an event of a list as strings in its JSON object."""

_NO_ATTRIBUTES = (None,) * len(ATTRIBUTES)

_decode_structured = msgspec.json.Decoder(_Structured).decode
_decode_event = msgspec.json.Decoder(_Event).decode


def structured_envelope(payload: bytes, room_events: int = MAX_LIST_EVENTS) -> Envelope:
    """Read the id, the expected version and the events of a list out of a JSON payload; `data` is only checked.

    Args:
        room_events: how long a list may be where it stands; the events of a longer one are not looked at.

    Raises:
        BrokenContract: not UTF-8, not a JSON object, or a field is missing or has another type, or too long a list.
    """
    try:
        if not payload.isascii():
            # The decoder skips over `data` by its quotes: it does not notice bytes that are no UTF-8.
            payload.decode()
        decoded = _decode_structured(payload)
    except UnicodeDecodeError as broken:
        raise BrokenContract(f"payload is not UTF-8: byte {broken.start}") from None
    except msgspec.MsgspecError as broken:
        raise BrokenContract(f"payload is not the JSON object of the contract: {broken}") from None
    except RecursionError:
        raise BrokenContract("payload is nested too deeply") from None
    event_id = uuid_bytes(decoded.id)
    if decoded.events is None and decoded.data is not _ABSENT:
        return Envelope(decoded.id, event_id, decoded.version)
    if decoded.events is None:
        raise BrokenContract("payload has neither data nor events", decoded.id)
    if decoded.data is not _ABSENT:
        raise BrokenContract("payload has both data and events", decoded.id)
    if (count := len(decoded.events)) > room_events:
        detail = f"a list of {count}, with {room_events} left of the {MAX_ENTRY_MESSAGES} events of an entry's lists"
        raise BrokenContract(detail, decoded.id, Reason.TOO_LARGE)
    return Envelope(decoded.id, event_id, decoded.version, _members(decoded.events, decoded.id))


def _members(events: list[msgspec.Raw], list_id: str) -> list[Member]:
    members = []
    for number, raw in enumerate(events):
        try:
            event = _decode_event(raw)
            event_id = uuid_bytes(event.id)
        except (msgspec.MsgspecError, BrokenContract) as broken:
            raise BrokenContract(f"event {number} of the list: {broken}", list_id) from None
        attributes: dict[str, str] = {}
        if (values := astuple(event)[2:]) != _NO_ATTRIBUTES:
            attributes = {name: value for name, value in zip(ATTRIBUTES, values, strict=True) if value is not None}
        members.append(Member(event.id, event_id, bytes(raw), attributes))
    if len({member.event_id for member in members}) < len(members):
        raise BrokenContract("an id comes twice in the list", list_id)
    return members


def binary_envelope(properties: dict[str, str]) -> Envelope:
    """Read the id and the expected version from a message's properties.

    Raises:
        BrokenContract: the id is not a UUID, or the version not an integer from -1 to 2**53.
    """
    id_text = properties["id"]
    event_id = uuid_bytes(id_text)
    version = properties.get("version")
    return Envelope(id_text, event_id, None if version is None else _version_from(version, id_text))


def _version_from(text: str | bytes, id_text: str) -> int:
    if isinstance(text, bytes):  # what protobuf gives where a string on the wire is not UTF-8
        raise BrokenContract("property version is not UTF-8", id_text)
    digits = text.removeprefix("-")
    # int() alone would also take blanks, underscores, other scripts' digits and a text of any length.
    if digits.isascii() and digits.isdigit() and len(digits) <= 16 and NO_AGGREGATE <= int(text) <= MAX_VERSION:
        return int(text)
    raise BrokenContract(f"property version is not an integer from -1 to 2**53: {text[:40]!r}", id_text)


def uuid_bytes(text: str) -> bytes:
    """The 16 bytes of a UUID in its usual spelling, 8-4-4-4-12 hexadecimal digits in either case.

    Raises:
        BrokenContract: it is spelled otherwise.
    """
    if len(text) == 36 and text[8:24:5] == "----":
        try:
            event_id = unhexlify(text.replace("-", ""))  # unlike bytes.fromhex it takes no blanks
        except ValueError:
            event_id = b""
        if len(event_id) == 16:
            return event_id
    raise BrokenContract(f"id is not a UUID: {text[:40]!r}")


def canonical_partition(key: str, partitions: int) -> int:
    """The partition that a key belongs to: Java's String.hashCode, made non-negative, modulo the partition count.

    It is what the Java client does by default (JavaStringHash), and the Go client with ASCII keys and 2, 4, 8, ...
    partitions. Java hashes UTF-16 units, so a character beyond the Basic Multilingual Plane counts as its surrogates.
    """
    units: Sequence[int]
    if key.isascii():
        units = key.encode()
    else:
        utf16 = memoryview(key.encode("utf-16-le", "surrogatepass"))
        units = [low | high << 8 for low, high in zip(utf16[::2], utf16[1::2], strict=True)]
    value = 0
    for unit in units:
        value = (31 * value + unit) & 0xFFFFFFFF
    return (value & 0x7FFFFFFF) % partitions


ONE_BYTE_MAX = 0x7F
"""The largest number that is one byte as protobuf writes it."""


def varint(number: int) -> bytes:
    """A number of 0 or more as protobuf writes it: seven bits a byte, the lowest first."""
    if number <= ONE_BYTE_MAX:
        return b"%c" % number
    if number < 0x4000:
        return b"%c%c" % (number & 0x7F | 0x80, number >> 7)
    return b"%c%b" % (number & 0x7F | 0x80, varint(number >> 7))


def _property(name: str, value: str) -> bytes:
    """One serialized `KeyValue properties = 1` field, of SingleMessageMetadata."""
    text = value.encode()
    return _before_value(name, len(text)) + text


@lru_cache(maxsize=4_096)
def _before_value(name: str, value_bytes: int) -> bytes:
    """All of a property but its value, which is at its end. There are few names, and most values are short."""
    key = name.encode()
    begin = b"\n%b%b\x12%b" % (varint(len(key)), key, varint(value_bytes))
    return b"\n%b%b" % (varint(len(begin) + value_bytes), begin)


def accepted_properties(id_text: str, version: int, sequence: int, submission: str) -> bytes:
    """The properties of an accepted event, serialized as fields of SingleMessageMetadata.

    Written out by hand because it runs once for every accepted event: protobuf lets serialized fields be appended, and
    building the same four KeyValues with the library costs several times as much. Every length fits one byte: an id
    has 36 characters, the numbers at most 20, a submission at most 63.
    """
    v, s = str(version), str(sequence)
    nv, ns, nm = len(v), len(s), len(submission)
    return (
        f"\n\x2a\n\x02id\x12\x24{id_text}"
        f"\n{chr(11 + nv)}\n\x07version\x12{chr(nv)}{v}"
        f"\n{chr(12 + ns)}\n\x08sequence\x12{chr(ns)}{s}"
        f"\n{chr(14 + nm)}\n\nsubmission\x12{chr(nm)}{submission}"
    ).encode("ascii")


def with_accepted_properties(
    heads: Sequence[bytes],
    id_texts: Sequence[str],
    versions: Sequence[int],
    first_sequence: int,
    positions: str | Sequence[str],
    batch_indexes: Sequence[int],
) -> list[bytes]:
    """Many messages' metadata, each with its `accepted_properties` appended.

    The same in a third of the time: what all of them share, or what was said for other messages already, is not made
    anew. All columns are equally long; sequences are consecutive, submissions are a position and a batch index.

    Args:
        positions: of their entry, or of the entry of each.
    """
    digits = len(str(first_sequence))
    if len(str(first_sequence + len(heads))) > digits or max(versions) >= len(_VERSION_PROPERTIES):
        return [
            head + accepted_properties(id_text, version, sequence, f"{position}{index}")
            for head, id_text, version, sequence, position, index in zip(
                heads,
                id_texts,
                versions,
                count(first_sequence),
                repeat(positions) if isinstance(positions, str) else positions,
                batch_indexes,
                strict=False,
            )
        ]
    sequence_begins = f"\n{chr(12 + digits)}\n\x08sequence\x12{chr(digits)}"
    indexes = map(_INDEX_TEXTS.__getitem__, batch_indexes)
    if isinstance(positions, str):
        size = len(positions)
        begins = [f"{begin}{positions}" for begin in _SUBMISSION_BEGINS[size : size + MAX_INDEX_DIGITS + 1]]
        submissions = [f"{begins[len(index)]}{index}" for index in indexes]
    else:
        submissions = [
            f"{_SUBMISSION_BEGINS[len(position) + len(index)]}{position}{index}"
            for position, index in zip(positions, indexes, strict=True)
        ]
    return [
        head
        + (
            f"\n\x2a\n\x02id\x12\x24{id_text}{_VERSION_PROPERTIES[version]}{sequence_begins}{sequence}{submission}"
        ).encode("ascii")
        for head, id_text, version, sequence, submission in zip(
            heads, id_texts, versions, count(first_sequence), submissions, strict=False
        )
    ]


MAX_INDEX_DIGITS = len(str(MAX_ENTRY_MESSAGES - 1))
MAX_SUBMISSION_BYTES = 63
"""Of `ledger:entry:partition:batch index`: at most 20, 20, 11 and MAX_INDEX_DIGITS characters, and the colons."""

_INDEX_TEXTS = (*map(str, range(MAX_ENTRY_MESSAGES)), "-1")
"""The last one by the index -1, that of a message which is in no batch."""
_SUBMISSION_BEGINS = tuple(
    f"\n{chr(14 + size)}\n\nsubmission\x12{chr(size)}" for size in range(MAX_SUBMISSION_BYTES + 1)
)
"""What stands before a submission, by its length."""
_VERSION_PROPERTIES = tuple(
    f"\n{chr(11 + len(version))}\n\x07version\x12{chr(len(version))}{version}" for version in map(str, range(1_000))
)
"""The property of the first thousand versions, which few aggregates outgrow."""


def forwarded_property(submission: str) -> bytes:
    """The property of a forwarded message, serialized as a field of SingleMessageMetadata."""
    return _property(FORWARDED_FROM, submission)


def reply_property(topic: str) -> bytes:
    """The property of a message that asks for a reply, serialized as a field of SingleMessageMetadata."""
    return _property(REPLY_TO, topic)


def _cut(detail: str) -> str:
    if len(detail) * 4 <= MAX_DETAIL_BYTES:
        return detail
    return detail.encode()[:MAX_DETAIL_BYTES].decode(errors="ignore")


def rejected_properties(rejected: Rejected, submission: str) -> bytes:
    """The properties of a rejected event, serialized as fields of SingleMessageMetadata; what is unknown is absent."""
    fields = [("id", rejected.submission.id_text), ("reason", rejected.reason), ("detail", _cut(rejected.detail))]
    if rejected.expected is not None:
        fields.append(("expected_version", str(rejected.expected)))
    if rejected.current is not None:
        fields.append(("current_version", str(rejected.current)))
    if rejected.accepted is not None:
        fields.append(("accepted_version", str(rejected.accepted)))
    fields.append(("submission", submission))
    return b"".join([_property(name, value) for name, value in fields if value])
