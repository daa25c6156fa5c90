"""One connection's protocol, without any input or output: bytes in, events out, bytes to send.

The handshake goes NEW -> CONNECTING -> OPEN; whatever breaks the protocol leads to CLOSED, and what the peer sends
after that is not looked at. PING is answered here. Requests are matched with their answers by id and kind; an answer
to a request that was forgotten (its time was over) is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType

from sequencer.pulsar import commands
from sequencer.pulsar.errors import ProtocolViolation
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
from sequencer.pulsar.frames import (
    FRAME_PADDING_BYTES,
    Frame,
    FrameDecoder,
    TxnId,
    encode_command,
    encode_payload_head,
    message_id_from_wire,
)
from sequencer.pulsar.pulsar_api_pb2 import (
    BaseCommand,
    CommandGetLastMessageIdResponse,
    CommandLookupTopicResponse,
    CommandPartitionedTopicMetadataResponse,
    CommandPing,
    CommandPong,
)

CLIENT_VERSION = "pulsar-sequencer"
"""How we introduce ourselves; it shows in the broker's log and statistics."""

MAX_MESSAGE_BYTES_LIMIT = 64 * 1024 * 1024
"""Largest maxMessageSize of a broker that we take part in: a frame of that size is held in memory."""

MAX_PARTITIONS = 100_000
"""Most partitions of a topic that we believe a broker: whoever asks makes lists of them."""

NO_REQUEST_ID = 2**64 - 1
"""What a broker puts where it answers no request."""

NO_SEQUENCE_ID = -1
"""The last sequence id of a producer that has not sent anything."""


class State(Enum):
    """Where the connection is."""

    NEW = "new"
    CONNECTING = "connecting"
    OPEN = "open"
    CLOSED = "closed"


# --- Tables ---

_T = BaseCommand

FIELDS: Mapping[int, str] = MappingProxyType(
    {field.number: field.name for field in BaseCommand.DESCRIPTOR.fields if field.name != "type"}
)
"""The field of BaseCommand that holds the command of each type: its number is the type's."""

REQUESTS: Mapping[int, int] = MappingProxyType(
    {
        _T.LOOKUP: _T.LOOKUP_RESPONSE,
        _T.PARTITIONED_METADATA: _T.PARTITIONED_METADATA_RESPONSE,
        _T.PRODUCER: _T.PRODUCER_SUCCESS,
        _T.CLOSE_PRODUCER: _T.SUCCESS,
        _T.SUBSCRIBE: _T.SUCCESS,
        _T.CLOSE_CONSUMER: _T.SUCCESS,
        _T.GET_LAST_MESSAGE_ID: _T.GET_LAST_MESSAGE_ID_RESPONSE,
        _T.ACK: _T.ACK_RESPONSE,
        _T.TC_CLIENT_CONNECT_REQUEST: _T.TC_CLIENT_CONNECT_RESPONSE,
        _T.NEW_TXN: _T.NEW_TXN_RESPONSE,
        _T.ADD_PARTITION_TO_TXN: _T.ADD_PARTITION_TO_TXN_RESPONSE,
        _T.ADD_SUBSCRIPTION_TO_TXN: _T.ADD_SUBSCRIPTION_TO_TXN_RESPONSE,
        _T.END_TXN: _T.END_TXN_RESPONSE,
    }
)
"""Every request and the type of its answer. ERROR may answer any of them."""

PLAIN_ANSWERS = frozenset(
    {
        _T.SUCCESS,
        _T.ACK_RESPONSE,
        _T.TC_CLIENT_CONNECT_RESPONSE,
        _T.NEW_TXN_RESPONSE,
        _T.ADD_PARTITION_TO_TXN_RESPONSE,
        _T.ADD_SUBSCRIPTION_TO_TXN_RESPONSE,
        _T.END_TXN_RESPONSE,
        _T.GET_LAST_MESSAGE_ID_RESPONSE,
    }
)
"""Answers that hold a request_id and, at most, an error and a message."""

