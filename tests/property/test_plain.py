"""Whatever is submitted, by columns it means and becomes the same as message by message."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from hypothesis import event, given, settings
from hypothesis import strategies as st

from sequencer.decide import Decided, Overlay
from sequencer.entries import read_entry, read_submitted
from sequencer.event import OUTCOME_BYTES, Accepted, Flawed, Forwarded, Rejected, Submission
from sequencer.packing import Output
from sequencer.plain import AcceptedRun, PlainBatch
from sequencer.pulsar.batches import Compression, compress, split_batch
from sequencer.pulsar.frames import Entry
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata
from sequencer.reply import reply_runs
from tests.hostile import Change, changes
from tests.judged import each, ids_of, one_by_one, opened, outputs
from tests.submitted import (
    POSITION,
    Message,
    batch,
    encrypted,
    event_id,
    listed,
    raw_property,
    sent_metadata,
    stored,
    structured,
)

LIMIT = 100_000
PARTITION, PARTITIONS = 1, 2
FEW_KEYS = ["a", "c", "e"]  # by Java's hash these belong to partition 1 of 2,
KEYS = [*FEW_KEYS, "b", "\N{SNOWMAN}", "é", "\U0001f600", "k" * 256, "k" * 257, "é" * 256]  # and some of these do not
NAMES = [event_id(name) for name in "12345"]
NOT_UTF8 = b"\xff\xfe"

Round = Sequence[Submission | Flawed | PlainBatch]


# --- what is submitted ---


@dataclass
class Draft:
    """A message in the making: whatever is odd about it is done to this."""

    single: SingleMessageMetadata
    payload: bytes
    before: bytes = b""
    after: bytes = b""
    said_size: int | None = None

    def message(self) -> Message:
        self.single.payload_size = len(self.payload) if self.said_size is None else self.said_size
        return self.before + self.single.SerializeToString() + self.after, self.payload


Twist = Callable[[Draft], None]


@dataclass
class Asked:
    """A submission whose expected version depends on its aggregate's tail at the time."""

    key: str
    id_text: str
    off_by: int | None
    """How far the expected version is from the tail; None: any version will do."""
    binary: bool
    content: Any
    fields: dict[str, Any]
    version_first: bool
    own: dict[str, str]
    """Properties that mean nothing to the sequencer."""
    twists: list[Twist] = field(default_factory=list)

    def draft(self, expected: int | None) -> Draft:
        draft = self._usual(expected)
        for name, value in self.own.items():
            draft.single.properties.add(key=name, value=value)
        return draft

    def _usual(self, expected: int | None) -> Draft:
        single = SingleMessageMetadata(partition_key=self.key, **self.fields)
        if not self.binary:
            versions = {} if expected is None else {"version": expected}
            return Draft(single, structured(self.id_text, self.content, **versions))
        single.properties.add(key="id", value=self.id_text)
        draft = Draft(single, str(self.content).encode() or b"\0")
        if expected is not None:
            adds("version", str(expected), first=self.version_first)(draft)
        return draft


def sets(name: str, value: object) -> Twist:
    return lambda draft: setattr(draft.single, name, value)


def adds(name: str, value: str, first: bool = False) -> Twist:
    def twist(draft: Draft) -> None:
        kept = [(one.key, one.value) for one in draft.single.properties]
        del draft.single.properties[:]
        for key, text in [(name, value), *kept] if first else [*kept, (name, value)]:
            draft.single.properties.add(key=key, value=text)

    return twist


def appends(raw: bytes) -> Twist:
    def twist(draft: Draft) -> None:
        draft.after += raw

    return twist


def begins_with(raw: bytes) -> Twist:
    def twist(draft: Draft) -> None:
        draft.before = raw + draft.before

    return twist


def holds(payload: bytes) -> Twist:
    def twist(draft: Draft) -> None:
        draft.payload = payload

    return twist


def says_size(off_by: int) -> Twist:
    def twist(draft: Draft) -> None:
        draft.said_size = max(-(2**31), len(draft.payload) + off_by)

    return twist


