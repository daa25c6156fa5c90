"""Recovery: what it refuses to go on with, and which index directory it works in."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from sequencer.entries import ForeignWriter
from sequencer.event import uuid_bytes
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.errors import ConnectionLost
from sequencer.recovery import START, Checkpoint, IndexAhead, checkpoint_of, open_index, recover
from state.index import IndexDamaged, IndexMismatch, VersionIndex
from tests.committed_log import LEDGER, MARKERS, CommittedLog
from tests.submitted import batch, event_id, message

TOPIC = "persistent://public/default/events-partition-0"
HOUR_MS = 3_600_000
Event = tuple[str, int, int]
"""Aggregate, version, sequence."""


def log_of(*entries: Sequence[Event]) -> CommittedLog:
    log = CommittedLog()
    add(log, *entries)
    return log


def add(log: CommittedLog, *entries: Sequence[Event]) -> None:
    for events in entries:
        messages = []
        for key, version, sequence in events:
            properties = {"id": event_id(f"{key}-{version}"), "version": str(version), "sequence": str(sequence)}
            messages.append(message(b"x", key, properties))
        log.append(batch(messages, publish_time=log.now_ms))


def recovered(log: CommittedLog, directory: Path) -> tuple[Checkpoint, dict[str, int]]:
    with open_index(directory, identity=TOPIC) as index:
        return asyncio.run(recover(cast(PulsarClient, log), TOPIC, index)), dict(index.entries())


def position(entry: int, next_sequence: int) -> Checkpoint:
    return Checkpoint(LEDGER, entry * (1 + MARKERS), next_sequence)


HISTORY: list[list[Event]] = [[("a", 0, 0), ("a", 1, 1)], [("b", 0, 2)]]


def test_an_empty_topic(tmp_path: Path) -> None:
    assert recovered(CommittedLog(), tmp_path / "0") == (START, {})
    assert recovered(CommittedLog(), tmp_path / "0") == (START, {})


def test_it_follows_and_has_nothing_to_do_when_level(tmp_path: Path) -> None:
    log = log_of()
    assert recovered(log, tmp_path / "0") == (START, {})
    add(log, *HISTORY)
    level = (position(1, 3), {"a": 1, "b": 0})
    assert recovered(log, tmp_path / "0") == level
    log.takes_left = 0
    assert recovered(log, tmp_path / "0") == level, "without reading anything"


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(("a", 3, 3), id="version-missing"),
        pytest.param(("a", 1, 3), id="version-repeated"),
        pytest.param(("a", 0, 3), id="version-anew"),
        pytest.param(("c", 1, 3), id="first-version-missing"),
        pytest.param(("a", 2, 4), id="sequence-missing"),
        pytest.param(("a", 2, 2), id="sequence-repeated"),
        pytest.param(("a", 2, 0), id="sequence-anew"),
    ],
)
@pytest.mark.parametrize("batched", [True, False], ids=["in-one-read", "in-two-reads"])
def test_a_jump_after_the_checkpoint_stops_the_partition(tmp_path: Path, event: Event, batched: bool) -> None:
    log = log_of(HISTORY[0])
    recovered(log, tmp_path / "0")
    log.entries_per_take = 10 if batched else 1
    add(log, HISTORY[1], [event])
    with pytest.raises(ForeignWriter, match=rf"message {LEDGER}:8:0:0: .*somebody else wrote there"):
        recovered(log, tmp_path / "0")
    with open_index(tmp_path / "0", identity=TOPIC) as index:
        assert checkpoint_of(index) == (position(0, 2) if batched else position(1, 3)), "what was good before is kept"


def test_a_version_that_goes_back_stops_a_rebuild(tmp_path: Path) -> None:
    with pytest.raises(ForeignWriter, match="version 1 of 'a' at sequence 3"):
        recovered(log_of(*HISTORY, [("a", 1, 3)]), tmp_path / "0")


def test_a_message_of_another_kind_stops_the_partition(tmp_path: Path) -> None:
    log = log_of(*HISTORY)
    log.append(batch([message(b"hello")]))
    for _ in range(2):
        with pytest.raises(ForeignWriter, match="not written by a sequencer"):
            recovered(log, tmp_path / "0")


def test_an_index_that_knows_more_than_the_topic(tmp_path: Path) -> None:
    recovered(log_of(*HISTORY), tmp_path / "0")
    with pytest.raises(IndexAhead, match="events were lost, or the topic was made anew"):
        recovered(log_of(HISTORY[0]), tmp_path / "0")
    with pytest.raises(IndexAhead):
        recovered(log_of(HISTORY[0]), tmp_path / "0")


def test_a_rebuild_after_a_standstill_knows_the_ids_of_the_logs_last_minutes(tmp_path: Path) -> None:
    """A retry that was submitted before the standstill is judged after it."""
    log = CommittedLog()
    log.now_ms -= 2 * HOUR_MS
    add(log, [("a", 0, 0)])
    log.now_ms += HOUR_MS
    add(log, [("a", 1, 1)], [("a", 2, 2)])
    log.compacted_up_to = 3
    log.now_ms += HOUR_MS
    with open_index(tmp_path / "0", identity=TOPIC) as index:
        asyncio.run(recover(cast(PulsarClient, log), TOPIC, index))
        remembered = [index.accepted([(uuid_bytes(event_id(f"a-{version}")), "a")])[0] for version in range(3)]
    assert remembered == [None, (1, 1), (2, 2)]


# --- the directory ---


def test_an_index_of_another_partition_is_not_touched(tmp_path: Path) -> None:
    recovered(log_of(*HISTORY), tmp_path / "0")
    with pytest.raises(IndexMismatch), open_index(tmp_path / "0", identity=TOPIC[:-1] + "1"):
        pass
    assert recovered(log_of(*HISTORY), tmp_path / "0")[1] == {"a": 1, "b": 0}


def test_a_damaged_index_is_built_anew(tmp_path: Path) -> None:
    recovered(log_of(*HISTORY), tmp_path / "0")
    (tmp_path / "0" / "CURRENT").write_bytes(b"garbage")
    assert recovered(log_of(*HISTORY), tmp_path / "0") == (position(1, 3), {"a": 1, "b": 0})


def test_an_index_that_turns_out_to_be_damaged_is_thrown_away(tmp_path: Path) -> None:
    with pytest.raises(IndexDamaged), open_index(tmp_path / "0", identity=TOPIC) as index:
        raise IndexDamaged(index.directory, "a block fails its checksum")
    assert not (tmp_path / "0").exists()


def test_half_a_rebuild_is_no_index(tmp_path: Path) -> None:
    with open_index(tmp_path / "0", identity=TOPIC) as index:
        index.apply({"ghost": 7}, [], accepted_at_ms=1, checkpoint=None)
    assert recovered(log_of(*HISTORY), tmp_path / "0")[1] == {"a": 1, "b": 0}


@pytest.mark.parametrize("takes", [0, 1, 2, 3])
def test_a_rebuild_that_is_cut_off_starts_again(tmp_path: Path, takes: int) -> None:
    log = log_of(*HISTORY)
    log.entries_per_take, log.takes_left = 1, takes
    with pytest.raises(ConnectionLost):
        recovered(log, tmp_path / "0")
    log.takes_left = None
    assert recovered(log, tmp_path / "0") == (position(1, 3), {"a": 1, "b": 0})


def test_a_checkpoint_that_is_none_makes_no_index(tmp_path: Path) -> None:
    with open_index(tmp_path / "0", identity=TOPIC) as index:
        index.apply({"ghost": 7}, [], accepted_at_ms=1, checkpoint=b"another format")
    assert recovered(log_of(*HISTORY), tmp_path / "0")[1] == {"a": 1, "b": 0}


def test_where_somebody_holds_the_index_a_private_one_is_built_and_removed(tmp_path: Path) -> None:
    directory = tmp_path / "0"
    recovered(log_of(HISTORY[0]), directory)
    with VersionIndex.open(directory, identity=TOPIC) as held:
        with open_index(directory, identity=TOPIC) as private:
            assert re.fullmatch(rf"0\.{os.getpid()}-[0-9a-f]{{8}}", private.directory.name)
            assert private.directory.parent == tmp_path
            level = asyncio.run(recover(cast(PulsarClient, log_of(*HISTORY)), TOPIC, private))
            assert level == position(1, 3)
        assert dict(held.entries()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_private_indexes_that_nobody_holds_any_more_are_removed(tmp_path: Path) -> None:
    directory, left, in_use = tmp_path / "0", tmp_path / "0.17-00000000", tmp_path / "0.18-00000000"
    VersionIndex.open(left, identity=TOPIC).close()
    with VersionIndex.open(in_use, identity=TOPIC), open_index(directory, identity=TOPIC):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["0", in_use.name]


@pytest.mark.parametrize("checkpoint", [START, Checkpoint(2**62, 0, 2**62), Checkpoint(0, 1, 2)])
def test_a_checkpoint_is_read_as_it_was_written(checkpoint: Checkpoint) -> None:
    assert Checkpoint.from_bytes(checkpoint.to_bytes()) == checkpoint
    assert Checkpoint.from_bytes(checkpoint.to_bytes()[:-1]) is None
    assert Checkpoint.from_bytes(b"") is None
