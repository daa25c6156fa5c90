"""Many plain messages, read by columns: all their keys, all their ids, and so on. Pure.

A message is plain when it is one event, its metadata has a key, and of the properties that mean something here none
but, in binary mode, the `id` and the `version`, before the application's own. None of those takes 128 bytes. Most
submitted batches hold nothing else, and read by columns they cost half: what has to be asked of every message is asked
of a whole column at once, by functions that loop in C. Small batches that have arrived one after the other are read
like one, and so are messages of a publisher that does not batch, in structured mode and without properties, which are
an entry each.

`entries.read_entry` is the rule for what a message means. Whatever is unusual about a batch, be it a property of the
sequencer's, one list, one missing key or a byte too many, `read_plain` leaves all of it to `read_entry`; what it does
read means and becomes the same (`tests/property/test_plain.py` compares the two).
"""

from __future__ import annotations

import re
import struct
from binascii import unhexlify
from collections.abc import Sequence
from itertools import chain, compress, repeat
from operator import attrgetter
from typing import Annotated, Final, NamedTuple

import msgspec
from google.protobuf.message import DecodeError, EncodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from sequencer.event import (
    FORWARDED_FROM,
    MAX_ENTRY_BYTES,
    MAX_KEY_BYTES,
    MAX_VERSION,
    NO_AGGREGATE,
    ONE_BYTE_MAX,
    OUTCOME_BYTES,
    OUTCOME_PROPERTIES,
    REPLY_TO,
    Accepted,
    Source,
    Submission,
    varint,
)
from sequencer.pulsar.batches import decompress
from sequencer.pulsar.errors import CorruptBatch
from sequencer.pulsar.frames import Entry
from sequencer.pulsar.plain_head_pb2 import PlainEntry, PlainHead
from sequencer.pulsar.pulsar_api_pb2 import SingleMessageMetadata

_U32 = struct.Struct(">I")
_UUID_CHARACTERS = 36
_UUID_DASHES = (8, 13, 18, 23)

_PROPERTY: Final = 0x0A
_NAME: Final = 0x0A
_VALUE: Final = 0x12
"""What begins a property in serialized metadata, and in it its name and its value."""

_GROUP: Final = 3
"""What protobuf calls the type of a field that lasts until another one ends it."""

_MEANINGFUL: Final = frozenset(name.encode() for name in OUTCOME_PROPERTIES | {REPLY_TO, FORWARDED_FROM})
"""Names of properties that say something to the sequencer, or that an outcome replaces. All others just travel on."""

_ID = rb"\n\x2a\n\x02id\x12\x24([0-9A-Fa-f-]{36})"
_VERSION = rb"\n([\x0c-\x1b])\n\x07version\x12([\x01-\x10])(-?[0-9]{1,16})"
_ID_AND_VERSION = re.compile(rb"%b(?:%b)?" % (_ID, _VERSION))
_VERSION_AND_ID = re.compile(rb"%b%b" % (_VERSION, _ID))
"""The properties of binary mode as the official clients write them: one or two serialized KeyValues before everything
else, in the order in which the application has set them."""

_ID_BEGINS: Final = b"\n\x2a\n\x02id\x12\x24"
_ID_ENDS: Final = len(_ID_BEGINS) + _UUID_CHARACTERS
_DIGITS_BEGIN: Final = _ID_ENDS + 13
"""Of a version that follows an id; how many they are says the byte before."""

_USUAL_VERSIONS: Final = {
    b"\n%c\n\x07version\x12%c%b" % (len(digits) + 11, len(digits), digits): int(digits)
    for digits in (b"%d" % version for version in range(NO_AGGREGATE, 1_000))
}
"""The whole property of each: to look it up costs half as much as to read it with a regular expression."""


