"""The protocol core, fed by hand."""

from __future__ import annotations

import pytest

from sequencer.pulsar import commands, protocol
from sequencer.pulsar.errors import ProtocolViolation, ServerError
from sequencer.pulsar.events import (
    Answered,
    Broken,
    Challenged,
    Connected,
    ConnectionRefused,
    ConsumerClosed,
    Delivered,
    Event,
    LastMessage,
    LookupAnswer,
    PartitionCount,
    ProducerClosed,
    ProducerGrant,
    Refused,
    SendRefused,
    Stored,
    TurnChanged,
    TxnOpened,
)
from sequencer.pulsar.frames import FRAME_PADDING_BYTES, LATEST, MessageId, TxnId, encode_command, encode_payload_head
from sequencer.pulsar.protocol import NO_REQUEST_ID, REQUESTS, Protocol, State
from sequencer.pulsar.pulsar_api_pb2 import (
    AuthData,
    BaseCommand,
    CommandAckResponse,
    CommandActiveConsumerChange,
    CommandAuthChallenge,
    CommandCloseConsumer,
    CommandCloseProducer,
    CommandConnected,
    CommandEndTxnResponse,
    CommandError,
    CommandGetLastMessageIdResponse,
    CommandLookupTopicResponse,
    CommandMessage,
    CommandNewTxnResponse,
    CommandPartitionedTopicMetadataResponse,
    CommandPing,
    CommandPong,
    CommandProducerSuccess,
    CommandReachedEndOfTopic,
    CommandSendError,
    CommandSendReceipt,
    CommandSuccess,
    CommandTcClientConnectResponse,
    CommandTopicMigrated,
    MessageIdData,
    MessageMetadata,
)

TXN = TxnId(0, 0)
EVERY_REQUEST: list[BaseCommand] = [
    commands.lookup("t", False),
    commands.partitioned_metadata("t"),
    commands.create_producer("t", 1, "name", commands.AccessMode.WAIT_FOR_EXCLUSIVE),
    commands.close_producer(1),
    commands.subscribe_durable("t", "s", 1, "name", LATEST, failover=False),
    commands.subscribe_reader("t", "s", 1, start=MessageId(1, 2), read_compacted=True, rollback_s=3),
    commands.close_consumer(1),
    commands.get_last_message_id(1),
    commands.ack(1, [MessageId(1, 2)], TXN),
    commands.connect_coordinator(0),
    commands.new_txn(0, 1000),
    commands.add_partitions(TXN, ["t"]),
    commands.add_subscription(TXN, "t", "s"),
    commands.end_txn(TXN, True),
]


def said(core: Protocol) -> list[BaseCommand]:
    """The commands that `core` wants to send (simple frames only)."""
    found = []
    data = b"".join(core.data_to_send())
    while data:
        size = int.from_bytes(data[4:8], "big")
        found.append(BaseCommand.FromString(data[8 : 8 + size]))
        data = data[4 + int.from_bytes(data[:4], "big") :]
    return found


def hear(core: Protocol, *heard: BaseCommand) -> list[Event]:
    return core.receive_data(b"".join(map(encode_command, heard)))


def connected(max_message_size: int | None = None) -> BaseCommand:
    command = CommandConnected(server_version="test", protocol_version=20)
    if max_message_size is not None:
        command.max_message_size = max_message_size
    return BaseCommand(type=BaseCommand.CONNECTED, connected=command)


def success(request_id: int) -> BaseCommand:
    return BaseCommand(type=BaseCommand.SUCCESS, success=CommandSuccess(request_id=request_id))


def error(request_id: int, number: int = ServerError.SERVICE_NOT_READY, message: str = "no") -> BaseCommand:
    return BaseCommand(type=BaseCommand.ERROR, error=CommandError(request_id=request_id, error=number, message=message))


def ping() -> BaseCommand:
    return BaseCommand(type=BaseCommand.PING, ping=CommandPing())


def opened() -> Protocol:
    core = Protocol()
    core.connect("none", b"")
    assert hear(core, connected(1000)) == [Connected("test", 1000)]
    said(core)
    return core


def violation_in(events: list[Event]) -> str:
    (event,) = events
    assert isinstance(event, Broken)
    assert isinstance(event.violation, ProtocolViolation)
    return str(event.violation)


# --- Handshake ---


