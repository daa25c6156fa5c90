"""One RocksDB directory: its column families and their options, opening, scanning, closing, destroying.

What the rows mean is index.py's matter. Every failure of RocksDB leaves here as a member of the error tree.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rocksdict import (
    BlockBasedOptions,
    Cache,
    ColumnFamily,
    DBCompactionStyle,
    DBCompressionType,
    DBRecoveryMode,
    MemtableFactory,
    Options,
    Rdict,
    RdictIter,
    ReadOptions,
    SliceTransform,
    UniversalCompactOptions,
)

from state.errors import IndexDamaged, IndexHeld, IndexMismatch, IndexUnavailable, failure_of, write_failure_of

KIB = 1024
MIB = 1024 * KIB
BLOCK_BYTES = 4 * KIB  # a look-up of a random key reads one block: small ones keep the cache full of wanted rows
TABLE_FILE_BYTES = 8 * MIB
# Rows are merged run by run, not level by level: a new row is written less often until it lies among the oldest.
TAILS_MERGED_AT_RUNS = 8  # RocksDB's 4 merge twice as often, for look-ups that are hardly faster
TAILS_SIZE_RATIO_PERCENT = 20  # merge a run also with one that is larger by so much: fewer runs to look into
IDS_MERGED_AT_RUNS = 32  # ids are written far more often than looked up, and in look-ups of many a run costs little
IDS_SIZE_RATIO_PERCENT = 50
SLOWED_AT_RUNS = 64  # writes are slowed down where merging is so far behind; RocksDB's 20 would do it to ids always
STOPPED_AT_RUNS = 96
ID_BYTES = 16
KEY_PREFIX_BYTES = 128  # as many as RocksDB takes; keys that share them share a bucket
BUCKETS = 20_000  # about as many rows as a write buffer holds
WRITE_BUFFERS = 4  # of a family: one is filled while others are sorted and flushed
BUFFERS_IN_TOTAL = 4  # `write_buffer_bytes` is so many of them: that of tails and that of ids, and one behind each
BLOOM_BITS_PER_KEY = (
    10  # 1 % false positives; a miss (new aggregate, new id) is the common case and should read no block
)
MAX_OPEN_FILES = 256
MAX_WAL_BYTES = 16 * MIB  # what the next open replays after a kill -9
MAX_INFO_LOG_BYTES = 1 * MIB
KEPT_INFO_LOGS = 2
SCAN_CHUNK_ROWS = 10_000

TAILS = "tails"
IDS_FAMILY = re.compile(r"ids-([1-9]\d{0,17})")
_EXPECTED = "a version index"

_STORE_FILE = re.compile(
    r"CURRENT|IDENTITY|LOCK|LOG(\.old\.\d+)?|MANIFEST-\d+|OPTIONS-\d+(\.dbtmp)?|\d+\.(sst|log|dbtmp|blob)"
    r"|rocksdict-config\.json"
)
# Written before it is known whether there is a database.
_LEFT_BY_A_LOOK = re.compile(r"LOCK|LOG(\.old\.\d+)?|rocksdict-config\.json")


def waiting_bytes(write_buffer_bytes: int) -> int:
    """What all buffers of tails and of ids hold at the most, where flushing is slower than writing."""
    return 2 * WRITE_BUFFERS * write_buffer_bytes // BUFFERS_IN_TOTAL


class StoreOptions:
    """RocksDB options of one handle. All families share one block cache. ``write_buffer_bytes`` is what the two
    families that are written fill, with one buffer of each being flushed; see ``waiting_bytes``."""

    def __init__(self, *, block_cache_bytes: int, write_buffer_bytes: int) -> None:
        # RocksDB cuts this cache into pieces of at least 32 MiB, and its LRU cache into 64, in which filters of up to
        # 200 KiB each lie by chance: some would push each other out, and be read again for every look-up.
        self._cache = Cache.new_hyper_clock_cache(block_cache_bytes, 0)  # 0: it finds out how large its entries are
        self._write_buffer_bytes = write_buffer_bytes

    def database(self, *, create: bool) -> Options:
        """Options of the database and of its ``default`` family."""
        options = self.family("default")
        options.create_if_missing(create)
        # Without this, a lost write-ahead log would leave each family at a prefix of its own.
        options.set_atomic_flush(True)
        options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
        options.set_max_total_wal_size(MAX_WAL_BYTES)
        options.set_max_open_files(MAX_OPEN_FILES)
        options.set_allow_concurrent_memtable_write(False)  # one writer: cheaper inserts
        options.set_max_log_file_size(MAX_INFO_LOG_BYTES)
        options.set_keep_log_file_num(KEPT_INFO_LOGS)
        options.set_stats_dump_period_sec(0)
        options.set_stats_persist_period_sec(0)
        return options

    def family(self, name: str) -> Options:
        """Point look-ups of small rows, most of them misses, in bounded memory."""
        is_ids = IDS_FAMILY.fullmatch(name) is not None
        options = Options(raw_mode=True)
        options.set_block_based_table_factory(self._table())
        options.set_write_buffer_size(self._write_buffer_bytes // BUFFERS_IN_TOTAL)
        options.set_compression_type(DBCompressionType.none())  # ids are random, keys are cut by prefix already
        options.set_paranoid_checks(True)
        options.set_target_file_size_base(TABLE_FILE_BYTES)
        if name != "default":
            # Rows come in no order. In a hash table they cost the writer half of what they do in a sorted list, and it
            # is the writer who is busiest; the thread that flushes sorts them.
            prefix = SliceTransform.create_max_len_prefix(KEY_PREFIX_BYTES)
            options.set_prefix_extractor(SliceTransform.create_fixed_prefix(ID_BYTES) if is_ids else prefix)
            hash_table: Any = MemtableFactory.hash_link_list  # its annotation lacks the argument
            options.set_memtable_factory(hash_table(BUCKETS))
            options.set_max_write_buffer_number(WRITE_BUFFERS)
            merging = UniversalCompactOptions()
            merging.size_ratio = IDS_SIZE_RATIO_PERCENT if is_ids else TAILS_SIZE_RATIO_PERCENT
            options.set_compaction_style(DBCompactionStyle.universal())
            options.set_universal_compaction_options(merging)
            merged_at = IDS_MERGED_AT_RUNS if is_ids else TAILS_MERGED_AT_RUNS
            options.set_level_zero_file_num_compaction_trigger(merged_at)
            options.set_level_zero_slowdown_writes_trigger(SLOWED_AT_RUNS)
            options.set_level_zero_stop_writes_trigger(STOPPED_AT_RUNS)
        return options

    def _table(self) -> BlockBasedOptions:
        """How table files are laid out. A file's filter and index are one piece each, inside the cache: cut into parts
        they cost a look-up half as much again, as long as the cache holds all of them (2 bytes per aggregate)."""
        table = BlockBasedOptions()
        table.set_block_cache(self._cache)
        table.set_block_size(BLOCK_BYTES)
        table.set_bloom_filter(BLOOM_BITS_PER_KEY, False)
        table.set_cache_index_and_filter_blocks(True)
        table.set_pin_l0_filter_and_index_blocks_in_cache(True)
        return table


class Store:
    """An open database. ``db`` is also its ``default`` family. Every handle lives here, so that ``close`` can let go of
    all of them: one that is forgotten keeps RocksDB open and its lock taken."""

    def __init__(self, directory: Path, options: StoreOptions) -> None:
        """Open what is there, or create an empty database in an empty or new directory.

        Raises: IndexMismatch, IndexHeld, IndexDamaged, IndexUnavailable.
        """
        self.directory = directory
        self._options = options
        try:
            directory.mkdir(parents=True, exist_ok=True)
            present = {path.name for path in directory.iterdir()}
        except (OSError, ValueError) as error:
            raise IndexUnavailable(directory, f"cannot use the directory: {error}") from error
        exists = "CURRENT" in present
        names = self._family_names() if exists else []
        if not exists:
            _refuse_leftovers(directory, present)
        try:
            self.db = Rdict(
                str(directory), options.database(create=not exists), {name: options.family(name) for name in names}
            )
        except Exception as error:
            raise failure_of(directory, "cannot open", error) from error
        self._families = {name: self.db.get_column_family(name) for name in names}
        self._handles = {name: self.db.get_column_family_handle(name) for name in names}

    def _family_names(self) -> list[str]:
        """Families of the database other than ``default``; looks without locking or changing anything."""
        path = str(self.directory)
        try:
            names = [name for name in Rdict.list_cf(path) if name != "default"]
        except Exception as error:
            self._refuse_if_held()  # whoever holds it may have replaced the file that was being read
            raise failure_of(self.directory, "cannot read the list of column families", error) from error
        if foreign := sorted(name for name in names if name != TAILS and not IDS_FAMILY.fullmatch(name)):
            found = f"a database with column families {', '.join(map(repr, foreign))}"
            raise IndexMismatch(self.directory, found=found, expected=_EXPECTED)
        return names

    def _refuse_if_held(self) -> None:
        try:
            Rdict(str(self.directory), self._options.database(create=False)).close()
        except Exception as error:
            if isinstance(failure := failure_of(self.directory, "cannot open", error), IndexHeld):
                raise failure from error

    @property
    def is_new(self) -> bool:
        """Nothing was ever written."""
        return self.db.latest_sequence_number() == 0

    @property
    def names(self) -> set[str]:
        """Families other than ``default``."""
        return set(self._families)

    def family(self, name: str) -> Rdict:
        """Raises: IndexUnavailable: closed."""
        self._refuse_closed()
        return self._families[name]

    def handle(self, name: str) -> ColumnFamily:
        """What a batch needs to name a family. Raises: IndexUnavailable: closed."""
        self._refuse_closed()
        return self._handles[name]

    def _refuse_closed(self) -> None:
        if not self._handles:
            raise IndexUnavailable(self.directory, "already closed")

    @property
    def size_bytes(self) -> int:
        """Bytes of all files. Raises: IndexUnavailable."""
        total = 0
        try:
            for path in self.directory.iterdir():
                with suppress(FileNotFoundError):  # RocksDB removes files in the background
                    total += path.stat().st_size
        except OSError as error:
            raise IndexUnavailable(self.directory, f"cannot list the directory: {error}") from error
        return total

    def estimated_rows(self, name: str) -> int:
        """Raises: IndexFailure."""
        family = self.family(name)
        try:
            return family.property_int_value("rocksdb.estimate-num-keys") or 0
        except Exception as error:
            raise failure_of(self.directory, f"cannot count {name}", error) from error

    def read(self, key: bytes) -> bytes | None:
        """One row of ``default``. Raises: IndexFailure."""
        try:
            value: bytes | None = self.db.get(key)
        except Exception as error:
            raise failure_of(self.directory, f"cannot read {key!r}", error) from error
        return value

    def create(self, *names: str) -> None:
        """Create column families, empty. Raises: IndexFailure."""
        for name in names:
            try:
                self._families[name] = self.db.create_column_family(name, self._options.family(name))
                self._handles[name] = self.db.get_column_family_handle(name)
            except Exception as error:
                raise write_failure_of(self.directory, f"cannot create {name}", error) from error

    def drop(self, name: str) -> None:
        """Drop a column family with all its rows. No batch may name it afterwards: RocksDB would refuse every write
        that follows, to any family, until the database is opened again. Raises: IndexFailure."""
        del self._families[name], self._handles[name]
        try:
            self.db.drop_column_family(name)
        except Exception as error:
            raise write_failure_of(self.directory, f"cannot drop {name}", error) from error

    def flush(self) -> None:
        """Move the rows of all families from the write-ahead log to table files. Raises: IndexFailure."""
        try:
            self.db.flush()
        except Exception as error:
            raise write_failure_of(self.directory, "cannot flush", error) from error

    def rows(self, name: str) -> Iterator[tuple[bytes, bytes]]:
        """All rows of a family in key order. Rows written meanwhile may or may not be among them. Raises: IndexFailure.

        No RocksDB iterator outlives a step, as it would keep the database open. rocksdict's own ``items()`` ends at a
        damaged block as if that were the end; only the iterator's status tells them apart.
        """
        last: bytes | None = None
        while chunk := self._rows_after(name, last):
            yield from chunk
            last = chunk[-1][0]

    def _rows_after(self, name: str, last: bytes | None) -> list[tuple[bytes, bytes]]:
        chunk: list[tuple[bytes, bytes]] = []
        cursor: RdictIter | None = None
        family = self.family(name)
        everything = ReadOptions()
        everything.set_total_order_seek(True)  # not only the rows that share a bucket
        try:
            cursor = family.iter(everything)
            if last is None:
                cursor.seek_to_first()
            else:
                cursor.seek(last + b"\0")  # the least key above it
            while len(chunk) < SCAN_CHUNK_ROWS and cursor.valid():
                chunk.append((cursor.key(), cursor.value()))
                cursor.next()
            cursor.status()
        except Exception as error:
            raise failure_of(self.directory, f"cannot read {name}", error) from error
        finally:
            cursor = None  # the traceback of a failure would keep it, and so the lock
        return chunk

    def close(self) -> None:
        """Flush, so that the next open replays nothing, and release the lock. Closing twice is allowed.

        A flush that fails loses nothing, the write-ahead log still has the rows: so this never raises.
        """
        self._handles.clear()
        families = [*self._families.values(), self.db]
        self._families.clear()
        for family in families:
            with suppress(Exception):
                family.close()


def destroy(directory: Path) -> None:
    """Remove the database and, when nothing else is in it, the directory. Nothing there is fine.

    Raises: IndexHeld, IndexUnavailable.
    """
    if not os.path.lexists(directory):
        return
    try:
        Rdict.destroy(str(directory))
        # It takes the directory as well where nothing is left in it, and leaves the files that are rocksdict's own.
        for path in directory.iterdir() if directory.exists() else ():
            if _STORE_FILE.fullmatch(path.name):
                path.unlink(missing_ok=True)
    except Exception as error:
        failure = failure_of(directory, "cannot destroy", error)
        if isinstance(failure, IndexHeld):
            raise failure from error
        raise IndexUnavailable(directory, f"cannot destroy: {error}") from error
    with suppress(OSError):  # files of others, or a mount point
        directory.rmdir()


def _refuse_leftovers(directory: Path, present: set[str]) -> None:
    """A database begins only where there is no other one, whole or in parts, and nobody else's files."""
    visible = {name for name in present if not name.startswith(".")}
    if parts := sorted(n for n in visible if _STORE_FILE.fullmatch(n) and not _LEFT_BY_A_LOOK.fullmatch(n)):
        raise IndexDamaged(directory, f"the file CURRENT is missing beside {', '.join(parts[:3])}")
    if foreign := sorted(name for name in visible if not _STORE_FILE.fullmatch(name)):
        found = f"other files ({', '.join(foreign[:3])})"
        raise IndexMismatch(directory, found=found, expected=f"{_EXPECTED} or an empty directory")
