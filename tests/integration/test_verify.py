"""`sequencer verify` on a real broker: every broken promise is reported, and nothing else is.

The faults are planted with the official client, in the topics as `sequencer init` makes them; no sequencer is at work
there. Each has a partition of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pulsar
import pytest

from sequencer.broker import EmbeddedBroker
from sequencer.names import Topics, index_directory
from sequencer.recovery import Checkpoint
from state.index import VersionIndex
from tests.conftest import make_namespace
from tests.publishing import listed
from tests.sequencer_process import init, sequencer

PARTITIONS = 15
SPACE = UUID(int=7)


class Planted:
    """One partition's topics, written by hand as a sequencer would leave them, or not quite."""

    def __init__(self, client: Any, topics: Topics, number: int) -> None:
        self.number = number
        self.topics = topics
        self._client = client
        self._producers: dict[str, Any] = {}
        self._tails: dict[str, int] = {}
        self.sequence = 0
        self.last_event = ""

    def submit(self, key: str, name: str, expected: int | None = None, **more: str) -> str:
        """One submission, which expects a version or none; returns its message id."""
        versions = {} if expected is None else {"version": str(expected)}
        return self._send(self.topics.submitted_partition(self.number), key, {"id": id_of(name)} | versions | more)

    def submit_list(self, key: str, names: Sequence[str], expected: int | None = None) -> str:
        """One submission of several events; returns its message id."""
        draft = listed(key, id_of(" ".join(names)), map(id_of, names), expected)
        return self._send(self.topics.submitted_partition(self.number), key, {}, draft.payload or b"")

    def event(self, key: str, name: str, submission: str, version: int, sequence: int | None = None) -> str:
        """One event, as if this submission had been accepted; returns its message id."""
        sequence = self.sequence if sequence is None else sequence
        self.sequence = sequence + 1
        numbers = {"version": str(version), "sequence": str(sequence)}
        properties = {"id": id_of(name), **numbers, "submission": submission}
        self.last_event = self._send(self.topics.events_partition(self.number), key, properties)
        return self.last_event

    def rejection(self, key: str, name: str, submission: str, reason: str, **versions: int) -> str:
        """One rejected event; returns its message id."""
        numbers = {name: str(version) for name, version in versions.items()}
        properties = {"id": id_of(name), "reason": reason, "submission": submission, **numbers}
        return self._send(self.topics.rejected_partition(self.number), key, properties)

    def accept(self, key: str, name: str, expected: int | None = None, **more: str) -> tuple[str, str]:
        """A submission and its event, everything right; returns both message ids."""
        submission = self.submit(key, name, expected, **more)
        return submission, self.next_event(key, name, submission)

    def accept_list(self, key: str, names: Sequence[str], expected: int | None = None) -> list[str]:
        """A list and its events, everything right; returns all message ids, the submission's first."""
        submission = self.submit_list(key, names, expected)
        return [submission, *(self.next_event(key, name, submission) for name in names)]

    def next_event(self, key: str, name: str, submission: str) -> str:
        """One event, of a list say, with the version that is due."""
        version = self._tails[key] = self._tails.get(key, -1) + 1
        return self.event(key, name, submission, version)

    def fill(self) -> None:
        """Something of everything, everything right."""
        for number in range(3):
            self.accept(self.key("filler"), f"filler-{number}", number - 1)
        late = self.submit(self.key("filler"), "late", 0)
        versions = {"expected_version": 0, "current_version": 2}
        self.rejection(self.key("filler"), "late", late, "wrong_expected_version", **versions)
        again = self.submit(self.key("filler"), "filler-1")
        versions = {"current_version": 2, "accepted_version": 1}
        self.rejection(self.key("filler"), "filler-1", again, "duplicate", **versions)
        self.accept_list(self.key("filler"), ["listed-0", "listed-1"], 2)
        half = self.submit_list(self.key("filler"), ["listed-1", "listed-2"])
        self.rejection(self.key("filler"), "listed-1 listed-2", half, "conflicting_ids", current_version=4)

    def key(self, name: str) -> str:
        """An aggregate of this partition alone."""
        return f"{name}-{self.number}"

    def acknowledge(self, *, but: str = "") -> None:
        """Everything that was submitted so far, except for one message."""
        consumer = self._client.subscribe(self.topics.submitted_partition(self.number), "sequencer")
        while True:
            try:
                message = consumer.receive(1000)
            except pulsar.Timeout:
                break
            if self._text(message.message_id()) != but:
                consumer.acknowledge(message)
        consumer.close()

    def _send(self, topic: str, key: str, properties: dict[str, str], content: bytes = b"content") -> str:
        if topic not in self._producers:
            self._producers[topic] = self._client.create_producer(topic, batching_enabled=False)
        sent = self._producers[topic].send(content, properties, partition_key=key)
        return self._text(sent)

    def _text(self, message_id: Any) -> str:
        return f"{message_id.ledger_id()}:{message_id.entry_id()}:{self.number}:-1"