def gives(name: str, value: str) -> Twist:
    """Another value to a property of binary mode."""

    def twist(draft: Draft) -> None:
        found = [one for one in draft.single.properties if one.key == name]
        (found or [draft.single.properties.add(key=name)])[0].value = value

    return twist


def no_key(draft: Draft) -> None:
    draft.single.ClearField("partition_key")


def payload_of(**members: object) -> Twist:
    return holds(structured(NAMES[0], **{"data": 1, **members}))


FLAGS = ["compacted_out", "null_value", "null_partition_key"]
UNKNOWN = [b"\x78\x01", b"\x7a\x03abc", b"\x7d\1\2\3\4", b"\x79\1\2\3\4\5\6\7\x08", b"\x7b\x7c"]
"""Fields that nobody knows, of every type on the wire."""
IN_DISGUISE = [b"\x08\x01", b"\x10\x01", b"\x1a\x01x", b"\x22\x01x", b"\x50\x00", b"\x18\x05", b"\x20\x01\x20\x00"]
"""Fields that are known, of another type or for the second time."""
BAD_PROPERTIES = [b"\x0a\x00", b"\x0a\x06\x0a\x04half", raw_property(b"id", NOT_UTF8), raw_property(NOT_UTF8, b"")]
OTHER_KEYS = [b"\x12\x02\xff\xfe", b"\x12\x01a", b"\x12\x00"]

IN_EITHER_MODE: st.SearchStrategy[Twist] = st.one_of(
    st.builds(sets, st.sampled_from(FLAGS), st.booleans()),
    st.sampled_from(["", "k" * 1024, "k" * 1025, "é" * 513]).map(lambda key: sets("partition_key", key)),
    st.just(no_key),
    st.sampled_from(OTHER_KEYS).map(appends),
    st.builds(
        adds,
        st.sampled_from(["id", "version", "reply_to", "forwarded_from", "sequence", "reason", "mine"]),
        st.sampled_from(["x", "3", "-1", NAMES[0], "non-persistent://a/b/c", "x" * 113, "x" * 200]),
        st.booleans(),
    ),
    st.sampled_from(UNKNOWN + IN_DISGUISE + BAD_PROPERTIES).flatmap(
        lambda raw: st.sampled_from([appends(raw), begins_with(raw)])
    ),
    st.sampled_from([-1, 1, -(2**31), 2**20, 2**31 - 2**20]).map(says_size),
    st.sampled_from([b"", b"\0", NOT_UTF8, b"x" * 3000]).map(holds),
)
NO_UUIDS = [
    "x", NAMES[0][:-1], NAMES[0] + "0", NAMES[0].replace("-", "0"), "-" * 36, "{" + NAMES[0][1:-1] + "}",
    "0" * 32 + "----", "٣" * 8 + NAMES[0][8:], NAMES[0].replace("-", " "), "x" + NAMES[0][1:],
]  # fmt: skip
NUMBERS = [
    "-0", "007", "+1", "1.0", " 1", "", "9" * 16, "9" * 17, "-2", str(2**53), str(2**53 + 1), "٣", "0" * 15 + "1",
    "-" + "0" * 16, "-" + "0" * 15,
]  # fmt: skip
IN_BINARY_MODE: st.SearchStrategy[Twist] = st.one_of(
    IN_EITHER_MODE,
    st.sampled_from(NUMBERS).map(lambda digits: gives("version", digits)),
    st.sampled_from(NO_UUIDS).map(lambda text: gives("id", text)),
)
ID_BYTES = NAMES[0].encode()
PAYLOADS = [
    b"{}", b"[]", b"null", b"\xef\xbb\xbf{}", structured(None), *map(structured, NO_UUIDS),
    listed("1", "2"), listed("6", "7", version=0), listed("1", "1"),
    b'{"id":"%b"}' % ID_BYTES, b'{"id":"%b","data":}' % ID_BYTES,
    b'{"id":"x","id":"%b","data":1,"data":2}' % ID_BYTES, b'{"id":"%b","id":"x","data":1}' % ID_BYTES,
    b'{"id":"%b","data":1,"version":7,"version":-1}' % ID_BYTES,
    b'{"id":"%b","data":1,"version":1,"version":"1"}' % ID_BYTES,
    b'{"id":"%b","data":1,"events":[{}],"events":null}' % ID_BYTES,
    b'{"id":"%b","data":1,"events":null,"events":[{}]}' % ID_BYTES,
    b'{"\\u0069d":"%b","data":"\\ud800"} \n' % ID_BYTES, b'{"id":"%b","data":"\xff"}' % ID_BYTES,
    b'{"id":"%b","data":%b}' % (ID_BYTES, b"[" * 5000 + b"]" * 5000),
    b'{"id":"%b","x":%b,"data":1}' % (ID_BYTES, b'{"a":' * 5000 + b"1" + b"}" * 5000),
    b'{"id":"%b","data":NaN}' % ID_BYTES, b'{"id":"%b","data":1} x' % ID_BYTES,
]  # fmt: skip
VERSIONS = ["1", 1.0, 1.5, True, None, -2, 2**53, 2**53 + 1, 10**40, [], {}]
LISTS: list[object] = [None, [], [1], "x", {}, [{"id": NAMES[1], "data": 1}]]
IN_STRUCTURED_MODE: st.SearchStrategy[Twist] = st.one_of(
    IN_EITHER_MODE,
    st.sampled_from(VERSIONS).map(lambda version: payload_of(version=version)),
    st.sampled_from(LISTS).map(lambda events: payload_of(events=events)),
    st.sampled_from(PAYLOADS).map(holds),
)

