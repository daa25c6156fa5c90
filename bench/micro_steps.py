"""The steps of a submission's way through the sequencer, each by itself: what `bench.micro` times.

A step is prepared once and then repeated. It returns the seconds that so many repetitions took, so that what it must
put back in place between two of them is not timed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter
from types import MappingProxyType

import google_crc32c
from msgspec.structs import replace

from bench.free_index import FreeIndex
from bench.workload import Mode, Workload, batch, key_of
from sequencer.decide import Decided, Overlay
from sequencer.entries import read_entry, read_submitted
from sequencer.event import Accepted, Flawed, Submission, binary_envelope, structured_envelope
from sequencer.packing import Output, accepted_messages, pack
from sequencer.plain import AcceptedRun, PlainBatch
from sequencer.pulsar.batches import split_batch
from sequencer.pulsar.frames import DEFAULT_MAX_MESSAGE_BYTES, Entry, FrameDecoder, encode_payload_head
from sequencer.pulsar.pulsar_api_pb2 import (
    BaseCommand,
    CommandMessage,
    CommandSend,
    MessageIdData,
    MessageMetadata,
    SingleMessageMetadata,
)
from sequencer.reply import reply_runs
from state.index import VersionIndex

AGGREGATES = 100_000
"""In the index. It holds nothing else: its blocks fit into its cache."""

FILLING_EVENTS = 4_000
"""Written to the index at a time before anything is timed."""

FIRST_SEQUENCE = 1_000_000
"""Events in the log before: where the number of digits changes within a batch, its properties are made one by one."""

LIMIT_BYTES = DEFAULT_MAX_MESSAGE_BYTES
REPLY_TOPIC = "non-persistent://public/bench-replies/micro"
SENDERS_FIELDS = MessageMetadata(producer_name="bench", sequence_id=1, publish_time=1).SerializeToString()

Timer = Callable[[int], float]
"""Repetitions -> seconds."""


@dataclass(frozen=True)
class Material:
    """One submitted entry of so many events, in every state on its way. `directory` is for an index, and empty.

    Its events are the second ones of aggregates drawn from all that the index has. One event is in no batch, as a
    publisher sends it that makes none.
    """

    events: int
    event_bytes: int
    directory: Path
    opened: ExitStack
    """Closes the indexes that its steps have opened: until then RocksDB writes files."""

    @cached_property
    def structured(self) -> Output:
        """The entry in structured mode."""
        return self._submitted("structured")

    @cached_property
    def binary(self) -> Output:
        """The same in binary mode."""
        return self._submitted("binary")

    def _submitted(self, mode: Mode) -> Output:
        workload = Workload(
            self.events, self.event_bytes, AGGREGATES, batch_messages=self.events, mode=mode, existing=True
        )
        (output,) = workload.batches()
        return output

    def entry(self, output: Output) -> Entry:
        """An entry as it is delivered: it has been through a frame."""
        (entry,) = _received(FrameDecoder(), _frame(output))
        return entry

    def one_by_one(self, output: Output) -> list[Submission]:
        """What every message of an entry asks for."""
        read = read_entry(self.entry(output), LIMIT_BYTES)
        return [submission for submission in read if isinstance(submission, Submission)]

    @cached_property
    def submissions(self) -> Sequence[Submission | Flawed | PlainBatch]:
        """What the entry asks for, as the sequencer reads it."""
        return read_submitted([self.entry(self.structured)], LIMIT_BYTES)

    def decided(self) -> Decided:
        """All of it accepted."""
        return _overlay().decide(self.submissions)

    def accepted(self) -> list[Accepted | AcceptedRun]:
        """The same: outcomes."""
        return [outcome for outcome in self.decided().outcomes if isinstance(outcome, Accepted | AcceptedRun)]

    def index(self) -> VersionIndex:
        """An index of AGGREGATES, all of them in table files: what was written lately, the overlay knows."""
        with VersionIndex.open(self.directory / "index", identity="bench") as index:
            for first in range(0, AGGREGATES, FILLING_EVENTS):
                _apply(index, *_changes([key_of(number) for number in range(first, first + FILLING_EVENTS)]))
        return self.opened.enter_context(VersionIndex.open(self.directory / "index", identity="bench"))

    def keys(self, chance: random.Random) -> list[str]:
        """As many aggregates of the index."""
        return [key_of(number) for number in chance.sample(range(AGGREGATES), self.events)]


def _overlay() -> Overlay:
    return Overlay(FreeIndex(), partition=0, partitions=1, next_sequence=FIRST_SEQUENCE)


def _frame(output: Output) -> bytes:
    """As a broker delivers it."""
    message = CommandMessage(consumer_id=1, message_id=MessageIdData(ledgerId=1, entryId=1))
    command = BaseCommand(type=BaseCommand.MESSAGE, message=message)
    return encode_payload_head(command, SENDERS_FIELDS + output.metadata, output.payload) + output.payload


def _received(decoder: FrameDecoder, data: bytes) -> list[Entry]:
    decoder.writable()[: len(data)] = data
    decoder.written(len(data))
    return [frame.entry for frame in decoder.frames() if frame.entry is not None]


def _repeat(step: Callable[[], object]) -> Timer:
    """The timer of a step that changes nothing."""

    def timer(loops: int) -> float:
        began_s = perf_counter()
        for _ in range(loops):
            step()
        return perf_counter() - began_s

    return timer


def _repeat_on(prepare: Callable[[], Callable[[], object]]) -> Timer:
    """The timer of a step that needs everything anew each time; to prepare it is not timed."""

    def timer(loops: int) -> float:
        seconds = 0.0
        for _ in range(loops):
            step = prepare()
            began_s = perf_counter()
            step()
            seconds += perf_counter() - began_s
        return seconds

    return timer


# --- In the order of a submission's way ---


def checksum(material: Material) -> Timer:
    """CRC-32C over an entry's payload."""
    payload = material.structured.payload
    return _repeat(lambda: google_crc32c.value(payload))