IGNORED = frozenset({_T.PONG, _T.REACHED_END_OF_TOPIC})
"""What a broker may tell that is of no consequence here. PONG has done its work by arriving."""

HANDSHAKE = frozenset({_T.CONNECTED, _T.AUTH_CHALLENGE, _T.ERROR, _T.PING, _T.PONG})
"""What a broker may send before the connection is open."""


class Protocol:
    """The client's side of one connection."""

    def __init__(self) -> None:
        self.state = State.NEW
        self._decoder = FrameDecoder()
        self._outgoing: list[bytes] = []
        self._pong_due = False
        self._expected: dict[int, int] = {}
        self._last_request_id = 0

    # --- What we say ---

    def connect(self, auth_method: str, auth_data: bytes, proxy_to: str | None = None) -> None:
        """Begin the handshake. `proxy_to` is the host:port that a proxy shall connect us to."""
        assert self.state is State.NEW, self.state
        self.state = State.CONNECTING
        self._queue(commands.connect(CLIENT_VERSION, auth_method, auth_data, proxy_to))

    def answer_challenge(self, auth_method: str, auth_data: bytes) -> None:
        """Give the credentials that `Challenged` asked for."""
        self._queue(commands.auth_response(CLIENT_VERSION, auth_method, auth_data))

    def request(self, command: BaseCommand) -> int:
        """Queue a request of commands.py and return its id, under which `Answered` or `Refused` will come."""
        assert self.state is State.OPEN, self.state
        self._last_request_id += 1
        request_id = self._last_request_id
        getattr(command, FIELDS[command.type]).request_id = request_id
        self._expected[request_id] = REQUESTS[command.type]
        self._queue(command)
        return request_id

    def forget(self, request_id: int) -> None:
        """Stop waiting for an answer; one that still comes is dropped."""
        self._expected.pop(request_id, None)

    def tell(self, command: BaseCommand) -> None:
        """Queue a command that has no answer: FLOW, REDELIVER_UNACKNOWLEDGED_MESSAGES."""
        assert command.type not in REQUESTS, command.type
        self._queue(command)

    def send(self, command: BaseCommand, metadata: bytes, payload: bytes) -> None:
        """Queue a SEND with its complete, serialized metadata."""
        self._outgoing.append(encode_payload_head(command, metadata, payload))
        self._outgoing.append(payload)

    def ping(self) -> None:
        """Queue a PING. What comes back is of no interest, only that something does."""
        self._queue(BaseCommand(type=BaseCommand.PING, ping=CommandPing()))

    def data_to_send(self) -> list[bytes]:
        """What is to be written now, in order; the queue is empty afterwards."""
        if self._pong_due:
            self._pong_due = False
            self._outgoing.append(_PONG)
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def _queue(self, command: BaseCommand) -> None:
        self._outgoing.append(encode_command(command))

    # --- What we hear ---

    def writable(self) -> memoryview:
        """Where to put the next received bytes (see FrameDecoder.writable)."""
        return self._decoder.writable()

    def written(self, count: int) -> list[Event]:
        """Take `count` bytes that were put into `writable` and return what they mean."""
        events: list[Event] = []
        if self.state is State.CLOSED:
            return events
        self._decoder.written(count)
        try:
            for frame in self._decoder.frames():
                event = self._understand(frame)
                if event is not None:
                    events.append(event)
                if self._is_closed():
                    break
        except ProtocolViolation as violation:
            self.state = State.CLOSED
            events.append(Broken(violation))
        return events

    def receive_data(self, data: bytes) -> list[Event]:
        """Take `data` and return what it means. Any way of cutting a stream into calls gives the same events."""
        events: list[Event] = []
        left = memoryview(data)
        while left and self.state is not State.CLOSED:
            room = self.writable()
            count = min(len(room), len(left))
            room[:count] = left[:count]
            left = left[count:]
            events += self.written(count)
        return events

    def _is_closed(self) -> bool:
        return self.state is State.CLOSED

    def _understand(self, frame: Frame) -> Event | None:
        command = frame.command
        kind = command.type
        if kind not in FIELDS or not command.HasField(FIELDS[kind]):
            raise ProtocolViolation(f"{_name(kind)} without its content")
        if self.state is State.CONNECTING and kind not in HANDSHAKE:
            raise ProtocolViolation(f"{_name(kind)} before the handshake was complete")
        if frame.entry is not None:
            message = command.message
            return Delivered(message.consumer_id, message.consumer_epoch, frame.entry)
        if kind == BaseCommand.SEND_RECEIPT:
            receipt = command.send_receipt
            return Stored(receipt.producer_id, receipt.sequence_id, message_id_from_wire(receipt.message_id))
        if kind == BaseCommand.PING:
            # One PONG answers any number of PINGs that came together: a flood cannot fill our memory.
            self._pong_due = True
            return None
        if kind in PLAIN_ANSWERS:
            return self._plain_answer(command)
        if kind in IGNORED:
            return None
        understand = _OTHERS.get(kind)
        if understand is None:
            raise ProtocolViolation(f"{_name(kind)} is not for a client")
        return understand(self, command)

    def _answers(self, request_id: int, kind: int) -> bool:
        """Whether `request_id` still waits. Its answer must be of the kind that its request calls for."""
        expected = self._expected.get(request_id)
        if expected is not None and expected != kind:
            raise ProtocolViolation(f"{_name(kind)} answers a request that calls for {_name(expected)}")
        return expected is not None

    def _plain_answer(self, command: BaseCommand) -> Event | None:
        content = getattr(command, FIELDS[command.type])
        request_id: int = content.request_id
        if not self._answers(request_id, command.type):
            return None
        del self._expected[request_id]
        if command.type == BaseCommand.NEW_TXN_RESPONSE and not content.HasField("error"):
            return Answered(request_id, TxnOpened(TxnId(content.txnid_most_bits, content.txnid_least_bits)))
        if command.type == BaseCommand.GET_LAST_MESSAGE_ID_RESPONSE:
            return Answered(request_id, _last_message(content))
        if command.type != BaseCommand.SUCCESS and content.HasField("error"):
            return Refused(request_id, content.error, str(content.message))
        return Answered(request_id, None)

    def _connected(self, command: BaseCommand) -> Event:
        connected = command.connected
        if self.state is not State.CONNECTING:
            raise ProtocolViolation("CONNECTED without a CONNECT")
        max_message_bytes = self._decoder.max_frame_bytes - FRAME_PADDING_BYTES
        if connected.HasField("max_message_size"):
            max_message_bytes = connected.max_message_size
            if not 0 < max_message_bytes <= MAX_MESSAGE_BYTES_LIMIT:
                raise ProtocolViolation(f"max_message_size {max_message_bytes}, not in 1..{MAX_MESSAGE_BYTES_LIMIT}")
            self._decoder.max_frame_bytes = max_message_bytes + FRAME_PADDING_BYTES
        self.state = State.OPEN
        return Connected(str(connected.server_version), max_message_bytes)

    def _challenged(self, command: BaseCommand) -> Event:
        return Challenged(str(command.authChallenge.challenge.auth_method_name))

    def _error(self, command: BaseCommand) -> Event | None:
        error = command.error
        if self.state is State.CONNECTING or error.request_id == NO_REQUEST_ID:
            self.state = State.CLOSED
            return ConnectionRefused(error.error, str(error.message))
        if self._expected.pop(error.request_id, None) is None:
            return None
        return Refused(error.request_id, error.error, str(error.message))

    def _lookup_answer(self, command: BaseCommand) -> Event | None:
        answer = command.lookupTopicResponse
        if not self._answers(answer.request_id, command.type):
            return None
        del self._expected[answer.request_id]
        if answer.HasField("error") or answer.response == CommandLookupTopicResponse.Failed:
            return Refused(answer.request_id, answer.error, str(answer.message))
        redirect = answer.response == CommandLookupTopicResponse.Redirect
        url, url_tls = str(answer.brokerServiceUrl), str(answer.brokerServiceUrlTls)
        found = LookupAnswer(redirect, url, url_tls, answer.authoritative, answer.proxy_through_service_url)
        return Answered(answer.request_id, found)

    def _partitions_answer(self, command: BaseCommand) -> Event | None:
        answer = command.partitionMetadataResponse
        if not self._answers(answer.request_id, command.type):
            return None
        del self._expected[answer.request_id]
        if answer.HasField("error") or answer.response == CommandPartitionedTopicMetadataResponse.Failed:
            return Refused(answer.request_id, answer.error, str(answer.message))
        if answer.partitions > MAX_PARTITIONS:
            raise ProtocolViolation(f"a topic of {answer.partitions} partitions, believed are {MAX_PARTITIONS}")
        return Answered(answer.request_id, PartitionCount(answer.partitions))

    def _producer_answer(self, command: BaseCommand) -> Event | None:
        answer = command.producer_success
        if not self._answers(answer.request_id, command.type):
            return None
        if answer.last_sequence_id < NO_SEQUENCE_ID:
            raise ProtocolViolation(f"a producer whose last sequence id is {answer.last_sequence_id}")
        if answer.producer_ready:
            del self._expected[answer.request_id]
        grant = ProducerGrant(
            str(answer.producer_name), answer.topic_epoch, answer.last_sequence_id, answer.producer_ready
        )
        return Answered(answer.request_id, grant)

    def _send_error(self, command: BaseCommand) -> Event:
        refused = command.send_error
        return SendRefused(refused.producer_id, refused.sequence_id, refused.error, str(refused.message))

    def _turn_changed(self, command: BaseCommand) -> Event:
        change = command.active_consumer_change
        return TurnChanged(change.consumer_id, change.is_active)

    def _close_producer(self, command: BaseCommand) -> Event:
        return ProducerClosed(command.close_producer.producer_id)

    def _close_consumer(self, command: BaseCommand) -> Event:
        return ConsumerClosed(command.close_consumer.consumer_id)

    def _topic_migrated(self, command: BaseCommand) -> Event:
        # The topic lives in another cluster now: for its users here that is the same as closed.
        migrated = command.topicMigrated
        if migrated.resource_type == migrated.Producer:
            return ProducerClosed(migrated.resource_id)
        return ConsumerClosed(migrated.resource_id)


