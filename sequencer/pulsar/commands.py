"""The commands that this client sends. Request ids are left to the protocol core, which hands them out."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum

from sequencer.pulsar.frames import EARLIEST, UINT64_MASK, MessageId, TxnId, message_id_to_wire
from sequencer.pulsar.pulsar_api_pb2 import ABORT as ABORT_ACTION
from sequencer.pulsar.pulsar_api_pb2 import (
    COMMIT,
    AuthData,
    BaseCommand,
    CommandAck,
    CommandAddPartitionToTxn,
    CommandAddSubscriptionToTxn,
    CommandAuthResponse,
    CommandCloseConsumer,
    CommandCloseProducer,
    CommandConnect,
    CommandEndTxn,
    CommandFlow,
    CommandGetLastMessageId,
    CommandLookupTopic,
    CommandNewTxn,
    CommandPartitionedTopicMetadata,
    CommandProducer,
    CommandRedeliverUnacknowledgedMessages,
    CommandSend,
    CommandSubscribe,
    CommandTcClientConnectRequest,
    FeatureFlags,
    ProducerAccessMode,
    Subscription,
)

PROTOCOL_VERSION = 20
"""19 is the least for coordinator commands; nothing newer is used."""


class AccessMode(IntEnum):
    """Who else may produce to the topic (CommandProducer.producer_access_mode)."""

    SHARED = 0
    EXCLUSIVE = 1
    WAIT_FOR_EXCLUSIVE = 2
    EXCLUSIVE_WITH_FENCING = 3


def connect(client_version: str, auth_method: str, auth_data: bytes, proxy_to: str | None) -> BaseCommand:
    """CONNECT; `proxy_to` is the host:port of the broker that a proxy shall connect us to."""
    command = CommandConnect(
        client_version=client_version,
        protocol_version=PROTOCOL_VERSION,
        auth_method_name=auth_method,
        auth_data=auth_data,
        feature_flags=FeatureFlags(supports_auth_refresh=True, supports_partial_producer=False),
    )
    if proxy_to is not None:
        command.proxy_to_broker_url = proxy_to
    return BaseCommand(type=BaseCommand.CONNECT, connect=command)


def auth_response(client_version: str, auth_method: str, auth_data: bytes) -> BaseCommand:
    """AUTH_RESPONSE, the answer to AUTH_CHALLENGE."""
    response = CommandAuthResponse(
        client_version=client_version,
        protocol_version=PROTOCOL_VERSION,
        response=AuthData(auth_method_name=auth_method, auth_data=auth_data),
    )
    return BaseCommand(type=BaseCommand.AUTH_RESPONSE, authResponse=response)


def lookup(topic: str, authoritative: bool) -> BaseCommand:
    """LOOKUP."""
    return BaseCommand(
        type=BaseCommand.LOOKUP, lookupTopic=CommandLookupTopic(topic=topic, request_id=0, authoritative=authoritative)
    )


def partitioned_metadata(topic: str) -> BaseCommand:
    """PARTITIONED_METADATA; asking never creates the topic."""
    return BaseCommand(
        type=BaseCommand.PARTITIONED_METADATA,
        partitionMetadata=CommandPartitionedTopicMetadata(
            topic=topic, request_id=0, metadata_auto_creation_enabled=False
        ),
    )


def create_producer(topic: str, producer_id: int, name: str | None, access_mode: AccessMode) -> BaseCommand:
    """PRODUCER. Without `name` the broker makes one up."""
    command = CommandProducer(
        topic=topic,
        producer_id=producer_id,
        request_id=0,
        user_provided_producer_name=name is not None,
        producer_access_mode=ProducerAccessMode.Name(access_mode),
        txn_enabled=True,
    )
    if name is not None:
        command.producer_name = name
    return BaseCommand(type=BaseCommand.PRODUCER, producer=command)


def close_producer(producer_id: int) -> BaseCommand:
    """CLOSE_PRODUCER."""
    return BaseCommand(
        type=BaseCommand.CLOSE_PRODUCER,
        close_producer=CommandCloseProducer(producer_id=producer_id, request_id=0),
    )


def send(producer_id: int, sequence_id: int, num_messages: int, txn: TxnId | None) -> BaseCommand:
    """SEND."""
    command = CommandSend(producer_id=producer_id, sequence_id=sequence_id, num_messages=num_messages)
    if txn is not None:
        command.txnid_most_bits, command.txnid_least_bits = txn
    return BaseCommand(type=BaseCommand.SEND, send=command)


def subscribe_durable(
    topic: str,
    subscription: str,
    consumer_id: int,
    consumer_name: str | None,
    initial_position: MessageId,
    failover: bool,
) -> BaseCommand:
    """SUBSCRIBE to a durable subscription; `initial_position` (EARLIEST or LATEST) counts when it is new."""
    at_start = initial_position == EARLIEST
    command = CommandSubscribe(
        topic=topic,
        subscription=subscription,
        subType=CommandSubscribe.Failover if failover else CommandSubscribe.Exclusive,
        consumer_id=consumer_id,
        request_id=0,
        durable=True,
        initialPosition=CommandSubscribe.Earliest if at_start else CommandSubscribe.Latest,
        consumer_epoch=0,
    )
    if consumer_name is not None:
        command.consumer_name = consumer_name
    return BaseCommand(type=BaseCommand.SUBSCRIBE, subscribe=command)


def subscribe_reader(
    topic: str,
    subscription: str,
    consumer_id: int,
    *,
    start: MessageId,
    read_compacted: bool,
    rollback_s: int,
) -> BaseCommand:
    """SUBSCRIBE without a trace in the broker. Delivery begins with the entry that `start` is in.

    So it is by the broker's sources where `start` has a batch index, and in 4.2 also where it has none.
    """
    start_data = message_id_to_wire(start if start.ledger < 0 else start._replace(batch_index=0))
    command = CommandSubscribe(
        topic=topic,
        subscription=subscription,
        subType=CommandSubscribe.Exclusive,
        consumer_id=consumer_id,
        request_id=0,
        durable=False,
        start_message_id=start_data,
        read_compacted=read_compacted,
        # Where `start` lies beyond the end, that is where delivery begins.
        initialPosition=CommandSubscribe.Latest,
        start_message_rollback_duration_sec=rollback_s,
        consumer_epoch=0,
    )
    return BaseCommand(type=BaseCommand.SUBSCRIBE, subscribe=command)


def close_consumer(consumer_id: int) -> BaseCommand:
    """CLOSE_CONSUMER."""
    return BaseCommand(
        type=BaseCommand.CLOSE_CONSUMER,
        close_consumer=CommandCloseConsumer(consumer_id=consumer_id, request_id=0),
    )


def flow(consumer_id: int, permits: int) -> BaseCommand:
    """FLOW: the broker may deliver `permits` more messages."""
    return BaseCommand(type=BaseCommand.FLOW, flow=CommandFlow(consumer_id=consumer_id, messagePermits=permits))


def redeliver(consumer_id: int, epoch: int) -> BaseCommand:
    """REDELIVER_UNACKNOWLEDGED_MESSAGES, all of them; what was sent before carries an older epoch."""
    return BaseCommand(
        type=BaseCommand.REDELIVER_UNACKNOWLEDGED_MESSAGES,
        redeliverUnacknowledgedMessages=CommandRedeliverUnacknowledgedMessages(
            consumer_id=consumer_id, consumer_epoch=epoch
        ),
    )


def get_last_message_id(consumer_id: int) -> BaseCommand:
    """GET_LAST_MESSAGE_ID."""
    return BaseCommand(
        type=BaseCommand.GET_LAST_MESSAGE_ID,
        getLastMessageId=CommandGetLastMessageId(consumer_id=consumer_id, request_id=0),
    )


def ack(consumer_id: int, ids: Sequence[MessageId], txn: TxnId | None) -> BaseCommand:
    """ACK of whole entries, each by itself. One command is all or nothing."""
    base = BaseCommand(type=BaseCommand.ACK)
    command = base.ack
    command.consumer_id = consumer_id
    command.ack_type = CommandAck.Individual
    add = command.message_id.add
    # Filled in place: of messages that are no batches there are as many ids as events.
    for ledger, entry, _, _ in ids:
        add(ledgerId=ledger & UINT64_MASK, entryId=entry & UINT64_MASK)
    if txn is not None:
        command.txnid_most_bits, command.txnid_least_bits = txn
    return base


def ack_up_to(consumer_id: int, message_id: MessageId, batch_size: int) -> BaseCommand:
    """ACK of everything up to a message. The part of its batch after it is named as not acknowledged."""
    command = CommandAck(consumer_id=consumer_id, ack_type=CommandAck.Cumulative)
    data = command.message_id.add()
    data.CopyFrom(message_id_to_wire(MessageId(message_id.ledger, message_id.entry)))
    left = batch_size - message_id.batch_index - 1
    if message_id.batch_index >= 0 and left > 0:
        bits = ((1 << left) - 1) << (message_id.batch_index + 1)
        words = bits.to_bytes((batch_size + 63) // 64 * 8, "little")
        data.ack_set.extend(word for (word,) in struct.iter_unpack("<q", words))
        data.batch_size = batch_size
    return BaseCommand(type=BaseCommand.ACK, ack=command)


def connect_coordinator(tc_id: int) -> BaseCommand:
    """TC_CLIENT_CONNECT_REQUEST: loads the coordinator."""
    return BaseCommand(
        type=BaseCommand.TC_CLIENT_CONNECT_REQUEST,
        tcClientConnectRequest=CommandTcClientConnectRequest(request_id=0, tc_id=tc_id),
    )


def new_txn(tc_id: int, ttl_ms: int) -> BaseCommand:
    """NEW_TXN. The field is called txn_ttl_seconds and carries milliseconds."""
    return BaseCommand(
        type=BaseCommand.NEW_TXN, newTxn=CommandNewTxn(request_id=0, txn_ttl_seconds=ttl_ms, tc_id=tc_id)
    )


def add_partitions(txn: TxnId, topics: Sequence[str]) -> BaseCommand:
    """ADD_PARTITION_TO_TXN."""
    return BaseCommand(
        type=BaseCommand.ADD_PARTITION_TO_TXN,
        addPartitionToTxn=CommandAddPartitionToTxn(
            request_id=0, txnid_most_bits=txn.most, txnid_least_bits=txn.least, partitions=topics
        ),
    )


def add_subscription(txn: TxnId, topic: str, subscription: str) -> BaseCommand:
    """ADD_SUBSCRIPTION_TO_TXN."""
    return BaseCommand(
        type=BaseCommand.ADD_SUBSCRIPTION_TO_TXN,
        addSubscriptionToTxn=CommandAddSubscriptionToTxn(
            request_id=0,
            txnid_most_bits=txn.most,
            txnid_least_bits=txn.least,
            subscription=[Subscription(topic=topic, subscription=subscription)],
        ),
    )


def end_txn(txn: TxnId, commit: bool) -> BaseCommand:
    """END_TXN."""
    return BaseCommand(
        type=BaseCommand.END_TXN,
        endTxn=CommandEndTxn(
            request_id=0,
            txnid_most_bits=txn.most,
            txnid_least_bits=txn.least,
            txn_action=COMMIT if commit else ABORT_ACTION,
        ),
    )