CONTENTS = st.sampled_from([None, 1, "é", "\u2028", "x" * 200, {"id": "another", "version": 8, "events": []}])
PLAIN_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "event_time": st.sampled_from([0, 17, 2**64 - 1]),
        "sequence_id": st.integers(0, 2**64 - 1),
        "ordering_key": st.sampled_from([b"", b"\xff", b"0" * 40]),
        "partition_key_b64_encoded": st.booleans(),
    },
)
OWN_PROPERTIES = st.just(dict[str, str]()) | st.dictionaries(
    st.sampled_from(["type", "subject", "", "ID", "é"]), st.sampled_from(["", "OrderPlaced", "é", "x" * 100])
)
IDS = st.builds(lambda text, upper: text.upper() if upper else text, st.sampled_from(NAMES), st.booleans())
OFF_BY = st.sampled_from([0, 0, 0, 0, None, -1, 1])


Batch = st.SearchStrategy[list[Asked]]
NOTHING_ODD = st.just(list[Twist]())


def asked(
    binary: bool, twists: st.SearchStrategy[list[Twist]] = NOTHING_ODD, off_by: st.SearchStrategy[int | None] = OFF_BY
) -> st.SearchStrategy[Asked]:
    keys = st.sampled_from(FEW_KEYS) | st.sampled_from(KEYS)
    return st.builds(
        Asked,
        keys,
        IDS | st.uuids().map(str),
        off_by,
        st.just(binary),
        CONTENTS,
        PLAIN_FIELDS,
        st.booleans(),
        OWN_PROPERTIES,
        twists,
    )


def plain(binary: bool, off_by: st.SearchStrategy[int | None] = OFF_BY) -> Batch:
    return st.lists(asked(binary, off_by=off_by), min_size=1, max_size=6)


def one_odd(binary: bool) -> Batch:
    twists = st.lists(IN_BINARY_MODE if binary else IN_STRUCTURED_MODE, min_size=1, max_size=1)
    return st.builds(
        lambda good, odd, place: [*good[:place], odd, *good[place:]],
        st.lists(asked(binary), max_size=3), asked(binary, twists), st.integers(0, 3),
    )  # fmt: skip


def in_either_mode(batches: Callable[[bool], Batch]) -> Batch:
    return batches(True) | batches(False)