def test_connect_says_who_we_are() -> None:
    core = Protocol()
    core.connect("token", b"secret", "broker:6650")
    (command,) = said(core)
    connect = command.connect
    assert (connect.auth_method_name, connect.auth_data) == ("token", b"secret")
    assert connect.proxy_to_broker_url == "broker:6650"
    assert connect.protocol_version == 20
    assert connect.feature_flags.supports_auth_refresh
    assert not connect.feature_flags.supports_broker_entry_metadata
    assert core.state is State.CONNECTING


def test_without_a_proxy_none_is_named() -> None:
    core = Protocol()
    core.connect("none", b"")
    assert not said(core)[0].connect.HasField("proxy_to_broker_url")


def test_the_broker_sets_the_message_limit() -> None:
    core = opened()
    assert core.state is State.OPEN
    too_large = (1000 + FRAME_PADDING_BYTES + 1).to_bytes(4, "big")
    assert "allowed" in violation_in(core.receive_data(too_large))


def test_the_default_limit() -> None:
    core = Protocol()
    core.connect("none", b"")
    assert hear(core, connected()) == [Connected("test", 5 * 1024 * 1024)]


@pytest.mark.parametrize("size", [0, -5, protocol.MAX_MESSAGE_BYTES_LIMIT + 1])
def test_an_absurd_limit_is_a_violation(size: int) -> None:
    core = Protocol()
    core.connect("none", b"")
    assert "max_message_size" in violation_in(hear(core, connected(size)))


def challenge(method: str = "token") -> BaseCommand:
    content = CommandAuthChallenge(challenge=AuthData(auth_method_name=method, auth_data=b"?"))
    return BaseCommand(type=BaseCommand.AUTH_CHALLENGE, authChallenge=content)


def test_a_challenge_is_answered_in_the_handshake_and_later() -> None:
    core = Protocol()
    core.connect("token", b"old")
    said(core)
    for step in ("handshake", "refresh"):
        assert hear(core, challenge()) == [Challenged("token")]
        core.answer_challenge("token", step.encode())
        (command,) = said(core)
        assert command.authResponse.response.auth_data == step.encode()
        if step == "handshake":
            hear(core, connected())
    assert core.state is State.OPEN


def test_a_refused_connection() -> None:
    core = Protocol()
    core.connect("none", b"")
    events = hear(core, error(NO_REQUEST_ID, ServerError.AUTHENTICATION_ERROR, "who?"))
    assert events == [ConnectionRefused(ServerError.AUTHENTICATION_ERROR, "who?")]
    assert core.state is State.CLOSED


def test_an_error_for_no_request_ends_an_open_connection() -> None:
    core = opened()
    assert hear(core, error(NO_REQUEST_ID), success(1)) == [ConnectionRefused(ServerError.SERVICE_NOT_READY, "no")]


@pytest.mark.parametrize("early", [success(1), BaseCommand(type=BaseCommand.SEND_RECEIPT)])
def test_nothing_else_comes_before_the_handshake_is_complete(early: BaseCommand) -> None:
    if early.type == BaseCommand.SEND_RECEIPT:
        early.send_receipt.CopyFrom(CommandSendReceipt(producer_id=1, sequence_id=1))
    core = Protocol()
    core.connect("none", b"")
    assert "before the handshake" in violation_in(hear(core, early))


def test_connected_twice_is_a_violation() -> None:
    assert "CONNECTED" in violation_in(hear(opened(), connected()))


# --- Keeping alive ---


def test_pings_are_answered_once_for_many() -> None:
    core = opened()
    assert hear(core, *[ping()] * 1000) == []
    assert [command.type for command in said(core)] == [BaseCommand.PONG]
    assert said(core) == []


def test_our_ping() -> None:
    core = opened()
    core.ping()
    assert [command.type for command in said(core)] == [BaseCommand.PING]
    assert hear(core, BaseCommand(type=BaseCommand.PONG, pong=CommandPong())) == []


# --- Requests ---


def test_every_request_is_in_the_table() -> None:
    assert {command.type for command in EVERY_REQUEST} == set(REQUESTS)


@pytest.mark.parametrize("command", EVERY_REQUEST, ids=lambda command: BaseCommand.Type.Name(command.type))
def test_every_request_gets_an_id_and_can_be_refused(command: BaseCommand) -> None:
    core = opened()
    first, second = core.request(command), core.request(command)
    assert second == first + 1
    sent = said(core)
    assert [getattr(each, protocol.FIELDS[each.type]).request_id for each in sent] == [first, second]
    assert hear(core, error(second, 99, "x")) == [Refused(second, 99, "x")]
    assert hear(core, error(second, 99, "x")) == []