def id_of(name: str) -> str:
    return str(uuid5(SPACE, name))


# --- the faults: each returns the message ids that must be named ---


def version_gap(here: Planted) -> set[str]:
    here.accept(here.key("a"), "a0")
    submission = here.submit(here.key("a"), "a1")
    return {here.event(here.key("a"), "a1", submission, version=2)}


def sequence_gap(here: Planted) -> set[str]:
    submission = here.submit(here.key("a"), "a0")
    return {here.event(here.key("a"), "a0", submission, 0, sequence=here.sequence + 1)}


def outcomes_lost(here: Planted) -> set[str]:
    """All of one, and of a list one event."""
    submission = here.submit_list(here.key("c"), ["c0", "c1", "c2"])
    parts = {here.next_event(here.key("c"), name, submission) for name in ("c0", "c2")}
    return {here.submit(here.key("a"), "a0"), submission, *parts}


def two_outcomes(here: Planted) -> set[str]:
    submission, _ = here.accept(here.key("a"), "a0")
    return {submission, here.rejection(here.key("a"), "a0", submission, "malformed")}


def lists_torn(here: Planted) -> set[str]:
    """One by another event, one by a rejection, one by itself."""
    interrupted = here.submit_list(here.key("a"), ["a0", "a1"])
    named = {interrupted, here.next_event(here.key("a"), "a0", interrupted)}
    here.accept(here.key("b"), "between")
    named.add(here.next_event(here.key("a"), "a1", interrupted))
    rejected, *events = here.accept_list(here.key("c"), ["c0", "c1"])
    named |= {rejected, *events, here.rejection(here.key("c"), "c0 c1", rejected, "malformed")}
    turned = here.submit_list(here.key("d"), ["d0", "d1"])
    return named | {turned, *(here.next_event(here.key("d"), name, turned) for name in ("d1", "d0"))}


def outcome_of_another(here: Planted) -> set[str]:
    submission = here.submit(here.key("a"), "a0")
    return {submission, here.event(here.key("a"), "somebody else", submission, 0)}


def accepted_in_conflict(here: Planted) -> set[str]:
    here.accept(here.key("a"), "a0")
    submission = here.submit(here.key("a"), "a1", expected=5)
    return {submission, here.event(here.key("a"), "a1", submission, 1)}


def rejected_without_reason(here: Planted) -> set[str]:
    here.accept(here.key("a"), "a0")
    submission = here.submit(here.key("a"), "a1", expected=0)
    versions = {"expected_version": 0, "current_version": 0}
    rejection = here.rejection(here.key("a"), "a1", submission, "wrong_expected_version", **versions)
    return {submission, rejection}


def accepted_twice(here: Planted) -> set[str]:
    """A single event, and the last one of a list, which its expected version does not excuse."""
    _, first = here.accept(here.key("a"), "a0")
    _, second = here.accept(here.key("a"), "a0")
    *_, third = here.accept_list(here.key("a"), ["a1", "a0"], 1)
    return {first, second, third}


