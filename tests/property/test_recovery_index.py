"""The index recovers to the same tails, ids and sequence, wherever between a commit and its apply a life ended."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from sequencer.decide import Overlay
from sequencer.event import Source, Submission
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.errors import ConnectionLost
from sequencer.recovery import Checkpoint, open_index, recover
from state.index import IndexLimits, VersionIndex
from tests.committed_log import CommittedLog
from tests.submitted import message

TOPIC = "persistent://public/default/events-partition-0"
KEYS = [f"account-{n}" for n in range(6)]
MAX_MESSAGE_BYTES = 4096  # small, so that a batch of outcomes becomes several entries
WINDOW_MS = IndexLimits().id_window_ms
SOURCE = Source("7:3:0:", 0, b"", None)


class Submit(NamedTuple):
    """One event to be accepted."""

    key: str
    reuses: bool
    """With the id of the aggregate's last event and a matching version: a new event that looks like a retry."""


class Life(NamedTuple):
    """What one owner does before it dies."""

    takes_before_loss: int | None
    """Recovery loses its connection after so many, and the next life tries again."""
    committed: Sequence[Sequence[Submit]]
    applied: int
    """Of the committed batches, the first so many reach the index."""
    idle_ms: int
    """The time between two batches, and before the next life."""


class World:
    """The log, the index directory, and the truth about both as plain values."""

    def __init__(self, directory: Path) -> None:
        self.log = CommittedLog()
        self.directory = directory / "index"
        self.tails: dict[str, int] = {}
        self.ids: dict[tuple[str, bytes], tuple[int, int]] = {}
        """(aggregate, id) -> the newest version it was accepted as, and when, in ms."""
        self.last_ids: dict[str, bytes] = {}
        self.sequence = 0

    def recover(self, index: VersionIndex) -> Checkpoint:
        return asyncio.run(recover(cast(PulsarClient, self.log), TOPIC, index))

    def live(self, life: Life) -> None:
        self.log.takes_left = life.takes_before_loss
        with open_index(self.directory, identity=TOPIC) as index:
            try:
                level = self.recover(index)
            except ConnectionLost:
                return
            self.check(index, level)
            overlay = Overlay(index, partition=0, partitions=1, next_sequence=level.next_sequence)
            for n, batch in enumerate(life.committed):
                self.log.now_ms += life.idle_ms
                decided = overlay.decide([self.submission(one) for one in batch])
                end = self.log.commit(decided, MAX_MESSAGE_BYTES)
                if n >= life.applied:
                    continue
                if end is not None:
                    index.apply(
                        decided.tails,
                        decided.ids.rows(),
                        accepted_at_ms=self.log.now_ms,
                        checkpoint=Checkpoint(end.ledger, end.entry, decided.next_sequence).to_bytes(),
                    )
                overlay.applied(decided)
        self.log.now_ms += life.idle_ms

    def submission(self, submit: Submit) -> Submission:
        """The next event of an aggregate, which is sure to be accepted; noted as such."""
        key = submit.key
        tail = self.tails.get(key, -1)
        event_id = uuid.uuid5(uuid.NAMESPACE_OID, str(self.sequence)).bytes
        if submit.reuses and key in self.last_ids:
            event_id = self.last_ids[key]
        self.tails[key] = tail + 1
        self.ids[key, event_id] = (tail + 1, self.log.now_ms)
        self.last_ids[key] = event_id
        self.sequence += 1
        head, payload = message(b"p" * (self.sequence % 7 * 100 + 1), key)
        return Submission(key, event_id, str(uuid.UUID(bytes=event_id)), tail, head, None, payload, SOURCE, 0)

    def check(self, index: VersionIndex, level: Checkpoint) -> None:
        assert index.tails(KEYS) == [self.tails.get(key, -1) for key in KEYS]
        assert level == (*self.log.end[:2], self.sequence)
        assert index.checkpoint == level.to_bytes()
        for (key, event_id), (version, accepted_at_ms) in self.ids.items():
            found = (index.accepted([(event_id, key)])[0] or (None,))[0]
            if accepted_at_ms > self.log.now_ms - WINDOW_MS:
                assert found == version
            else:
                assert found in (version, None), "forgotten, or right"


SUBMITS = st.builds(Submit, st.sampled_from(KEYS), st.integers(0, 3).map(lambda n: n == 0))
BATCHES = st.lists(st.lists(SUBMITS, max_size=8), max_size=5)
IDLE_MS = st.sampled_from([0, 1, 60_000, WINDOW_MS // 2, WINDOW_MS + 1])
LIVES = st.builds(Life, st.none() | st.integers(0, 4), BATCHES, st.integers(0, 5), IDLE_MS)
LAST = Life(None, (), 0, 0)


@settings(max_examples=25, deadline=None)
@given(st.lists(LIVES, max_size=4), st.integers(1, 4))
def test_recovery_after_a_crash_at_any_point(lives: list[Life], entries_per_take: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        world.log.entries_per_take = entries_per_take
        for life in [*lives, LAST]:
            world.live(life)


@settings(max_examples=25, deadline=None)
@given(st.lists(LIVES, min_size=1, max_size=2), st.integers(1, 4), st.integers(0, 20), st.integers(0, 4), IDLE_MS)
def test_a_rebuild_from_the_compacted_view(
    lives: list[Life], entries_per_take: int, compacted: int, takes_before_loss: int, idle_ms: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        for life in lives:
            world.live(life._replace(takes_before_loss=None))
        VersionIndex.destroy(world.directory)
        world.log.entries_per_take = entries_per_take
        world.log.compacted_up_to = min(compacted, len(world.log.entries))
        world.live(LAST._replace(takes_before_loss=takes_before_loss, idle_ms=idle_ms))
        world.live(LAST)
        world.live(LAST)