@pytest.mark.parametrize("command", EVERY_REQUEST, ids=lambda command: BaseCommand.Type.Name(command.type))
def test_an_answer_of_another_kind_is_a_violation(command: BaseCommand) -> None:
    core = opened()
    request_id = core.request(command)
    if REQUESTS[command.type] == BaseCommand.SUCCESS:
        wrong = BaseCommand(type=BaseCommand.ACK_RESPONSE)
        wrong.ackResponse.CopyFrom(CommandAckResponse(consumer_id=1, request_id=request_id))
    else:
        wrong = success(request_id)
    assert "calls for" in violation_in(hear(core, wrong))


def test_an_answer_that_nobody_waits_for_is_dropped() -> None:
    core = opened()
    request_id = core.request(commands.close_producer(1))
    core.forget(request_id)
    assert hear(core, success(request_id), success(4711), error(4712)) == []
    assert core.state is State.OPEN


def test_success() -> None:
    core = opened()
    request_id = core.request(commands.close_consumer(1))
    assert hear(core, success(request_id)) == [Answered(request_id, None)]
    assert hear(core, success(request_id)) == []


def test_partition_counts() -> None:
    core = opened()
    request_id = core.request(commands.partitioned_metadata("t"))
    answer = CommandPartitionedTopicMetadataResponse(request_id=request_id, partitions=7, response="Success")
    heard = BaseCommand(type=BaseCommand.PARTITIONED_METADATA_RESPONSE, partitionMetadataResponse=answer)
    assert hear(core, heard) == [Answered(request_id, PartitionCount(7))]
    request_id = core.request(commands.partitioned_metadata("t"))
    answer = CommandPartitionedTopicMetadataResponse(request_id=request_id, response="Failed", error=11, message="gone")
    heard = BaseCommand(type=BaseCommand.PARTITIONED_METADATA_RESPONSE, partitionMetadataResponse=answer)
    assert hear(core, heard) == [Refused(request_id, ServerError.TOPIC_NOT_FOUND, "gone")]


@pytest.mark.parametrize("redirect", [True, False])
def test_lookups(redirect: bool) -> None:
    core = opened()
    request_id = core.request(commands.lookup("t", True))
    assert said(core)[0].lookupTopic.authoritative
    answer = CommandLookupTopicResponse(
        request_id=request_id,
        response="Redirect" if redirect else "Connect",
        brokerServiceUrl="pulsar://b:1",
        brokerServiceUrlTls="pulsar+ssl://b:2",
        authoritative=True,
        proxy_through_service_url=True,
    )
    heard = BaseCommand(type=BaseCommand.LOOKUP_RESPONSE, lookupTopicResponse=answer)
    found = LookupAnswer(redirect, "pulsar://b:1", "pulsar+ssl://b:2", True, True)
    assert hear(core, heard) == [Answered(request_id, found)]


def test_a_failed_lookup() -> None:
    core = opened()
    request_id = core.request(commands.lookup("t", False))
    answer = CommandLookupTopicResponse(request_id=request_id, response="Failed", error=6, message="later")
    heard = BaseCommand(type=BaseCommand.LOOKUP_RESPONSE, lookupTopicResponse=answer)
    assert hear(core, heard) == [Refused(request_id, ServerError.SERVICE_NOT_READY, "later")]


def test_a_parked_producer_is_granted_later_under_the_same_id() -> None:
    core = opened()
    request_id = core.request(commands.create_producer("t", 1, None, commands.AccessMode.WAIT_FOR_EXCLUSIVE))

    def answer(ready: bool, epoch: int) -> BaseCommand:
        content = CommandProducerSuccess(
            request_id=request_id, producer_name="n", topic_epoch=epoch, producer_ready=ready
        )
        return BaseCommand(type=BaseCommand.PRODUCER_SUCCESS, producer_success=content)

    assert hear(core, answer(False, 0)) == [Answered(request_id, ProducerGrant("n", 0, -1, False))]
    assert hear(core, answer(True, 5)) == [Answered(request_id, ProducerGrant("n", 5, -1, True))]
    assert hear(core, answer(True, 6)) == []