class PlainBatch(msgspec.Struct, frozen=True, gc=False):
    """Plain submissions of one entry, or of several that are alike: what `Submission` says, in columns."""

    source: Source
    batch_indexes: Sequence[int]
    keys: Sequence[str]
    id_texts: Sequence[str]
    event_ids: Sequence[bytes]
    expected: Sequence[int | None]
    heads: Sequence[bytes]
    bare_heads: Sequence[bytes]
    """`heads` without the properties that an outcome replaces."""
    payloads: Sequence[bytes]
    positions: Sequence[str] | None = None
    """The entry of each, where that is not the same for all: `source` is the first one's."""

    def submission(self, row: int) -> Submission:
        """One of them by itself."""
        source = self.source if self.positions is None else self.source._replace(position=self.positions[row])
        return Submission(
            self.keys[row],
            self.event_ids[row],
            self.id_texts[row],
            self.expected[row],
            self.heads[row],
            None if self.bare_heads is self.heads else SingleMessageMetadata.FromString(self.heads[row]),
            self.payloads[row],
            source,
            self.batch_indexes[row],
            reply_to=source.reply_to,
        )

    def only(self, chosen: Sequence[int]) -> PlainBatch:
        """The rows whose place in `chosen` is not 0, in order."""
        heads = list(compress(self.heads, chosen))
        return PlainBatch(
            self.source,
            list(compress(self.batch_indexes, chosen)),
            list(compress(self.keys, chosen)),
            list(compress(self.id_texts, chosen)),
            list(compress(self.event_ids, chosen)),
            list(compress(self.expected, chosen)),
            heads,
            heads if self.bare_heads is self.heads else list(compress(self.bare_heads, chosen)),
            list(compress(self.payloads, chosen)),
            None if self.positions is None else list(compress(self.positions, chosen)),
        )


class AcceptedRun(msgspec.Struct, frozen=True, gc=False):
    """The outcome of many plain submissions: each became one event, with consecutive sequences."""

    batch: PlainBatch
    versions: Sequence[int]
    sequence: int
    """Of the first one."""

    def outcomes(self) -> list[Accepted]:
        """One by one."""
        rows = enumerate(self.versions)
        return [Accepted(self.batch.submission(row), version, self.sequence + row) for row, version in rows]


class _NotPlain(Exception):
    """Something is unusual. What, `read_entry` finds out."""


def read_plain(
    entries: Sequence[Entry], source: Source, positions: Sequence[str], max_message_bytes: int
) -> PlainBatch | None:
    """The messages of submitted batches where all of them are plain, else None.

    Args:
        entries: that may be opened, and whose sources differ in their position only.
        source: of the first entry.
        positions: of every entry, as in a `Source`.
        max_message_bytes: the broker's limit for metadata and payload of one message.
    """
    try:
        return _read_batches(entries, source, positions, max_message_bytes)
    except _UNUSUAL:
        return None


def read_plain_entries(
    entries: Sequence[Entry], source: Source, positions: Sequence[str], max_message_bytes: int
) -> PlainBatch | None:
    """The messages of submitted entries that are no batches, where all of them are plain, else None.

    Args: as in `read_plain`.
    """
    try:
        return _read_entries(entries, source, positions, max_message_bytes)
    except _UNUSUAL:
        return None


_UNUSUAL = (
    _NotPlain,
    CorruptBatch,
    DecodeError,
    EncodeError,
    struct.error,
    IndexError,  # metadata that ends too early
    UnicodeError,
    msgspec.MsgspecError,
    RecursionError,  # a payload that is nested too deeply
)


class _Opened(NamedTuple):
    """Batches as they stand on the wire, and where their messages come from."""

    batches: Sequence[tuple[bytes, int]]
    """Their bytes, and how many messages these should be."""
    source: Source
    batch_indexes: Sequence[int]
    positions: Sequence[str] | None


def _read_batches(
    entries: Sequence[Entry], source: Source, positions: Sequence[str], max_message_bytes: int
) -> PlainBatch:
    batches = []
    for entry in entries:
        metadata = entry.metadata
        data = decompress(metadata.compression, entry.payload, metadata.uncompressed_size, MAX_ENTRY_BYTES)
        # Not even one message that had all the bytes would be too large with its outcome.
        if len(data) + OUTCOME_BYTES > max_message_bytes or len(data) < 5:
            raise _NotPlain
        batches.append((data, metadata.num_messages_in_batch))
    if len(batches) == 1:
        opened = _Opened(batches, source, range(batches[0][1]), None)
    else:
        counts = [count for _, count in batches]
        indexes = list(chain.from_iterable(map(range, counts)))
        opened = _Opened(batches, source, indexes, list(chain.from_iterable(map(repeat, positions, counts))))
    first = batches[0][0]
    is_binary = _ID_AND_VERSION.match(first, 4) or _VERSION_AND_ID.match(first, 4)
    return _read_binary(opened) if is_binary else _read_structured(opened)


