"""The inside of an entry: compression, and the format of a batch.

A batch, once decompressed, repeats for each message:  u32 metadata size | SingleMessageMetadata | payload.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import chain

import cramjam
from google.protobuf.message import DecodeError

from sequencer.pulsar.errors import CorruptBatch
from sequencer.pulsar.pulsar_api_pb2 import SingleMessageMetadata

_U32 = struct.Struct(">I")


class Compression(IntEnum):
    """MessageMetadata.compression."""

    NONE = 0
    LZ4 = 1
    ZLIB = 2
    ZSTD = 3
    SNAPPY = 4


def compress(kind: int, data: bytes) -> bytes:
    """`data` in the form that the official clients write for `kind`.

    Raises:
        ValueError: `kind` is none of `Compression`.
    """
    match Compression(kind):
        case Compression.NONE:
            return data
        case Compression.LZ4:
            return bytes(cramjam.lz4.compress_block(data, store_size=False))
        case Compression.ZLIB:
            return bytes(cramjam.zlib.compress(data))
        case Compression.ZSTD:
            return bytes(cramjam.zstd.compress(data))
        case Compression.SNAPPY:
            return bytes(cramjam.snappy.compress_raw(data))


def _decompress_lz4(data: bytes, output: bytearray) -> int:
    """cramjam guesses whether a block has its size before it, which in Pulsar it never has: it tries the one that it is
    told, and then the other. Only a block whose first bytes are the very size that came out can be the other one."""
    size: int = cramjam.lz4.decompress_block_into(data, output, output_len=len(output))
    if data[:4] == size.to_bytes(4, "little"):
        cramjam.lz4.decompress_block(data, output_len=len(output))  # this one does not guess: it refuses
    return size


_DECOMPRESS_INTO = {
    Compression.LZ4: _decompress_lz4,
    Compression.ZLIB: cramjam.zlib.decompress_into,
    Compression.ZSTD: cramjam.zstd.decompress_into,
    Compression.SNAPPY: cramjam.snappy.decompress_raw_into,
}


def decompress(kind: int, data: bytes, uncompressed_size: int, limit_bytes: int) -> bytes:
    """The content of an entry's payload.

    Output goes into a buffer of the stated size, so that neither a bomb nor a lie about the size can make it
    allocate more than `limit_bytes`.

    Raises:
        CorruptBatch: the kind is unknown, the stated size is above the limit or not the real one, or `data` is broken.
    """
    if kind == Compression.NONE:
        if len(data) > limit_bytes:
            raise CorruptBatch(f"{len(data)} bytes, allowed are {limit_bytes}")
        return data
    if kind not in _DECOMPRESS_INTO:
        raise CorruptBatch(f"unknown compression {kind}")
    if uncompressed_size > limit_bytes:
        raise CorruptBatch(f"{uncompressed_size} bytes once decompressed, allowed are {limit_bytes}")
    output = bytearray(uncompressed_size)
    try:
        size = _DECOMPRESS_INTO[Compression(kind)](data, output)
    except cramjam.DecompressionError as broken:
        raise CorruptBatch(f"cannot be decompressed ({Compression(kind).name}): {broken}") from None
    if size != uncompressed_size:
        raise CorruptBatch(f"{size} bytes once decompressed, stated were {uncompressed_size}")
    return bytes(output)


def split_batch(data: bytes, count: int) -> Iterator[tuple[SingleMessageMetadata, bytes, bytes]]:
    """The `count` messages of a batch: parsed metadata, the same serialized, payload.

    Each message's metadata must be parsed here anyway to find where its payload ends.

    Raises:
        CorruptBatch: when the iteration comes to a message that is not there, or finds bytes after the last one.
    """
    parse = SingleMessageMetadata.FromString
    unpack = _U32.unpack_from
    position, end = 0, len(data)
    try:
        for _ in range(count):
            head_start = position + 4
            head_end = head_start + unpack(data, position)[0]
            head = data[head_start:head_end]
            metadata = parse(head)
            size = metadata.payload_size
            position = head_end + size
            if position > end or size < 0:
                raise CorruptBatch("a message that is longer than its batch")
            yield metadata, head, data[head_end:position]
    except (struct.error, DecodeError) as broken:
        raise CorruptBatch(f"message metadata that cannot be read: {broken}") from None
    if position != end:
        raise CorruptBatch(f"{end - position} bytes after the last of {count} messages")


def join_batch(parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The batch that holds `parts`: serialized SingleMessageMetadata (with the right payload_size) and payload."""
    return join_columns([head for head, _ in parts], [payload for _, payload in parts])


def join_columns(heads: Sequence[bytes], payloads: Sequence[bytes]) -> bytes:
    """`join_batch` of parts whose halves stand in two columns."""
    # Loops in C only: it runs once for every message that goes out.
    sizes = map(_U32.pack, map(len, heads))
    return b"".join(chain.from_iterable(zip(sizes, heads, payloads, strict=True)))
