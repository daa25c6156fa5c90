"""The version index of one partition: aggregate -> tail, the ids accepted lately, and how far into the log it goes.

It is derived from the partition's log and may always be thrown away. It may be behind the log, never ahead, and after a
kill -9 at any moment it holds a prefix of the applied batches: whole ones, none missing in between.

Rows by column family (integers are little-endian)::

    default   "format" -> text, see _format_row;   "state" -> one _STATE record, then the checkpoint
    tails     key (UTF-8) -> version, 8 bytes
    ids-N     event id (16 bytes) + key (UTF-8) -> version and sequence, 8 bytes each. N counts up; N and N-1 of the
              state are in use
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from rocksdict import Rdict, WriteBatch, WriteOptions

from state.errors import (
    IndexDamaged,
    IndexFailure,
    IndexHeld,
    IndexMismatch,
    IndexUnavailable,
    IndexWriteFailed,
    failure_of,
    write_failure_of,
)
from state.store import MIB, TAILS, Store, StoreOptions, destroy, waiting_bytes

__all__ = [
    "IndexDamaged",
    "IndexFailure",
    "IndexHeld",
    "IndexLimits",
    "IndexMismatch",
    "IndexUnavailable",
    "IndexWriteFailed",
    "VersionIndex",
]

SHARED_LOOK_UP_KEYS = 100
"""Of so many tails another thread looks up half; for fewer it is not woken."""

OVERHEAD_BYTES = 64 * MIB
"""What RocksDB's merging takes besides its cache and its write buffers, and what the allocator loses."""

FORMAT_VERSION = 2
_FORMAT_HEAD = f"pulsar-sequencer version index, format {FORMAT_VERSION}\n"
_FORMAT = re.compile(rb"pulsar-sequencer version index, format ([1-9]\d{0,8})\n")
_FORMAT_KEY, _STATE_KEY = b"format", b"state"
_STATE = struct.Struct("<QQqqB")  # generation, ids in it, its start in ms, newest acceptance in ms, has a checkpoint
_VERSION = struct.Struct("<q")
_ACCEPTED = struct.Struct("<qq")  # version, sequence
_NO_AGGREGATE = _VERSION.pack(-1)  # never stored: what a look-up without a hit gives


@dataclass(frozen=True, slots=True)
class IndexLimits:
    """Bounds of one index."""

    block_cache_bytes: int = 64 * MIB  # data, index and filter blocks: a look-up is fast while it holds all filters
    write_buffer_bytes: int = 8 * MIB  # rows not in table files yet; a larger one leaves the CPU's cache and is slower
    id_window_ms: int = 15 * 60 * 1000  # an accepted id is remembered at least this long,
    max_ids: int = 10_000_000  # or until half this many were accepted after it

    @property
    def memory_bytes(self) -> int:
        """What the index adds to a process at the most, whatever the number of rows (`python -m bench growth`), where
        the allocator is told to hold little (`allocator.py`)."""
        return self.block_cache_bytes + waiting_bytes(self.write_buffer_bytes) + OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class _State:
    """The ``state`` row. Time is the log's clock: the newest ``accepted_at_ms`` seen."""

    generation: int = 1
    ids: int = 0
    started_at_ms: int = 0
    clock_ms: int = 0
    checkpoint: bytes | None = None

    def encode(self) -> bytes:
        has_checkpoint = self.checkpoint is not None
        head = _STATE.pack(self.generation, self.ids, self.started_at_ms, self.clock_ms, has_checkpoint)
        return head + (self.checkpoint or b"")

    @classmethod
    def decode(cls, data: bytes) -> _State:
        """Raises: ValueError: not such a record."""
        if len(data) < _STATE.size:
            raise ValueError(f"{len(data)} bytes, not at least {_STATE.size}")
        generation, ids, started_at_ms, clock_ms, has_checkpoint = _STATE.unpack_from(data)
        rest = data[_STATE.size :]
        if generation < 1 or has_checkpoint > 1 or (rest and not has_checkpoint):
            raise ValueError("its fields contradict each other")
        return cls(generation, ids, started_at_ms, clock_ms, rest if has_checkpoint else None)

    def next_generation_is_due(self, clock_ms: int, limits: IndexLimits) -> bool:
        if self.ids == 0:
            return False
        return clock_ms - self.started_at_ms >= limits.id_window_ms or self.ids >= limits.max_ids // 2