def _read_entries(
    entries: Sequence[Entry], source: Source, positions: Sequence[str], max_message_bytes: int
) -> PlainBatch:
    payloads = [entry.payload for entry in entries]
    largest = max(map(len, payloads))
    if largest + MAX_KEY_BYTES + OUTCOME_BYTES > min(max_message_bytes, MAX_ENTRY_BYTES) or not all(payloads):
        raise _NotPlain
    keys: list[str] = []
    view = PlainEntry()
    parse, remarkable = view.ParseFromString, view.WhichOneof
    for entry in entries:
        parse(entry.metadata.SerializeToString())
        if remarkable("remarkable") or view.compression or view.schema_version != source.schema_version:
            raise _NotPlain
        keys.append(view.partition_key)
    _check_keys(keys)
    heads = []
    for key, payload in zip(keys, payloads, strict=True):
        encoded = key.encode()
        heads.append(b"\x12%b%b\x18%b" % (varint(len(encoded)), encoded, varint(len(payload))))
    return _structured(source, [-1] * len(keys), keys, heads, payloads, positions)


def _read_structured(opened: _Opened) -> PlainBatch:
    keys: list[str] = []
    heads: list[bytes] = []
    payloads: list[bytes] = []
    view = PlainHead()
    parse, remarkable, unpack = view.ParseFromString, view.WhichOneof, _U32.unpack_from
    for data, count in opened.batches:
        position = 0
        for _ in range(count):
            start = position + 4
            end = start + unpack(data, position)[0]
            head = data[start:end]
            parse(head[_end_of_own_properties(head) :] if head[0] == _PROPERTY else head)
            size = view.payload_size
            position = end + size
            if size < 1 or remarkable("remarkable"):
                raise _NotPlain
            keys.append(view.partition_key)
            heads.append(head)
            payloads.append(data[end:position])
        if position != len(data):
            raise _NotPlain
    _check_keys(keys)
    _check_heads(heads)
    return _structured(opened.source, opened.batch_indexes, keys, heads, payloads, opened.positions)


def _end_of_own_properties(head: bytes) -> int:
    """Where in serialized metadata the properties end that it begins with; all of them must be the application's own.

    Written out by hand, since every property of every message comes by; what does not look as usual is not plain.
    """
    begin = 0
    while head[begin] == _PROPERTY:
        size, name_size = head[begin + 1], head[begin + 3]
        end, name_end = begin + 2 + size, begin + 4 + name_size
        value_size = head[name_end + 1]
        if (
            head[begin + 2] != _NAME
            or head[name_end] != _VALUE
            or name_end + 2 + value_size != end
            or size > ONE_BYTE_MAX
            or head[begin + 4 : name_end] in _MEANINGFUL
        ):
            raise _NotPlain
        begin = end
    return begin


def _structured(
    source: Source,
    batch_indexes: Sequence[int],
    keys: Sequence[str],
    heads: Sequence[bytes],
    payloads: Sequence[bytes],
    positions: Sequence[str] | None,
) -> PlainBatch:
    """What the payloads say of messages whose metadata says no more than these columns."""
    if not all(map(bytes.isascii, payloads)):
        for payload in payloads:
            payload.decode()
    decoded = list(map(_decode_event, payloads))
    ids = list(map(_id_of, decoded))
    versions = list(map(_version_of, decoded))
    return PlainBatch(source, batch_indexes, keys, ids, _uuids(ids), versions, heads, heads, payloads, positions)


