"""Any way of cutting the byte stream gives the same events, and no bytes make the client raise."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from sequencer.pulsar import commands
from sequencer.pulsar.batches import Compression, compress, decompress, join_batch, split_batch
from sequencer.pulsar.errors import CorruptBatch
from sequencer.pulsar.events import Broken, Delivered, Event
from sequencer.pulsar.frames import (
    MessageId,
    TxnId,
    encode_command,
    encode_payload_head,
    message_id_from_wire,
    message_id_to_wire,
)
from sequencer.pulsar.protocol import Protocol
from sequencer.pulsar.pulsar_api_pb2 import (
    BaseCommand,
    CommandConnected,
    CommandError,
    CommandMessage,
    CommandNewTxnResponse,
    CommandPing,
    CommandSendReceipt,
    CommandSuccess,
    MessageIdData,
    MessageMetadata,
    SingleMessageMetadata,
)

LIMIT_BYTES = 1 << 20
UINT64 = st.integers(0, 2**64 - 1)
IDS = st.builds(MessageIdData, ledgerId=UINT64, entryId=UINT64, partition=st.integers(-1, 9))
HANDSHAKE = encode_command(
    BaseCommand(type=BaseCommand.CONNECTED, connected=CommandConnected(server_version="x", max_message_size=200_000))
)


def message(ids: MessageIdData, payload: bytes) -> bytes:
    command = BaseCommand(type=BaseCommand.MESSAGE, message=CommandMessage(consumer_id=1, message_id=ids))
    metadata = MessageMetadata(producer_name="p", sequence_id=1, publish_time=1)
    return encode_payload_head(command, metadata.SerializeToString(), payload) + payload


FRAMES = st.one_of(
    st.builds(message, IDS, st.binary(max_size=300)),
    st.builds(message, IDS, st.integers(0, 150_000).map(bytes)),
    st.just(encode_command(BaseCommand(type=BaseCommand.PING, ping=CommandPing()))),
    st.builds(
        lambda i: encode_command(BaseCommand(type=BaseCommand.SUCCESS, success=CommandSuccess(request_id=i))),
        st.integers(1, 5),
    ),
    st.builds(
        lambda i, n: encode_command(
            BaseCommand(type=BaseCommand.ERROR, error=CommandError(request_id=i, error=n, message="e"))
        ),
        st.integers(1, 5),
        st.integers(0, 30),
    ),
    st.builds(
        lambda i, n: encode_command(
            BaseCommand(
                type=BaseCommand.NEW_TXN_RESPONSE,
                newTxnResponse=CommandNewTxnResponse(request_id=i, txnid_most_bits=0, txnid_least_bits=n),
            )
        ),
        st.integers(1, 5),
        UINT64,
    ),
    st.builds(
        lambda s, ids: encode_command(
            BaseCommand(
                type=BaseCommand.SEND_RECEIPT,
                send_receipt=CommandSendReceipt(producer_id=1, sequence_id=s, message_id=ids),
            )
        ),
        UINT64,
        IDS,
    ),
)


def waiting() -> Protocol:
    """A connection that is open and waits for answers to five requests."""
    core = Protocol()
    core.connect("none", b"")
    core.receive_data(HANDSHAKE)
    for _ in range(3):
        core.request(commands.close_producer(1))
    for _ in range(2):
        core.request(commands.new_txn(0, 1000))
    return core


def comparable(events: list[Event]) -> list[object]:
    return [str(event.violation) if isinstance(event, Broken) else event for event in events]


def fed_in_pieces(stream: bytes, cuts: list[int]) -> tuple[list[object], bytes]:
    core = waiting()
    core.data_to_send()
    events: list[Event] = []
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        events += core.receive_data(stream[start:end])
    return comparable(events), b"".join(core.data_to_send())


@given(st.lists(FRAMES, max_size=12), st.binary(max_size=12), st.lists(st.integers(0, 2**30), max_size=20))
def test_any_split_gives_the_same_events(frames: list[bytes], tail: bytes, cuts: list[int]) -> None:
    stream = b"".join(frames) + tail
    assert fed_in_pieces(stream, cuts) == fed_in_pieces(stream, [])


@given(st.lists(FRAMES, max_size=3), st.binary(max_size=12))
def test_byte_by_byte_gives_the_same_events(frames: list[bytes], tail: bytes) -> None:
    stream = (b"".join(frames) + tail)[:3000]
    assert fed_in_pieces(stream, list(range(len(stream)))) == fed_in_pieces(stream, [])


@given(st.binary(max_size=400))
def test_no_bytes_make_the_core_raise(garbage: bytes) -> None:
    events = waiting().receive_data(garbage)
    assert all(not isinstance(event, Broken) for event in events[:-1])


@given(st.lists(FRAMES, min_size=1, max_size=4), st.integers(0, 2**30), st.integers(1, 255))
def test_one_flipped_byte_never_makes_the_core_raise(frames: list[bytes], place: int, flip: int) -> None:
    stream = bytearray(b"".join(frames))
    stream[place % len(stream)] ^= flip
    waiting().receive_data(bytes(stream))


@given(IDS, st.binary(min_size=1, max_size=300), st.integers(0, 2**30), st.integers(1, 255))
def test_one_flipped_byte_of_a_payload_is_damage(ids: MessageIdData, payload: bytes, place: int, flip: int) -> None:
    stream = bytearray(message(ids, payload))
    stream[len(stream) - 1 - place % len(payload)] ^= flip
    (event,) = waiting().receive_data(bytes(stream))
    assert isinstance(event, Delivered)
    assert event.entry.damage == "the checksum does not match"
    assert event.entry.message_id == message_id_from_wire(ids)


@given(st.integers(-1, 2**63 - 1), st.integers(-1, 2**63 - 1), st.integers(-1, 1000), st.integers(-1, 1000))
def test_message_ids_survive_the_wire(ledger: int, entry: int, partition: int, batch_index: int) -> None:
    message_id = MessageId(ledger, entry, partition, batch_index)
    assert message_id_from_wire(message_id_to_wire(message_id)) == message_id


@given(st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=200)), max_size=20), st.sampled_from(Compression))
def test_batches_survive(messages: list[tuple[str, bytes]], kind: Compression) -> None:
    parts = [
        (SingleMessageMetadata(payload_size=len(payload), partition_key=key).SerializeToString(), payload)
        for key, payload in messages
    ]
    data = join_batch(parts)
    unpacked = decompress(kind, compress(kind, data), len(data), LIMIT_BYTES)
    assert [(head, payload) for _, head, payload in split_batch(unpacked, len(parts))] == parts


@given(st.binary(max_size=200), st.integers(-1, 20))
def test_garbage_is_a_corrupt_batch_or_a_batch(garbage: bytes, count: int) -> None:
    try:
        found = list(split_batch(garbage, count))
    except CorruptBatch:
        return
    assert sum(4 + len(head) + len(payload) for _, head, payload in found) == len(garbage)


@given(st.sampled_from(Compression), st.binary(max_size=200), st.integers(0, 2000))
def test_garbage_is_never_decompressed_to_another_size(kind: Compression, garbage: bytes, size: int) -> None:
    try:
        data = decompress(kind, garbage, size, 1000)
    except CorruptBatch:
        return
    assert len(data) <= 1000
    assert kind is Compression.NONE or len(data) == size


@given(UINT64, UINT64)
def test_transaction_ids_survive_the_wire(most: int, least: int) -> None:
    command = BaseCommand.FromString(commands.end_txn(TxnId(most, least), True).SerializePartialToString())
    assert TxnId(command.endTxn.txnid_most_bits, command.endTxn.txnid_least_bits) == (most, least)
