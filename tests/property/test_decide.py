"""Any sequence of batches, applies and crashes gives what a plain dict model says.

The real overlay and the real index, against a model that knows nothing of caches, generations or batches in flight: it
replays everything that is decided, from the beginning.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from sequencer.decide import Decided, Overlay
from sequencer.event import Accepted, Flawed, Forwarded, Reason, Rejected, Source, Submission
from state.index import VersionIndex
from tests.judged import ByColumns, one_by_one

CACHE_AGGREGATES = 12
IN_FLIGHT = CACHE_AGGREGATES // 2
"""As many submissions may be decided and not applied; there are more keys, so that the generations rotate."""

SUBMITS_BETWEEN_FAILURES = 8

# By Java's hash, and in 2 partitions, all of them belong to partition 1, except for the last two.
KEYS = [f"{letter}{number}" for letter in "ace" for number in (0, 2, 4, 6, 8)] + ["e1", "c3"]
MISROUTED = {"e1", "c3"}
HOME = 1
IDS = [uuid.uuid5(uuid.NAMESPACE_OID, str(n)).bytes for n in range(6)]
SOURCE = Source("7:3:0:", 0, b"", None)
NOTHING = (None,) * 4
"""What a rejection says where neither the aggregate nor the ids were looked at."""
FLAWED = Flawed(Reason.CHUNKED, "in pieces", "", b"", None, b"", SOURCE, -1)


@st.composite
def submissions(draw: st.DrawFn) -> Submission | Flawed:
    if draw(st.integers(0, 19)) == 0:
        return FLAWED
    # Often the same few keys, for conflicts and duplicates; as often any key, so that others are forgotten.
    key = draw(st.sampled_from(KEYS[:2]) | st.sampled_from(KEYS))
    expected = draw(st.none() | st.integers(-1, 6))
    event_id, forwarded = draw(st.sampled_from(IDS)), draw(st.integers(0, 3)) == 0
    submission = Submission(key, event_id, "", expected, b"", None, b"{}", SOURCE, 0, forwarded)
    if draw(st.integers(0, 2)) > 0:
        return submission
    members = draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=3, unique=True))
    return replace(submission, several=tuple(replace(submission, event_id=member) for member in members))


@dataclass
class Model:
    """All that the contract says, about a log of accepted events."""

    tails: dict[str, int] = field(default_factory=dict)
    ids: dict[tuple[str, bytes], tuple[int, int]] = field(default_factory=dict)
    """As which version, and sequence, an id was accepted."""
    sequence: int = 0

    def judge(self, submitted: Submission | Flawed) -> tuple[object, ...]:
        if isinstance(submitted, Flawed):
            return (submitted.reason,)
        key, expected = submitted.key, submitted.expected
        rows = [(key, event.event_id) for event in submitted.several or [submitted]]
        current, first = self.tails.get(key, -1), self.sequence
        if key in MISROUTED:
            return (Reason.MISROUTED, *NOTHING) if submitted.forwarded else ("forwarded", 1 - HOME)
        known = [self.ids[row] for row in rows if row in self.ids]
        if submitted.several is None and expected == current:
            known = []
        if known and len(known) == len(rows):
            return (Reason.DUPLICATE, current, known[0][0], known[-1][0], known[0][1])
        if known:
            return (Reason.CONFLICTING_IDS, current, *NOTHING[1:])
        if expected not in (None, current):
            return (Reason.WRONG_EXPECTED_VERSION, current, *NOTHING[1:])
        for row in rows:
            self.tails[key] = self.tails.get(key, -1) + 1
            self.ids[row] = self.tails[key], self.sequence
            self.sequence += 1
        return ("accepted", current + 1, first)


def seen(outcome: Accepted | Rejected | Forwarded) -> tuple[object, ...]:
    match outcome:
        case Forwarded(home=home):
            return ("forwarded", home)
        case Accepted(version=version, sequence=sequence):
            return ("accepted", version, sequence)
        case Rejected(submission=Flawed(), reason=reason):
            return (reason,)
        case Rejected(reason=reason):
            return (reason, outcome.current, outcome.accepted, outcome.accepted_last, outcome.accepted_sequence)


class OverlayAndIndex(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="decide-"))
        self.index = VersionIndex.open(self.directory / "index", identity="events")
        self.applied: list[list[Submission | Flawed]] = []
        self.in_flight: deque[tuple[list[Submission | Flawed], Decided]] = deque()
        self.since_failure = 0
        self.decided = Model()
        self.overlay = self.new_overlay(0)

    def new_overlay(self, next_sequence: int) -> ByColumns:
        return ByColumns(
            self.index, partition=HOME, partitions=2, next_sequence=next_sequence, cache_aggregates=CACHE_AGGREGATES
        )

    @rule(batch=st.lists(submissions(), min_size=1, max_size=4), by_columns=st.booleans())
    def submit(self, batch: list[Submission | Flawed], by_columns: bool) -> None:
        while sum(len(earlier) for earlier, _ in self.in_flight) + len(batch) > IN_FLIGHT:
            self.apply_the_oldest()
        decided = (ByColumns if by_columns else Overlay).decide(self.overlay, batch)
        outcomes = one_by_one(decided.outcomes)
        assert [seen(outcome) for outcome in outcomes] == [self.decided.judge(one) for one in batch]
        assert [outcome.submission for outcome in outcomes] == batch
        assert decided.next_sequence == self.decided.sequence
        self.in_flight.append((batch, decided))
        self.since_failure += 1

    @rule()
    def apply_the_oldest(self) -> None:
        if self.in_flight:
            batch, decided = self.in_flight.popleft()
            checkpoint = decided.next_sequence.to_bytes(8)
            self.index.apply(decided.tails, decided.ids.rows(), accepted_at_ms=1, checkpoint=checkpoint)
            self.overlay.applied(decided)
            self.applied.append(batch)

    @rule(process=st.booleans())
    def lose_everything_in_flight(self, process: bool) -> None:
        """A failure: the next life starts from the index, in the same process or in another."""
        if self.since_failure < SUBMITS_BETWEEN_FAILURES:
            return
        if process:
            self.index.close()
            self.index = VersionIndex.open(self.directory / "index", identity="events")
        self.in_flight.clear()
        self.decided = self.replayed()
        self.overlay = self.new_overlay(self.sequence_in_the_index())
        self.since_failure = 0

    def sequence_in_the_index(self) -> int:
        return int.from_bytes(self.index.checkpoint or b"")

    def replayed(self) -> Model:
        model = Model()
        for batch in self.applied:
            for one in batch:
                model.judge(one)
        return model

    @invariant()
    def the_index_knows_what_is_applied(self) -> None:
        if hasattr(self, "index"):
            model = self.replayed()
            assert self.index.tails(KEYS) == [model.tails.get(key, -1) for key in KEYS]
            assert self.sequence_in_the_index() == model.sequence
            for (key, event_id), accepted in model.ids.items():
                assert self.index.accepted([(event_id, key)])[0] == accepted

    def teardown(self) -> None:
        if hasattr(self, "index"):
            self.index.close()
            shutil.rmtree(self.directory)


OverlayAndIndex.TestCase.settings = settings(max_examples=50, stateful_step_count=60, deadline=None)
test_overlay_and_index = OverlayAndIndex.TestCase