ALL_RIGHT = in_either_mode(lambda binary: plain(binary, st.just(0)))
PLAIN = in_either_mode(plain)
ONE_ODD = in_either_mode(one_odd)
MIXED = st.lists(asked(True) | asked(False), min_size=2, max_size=4)
ODD = st.lists(
    asked(True, st.lists(IN_BINARY_MODE, max_size=2)) | asked(False, st.lists(IN_STRUCTURED_MODE, max_size=2)),
    min_size=1,
    max_size=3,
)

BATCH_PROPERTIES = st.sampled_from([
    b"", raw_property(b"reply_to", b"non-persistent://a/b/c", b"\x22"), raw_property(b"reply_to", NOT_UTF8, b"\x22"),
    raw_property(b"mine", b"1", b"\x22"), raw_property(b"id", NAMES[0].encode(), b"\x22"), b"\x22\x00",
])  # fmt: skip
HOSTILE = st.fixed_dictionaries(
    {},
    optional={
        "num_messages_in_batch": st.integers(-1, 7) | st.just(10_001), "uncompressed_size": st.integers(0, 3000),
        "num_chunks_from_msg": st.integers(0, 2), "compression": st.integers(0, 4),
        "partition_key": st.just("of the batch"), "null_value": st.booleans(), "schema_version": st.just(b"v" * 65),
    },
)  # fmt: skip


class Sent(NamedTuple):
    """A batch, or as many entries, but for the expected versions of its messages."""

    asked: list[Asked]
    kind: Compression
    schema_version: bytes
    properties: bytes
    changed: list[Change]
    lies: dict[str, Any]
    sealed: bool
    an_entry: int | None
    """Messages of a batch; None: all are in one; 0: the publisher does not batch."""

    def entries(self, position: int, tails: dict[str, int]) -> list[Entry]:
        """As delivered; `tails` follow, as far as everything becomes what it looks like."""
        messages = self._messages(tails)
        if self.an_entry is None:
            entries = [self._batch(messages)]
        elif self.an_entry:
            entries = [self._batch(messages[n : n + self.an_entry]) for n in range(0, len(messages), self.an_entry)]
        else:
            entries = [self._alone(*one) for one in messages]
        return [entry._replace(message_id=POSITION._replace(entry=position + n)) for n, entry in enumerate(entries)]

    def _messages(self, tails: dict[str, int]) -> list[Message]:
        messages = []
        for one in self.asked:
            tail = tails.get(one.key, -1)
            draft = one.draft(None if one.off_by is None else max(-1, tail + one.off_by))
            for twist in one.twists:
                twist(draft)
            messages.append(draft.message())
            tails[one.key] = tail + (one.off_by in (0, None))
        return messages

    def _alone(self, head: bytes, payload: bytes) -> Entry:
        """What a client would send of it; what it could not send is left out."""
        single = SingleMessageMetadata()
        with suppress(DecodeError):
            single.MergeFromString(head)
        metadata = sent_metadata(uncompressed_size=len(payload))
        for name in ("partition_key_b64_encoded", "event_time", "ordering_key", "null_value", "null_partition_key"):
            if single.HasField(name):
                setattr(metadata, name, getattr(single, name))
        metadata.properties.extend(one for one in single.properties if one.IsInitialized())
        if single.HasField("partition_key") and isinstance(single.partition_key, str):
            metadata.partition_key = single.partition_key
        if self.kind != Compression.NONE:
            metadata.compression = self.kind
        if self.schema_version:
            metadata.schema_version = self.schema_version
        for name, value in self.lies.items():
            setattr(metadata, name, value)
        entry = stored(metadata, compress(self.kind, payload))
        return encrypted(entry) if self.sealed else entry

    def _batch(self, messages: list[Message]) -> Entry:
        data = batch(messages).payload
        for change in self.changed:
            data = change(data)
        metadata = sent_metadata(
            num_messages_in_batch=len(messages), uncompressed_size=len(data), compression=int(self.kind)
        )
        if self.schema_version:
            metadata.schema_version = self.schema_version
        metadata.MergeFromString(self.properties)
        for name, value in self.lies.items():
            setattr(metadata, name, value)
        entry = stored(metadata, compress(self.kind, data))
        return encrypted(entry) if self.sealed else entry


