"""Batches and compression, bombs and lies included."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
import zlib

import pytest

from sequencer.pulsar.batches import Compression, compress, decompress, join_batch, join_columns, split_batch
from sequencer.pulsar.errors import CorruptBatch
from sequencer.pulsar.pulsar_api_pb2 import CompressionType, SingleMessageMetadata

LIMIT_BYTES = 1 << 20
COMPRESSED = [kind for kind in Compression if kind is not Compression.NONE]


def head(payload: bytes, key: str = "k") -> bytes:
    return SingleMessageMetadata(payload_size=len(payload), partition_key=key).SerializeToString()


def test_the_kinds_are_the_wire_ones() -> None:
    assert {kind.name: kind.value for kind in Compression} == dict(CompressionType.items())


@pytest.mark.parametrize("kind", Compression)
@pytest.mark.parametrize("data", [b"", b"x", b"abc" * 5000, bytes(range(256)) * 300])
def test_round_trip(kind: Compression, data: bytes) -> None:
    assert decompress(kind, compress(kind, data), len(data), LIMIT_BYTES) == data


def test_columns_are_joined_like_pairs() -> None:
    payloads = [b"x", b"", b"abc" * 100]
    heads = [head(payload) for payload in payloads]
    assert join_columns(heads, payloads) == join_batch(list(zip(heads, payloads, strict=True)))
    assert [(one, body) for _, one, body in split_batch(join_columns(heads, payloads), 3)] == list(
        zip(heads, payloads, strict=True)
    )
    with pytest.raises(ValueError, match="shorter"):
        join_columns(heads, payloads[:2])


def test_compression_makes_it_smaller() -> None:
    for kind in COMPRESSED:
        assert len(compress(kind, bytes(100_000))) < 10_000


def test_zlib_is_the_zlib_format() -> None:
    assert zlib.decompress(compress(Compression.ZLIB, b"abc")) == b"abc"
    assert decompress(Compression.ZLIB, zlib.compress(b"abc"), 3, LIMIT_BYTES) == b"abc"


@pytest.mark.parametrize("kind", COMPRESSED)
@pytest.mark.parametrize("lie", [0, 1, 999, 1001, 5000])
def test_a_wrong_size_is_refused(kind: Compression, lie: int) -> None:
    with pytest.raises(CorruptBatch):
        decompress(kind, compress(kind, bytes(1000)), lie, LIMIT_BYTES)


@pytest.mark.parametrize("kind", COMPRESSED)
@pytest.mark.parametrize("stated", [1000, LIMIT_BYTES + 1, 50_000_000, 2**32 - 1])
def test_a_bomb_does_not_go_off(kind: Compression, stated: int) -> None:
    bomb = compress(kind, bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(CorruptBatch):
        decompress(kind, bomb, stated, LIMIT_BYTES)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2 * LIMIT_BYTES


@pytest.mark.parametrize("kind", COMPRESSED)
def test_garbage_is_refused(kind: Compression) -> None:
    for garbage in (b"", b"\xff" * 50, compress(kind, bytes(1000))[:-3]):
        with pytest.raises(CorruptBatch):
            decompress(kind, garbage, 1000, LIMIT_BYTES)


def test_an_unknown_kind_and_a_large_plain_payload_are_refused() -> None:
    with pytest.raises(CorruptBatch, match="unknown compression 9"):
        decompress(9, b"x", 1, LIMIT_BYTES)
    with pytest.raises(CorruptBatch):
        decompress(Compression.NONE, bytes(LIMIT_BYTES + 1), 0, LIMIT_BYTES)
    with pytest.raises(ValueError, match="9"):
        compress(9, b"x")


def test_a_batch_comes_back() -> None:
    parts = [(head(payload, key), payload) for key, payload in (("a", b"one"), ("b", b""), ("c", b"three" * 100))]
    found = list(split_batch(join_batch(parts), 3))
    assert [(raw, payload) for _, raw, payload in found] == parts
    assert [metadata.partition_key for metadata, _, _ in found] == ["a", "b", "c"]


def test_an_empty_batch() -> None:
    assert list(split_batch(join_batch([]), 0)) == []


@pytest.mark.parametrize("count", [1, 3])
def test_a_wrong_count_is_refused(count: int) -> None:
    data = join_batch([(head(b"xy"), b"xy")] * 2)
    with pytest.raises(CorruptBatch):
        list(split_batch(data, count))


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0",
        struct.pack(">I", 100) + head(b"x") + b"x",
        struct.pack(">I", 3) + b"\xff\xff\xff",
        join_batch([(SingleMessageMetadata(payload_size=10).SerializeToString(), b"short")]),
        join_batch([(SingleMessageMetadata(payload_size=-1).SerializeToString(), b"")]),
        struct.pack(">I", 2**32 - 1),
    ],
)
def test_broken_batches_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptBatch):
        list(split_batch(data, 1))


def test_every_cut_of_a_batch_is_refused() -> None:
    data = join_batch([(head(b"payload"), b"payload")] * 2)
    for end in range(len(data)):
        with pytest.raises(CorruptBatch):
            list(split_batch(data[:end], 2))


def test_messages_before_the_damage_are_readable() -> None:
    data = join_batch([(head(b"one"), b"one"), (head(b"two"), b"two")])[:-1]
    assert [payload for _, _, payload in itertools.islice(split_batch(data, 2), 1)] == [b"one"]


GUESSED_WRONGLY = (
    b"\x00\x00\x00\xd3\x18\x04(\x00:(" + b"0" * 40 + b"@\xff\xff\xff\xff\xff\x01"
    b"\n*\n\x02id\x12$e3e70682-c209-4cac-629f-6fbed82c07cd\n\x15\n\x06reason\x12\x0bmissing_key"
    b"\nB\n\x06detail\x128a message needs a partition key: the id of its aggregate"
    b"\n\x15\n\nsubmission\x12\x077:1:0:0None"
)  # fmt: skip
"""Compressed, it looks like a block of 191 bytes with its size before it, which can be decompressed just as well."""


def test_an_lz4_block_that_looks_like_one_with_its_size_before_it() -> None:
    compressed = compress(Compression.LZ4, GUESSED_WRONGLY)
    assert decompress(Compression.LZ4, compressed, len(GUESSED_WRONGLY), 1000) == GUESSED_WRONGLY


@pytest.mark.parametrize("off_by", [-1, 0, 1])
def test_an_lz4_block_with_its_size_before_it_is_not_what_clients_write(off_by: int) -> None:
    size = len(GUESSED_WRONGLY)
    prefixed = (size + off_by).to_bytes(4, "little") + compress(Compression.LZ4, GUESSED_WRONGLY)
    with pytest.raises(CorruptBatch):
        decompress(Compression.LZ4, prefixed, size, 1000)
