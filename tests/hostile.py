"""Bytes as somebody hostile, or a broken disk, would write them: what is well-formed, and then not quite."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from rocksdict import Options, Rdict

from sequencer.pulsar.batches import Compression, compress
from sequencer.pulsar.frames import Entry
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata
from tests.submitted import batch, message, sent_metadata, single, stored, structured

Change = Callable[[bytes], bytes]

PLACES = st.integers(0, 2**16)
COUNTS = st.integers(-(2**31), 2**31 - 1) | st.integers(-1, 4)
SIZES = st.sampled_from([0, 1, 2**20, 2**25, 2**25 + 1, 2**31, 2**32 - 1]) | st.integers(0, 3000)

EDGES = [
    b"",
    b"\x00",
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\x00\x00\x00\x01",
    b"\xff" * 9 + b"\x01",
]
"""What sizes and varints look like at their ends."""

changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(lambda at, byte: lambda data: _spliced(data, at, 1, bytes([byte])), PLACES, st.integers(0, 255)),
    st.builds(lambda at, edge: lambda data: _spliced(data, at, len(edge), edge), PLACES, st.sampled_from(EDGES)),
    st.builds(lambda at: lambda data: data[: at % (len(data) + 1)], PLACES),
    st.builds(lambda at, more: lambda data: _spliced(data, at, 0, more), PLACES, st.binary(min_size=1, max_size=12)),
    st.builds(lambda at, size: lambda data: _spliced(data, at, size, b""), PLACES, st.integers(1, 20)),
    st.builds(lambda at, size: lambda data: _repeated(data, at, size), PLACES, st.integers(1, 200)),
    st.builds(lambda more: lambda data: data + more, st.binary(min_size=1, max_size=20)),
)


def _spliced(data: bytes, at: int, length: int, put: bytes) -> bytes:
    at %= len(data) + 1
    return data[:at] + put + data[at + length :]


def _repeated(data: bytes, at: int, size: int) -> bytes:
    at %= len(data) + 1
    return data[: at + size] + data[at:]


def broken(whole: st.SearchStrategy[bytes], most: int = 3) -> st.SearchStrategy[bytes]:
    """`whole`, with up to `most` changes."""
    return st.builds(_changed, whole, st.lists(changes, max_size=most))


def _changed(data: bytes, made: list[Change]) -> bytes:
    for change in made:
        data = change(data)
    return data


def with_broken_metadata(entry: Entry, made: list[Change]) -> Entry:
    """As the frame parser gives it: metadata that cannot be parsed at all is told as damage."""
    try:
        metadata = MessageMetadata.FromString(_changed(entry.metadata.SerializePartialToString(), made))
    except DecodeError:
        return entry._replace(metadata=MessageMetadata(), damage="the metadata cannot be parsed")
    return entry._replace(metadata=metadata)


# --- JSON ---

IDS = st.uuids().map(str)
TEXTS = st.text(max_size=6) | st.sampled_from(["\ud800", "\udfff\ud800", "\x00", "\u2028", "9" * 400])
SCALARS: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.floats() | TEXTS | IDS
    | st.integers(-2, 3) | st.sampled_from([2**53, 2**63, 2**64, -(2**63) - 1, 10**400])
)  # fmt: skip


def json_bytes(value: Any) -> bytes:
    """With NaN, Infinity and lone surrogates as Python writes them: in ASCII, escaped."""
    return json.dumps(value).encode()


deep = st.builds(
    lambda opening, depth: (opening * depth).encode(),
    st.sampled_from(["[", '{"a":', '[{"a":']),
    st.sampled_from([5, 10_000]),
)
"""Nesting that nobody closes."""


# --- entries ---

OUTCOME_NAMES = ["id", "version", "sequence", "submission", "reason", "forwarded_from", "x"]
PROPERTIES = st.lists(
    st.tuples(
        st.sampled_from(OUTCOME_NAMES), st.sampled_from(["0", "1", "-1", "7" * 30, "٣", ""]) | IDS | st.text(max_size=4)
    ),
    max_size=5,
)
PAYLOADS = st.builds(structured, IDS, st.integers(), version=st.integers(-1, 2)) | st.binary(max_size=40)
KEYS = st.sampled_from(["a", "b", "", None, "\U0001f600"])
KINDS = st.sampled_from(list(Compression))
MESSAGES = st.builds(message, PAYLOADS, KEYS, PROPERTIES)
WHOLE_ENTRIES = st.builds(
    lambda messages, kind: batch(messages, compression=kind), st.lists(MESSAGES, max_size=4), KINDS
) | st.builds(lambda payload, key, properties, kind: single(payload, key, properties, compression=kind),
              PAYLOADS, KEYS, PROPERTIES, KINDS)  # fmt: skip


def _lied(entry: Entry, count: int | None, size: int | None, kind: int | None) -> Entry:
    if count is not None:
        entry.metadata.num_messages_in_batch = count
    if size is not None:
        entry.metadata.uncompressed_size = size
    if kind is not None:
        entry.metadata.compression = kind
    return entry


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    """An entry of any topic of ours: whole, changed in its payload or metadata, or with a lie about itself."""
    entry = draw(WHOLE_ENTRIES)
    match draw(st.integers(0, 4)):
        case 1:
            entry = _lied(entry, draw(st.none() | COUNTS), draw(st.none() | SIZES), draw(st.none() | KINDS.map(int)))
        case 2:
            plain = _changed(entry.payload, draw(st.lists(changes, min_size=1, max_size=3)))
            entry = entry._replace(payload=plain)
        case 3:
            entry = with_broken_metadata(entry, draw(st.lists(changes, min_size=1, max_size=3)))
        case 4:
            # Damage below the compression, which nothing but the parser of batches can notice.
            count = draw(COUNTS)
            plain = draw(broken(st.lists(MESSAGES, max_size=4).map(_joined)))
            kind = draw(KINDS)
            metadata = sent_metadata(num_messages_in_batch=count, uncompressed_size=len(plain), compression=int(kind))
            entry = stored(metadata, compress(kind, plain))
    return entry


def _joined(messages: list[tuple[bytes, bytes]]) -> bytes:
    return batch(messages).payload


# --- indexes ---


def plant(directory: Path, planted: Iterable[tuple[str, bytes, bytes]]) -> None:
    """Write (column family, key, value) rows into a closed index, past everything that guards it."""
    options = Options(raw_mode=True)
    names = [name for name in Rdict.list_cf(str(directory)) if name != "default"]
    db = Rdict(str(directory), options, dict.fromkeys(names, options))
    families = {name: db.get_column_family(name) for name in names}
    for name, key, value in planted:
        families.get(name, db)[key] = value
    for family in families.values():
        family.close()
    db.close()