def seldom(odd: st.SearchStrategy[Any], usual: Any) -> st.SearchStrategy[Any]:
    return st.integers(0, 5).flatmap(lambda n: odd if n == 5 else st.just(usual))


def sent(batches: Batch) -> st.SearchStrategy[Sent]:
    return st.builds(
        Sent,
        batches,
        st.sampled_from(Compression),
        st.sampled_from([b"", b"", b"v1"]),
        seldom(BATCH_PROPERTIES, b""),
        seldom(st.lists(changes, min_size=1, max_size=3), []),
        seldom(HOSTILE, {}),
        st.integers(0, 20).map(lambda n: n == 20),
        st.sampled_from([None, None, 0, 1, 2]),
    )


# --- what becomes of it ---


class Memory:
    """An index, and an overlay over it: one partition that reads in one of the two ways."""

    def __init__(self, tails: dict[str, int], ids: dict[tuple[bytes, str], tuple[int, int]]) -> None:
        self.stored = dict(tails)
        self.ids = dict(ids)
        self.overlay = Overlay(
            self, partition=PARTITION, partitions=PARTITIONS, next_sequence=1000, cache_aggregates=400
        )
        self.in_flight: deque[Decided] = deque()

    def tails(self, keys: Sequence[str]) -> list[int]:
        return [self.stored.get(key, -1) for key in keys]

    def accepted(self, asked: Sequence[tuple[bytes, str]]) -> list[tuple[int, int] | None]:
        return [self.ids.get(row) for row in asked]

    def decide(self, submissions: Round) -> Decided:
        decided = self.overlay.decide(submissions)
        self.in_flight.append(decided)
        return decided

    def apply_the_oldest(self) -> None:
        decided = self.in_flight.popleft()
        self.stored.update(decided.tails)
        self.ids.update(ids_of(decided))
        self.overlay.applied(decided)


def check_same(decided: Decided, by_columns: Decided, limit: int) -> None:
    outcomes, others = one_by_one(decided.outcomes), one_by_one(by_columns.outcomes)
    for kind in (Accepted, Rejected, Forwarded):
        assert of_kind(others, kind) == of_kind(outcomes, kind)
    assert by_columns.messages == decided.messages == len(outcomes) == len(others)
    assert by_columns.tails == decided.tails
    assert list(by_columns.ids.rows()) == list(decided.ids.rows())
    assert by_columns.next_sequence == decided.next_sequence
    assert replies(by_columns.outcomes, limit) == replies(decided.outcomes, limit)

    sent, other = outputs(decided.outcomes, limit), outputs(by_columns.outcomes, limit)
    assert contents(other.events) == contents(sent.events)
    assert contents(other.rejected) == contents(sent.rejected)
    assert other.forwarded.keys() == sent.forwarded.keys()
    for home, copies in sent.forwarded.items():
        assert contents(other.forwarded[home]) == contents(copies)
    for output in (*other.events, *other.rejected):
        assert len(output.metadata) + len(output.payload) <= limit - 256, "the producer adds its own fields"


def of_kind(outcomes: Iterable[Accepted | Rejected | Forwarded], kind: type) -> list[Accepted | Rejected | Forwarded]:
    return [one for one in outcomes if isinstance(one, kind)]


def replies(
    outcomes: Iterable[Accepted | AcceptedRun | Rejected | Forwarded], limit: int
) -> list[tuple[str, bytes, bytes]]:
    """What publishers are told who have asked for it."""
    runs = reply_runs(outcomes, limit)
    return sorted((run.topic, head, payload) for run in runs for _, head, payload in split_batch(run.data, run.replies))


def contents(sent: Iterable[Output]) -> list[tuple[object, ...]]:
    """What stands in outputs, in order, wherever one ends and the next begins."""
    return [content for output in sent for content in _content(output)]


def _content(output: Output) -> Iterator[tuple[object, ...]]:
    metadata = MessageMetadata.FromString(output.metadata)
    if metadata.encryption_keys:
        yield metadata, output.payload
    else:
        yield from ((metadata.schema_version, single, payload) for single, payload in opened(output))