def test_plain_answers_with_and_without_an_error() -> None:
    core = opened()
    request_id = core.request(commands.ack(1, [MessageId(1, 1)], TXN))
    ack = CommandAckResponse(consumer_id=1, request_id=request_id, error=23, message="held")
    assert hear(core, BaseCommand(type=BaseCommand.ACK_RESPONSE, ackResponse=ack)) == [
        Refused(request_id, ServerError.TRANSACTION_CONFLICT, "held")
    ]
    request_id = core.request(commands.end_txn(TXN, False))
    end = CommandEndTxnResponse(request_id=request_id)
    assert hear(core, BaseCommand(type=BaseCommand.END_TXN_RESPONSE, endTxnResponse=end)) == [
        Answered(request_id, None)
    ]
    request_id = core.request(commands.connect_coordinator(3))
    tc = CommandTcClientConnectResponse(request_id=request_id, error=0, message="initializing")
    heard = BaseCommand(type=BaseCommand.TC_CLIENT_CONNECT_RESPONSE, tcClientConnectResponse=tc)
    assert hear(core, heard) == [Refused(request_id, ServerError.UNKNOWN_ERROR, "initializing")]


def test_transaction_zero_zero() -> None:
    core = opened()
    request_id = core.request(commands.new_txn(0, 1000))
    assert said(core)[0].newTxn.txn_ttl_seconds == 1000
    answer = CommandNewTxnResponse(request_id=request_id, txnid_least_bits=0, txnid_most_bits=0)
    heard = BaseCommand(type=BaseCommand.NEW_TXN_RESPONSE, newTxnResponse=answer)
    assert hear(core, heard) == [Answered(request_id, TxnOpened(TxnId(0, 0)))]


def test_last_message_id() -> None:
    core = opened()
    request_id = core.request(commands.get_last_message_id(1))
    nothing = MessageIdData(ledgerId=2**64 - 1, entryId=2**64 - 1)
    answer = CommandGetLastMessageIdResponse(request_id=request_id, last_message_id=nothing)
    heard = BaseCommand(type=BaseCommand.GET_LAST_MESSAGE_ID_RESPONSE, getLastMessageIdResponse=answer)
    assert hear(core, heard) == [Answered(request_id, LastMessage(MessageId(-1, -1), None))]
    answer.request_id = core.request(commands.get_last_message_id(1))
    answer.consumer_mark_delete_position.CopyFrom(MessageIdData(ledgerId=3, entryId=2**64 - 1))
    heard = BaseCommand(type=BaseCommand.GET_LAST_MESSAGE_ID_RESPONSE, getLastMessageIdResponse=answer)
    assert hear(core, heard) == [Answered(answer.request_id, LastMessage(MessageId(-1, -1), MessageId(3, -1)))]


# --- Commands' contents ---


def test_optional_fields_of_a_zero_transaction_are_present() -> None:
    for command in (
        commands.ack(1, [MessageId(1, 2)], TXN).ack,
        commands.end_txn(TXN, True).endTxn,
        commands.add_partitions(TXN, ["t"]).addPartitionToTxn,
        commands.add_subscription(TXN, "t", "s").addSubscriptionToTxn,
        commands.send(1, 2, 3, TXN).send,
    ):
        assert command.HasField("txnid_most_bits")
        assert command.HasField("txnid_least_bits")
    assert not commands.send(1, 2, 3, None).send.HasField("txnid_most_bits")
    assert not commands.ack(1, [MessageId(1, 2)], None).ack.HasField("txnid_most_bits")


def test_acks_are_of_whole_entries() -> None:
    (data,) = commands.ack(1, [MessageId(5, 6, 2, 7)], None).ack.message_id
    assert (data.ledgerId, data.entryId) == (5, 6)
    assert not data.ack_set
    assert not data.HasField("batch_index")


def test_where_a_reader_starts() -> None:
    def start(message_id: MessageId) -> MessageIdData:
        command = commands.subscribe_reader("t", "s", 1, start=message_id, read_compacted=False, rollback_s=0)
        return command.subscribe.start_message_id

    assert start(MessageId(5, 6, 0, 7)) == MessageIdData(ledgerId=5, entryId=6, partition=0, batch_index=0)
    assert not start(MessageId(-1, -1)).HasField("batch_index")


# --- Sends and deliveries ---