def frame_decode(material: Material) -> Timer:
    """Bytes as received -> an entry, its checksum compared."""
    frame, decoder = _frame(material.structured), FrameDecoder()
    return _repeat(lambda: _received(decoder, frame))


def batch_parse(material: Material) -> Timer:
    """A batch -> metadata and payload of its messages, one by one."""
    parts = [(submission.head, submission.payload) for submission in material.one_by_one(material.structured)]
    output = batch(parts)
    return _repeat(lambda: list(split_batch(output.payload, output.num_messages)))


def envelope_structured(material: Material) -> Timer:
    """A message's JSON -> its id and expected version."""
    payloads = [submission.payload for submission in material.one_by_one(material.structured)]
    return _repeat(lambda: [structured_envelope(payload) for payload in payloads])


def envelope_binary(material: Material) -> Timer:
    """A message's properties -> its id and expected version."""
    heads = [submission.head for submission in material.one_by_one(material.binary)]
    found = [SingleMessageMetadata.FromString(head).properties for head in heads]
    return _repeat(lambda: [binary_envelope({field.key: field.value for field in fields}) for fields in found])


def read_structured(material: Material) -> Timer:
    """An entry -> submissions, by columns: the messages, every envelope, every check."""
    entry = material.entry(material.structured)
    return _repeat(lambda: read_submitted([entry], LIMIT_BYTES))


def read_binary(material: Material) -> Timer:
    """The same in binary mode, where a message that is in no batch is read by itself."""
    entry = material.entry(material.binary)
    return _repeat(lambda: read_submitted([entry], LIMIT_BYTES))


def read_one_by_one(material: Material) -> Timer:
    """`read_structured` of a batch that is unusual in any way."""
    entry = material.entry(material.structured)
    return _repeat(lambda: read_entry(entry, LIMIT_BYTES))


def decide_known(material: Material) -> Timer:
    """Submissions -> outcomes, where the overlay holds every tail. All are accepted."""
    refused = [replace(submission, expected=7) for submission in material.one_by_one(material.structured)]

    def prepare() -> Callable[[], object]:
        overlay = _overlay()
        overlay.applied(overlay.decide(refused))
        return lambda: overlay.decide(material.submissions)

    return _repeat_on(prepare)


