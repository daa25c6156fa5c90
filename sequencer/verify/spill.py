"""The verifier's tables on disk: a RocksDB in a temporary directory, for logs that do not fit in memory."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from rocksdict import (
    BlockBasedOptions,
    Cache,
    ColumnFamily,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from sequencer import SequencerError
from sequencer.verify.tables import TABLES, Table, Tables

MIB = 1024 * 1024
BLOCK_CACHE_BYTES = 96 * MIB
WRITE_BUFFERS_BYTES = 96 * MIB
"""Rows of all tables together that are not in files yet."""
FAMILY_WRITE_BUFFER_BYTES = 24 * MIB
BLOCK_BYTES = 8 * 1024
BLOOM_BITS_PER_KEY = 10
SCAN_CHUNK_ROWS = 10_000
SCAN_CHUNK_BYTES = 4 * MIB
"""A list of events is one row, of up to 16 KB."""
BATCH_ROWS = 10_000
MAX_OPEN_FILES = 256
BACKGROUND_JOBS = 2

Result = TypeVar("Result")


class SpillFailed(SequencerError):
    """The temporary directory cannot be used: it is full, say."""


@contextlib.contextmanager
def spilled_tables() -> Iterator[Tables]:
    """Empty tables, in a directory under TMPDIR that is removed at the end. They take about 250 bytes per event.

    Raises: SpillFailed, here or while the tables are used.
    """
    with tempfile.TemporaryDirectory(prefix="sequencer-verify-", ignore_cleanup_errors=True) as directory:
        database = _Database(Path(directory))
        try:
            yield database.tables
        finally:
            database.close()


class _Database:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        cache = Cache(BLOCK_CACHE_BYTES)
        self._db: Rdict = self.call(lambda: Rdict(str(directory / "tables"), _options(cache)))
        self._unlogged = WriteOptions()
        # Nothing here outlives the process. (The annotation calls it a method; it is an attribute.)
        self._unlogged.disable_wal = True  # type: ignore[method-assign,assignment]
        self._families: list[Rdict] = []
        self.tables: dict[str, Table] = {}
        for name in TABLES:
            family = self.call(functools.partial(self._db.create_column_family, name, _options(cache)))
            family.set_write_options(self._unlogged)
            self._families.append(family)
            self.tables[name] = _SpilledTable(self, family, self._db.get_column_family_handle(name))

    def write(self, batch: WriteBatch) -> None:
        self.call(lambda: self._db.write(batch, self._unlogged))

    def call(self, operation: Callable[[], Result]) -> Result:
        try:
            return operation()
        except Exception as error:  # rocksdict knows no classes of its own
            raise SpillFailed(f"cannot use the temporary directory {self._directory}: {error}") from error

    def close(self) -> None:
        self.tables.clear()
        for family in (*self._families, self._db):
            with contextlib.suppress(Exception):
                family.close()


class _SpilledTable:
    """One column family."""

    def __init__(self, database: _Database, family: Rdict, handle: ColumnFamily) -> None:
        self._database = database
        self._family = family
        self._handle = handle

    def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        wanted: Any = list(keys)
        found: Any = self._database.call(lambda: self._family.get(wanted)) if wanted else []
        return list(found)

    def put(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        rows = iter(rows)
        while chunk := list(islice(rows, BATCH_ROWS)):
            batch = self._batch()
            for key, value in chunk:
                batch[key] = value
            self._database.write(batch)

    def remove(self, keys: Iterable[bytes]) -> None:
        batch = self._batch()
        for key in keys:
            batch.delete(key)
        if len(batch):
            self._database.write(batch)

    def scan(self, first: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        while chunk := self._database.call(functools.partial(self._chunk, first, end)):
            yield from chunk
            first = chunk[-1][0] + b"\0"  # the least key above it

    def _chunk(self, first: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        rows: list[tuple[bytes, bytes]] = []
        size = 0
        cursor = self._family.iter()
        cursor.seek(first)
        while len(rows) < SCAN_CHUNK_ROWS and size < SCAN_CHUNK_BYTES and cursor.valid() and cursor.key() < end:
            rows.append((cursor.key(), cursor.value()))
            size += len(rows[-1][1])
            cursor.next()
        cursor.status()
        return rows

    def drop(self, first: bytes, end: bytes) -> None:
        self._database.call(lambda: self._family.delete_range(first, end))

    def _batch(self) -> WriteBatch:
        batch = WriteBatch(raw_mode=True)
        batch.set_default_column_family(self._handle)
        return batch


def _options(cache: Cache) -> Options:
    blocks = BlockBasedOptions()
    blocks.set_block_cache(cache)
    blocks.set_block_size(BLOCK_BYTES)
    blocks.set_bloom_filter(BLOOM_BITS_PER_KEY, False)
    blocks.set_cache_index_and_filter_blocks(True)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(blocks)
    options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES)
    options.set_write_buffer_size(FAMILY_WRITE_BUFFER_BYTES)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_max_open_files(MAX_OPEN_FILES)
    options.set_max_background_jobs(BACKGROUND_JOBS)
    options.set_stats_dump_period_sec(0)
    return options