def out_of_order(here: Planted) -> set[str]:
    first, second = here.submit(here.key("a"), "a0"), here.submit(here.key("a"), "a1")
    too_early = here.event(here.key("a"), "a1", second, 0)
    return {second, too_early, here.event(here.key("a"), "a0", first, 1)}


FAULTS: list[tuple[str, int, Callable[[Planted], set[str]]]] = [
    ("I1", 1, version_gap),
    ("I2", 1, sequence_gap),
    ("I3", 2, outcomes_lost),
    ("I3", 1, two_outcomes),
    ("I3", 3, lists_torn),
    ("I3", 1, outcome_of_another),
    ("I4", 1, accepted_in_conflict),
    ("I4", 1, rejected_without_reason),
    ("I6", 2, accepted_twice),
    ("I7", 1, out_of_order),
]
CLEAN, UNACKNOWLEDGED, INDEXED, SOURCE = range(len(FAULTS), len(FAULTS) + 4)


@pytest.fixture(scope="module")
def topics(broker: EmbeddedBroker) -> Topics:
    namespace = make_namespace(broker)
    init(broker, namespace, PARTITIONS)
    return Topics(namespace)


@pytest.fixture
def plant(client: Any, topics: Topics) -> Callable[[int], Planted]:
    return lambda number: Planted(client, topics, number)


def verified(broker: EmbeddedBroker, topics: Topics, *options: str, code: int) -> dict[str, Any]:
    """What `sequencer verify --json` says; it must end with this exit code."""
    done = sequencer(broker, topics.namespace, "verify", "--json", *options)
    assert done.returncode == code, (done.stdout + done.stderr).decode()
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["ok"] == (code == 0)
    return found


def violations(found: dict[str, Any]) -> dict[str, int]:
    return {line["name"]: line["violations"] for line in found["invariants"] if line["violations"]}


def named(found: dict[str, Any]) -> set[str]:
    examples = [example for line in found["invariants"] for example in line["examples"]]
    return {message_id for example in examples for message_id in example["message_ids"]}


@pytest.mark.parametrize(
    ("number", "invariant", "count", "fault"), [pytest.param(n, *f, id=f[2].__name__) for n, f in enumerate(FAULTS)]
)
def test_a_planted_fault_is_reported_and_nothing_else(
    broker: EmbeddedBroker,
    topics: Topics,
    plant: Callable[[int], Planted],
    number: int,
    invariant: str,
    count: int,
    fault: Callable[[Planted], set[str]],
) -> None:
    here = plant(number)
    here.fill()
    wrong = fault(here)
    here.accept(here.key("b"), "b0")
    here.acknowledge()
    found = verified(broker, topics, "--partitions", str(number), code=4)
    assert violations(found) == {invariant: count}
    assert wrong <= named(found)


def test_without_a_fault_nothing_is_reported(
    broker: EmbeddedBroker, topics: Topics, plant: Callable[[int], Planted]
) -> None:
    here = plant(CLEAN)
    here.fill()
    here.acknowledge()
    here.submit(here.key("a"), "waits for its outcome")
    found = verified(broker, topics, "--partitions", str(CLEAN), code=0)
    assert {line["name"]: line["checked"] for line in found["invariants"]} == {
        "I1": 5, "I2": 5, "I3": 7, "I4": 5, "I5": 0, "I6": 8, "I7": 7
    }  # fmt: skip
    assert found["pending"] == 1
    assert found["before_retention"] == 0
    done = sequencer(broker, topics.namespace, "verify", "--partitions", str(CLEAN))
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 8, "a line for each invariant, and one for what waits"