_PONG = encode_command(BaseCommand(type=BaseCommand.PONG, pong=CommandPong()))

_OTHERS: Mapping[int, Callable[[Protocol, BaseCommand], Event | None]] = MappingProxyType(
    {
        _T.CONNECTED: Protocol._connected,
        _T.AUTH_CHALLENGE: Protocol._challenged,
        _T.ERROR: Protocol._error,
        _T.LOOKUP_RESPONSE: Protocol._lookup_answer,
        _T.PARTITIONED_METADATA_RESPONSE: Protocol._partitions_answer,
        _T.PRODUCER_SUCCESS: Protocol._producer_answer,
        _T.SEND_ERROR: Protocol._send_error,
        _T.CLOSE_PRODUCER: Protocol._close_producer,
        _T.CLOSE_CONSUMER: Protocol._close_consumer,
        _T.ACTIVE_CONSUMER_CHANGE: Protocol._turn_changed,
        _T.TOPIC_MIGRATED: Protocol._topic_migrated,
    }
)


def _name(kind: int) -> str:
    return BaseCommand.Type.Name(kind)


def _last_message(content: CommandGetLastMessageIdResponse) -> LastMessage:
    acknowledged = content.consumer_mark_delete_position if content.HasField("consumer_mark_delete_position") else None
    return LastMessage(
        message_id_from_wire(content.last_message_id),
        None if acknowledged is None else message_id_from_wire(acknowledged),
    )
