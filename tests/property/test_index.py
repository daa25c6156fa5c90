"""The version index against a plain model, through reopens, crashes and lost ends of the write-ahead log; and foreign
bytes in its rows."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from state import IndexFailure, IndexLimits, VersionIndex
from tests.hostile import plant

IDENTITY = "events-partition-0"
LIMITS = IndexLimits(block_cache_bytes=1 << 20, write_buffer_bytes=1 << 18, id_window_ms=100, max_ids=16)
KEYS = ["a", "b", "ab", "", "é", "a\x00b", "z" * 300, "🔑"]
IDS = [bytes([n]) * 16 for n in range(12)]

keys = st.sampled_from(KEYS)
event_ids = st.sampled_from(IDS)
versions = st.integers(0, 2**63 - 1)


Ids = list[tuple[bytes, str, int, int]]
"""The same id of the same aggregate may be there more than once: then the last one counts."""


@dataclass
class Generation:
    ids: dict[tuple[bytes, str], tuple[int, int]] = field(default_factory=dict)
    written: int = 0
    started_at_ms: int = 0


@dataclass
class Model:
    tails: dict[str, int] = field(default_factory=dict)
    current: Generation = field(default_factory=Generation)
    older: Generation = field(default_factory=Generation)
    rotations: int = 0
    clock_ms: int = 0
    checkpoint: bytes | None = None

    def apply(self, tails: dict[str, int], ids: Ids, at_ms: int, checkpoint: bytes | None) -> None:
        self.clock_ms = max(self.clock_ms, at_ms)
        full = self.current.written >= LIMITS.max_ids // 2
        old = self.clock_ms - self.current.started_at_ms >= LIMITS.id_window_ms
        if self.current.written and (full or old):
            self.older, self.current = self.current, Generation()
            self.rotations += 1
        if not self.current.written:
            self.current.started_at_ms = self.clock_ms
        self.tails.update(tails)
        self.current.ids.update({(event_id, key): (version, sequence) for event_id, key, version, sequence in ids})
        self.current.written += len(ids)
        if checkpoint is not None:
            self.checkpoint = checkpoint

    def accepted(self, event_id: bytes, key: str) -> tuple[int, int] | None:
        row = (event_id, key)
        return self.current.ids.get(row, self.older.ids.get(row))

    def everything(self) -> tuple[object, ...]:
        ids = [self.accepted(event_id, key) for event_id in IDS for key in KEYS]
        return self.checkpoint, self.tails, ids, self.rotations


def everything(index: VersionIndex) -> tuple[object, ...]:
    ids = [index.accepted([(event_id, key)])[0] for event_id in IDS for key in KEYS]
    return index.checkpoint, dict(index.entries()), ids, index._state.generation - 1


class IndexMachine(RuleBasedStateMachine):
    """One index after the other: each continues in the directory, or in a copy of the directory, of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="index-"))
        self.lives = 0
        self.index = self.open()
        self.history = [Model()]  # after each batch; the last one is now
        self.kept = 0  # batches that no power cut can take, and the bytes of the write-ahead log that hold them
        self.kept_bytes = 0

    @property
    def directory(self) -> Path:
        return self.root / str(self.lives)

    @property
    def model(self) -> Model:
        return self.history[-1]

    def open(self) -> VersionIndex:
        return VersionIndex.open(self.directory, identity=IDENTITY, limits=LIMITS)

    def teardown(self) -> None:
        self.index.close()
        shutil.rmtree(self.root)

    @rule(
        tails=st.dictionaries(keys, versions, max_size=5),
        ids=st.lists(st.tuples(event_ids, keys, versions, versions), max_size=6),
        passed_ms=st.integers(-50, 120),
        checkpoint=st.none() | st.binary(max_size=20),
    )
    def apply(self, tails: dict[str, int], ids: Ids, passed_ms: int, checkpoint: bytes | None) -> None:
        at_ms = max(0, self.model.clock_ms + passed_ms)
        self.index.apply(tails, ids, accepted_at_ms=at_ms, checkpoint=checkpoint)
        self.history.append(deepcopy(self.model))
        self.model.apply(tails, ids, at_ms, checkpoint)
        if self.model.rotations > self.history[-2].rotations:  # such a batch is synced to the disk
            self.keep(self.newest_log().stat().st_size)

    @rule(asked=st.lists(keys, max_size=12))
    def tails(self, asked: list[str]) -> None:
        assert self.index.tails(asked) == [self.model.tails.get(key, -1) for key in asked]

    @rule(event_id=event_ids, key=keys)
    def accepted(self, event_id: bytes, key: str) -> None:
        assert self.index.accepted([(event_id, key)])[0] == self.model.accepted(event_id, key)

    @rule()
    def reopen(self) -> None:
        self.index.close()
        self.index = self.open()
        self.keep(0)
        assert everything(self.index) == self.model.everything()

    def newest_log(self) -> Path:
        return max(self.directory.glob("*.log"), key=lambda path: path.name)

    def keep(self, log_bytes: int) -> None:
        self.kept = len(self.history) - 1
        self.kept_bytes = log_bytes

    def move_to_a_copy(self) -> None:
        """The files as a kill -9 leaves them: written, but neither flushed nor closed."""
        before = self.directory
        self.lives += 1
        self.index._store.db.cancel_all_background(True)  # or files would vanish from under the copying
        shutil.copytree(before, self.directory)
        self.index.close()
        shutil.rmtree(before)

    @rule()
    def kill(self) -> None:
        self.move_to_a_copy()
        self.index = self.open()
        self.keep(0)  # RocksDB moves what it found in the log to table files
        assert everything(self.index) == self.model.everything()

    @rule(kept=st.floats(0, 1))
    def lose_the_end(self, kept: float) -> None:
        """A power cut: the write-ahead log ends somewhere. The batches before that are there, in all families."""
        self.move_to_a_copy()
        newest = self.newest_log()
        written = newest.read_bytes()
        newest.write_bytes(written[: self.kept_bytes + int((len(written) - self.kept_bytes) * kept)])
        self.index = self.open()
        found = everything(self.index)
        while self.model.everything() != found:
            self.history.pop()
        assert len(self.history) > self.kept
        self.keep(0)

    @invariant()
    def checkpoint_and_families(self) -> None:
        assert self.index.checkpoint == self.model.checkpoint
        assert len(self.index._store.names) == 2 + min(self.model.rotations, 1)


IndexMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestIndexMachine = IndexMachine.TestCase


# -- foreign bytes -------------------------------------------------------------------------------------------------

states = st.builds(
    struct.Struct("<QQqqB").pack,
    st.integers(0, 3) | st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2),
)
versions_or_not = st.binary(max_size=24) | st.binary(min_size=8, max_size=8) | st.binary(min_size=16, max_size=16)
rows = st.tuples(
    st.sampled_from(["default", "tails", "ids-1", "ids-2"]),
    st.sampled_from([b"format", b"state", b"a", b"b", b"", IDS[0] + b"a", IDS[1] + b"b"]) | st.binary(max_size=20),
    versions_or_not,
) | st.tuples(st.just("default"), st.just(b"state"), states)


def gives_values_or_a_failure(directory: Path, call: Callable[[], None]) -> None:
    try:
        call()
    except IndexFailure as failure:
        told = str(failure)
    else:
        return
    assert str(directory) in told


def use(directory: Path) -> None:
    with VersionIndex.open(directory, identity=IDENTITY, limits=LIMITS) as index:

        def look_up(key: str) -> None:
            assert all(version >= -1 for version in index.tails([key, "a"]))
            found = [index.accepted([(event_id, key)])[0] for event_id in IDS]
            assert all(before is None or min(before) >= 0 for before in found)

        def scan() -> None:
            assert all(isinstance(text, str) and version >= 0 for text, version in index.entries())

        for key in ("a", "b", "", "c"):
            gives_values_or_a_failure(directory, partial(look_up, key))
        gives_values_or_a_failure(directory, scan)
        index.apply({"a": 1}, [(IDS[3], "a", 1, 7)], accepted_at_ms=50, checkpoint=b"2")
        assert index.tails(["a"]) == [1]
        assert index.accepted([(IDS[3], "a")])[0] == (1, 7)


@settings(max_examples=40, deadline=None)
@given(planted=st.lists(rows, min_size=1, max_size=6))
def test_foreign_rows_give_values_or_an_index_failure(planted: list[tuple[str, bytes, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with VersionIndex.open(directory, identity=IDENTITY, limits=LIMITS) as index:
            index.apply({"a": 0, "b": 0}, [(IDS[0], "a", 0, 0)], accepted_at_ms=0, checkpoint=b"1")
            index.apply({"a": 0}, [(n.to_bytes(16), "a", 0, 0) for n in range(8)], accepted_at_ms=0, checkpoint=b"1")
            index.apply({"a": 0}, [(IDS[1], "b", 0, 1)], accepted_at_ms=0, checkpoint=b"1")
        plant(directory, planted)
        gives_values_or_a_failure(directory, lambda: use(directory))