@settings(max_examples=600, deadline=None)
@given(sent(ONE_ODD | ODD | MIXED), st.sampled_from([LIMIT, LIMIT, 5000, OUTCOME_BYTES + 400]))
def test_by_columns_everything_reads_the_same(one: Sent, limit: int) -> None:
    entries = one.entries(0, {})
    assert list(each(read_submitted(entries, limit))) == [
        read for entry in entries for read in read_entry(entry, limit)
    ]


@settings(max_examples=250, deadline=None)
@given(
    st.lists(st.lists(sent(ALL_RIGHT | PLAIN | PLAIN | ODD), min_size=1, max_size=3), min_size=1, max_size=4),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
    st.sampled_from([LIMIT, LIMIT, 5000, OUTCOME_BYTES + 400]),
)
def test_by_columns_everything_becomes_the_same(rounds: list[list[Sent]], applied: list[int], limit: int) -> None:
    tails = {"a": 3, "c": 0, "\N{SNOWMAN}": 7, "é": 1}
    ids = {(bytes.fromhex(NAMES[n].replace("-", "")), "a"): (n, n) for n in range(3)}
    row_side, column_side = Memory(tails, ids), Memory(tails, ids)
    position = 0
    for together, applies in zip(rounds, applied, strict=False):
        entries = []
        for one in together:
            entries += one.entries(position, tails)
            position += 100
        single = [read for entry in entries for read in read_entry(entry, limit)]
        by_columns = read_submitted(entries, limit)
        assert list(each(by_columns)) == single
        decided, other = row_side.decide(single), column_side.decide(by_columns)
        check_same(decided, other, limit)
        tails |= decided.tails
        note(by_columns, other)
        for _ in range(min(applies, len(column_side.in_flight))):
            row_side.apply_the_oldest()
            column_side.apply_the_oldest()
        assert (column_side.stored, column_side.ids) == (row_side.stored, row_side.ids)


def note(read: Round, decided: Decided) -> None:
    """For --hypothesis-show-statistics: that it is not all the same."""
    kinds = {type(one).__name__ for one in read}
    event("read: " + ", ".join(sorted(kinds)))
    if "PlainBatch" in kinds:
        runs = [len(one.versions) for one in decided.outcomes if isinstance(one, AcceptedRun)]
        event(f"runs: {len(runs)}, others: {len(runs) < len(decided.outcomes)}")


# --- that this is not all about nothing ---


@settings(max_examples=100, deadline=None)
@given(ALL_RIGHT | PLAIN, st.sampled_from(Compression), st.sampled_from([b"", b"v1"]), st.sampled_from([None, 1, 2]))
def test_what_official_clients_send_is_read_by_columns(
    asked: list[Asked], kind: Compression, schema_version: bytes, an_entry: int | None
) -> None:
    """In either mode, with and without an expected version, with properties of the application's own, and with all
    that they add by themselves; in one batch, or in small ones, which are read together."""
    keys = [key for key in KEYS if len(key) <= 256]
    for one in asked:
        one.key = one.key if one.key in keys else keys[0]
    read = read_submitted(Sent(asked, kind, schema_version, b"", [], {}, False, an_entry).entries(0, {}), LIMIT)
    assert [type(one) for one in read] == [PlainBatch]


@settings(max_examples=100, deadline=None)
@given(ALL_RIGHT | PLAIN, st.sampled_from([b"", b"v1"]))
def test_what_official_clients_send_without_batching_is_read_by_columns(
    asked: list[Asked], schema_version: bytes
) -> None:
    """In structured mode, where the application sets nothing besides."""
    keys = [key for key in KEYS if len(key) <= 256]
    for one in asked:
        one.key = one.key if one.key in keys else keys[0]
        one.binary, one.fields, one.own = False, {}, {}
    read = read_submitted(Sent(asked, Compression.NONE, schema_version, b"", [], {}, False, 0).entries(0, {}), LIMIT)
    assert [type(one) for one in read] == [PlainBatch]