def test_an_outcome_without_its_acknowledgement(
    broker: EmbeddedBroker, topics: Topics, plant: Callable[[int], Planted]
) -> None:
    here = plant(UNACKNOWLEDGED)
    here.fill()
    left, _ = here.accept(here.key("a"), "a0")
    here.accept(here.key("a"), "a1")
    here.acknowledge(but=left)
    found = verified(broker, topics, "--partitions", str(UNACKNOWLEDGED), code=4)
    assert violations(found) == {"I3": 1}
    assert named(found) == {left}


def test_an_index_that_is_not_what_the_events_say(
    broker: EmbeddedBroker, topics: Topics, plant: Callable[[int], Planted], tmp_path: Path
) -> None:
    """It may be behind, but must be right as far as it goes."""
    here = plant(INDEXED)
    here.fill()
    _, known = here.accept(here.key("a"), "a0")
    here.acknowledge()
    directory = index_directory(tmp_path, topics.namespace, INDEXED)
    ledger, entry, _, _ = known.split(":")
    checkpoint = Checkpoint(int(ledger), int(entry), 6).to_bytes()
    with VersionIndex.open(directory, identity=topics.events_partition(INDEXED)) as index:
        index.apply({here.key("filler"): 4, here.key("a"): 0}, [], accepted_at_ms=1, checkpoint=checkpoint)
    options = "--partitions", str(INDEXED), "--index-dir", str(tmp_path)
    here.accept(here.key("a"), "a1")
    here.acknowledge()
    found = verified(broker, topics, *options, code=0)
    assert {line["name"]: line["checked"] for line in found["invariants"]}["I5"] == 2

    with VersionIndex.open(directory, identity=topics.events_partition(INDEXED)) as index:
        index.apply({here.key("a"): 1}, [], accepted_at_ms=1, checkpoint=None)
        found = verified(broker, topics, *options, code=4)  # while it is in use
    assert violations(found) == {"I5": 1}
    assert named(found) == {known}

    ahead = Checkpoint(int(ledger), int(entry) + 1000, 1005).to_bytes()
    with VersionIndex.open(directory, identity=topics.events_partition(INDEXED)) as index:
        index.apply({}, [], accepted_at_ms=1, checkpoint=ahead)
    found = verified(broker, topics, *options, code=4)
    assert violations(found) == {"I5": 1}


def test_an_aggregate_in_two_partitions_and_a_copy_of_nothing(
    broker: EmbeddedBroker, topics: Topics, plant: Callable[[int], Planted]
) -> None:
    source, home = plant(SOURCE), plant(SOURCE + 1)
    source.fill()
    home.fill()
    original = source.submit("moved", "moved-0", -1)
    _, at_home = home.accept("moved", "moved-0", -1, forwarded_from=original)
    for here in (source, home):
        here.acknowledge()
    both = "--partitions", f"{SOURCE}-{SOURCE + 1}"
    verified(broker, topics, *both, code=0)
    verified(broker, topics, "--partitions", str(SOURCE), code=0)
    verified(broker, topics, "--partitions", str(SOURCE + 1), code=0)

    source.accept("moved", "moved-1")
    source.acknowledge()
    found = verified(broker, topics, *both, code=4)
    assert violations(found) == {"I1": 1}
    assert named(found) == {at_home}, "whichever is read second"

    ledger, entry, _, _ = original.split(":")
    copy, _ = home.accept("copied", "copied", forwarded_from=f"{ledger}:{entry}:{SOURCE}:5")
    home.acknowledge()
    found = verified(broker, topics, *both, code=4)
    assert violations(found) == {"I1": 1, "I3": 1}
    assert copy in named(found)


def test_what_cannot_be_verified_is_a_failure_in_one_line(
    broker: EmbeddedBroker, topics: Topics, tmp_path: Path
) -> None:
    for options in (
        ("--partitions", str(PARTITIONS)),
        ("--index-dir", str(tmp_path)),
    ):
        done = sequencer(broker, topics.namespace, "verify", *options)
        assert done.returncode == 1
        assert done.stdout == b""
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith(b"error: ")
