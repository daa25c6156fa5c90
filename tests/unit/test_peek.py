"""A look into an index that somebody else has open."""

from __future__ import annotations

from pathlib import Path

import pytest

from state.errors import IndexDamaged, IndexMismatch
from state.index import VersionIndex
from state.peek import peek_checkpoint, peek_index

IDENTITY = "persistent://a/b/events-partition-0"


def fill(index: VersionIndex, checkpoint: bytes) -> None:
    index.apply({"a": 1}, [(b"i" * 16, "a", 1, 4)], accepted_at_ms=1, checkpoint=checkpoint)


def test_while_it_is_held_and_after(tmp_path: Path) -> None:
    with VersionIndex.open(tmp_path / "index", identity=IDENTITY) as index:
        assert peek_checkpoint(index.directory, identity=IDENTITY) is None
        for checkpoint in (b"one", b"two"):
            fill(index, checkpoint)
            assert peek_checkpoint(index.directory, identity=IDENTITY) == checkpoint
    assert peek_checkpoint(tmp_path / "index", identity=IDENTITY) == b"two"


def test_it_leaves_no_trace(tmp_path: Path) -> None:
    directory = tmp_path / "index"
    with VersionIndex.open(directory, identity=IDENTITY) as index:
        fill(index, b"one")
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in directory.iterdir()}
    peek_checkpoint(directory, identity=IDENTITY)
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in directory.iterdir()} == before


def test_where_there_is_none(tmp_path: Path) -> None:
    assert peek_checkpoint(tmp_path / "nowhere", identity=IDENTITY) is None
    assert not (tmp_path / "nowhere").exists()


def test_of_another_partition(tmp_path: Path) -> None:
    with VersionIndex.open(tmp_path, identity=IDENTITY), pytest.raises(IndexMismatch, match="partition-0"):
        peek_checkpoint(tmp_path, identity="persistent://a/b/events-partition-1")


def test_damaged(tmp_path: Path) -> None:
    with VersionIndex.open(tmp_path, identity=IDENTITY) as index:
        fill(index, b"one")
    (tmp_path / "CURRENT").write_text("MANIFEST-999999\n")
    with pytest.raises(IndexDamaged):
        peek_checkpoint(tmp_path, identity=IDENTITY)


def test_its_aggregates_as_of_its_checkpoint(tmp_path: Path) -> None:
    with VersionIndex.open(tmp_path, identity=IDENTITY) as index:
        fill(index, b"one")
        index.apply({"b": 0, "ä": 5}, [], accepted_at_ms=2, checkpoint=b"two")
        with peek_index(tmp_path, identity=IDENTITY) as peeked:
            fill(index, b"three")
            index.apply({"a": 2}, [], accepted_at_ms=2, checkpoint=b"four")
            assert peeked is not None
            assert peeked.checkpoint == b"two"
            assert list(peeked.tails) == [("a", 1), ("b", 0), ("ä", 5)]
    with peek_index(tmp_path / "nowhere", identity=IDENTITY) as peeked:
        assert peeked is None