def _read_binary(opened: _Opened) -> PlainBatch:
    keys: list[str] = []
    ids: list[str] = []
    expected: list[int | None] = []
    heads: list[bytes] = []
    bare_heads: list[bytes] = []
    payloads: list[bytes] = []
    view = PlainHead()
    parse, remarkable, unpack = view.ParseFromString, view.WhichOneof, _U32.unpack_from
    usual_version = _USUAL_VERSIONS.get
    for data, count in opened.batches:
        position = 0
        for _ in range(count):
            start = position + 4
            end = start + unpack(data, position)[0]
            head = data[start:end]
            version: int | None = None
            if len(head) > _DIGITS_BEGIN:
                bare = _DIGITS_BEGIN + head[_DIGITS_BEGIN - 1]
                version = usual_version(head[_ID_ENDS:bare])
            if version is not None and head[: len(_ID_BEGINS)] == _ID_BEGINS:
                event_id = head[len(_ID_BEGINS) : _ID_ENDS]
            else:
                event_id, version, bare = _id_and_version(head)
            expected.append(version)
            bare_head = head[bare:]
            parse(bare_head[_end_of_own_properties(bare_head) :] if bare_head[0] == _PROPERTY else bare_head)
            size = view.payload_size
            position = end + size
            if size < 1 or remarkable("remarkable"):
                raise _NotPlain
            keys.append(view.partition_key)
            ids.append(event_id.decode())
            heads.append(head)
            bare_heads.append(bare_head)
            payloads.append(data[end:position])
        if position != len(data):
            raise _NotPlain
    _check_keys(keys)
    _check_heads(bare_heads)
    versions = [version for version in expected if version is not None]
    if versions and not (min(versions) >= NO_AGGREGATE and max(versions) <= MAX_VERSION):
        raise _NotPlain
    source, indexes, positions = opened.source, opened.batch_indexes, opened.positions
    return PlainBatch(source, indexes, keys, ids, _uuids(ids), expected, heads, bare_heads, payloads, positions)


def _id_and_version(head: bytes) -> tuple[bytes, int | None, int]:
    """The id and the version that serialized metadata begins with, and where they end."""
    if found := _ID_AND_VERSION.match(head):
        event_id, property_size, digits_size, digits = found.groups()
    elif found := _VERSION_AND_ID.match(head):
        property_size, digits_size, digits, event_id = found.groups()
    else:
        raise _NotPlain
    if digits is None:
        return event_id, None, found.end()
    if digits_size[0] != len(digits) or property_size[0] != len(digits) + 11:
        raise _NotPlain
    return event_id, int(digits), found.end()


class _Event(msgspec.Struct, gc=False):
    """A single event in structured mode; whatever else the payload is fails to be decoded."""

    id: str
    data: msgspec.Raw
    version: Annotated[int, msgspec.Meta(ge=NO_AGGREGATE, le=MAX_VERSION)] | None = None
    events: None = None


_decode_event = msgspec.json.Decoder(_Event).decode
_id_of = attrgetter("id")
_version_of = attrgetter("version")


def _check_keys(keys: Sequence[str]) -> None:
    """Every message needs a key of some characters, none of them more bytes than are allowed."""
    # What protobuf gives where a string on the wire is not UTF-8 is bytes.
    if set(map(type, keys)) != {str} or not all(keys) or max(map(len, keys)) * 4 > MAX_KEY_BYTES:
        raise _NotPlain


def _check_heads(heads: Sequence[bytes]) -> None:
    """No message's metadata may hold a group (see `entries.drop_groups`).

    Serialized messages can be concatenated, so all of them are one message to be asked about.
    """
    if holds_unknown_group(PlainHead.FromString(b"".join(heads))):
        raise _NotPlain


def holds_unknown_group(message: Message) -> bool:
    """Whether one of the fields that nobody knows is a group; what is inside of those that are known is not looked
    at."""
    unknown = UnknownFieldSet(message)
    return any(unknown[place].wire_type == _GROUP for place in range(len(unknown)))


def _uuids(texts: Sequence[str]) -> Sequence[bytes]:
    """The 16 bytes of every UUID."""
    joined = "".join(texts)
    count = len(texts)
    if set(map(len, texts)) != {_UUID_CHARACTERS} or joined.count("-") != len(_UUID_DASHES) * count:
        raise _NotPlain
    if any(joined[place::_UUID_CHARACTERS].count("-") != count for place in _UUID_DASHES):
        raise _NotPlain
    try:
        digits = unhexlify(joined.replace("-", ""))
    except ValueError:
        raise _NotPlain from None
    return struct.unpack("16s" * count, digits)
