"""What a broker may tell us, as values: the answers to our requests, and the events of a connection."""

from __future__ import annotations

from typing import NamedTuple

from sequencer.pulsar.errors import ProtocolViolation
from sequencer.pulsar.frames import Entry, MessageId, TxnId

# --- Answers to requests ---


class PartitionCount(NamedTuple):
    """Answer to PARTITIONED_METADATA; 0 where the topic is not partitioned."""

    partitions: int


class LookupAnswer(NamedTuple):
    """Answer to LOOKUP: who serves the topic, or (`redirect`) whom to ask next."""

    redirect: bool
    url: str
    url_tls: str
    authoritative: bool
    proxied: bool


class ProducerGrant(NamedTuple):
    """Answer to PRODUCER. While not `ready`, the producer is parked and a second answer will follow."""

    name: str
    topic_epoch: int
    last_sequence_id: int
    ready: bool


class LastMessage(NamedTuple):
    """Answer to GET_LAST_MESSAGE_ID; ledger -1 where nothing is readable."""

    message_id: MessageId
    acknowledged: MessageId | None
    """The entry up to which the consumer's subscription is acknowledged: delivery began, or begins, after it."""


class TxnOpened(NamedTuple):
    """Answer to NEW_TXN."""

    txn: TxnId


Answer = PartitionCount | LookupAnswer | ProducerGrant | LastMessage | TxnOpened | None
"""None: the request has succeeded and there is nothing more to say."""


# --- Events ---


class Connected(NamedTuple):
    """The handshake is complete."""

    server_version: str
    max_message_bytes: int


class Challenged(NamedTuple):
    """The broker wants (fresh) credentials: call `answer_challenge`."""

    method: str


class Answered(NamedTuple):
    """A request has its answer."""

    request_id: int
    answer: Answer


class Refused(NamedTuple):
    """A request was answered with an error."""

    request_id: int
    error: int
    message: str


class Stored(NamedTuple):
    """A SEND was answered with a receipt."""

    producer_id: int
    sequence_id: int
    message_id: MessageId


class SendRefused(NamedTuple):
    """A SEND was answered with an error."""

    producer_id: int
    sequence_id: int
    error: int
    message: str


class Delivered(NamedTuple):
    """An entry for a consumer."""

    consumer_id: int
    consumer_epoch: int
    entry: Entry


class ProducerClosed(NamedTuple):
    """The broker has closed a producer."""

    producer_id: int


class ConsumerClosed(NamedTuple):
    """The broker has closed a consumer."""

    consumer_id: int


class TurnChanged(NamedTuple):
    """A consumer of a failover subscription has its turn from now on, or has it no longer."""

    consumer_id: int
    active: bool


class ConnectionRefused(NamedTuple):
    """The broker refuses the connection as a whole, at the handshake or later."""

    error: int
    message: str


class Broken(NamedTuple):
    """The peer has broken the protocol. Always the last event."""

    violation: ProtocolViolation


Event = (
    Connected
    | Challenged
    | Answered
    | Refused
    | Stored
    | SendRefused
    | Delivered
    | ProducerClosed
    | ConsumerClosed
    | TurnChanged
    | ConnectionRefused
    | Broken
)