def decide_unknown(material: Material) -> Timer:
    """The same where it holds none, and asks an index that costs nothing."""
    return _repeat_on(lambda: partial(_overlay().decide, material.submissions))


def messages(material: Material) -> Timer:
    """Accepted outcomes -> the metadata of their messages."""
    outcomes = material.accepted()
    return _repeat(lambda: [accepted_messages(outcome) for outcome in outcomes])


def packing(material: Material) -> Timer:
    """Messages -> an entry's metadata and payload."""
    accepted = [accepted_messages(outcome) for outcome in material.accepted()]
    return _repeat(lambda: list(pack(accepted, LIMIT_BYTES)))


def replies(material: Material) -> Timer:
    """Accepted outcomes -> the replies to them, as they stand in a batch."""
    outcomes = [_asking(outcome) for outcome in material.accepted()]
    return _repeat(lambda: list(reply_runs(outcomes, LIMIT_BYTES)))


def _asking(outcome: Accepted | AcceptedRun) -> Accepted | AcceptedRun:
    """The same, where somebody waits for it."""
    if isinstance(outcome, Accepted):
        return replace(outcome, submission=replace(outcome.submission, reply_to=REPLY_TOPIC))
    batch = outcome.batch
    return replace(outcome, batch=replace(batch, source=batch.source._replace(reply_to=REPLY_TOPIC)))


def frame_encode(material: Material) -> Timer:
    """An entry -> everything of its frame but the payload, which is sent as it is; with its checksum."""
    output = material.structured
    command = BaseCommand(type=BaseCommand.SEND, send=CommandSend(producer_id=1, sequence_id=1))
    return _repeat(lambda: encode_payload_head(command, SENDERS_FIELDS + output.metadata, output.payload))


# --- The index ---


def _changes(keys: Sequence[str]) -> tuple[Mapping[str, int], list[tuple[bytes, str, int, int]]]:
    """What the first event of each of these aggregates changes."""
    return dict.fromkeys(keys, 0), [(random.randbytes(16), key, 0, number) for number, key in enumerate(keys)]


def _apply(index: VersionIndex, tails: Mapping[str, int], ids: Iterable[tuple[bytes, str, int, int]]) -> None:
    index.apply(tails, ids, accepted_at_ms=1, checkpoint=bytes(24))


def index_hit(material: Material) -> Timer:
    """Tails of aggregates that exist, in random order, in one multi-get."""
    index, chance = material.index(), random.Random(1)
    return _repeat_on(lambda: partial(index.tails, material.keys(chance)))


def index_miss(material: Material) -> Timer:
    """Tails of aggregates that do not."""
    index, chance = material.index(), random.Random(1)
    return _repeat_on(lambda: partial(index.tails, [f"new-{key}" for key in material.keys(chance)]))


def index_id_miss(material: Material) -> Timer:
    """Whether an id was accepted before, of ids that were not; in one multi-get."""
    index, chance = material.index(), random.Random(1)

    def prepare() -> Callable[[], object]:
        asked = [(random.randbytes(16), key) for key in material.keys(chance)]
        return lambda: index.accepted(asked)

    return _repeat_on(prepare)


def index_apply(material: Material) -> Timer:
    """Tails, ids and the checkpoint of aggregates that exist, in one batch."""
    index, chance = material.index(), random.Random(1)

    return _repeat_on(lambda: partial(_apply, index, *_changes(material.keys(chance))))


STEPS: Mapping[str, Callable[[Material], Timer]] = MappingProxyType(
    {
        "checksum": checksum,
        "frame_decode": frame_decode,
        "batch_parse": batch_parse,
        "envelope_structured": envelope_structured,
        "envelope_binary": envelope_binary,
        "read_structured": read_structured,
        "read_binary": read_binary,
        "read_one_by_one": read_one_by_one,
        "index_tails_hit": index_hit,
        "index_tails_miss": index_miss,
        "index_id_miss": index_id_miss,
        "decide_tails_known": decide_known,
        "decide_tails_unknown": decide_unknown,
        "messages": messages,
        "pack": packing,
        "replies": replies,
        "frame_encode": frame_encode,
        "index_apply": index_apply,
    }
)
