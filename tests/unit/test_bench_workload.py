"""What the throughput benchmarks submit, and the index that is full before they start."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bench import existing
from bench.matrix import cells
from bench.run import Layout
from bench.workload import Mode, Workload, key_of
from sequencer.entries import read_entry, read_submitted
from sequencer.event import Submission, canonical_partition
from sequencer.packing import Output
from sequencer.plain import PlainBatch
from sequencer.pulsar.batches import split_batch
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata
from sequencer.recovery import Checkpoint
from state.index import IndexMismatch, VersionIndex

LIMIT = 5 * 1024 * 1024
MODES: list[Mode] = ["structured", "binary"]


def submissions(workload: Workload, partition: int = 0, partitions: int = 1) -> list[Submission]:
    """As the sequencer reads them; nothing may be flawed."""
    read = [m for output in workload.batches(partition, partitions) for m in read_entry(entry(output), LIMIT)]
    assert all(type(message) is Submission for message in read)
    return [message for message in read if isinstance(message, Submission)]


def entry(output: Output) -> Entry:
    metadata = MessageMetadata.FromString(output.metadata)
    metadata.producer_name, metadata.sequence_id, metadata.publish_time = "publisher", 0, 0
    return Entry(MessageId(7, 0, 0), metadata, output.payload, 0, (), "")


def accepted(messages: list[Submission], first_tail: int) -> int:
    """How many would be."""
    tails: dict[str, int] = {}
    for message in messages:
        tail = tails.get(message.key, first_tail)
        if message.expected == tail:
            tails[message.key] = tail + 1
    return sum(tail - first_tail for tail in tails.values())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch", [1, 7, 500])
@pytest.mark.parametrize("existing_before", [False, True])
def test_conflicts_are_rejected_and_nothing_else_is(mode: Mode, batch: int, existing_before: bool) -> None:
    for percent in (0, 5, 50, 99):
        workload = Workload(1001, 160, 30, percent, batch, mode, existing_before)
        messages = submissions(workload)
        assert len(messages) == 1001
        assert len({message.event_id for message in messages}) == 1001
        assert accepted(messages, 0 if existing_before else -1) == 1001 - workload.conflicts
        assert abs(workload.conflicts - 1001 * percent / 100) <= 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [100, 160, 10_240])
def test_payloads_have_the_size_and_messages_the_bytes_of_the_official_serialization(mode: Mode, size: int) -> None:
    (output,) = Workload(300, size, 10, batch_messages=300, mode=mode).batches()
    for number, (single, head, payload) in enumerate(split_batch(output.payload, 300)):
        assert len(payload) == size
        assert single.SerializeToString() == head
        assert single.sequence_id == number


@pytest.mark.parametrize("mode", MODES)
def test_events_with_attributes_are_the_same_but_for_those(mode: Mode) -> None:
    (usual,) = Workload(20, batch_messages=20, mode=mode).batches()
    (output,) = Workload(20, batch_messages=20, mode=mode, attributes=3).batches()
    without = list(split_batch(usual.payload, 20))
    for (single, head, payload), (other, _, same) in zip(split_batch(output.payload, 20), without, strict=True):
        assert single.SerializeToString() == head
        assert payload == same
        first = len(other.properties)
        assert [field.key for field in single.properties[first:]] == ["type", "source", "correlationid"]
        del single.properties[first:]
        assert single == other


def test_a_batch_with_attributes_is_read_by_columns() -> None:
    for mode in MODES:
        (output,) = Workload(20, batch_messages=20, mode=mode, attributes=3).batches()
        assert [type(one) for one in read_submitted([entry(output)], LIMIT)] == [PlainBatch]


@pytest.mark.parametrize("number", [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 2**28 - 1])
def test_numbers_of_every_length(number: int) -> None:
    from bench.workload import _metadata
    from sequencer.pulsar.pulsar_api_pb2 import SingleMessageMetadata

    single = SingleMessageMetadata.FromString(_metadata(b"", b"key", number, number))
    assert (single.partition_key, single.payload_size, single.sequence_id) == ("key", number, number)


def test_single_messages_are_in_no_batch() -> None:
    for output in Workload(3, batch_messages=1, mode="binary").batches():
        metadata = MessageMetadata.FromString(output.metadata)
        assert not metadata.HasField("num_messages_in_batch")
        assert [field.key for field in metadata.properties] == ["id", "version"]
        assert metadata.partition_key.startswith("aggregate-")


def test_every_partition_gets_what_belongs_to_it() -> None:
    workload = Workload(500, aggregates=200)
    for partition in range(4):
        keys = {message.key for message in submissions(workload, partition, 4)}
        assert {canonical_partition(key, 4) for key in keys} == {partition}
    assert sum(len(workload.aggregates_of(partition, 4)) for partition in range(4)) == 200


def test_aggregates_are_drawn_evenly() -> None:
    counts = Counter(message.key for message in submissions(Workload(10_000, aggregates=10)))
    assert len(counts) == 10
    assert min(counts.values()) > 800


def test_an_index_that_is_full_before_the_start(tmp_path: Path) -> None:
    numbers = range(1000)
    existing.build(tmp_path / "template", numbers)
    existing.copy(tmp_path / "template", tmp_path / "copy", identity="persistent://public/x/events-partition-0")
    with pytest.raises(IndexMismatch):
        VersionIndex.open(tmp_path / "copy", identity="persistent://public/y/events-partition-0")
    with VersionIndex.open(tmp_path / "copy", identity="persistent://public/x/events-partition-0") as index:
        assert index.tails([key_of(number) for number in numbers]) == [0] * 1000
        assert index.tails([key_of(1000)]) == [-1]
        assert index.checkpoint is not None
        assert Checkpoint.from_bytes(index.checkpoint) == Checkpoint(-1, -1, 0)


@pytest.mark.parametrize("layout", [Layout(1, 1), Layout(4, 1), Layout(4, 2), Layout(5, 2)])
def test_processes_share_all_partitions(layout: Layout) -> None:
    shares = layout.shares()
    assert len(shares) == layout.processes
    assert sorted(number for share in shares for number in share) == list(range(layout.partitions))


def test_the_matrix_has_every_point_once_and_only_partitions_that_processes_share() -> None:
    names = [cell.name for cell in cells(600_000)]
    assert len(names) == len(set(names))
    for cell in cells(600_000):
        assert cell.layout.processes <= cell.layout.partitions
        assert cell.beside in names
        assert cell.workload.events >= 1000