def test_a_send_is_its_head_and_then_the_payload_itself() -> None:
    core = opened()
    payload = b"payload"
    core.send(commands.send(1, 2, 1, None), b"metadata", payload)
    head, body = core.data_to_send()
    assert head.endswith(b"metadata")
    assert body is payload


def test_receipts_and_refusals() -> None:
    core = opened()
    receipt = CommandSendReceipt(producer_id=1, sequence_id=2, message_id=MessageIdData(ledgerId=3, entryId=4))
    refused = CommandSendError(producer_id=1, sequence_id=3, error=2, message="closed")
    events = hear(
        core,
        BaseCommand(type=BaseCommand.SEND_RECEIPT, send_receipt=receipt),
        BaseCommand(type=BaseCommand.SEND_ERROR, send_error=refused),
    )
    assert events == [Stored(1, 2, MessageId(3, 4)), SendRefused(1, 3, ServerError.PERSISTENCE_ERROR, "closed")]


def test_a_delivery() -> None:
    core = opened()
    message = CommandMessage(
        consumer_id=9, message_id=MessageIdData(ledgerId=3, entryId=4), ack_set=[-1], consumer_epoch=2
    )
    metadata = MessageMetadata(producer_name="p", sequence_id=1, publish_time=1)
    head = encode_payload_head(
        BaseCommand(type=BaseCommand.MESSAGE, message=message), metadata.SerializeToString(), b"abc"
    )
    (event,) = core.receive_data(head + b"abc")
    assert isinstance(event, Delivered)
    assert (event.consumer_id, event.consumer_epoch) == (9, 2)
    assert (event.entry.payload, event.entry.ack_set) == (b"abc", (-1,))


def test_what_the_broker_closes() -> None:
    core = opened()
    migrated = CommandTopicMigrated(resource_id=3, resource_type=CommandTopicMigrated.Consumer)
    events = hear(
        core,
        BaseCommand(
            type=BaseCommand.CLOSE_PRODUCER,
            close_producer=CommandCloseProducer(producer_id=1, request_id=NO_REQUEST_ID),
        ),
        BaseCommand(
            type=BaseCommand.CLOSE_CONSUMER,
            close_consumer=CommandCloseConsumer(consumer_id=2, request_id=NO_REQUEST_ID),
        ),
        BaseCommand(type=BaseCommand.TOPIC_MIGRATED, topicMigrated=migrated),
    )
    assert events == [ProducerClosed(1), ConsumerClosed(2), ConsumerClosed(3)]


@pytest.mark.parametrize("active", [True, False])
def test_a_turn_of_a_failover_subscription(active: bool) -> None:
    change = CommandActiveConsumerChange(consumer_id=1, is_active=active)
    heard = BaseCommand(type=BaseCommand.ACTIVE_CONSUMER_CHANGE, active_consumer_change=change)
    assert hear(opened(), heard) == [TurnChanged(1, active)]


def test_what_is_of_no_consequence() -> None:
    ended = CommandReachedEndOfTopic(consumer_id=1)
    heard = BaseCommand(type=BaseCommand.REACHED_END_OF_TOPIC, reachedEndOfTopic=ended)
    assert hear(opened(), heard) == []


# --- Hostile peers ---


@pytest.mark.parametrize(
    "command",
    [
        commands.flow(1, 1),
        commands.lookup("t", False),
        BaseCommand(type=BaseCommand.SEND_RECEIPT),
        BaseCommand(type=BaseCommand.WATCH_TOPIC_UPDATE),
    ],
)
def test_commands_that_are_not_for_a_client(command: BaseCommand) -> None:
    core = opened()
    violation_in(hear(core, command))
    assert core.state is State.CLOSED


def test_after_a_violation_nothing_is_heard_any_more() -> None:
    core = opened()
    request_id = core.request(commands.close_producer(1))
    violation_in(core.receive_data(bytes(4)))
    assert hear(core, success(request_id)) == []
    before = len(core.writable())
    for _ in range(100):
        core.receive_data(bytes(100_000))
    assert len(core.writable()) == before


def test_text_that_is_not_utf_8_is_still_text() -> None:
    core = opened()
    request_id = core.request(commands.close_producer(1))
    heard = encode_command(error(request_id, 1, "XX")).replace(b"XX", b"\xff\xfe")
    (event,) = core.receive_data(heard)
    assert isinstance(event, Refused)
    assert isinstance(event.message, str)