class VersionIndex:
    """Tails, accepted ids and the checkpoint of one partition. One thread at a time.

    After any IndexFailure a handle is only good for ``close``, after which everything else raises IndexUnavailable.
    """

    def __init__(self, store: Store, state: _State, limits: IndexLimits) -> None:
        """Use ``open``."""
        self._store = store
        self._state = state
        self._limits = limits
        self._generations = [store.family(name) for name in _families_of(state)]  # newest first
        self._reader = ThreadPoolExecutor(1, "index-reader")  # begins its thread when it is needed
        self._synced = WriteOptions()
        self._synced.sync = True

    @classmethod
    def open(cls, directory: Path, *, identity: str, limits: IndexLimits = IndexLimits()) -> VersionIndex:
        """Open the index of ``identity`` in ``directory``; begin an empty one where there is none.

        Raises:
            IndexMismatch: another identity, or no index at all.
            IndexHeld: it is open elsewhere.
            IndexDamaged: some of it is missing or fails its checksums, or another release wrote it.
            IndexUnavailable: the directory cannot be made, read or written.
            IndexWriteFailed: the first rows of a new index could not be written.
        """
        options = StoreOptions(block_cache_bytes=limits.block_cache_bytes, write_buffer_bytes=limits.write_buffer_bytes)
        store = Store(directory, options)
        try:
            if store.is_new:
                _begin(store, identity)
            _check_identity(directory, identity, store.read)
            state = _read_state(store)
            for name in store.names - {TAILS, *_families_of(state)}:
                store.drop(name)  # a crash came between the steps of a rotation
            return cls(store, state, limits)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Flush and release the directory. Never raises; a second call does nothing."""
        self._reader.shutdown()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def destroy(directory: Path) -> None:
        """Remove the index and, when nothing else is in it, the directory. Raises: IndexHeld, IndexUnavailable."""
        destroy(directory)

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> bytes | None:
        """What ``apply`` stored last; None until the first one that was not None."""
        return self._state.checkpoint

    @property
    def directory(self) -> Path:
        """Where it is."""
        return self._store.directory

    @property
    def limits(self) -> IndexLimits:
        """What it was opened with."""
        return self._limits

    @property
    def size_bytes(self) -> int:
        """Bytes of all files of the index."""
        return self._store.size_bytes

    def aggregates(self) -> int:
        """About how many aggregates there are; aggregates written lately may be counted more than once."""
        return self._store.estimated_rows(TAILS)

    def tails(self, keys: Sequence[str]) -> list[int]:
        """The current version of each aggregate, in the order of ``keys``; -1 = no such aggregate.

        Raises: IndexDamaged, IndexUnavailable.
        """
        if not keys:
            return []
        family = self._store.family(TAILS)
        encoded: list[Any] = list(map(str.encode, keys))  # Any: rocksdict's annotation asks for an invariant union
        try:
            found = self._get(family, encoded)
        except Exception as error:
            raise failure_of(self._store.directory, "cannot read tails", error) from error
        if set(map(len, found)) != {_VERSION.size}:
            self._refuse_first_bad(encoded, found)
        versions = list(struct.unpack(f"<{len(keys)}q", b"".join(found)))
        if min(versions) < 0:
            self._refuse_first_bad(encoded, found)
        return versions

    def _get(self, family: Rdict, encoded: list[Any]) -> list[Any]:
        """One multi-get, or two side by side: RocksDB's reading lets go of the interpreter's lock."""
        if len(encoded) < SHARED_LOOK_UP_KEYS:
            return cast("list[Any]", family.get(encoded, _NO_AGGREGATE))
        half = len(encoded) // 2
        other = self._reader.submit(family.get, encoded[half:], _NO_AGGREGATE)
        try:
            found = cast("list[Any]", family.get(encoded[:half], _NO_AGGREGATE))
        finally:
            wait([other])  # nobody may close the store while it reads
        return found + cast("list[Any]", other.result())

    def _refuse_first_bad(self, keys: Sequence[bytes], found: Sequence[bytes]) -> None:
        for key, value in zip(keys, found, strict=True):
            if value is not _NO_AGGREGATE:
                stored_tail(self._store.directory, key, value)

    def accepted(self, asked: Sequence[tuple[bytes, str]]) -> list[tuple[int, int] | None]:
        """For each event id (16 bytes) and aggregate: the version and the sequence as which that aggregate's event with
        that id was accepted, while it is remembered.

        Raises: IndexDamaged, IndexUnavailable.
        """
        rows: list[Any] = [event_id + key.encode() for event_id, key in asked]  # Any: as in `tails`
        found: list[tuple[int, int] | None] = [None] * len(rows)
        for generation in self._generations:
            missing = [place for place, one in enumerate(found) if one is None]
            try:
                values: Any = generation.get([rows[place] for place in missing]) if missing else []
            except Exception as error:
                raise failure_of(self._store.directory, "cannot read ids", error) from error
            for place, value in zip(missing, values, strict=True):
                if value is not None:
                    found[place] = self._accepted(rows[place], value)
        return found

    def _accepted(self, row: bytes, value: bytes) -> tuple[int, int]:
        """Raises: IndexDamaged: not a version and a sequence."""
        if len(value) == _ACCEPTED.size:
            version, sequence = _ACCEPTED.unpack(value)
            if version >= 0 and sequence >= 0:
                return version, sequence
        raise IndexDamaged(
            self._store.directory, f"id of {row!r} is {value[:40]!r}, which is not a version and a sequence"
        )

    def entries(self) -> Iterator[tuple[str, int]]:
        """All aggregates with their tails, by the bytes of their keys; reads everything. Raises: IndexFailure."""
        for key, value in self._store.rows(TAILS):
            yield stored_tail(self._store.directory, key, value)

    # -- writing ---------------------------------------------------------------------------------------------------

    def apply(
        self,
        tails: Mapping[str, int],
        ids: Iterable[tuple[bytes, str, int, int]],
        *,
        accepted_at_ms: int,
        checkpoint: bytes | None,
    ) -> None:
        """Store tails (key -> version), ids (event id, key, version, sequence) and the checkpoint, all or none.

        ``checkpoint`` None leaves it as it is, as a rebuild does until its pass is complete. The process may die at
        any moment; a power cut may cost the newest batches. Versions are 0 or more and fit 63 bits.

        Raises: IndexWriteFailed, IndexDamaged.
        """
        state = self._state
        clock_ms = max(state.clock_ms, accepted_at_ms)
        rotates = state.next_generation_is_due(clock_ms, self._limits)
        if rotates:
            state = replace(state, generation=state.generation + 1, ids=0)
            self._store.create(_ids_family(state.generation))
        pack = _VERSION.pack
        batch = WriteBatch(raw_mode=True)
        batch.set_default_column_family(self._store.handle(TAILS))
        for key, version in tails.items():
            batch[key.encode()] = pack(version)
        batch.set_default_column_family(self._store.handle(_ids_family(state.generation)))
        pack_accepted = _ACCEPTED.pack
        for event_id, key, version, sequence in ids:
            batch[event_id + key.encode()] = pack_accepted(version, sequence)
        state = _State(
            state.generation,
            state.ids + len(batch) - len(tails),
            state.started_at_ms if state.ids else clock_ms,
            clock_ms,
            state.checkpoint if checkpoint is None else checkpoint,
        )
        batch.set_default_column_family(None)
        batch[_STATE_KEY] = state.encode()
        self._write(batch, synced=rotates)
        self._state = state
        if rotates:
            self._forget_before(state.generation - 1)

    def _write(self, batch: WriteBatch, *, synced: bool) -> None:
        try:
            if synced:
                self._store.db.write(batch, self._synced)
            else:
                self._store.db.write(batch)
        except Exception as error:
            raise write_failure_of(self._store.directory, "cannot write a batch", error) from error

    def _forget_before(self, oldest: int) -> None:
        """Drop the generation before ``oldest``. The batch that no longer names it is on disk by now, not only in the
        operating system: a drop is, and must not survive a power cut that the batch does not."""
        self._generations = []
        if (name := _ids_family(oldest - 1)) in self._store.names:
            self._store.drop(name)
        self._generations = [self._store.family(name) for name in _families_of(self._state)]


def _ids_family(generation: int) -> str:
    return f"ids-{generation}"


def _families_of(state: _State) -> list[str]:
    """The families of ids in use, newest first. The very first generation has none before it."""
    return [_ids_family(n) for n in (state.generation, state.generation - 1) if n > 0]


def _format_row(identity: str) -> bytes:
    """Which index this is: one line for the format, the rest is the identity."""
    return (_FORMAT_HEAD + identity).encode()


def _begin(store: Store, identity: str) -> None:
    """Write an empty index into a database that has no row yet (it may have families: a crash came in between)."""
    state = _State()
    wanted = {TAILS, _ids_family(state.generation)}
    store.create(*sorted(wanted - store.names))
    batch = WriteBatch(raw_mode=True)
    batch[_FORMAT_KEY] = _format_row(identity)
    batch[_STATE_KEY] = state.encode()
    try:
        store.db.write(batch)
    except Exception as error:
        raise write_failure_of(store.directory, "cannot begin an index", error) from error
    store.flush()  # a damaged write-ahead log must not cost the identity


def _check_identity(directory: Path, identity: str, read: Callable[[bytes], bytes | None]) -> None:
    row = read(_FORMAT_KEY)
    if row == _format_row(identity):
        return
    if row is None and read(_STATE_KEY) is not None:
        # Nobody else's database has a row of that name: RocksDB's list of files was cut short, and a file is lost.
        raise IndexDamaged(directory, "its format record is lost")
    if row is None:
        found = "a database without a format record"
    elif (head := _FORMAT.match(row)) and row[head.end() :] == identity.encode():
        # It is the right one, of another release: derived data, so it is built anew rather than converted.
        raise IndexDamaged(directory, f"it has format {int(head[1])}, this release writes {FORMAT_VERSION}")
    elif row.startswith(_FORMAT_HEAD.encode()):
        found = f"the index of {row[len(_FORMAT_HEAD) :].decode(errors='backslashreplace')!r}"
    else:
        found = f"a database of another format: {row[:80]!r}"
    raise IndexMismatch(directory, found=found, expected=f"the index of {identity!r}, format {FORMAT_VERSION}")


def stored_tail(directory: Path, key: bytes, value: bytes) -> tuple[str, int]:
    """An aggregate and its version, out of a row of ``tails``.

    Raises: IndexDamaged: not such a row.
    """
    try:
        text = key.decode()
    except UnicodeDecodeError as error:
        raise IndexDamaged(directory, f"the key {key!r} in {TAILS} is not UTF-8") from error
    if len(value) == _VERSION.size and (version := int.from_bytes(value, "little", signed=True)) >= 0:
        return text, version
    raise IndexDamaged(directory, f"{TAILS} of {key!r} is {value[:40]!r}, which is not a version")


def stored_checkpoint(directory: Path, identity: str, read: Callable[[bytes], bytes | None]) -> bytes | None:
    """The checkpoint of an index by two rows of its ``default`` family, for whoever only looks into it.

    Raises: IndexMismatch, IndexDamaged, and what ``read`` raises.
    """
    _check_identity(directory, identity, read)
    return _decode_state(directory, read(_STATE_KEY)).checkpoint


def _decode_state(directory: Path, row: bytes | None) -> _State:
    """Raises: IndexDamaged."""
    if row is None:
        raise IndexDamaged(directory, "the state record is missing")
    try:
        return _State.decode(row)
    except ValueError as error:
        raise IndexDamaged(directory, f"the state record {row[:80]!r} is unreadable: {error}") from error


def _read_state(store: Store) -> _State:
    """Raises: IndexDamaged: no state, or one that does not fit the column families."""
    state = _decode_state(store.directory, store.read(_STATE_KEY))
    if missing := {TAILS, *_families_of(state)} - store.names:
        raise IndexDamaged(store.directory, f"without the column family {', '.join(sorted(missing))}")
    return state
