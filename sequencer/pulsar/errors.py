"""What can go wrong between this client and a broker, and what helps against each.

PulsarError                     .remedy says what the caller can do
+-- ConnectionLost              the link died, was silent too long, or could not be made
|   +-- ProtocolViolation       the peer broke the protocol: the link is dropped
+-- AuthFailed                  the broker does not accept our credentials
+-- RequestTimedOut             no answer in time; the outcome is unknown
+-- ServerRefused               the broker answered with an error: .error, .message
|   +-- ConsumerBusy            the subscription has another consumer (5)
|   +-- ProducerFenced          a newer producer has taken over (25)
|   +-- LookupFailed            no broker serves the topic now
|   +-- SendFailed              one SEND was refused
+-- NotStored                   a receipt that says: taken for a repeat, not stored
+-- EndpointClosed              the producer, consumer or coordinator was closed, by the broker or by us
+-- CorruptBatch                the bytes of an entry are not what its metadata says
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from types import MappingProxyType


class Remedy(Enum):
    """What helps after a failure."""

    RETRY = "retry"
    """The same request may succeed later, on the same connection."""
    RELOOKUP = "relookup"
    """Another broker may be in charge by now: LOOKUP, then the same request."""
    REACQUIRE = "reacquire"
    """Ownership or order may be lost: drop everything and start anew."""
    FATAL = "fatal"
    """Nothing will change by itself: configuration, permissions or data are wrong."""


class ServerError(IntEnum):
    """The error numbers of the wire protocol (ServerError in pulsar_api.proto)."""

    UNKNOWN_ERROR = 0
    METADATA_ERROR = 1
    PERSISTENCE_ERROR = 2
    AUTHENTICATION_ERROR = 3
    AUTHORIZATION_ERROR = 4
    CONSUMER_BUSY = 5
    SERVICE_NOT_READY = 6
    PRODUCER_BLOCKED_QUOTA_EXCEEDED_ERROR = 7
    PRODUCER_BLOCKED_QUOTA_EXCEEDED_EXCEPTION = 8
    CHECKSUM_ERROR = 9
    UNSUPPORTED_VERSION_ERROR = 10
    TOPIC_NOT_FOUND = 11
    SUBSCRIPTION_NOT_FOUND = 12
    CONSUMER_NOT_FOUND = 13
    TOO_MANY_REQUESTS = 14
    TOPIC_TERMINATED_ERROR = 15
    PRODUCER_BUSY = 16
    INVALID_TOPIC_NAME = 17
    INCOMPATIBLE_SCHEMA = 18
    CONSUMER_ASSIGN_ERROR = 19
    TRANSACTION_COORDINATOR_NOT_FOUND = 20
    INVALID_TXN_STATUS = 21
    NOT_ALLOWED_ERROR = 22
    TRANSACTION_CONFLICT = 23
    TRANSACTION_NOT_FOUND = 24
    PRODUCER_FENCED = 25


REMEDIES: Mapping[ServerError, Remedy] = MappingProxyType(
    {
        # Coordinator commands answer 0 while their coordinator is initializing or closing.
        ServerError.UNKNOWN_ERROR: Remedy.RETRY,
        ServerError.METADATA_ERROR: Remedy.RETRY,
        ServerError.PERSISTENCE_ERROR: Remedy.REACQUIRE,
        ServerError.AUTHENTICATION_ERROR: Remedy.FATAL,
        ServerError.AUTHORIZATION_ERROR: Remedy.FATAL,
        ServerError.CONSUMER_BUSY: Remedy.RETRY,
        ServerError.SERVICE_NOT_READY: Remedy.RELOOKUP,
        ServerError.PRODUCER_BLOCKED_QUOTA_EXCEEDED_ERROR: Remedy.RETRY,
        ServerError.PRODUCER_BLOCKED_QUOTA_EXCEEDED_EXCEPTION: Remedy.RETRY,
        ServerError.CHECKSUM_ERROR: Remedy.REACQUIRE,
        ServerError.UNSUPPORTED_VERSION_ERROR: Remedy.FATAL,
        ServerError.TOPIC_NOT_FOUND: Remedy.FATAL,
        ServerError.SUBSCRIPTION_NOT_FOUND: Remedy.FATAL,
        ServerError.CONSUMER_NOT_FOUND: Remedy.REACQUIRE,
        ServerError.TOO_MANY_REQUESTS: Remedy.RETRY,
        ServerError.TOPIC_TERMINATED_ERROR: Remedy.FATAL,
        ServerError.PRODUCER_BUSY: Remedy.RETRY,
        ServerError.INVALID_TOPIC_NAME: Remedy.FATAL,
        ServerError.INCOMPATIBLE_SCHEMA: Remedy.FATAL,
        ServerError.CONSUMER_ASSIGN_ERROR: Remedy.RETRY,
        ServerError.TRANSACTION_COORDINATOR_NOT_FOUND: Remedy.RELOOKUP,
        ServerError.INVALID_TXN_STATUS: Remedy.REACQUIRE,
        ServerError.NOT_ALLOWED_ERROR: Remedy.FATAL,
        ServerError.TRANSACTION_CONFLICT: Remedy.REACQUIRE,
        ServerError.TRANSACTION_NOT_FOUND: Remedy.REACQUIRE,
        ServerError.PRODUCER_FENCED: Remedy.REACQUIRE,
    }
)


def remedy(error: int) -> Remedy:
    """What helps after `error`, a number of the wire protocol.

    Total: a number that this client does not know (a newer broker) is treated as the loss of everything, which is
    always safe.
    """
    try:
        return REMEDIES[ServerError(error)]
    except ValueError:
        return Remedy.REACQUIRE


def error_name(error: int) -> str:
    """A readable name, for example "PRODUCER_FENCED" or "error 99"."""
    try:
        return ServerError(error).name
    except ValueError:
        return f"error {error}"


class PulsarError(Exception):
    """The root of everything this package raises on purpose."""

    remedy: Remedy = Remedy.REACQUIRE


class ConnectionLost(PulsarError):
    """The connection died, was silent for too long, or could not be made."""


class ProtocolViolation(ConnectionLost):
    """The peer sent something that the protocol does not allow. The connection is of no further use."""


class AuthFailed(PulsarError):
    """The broker does not accept the credentials, or asks for a method that we do not have."""

    remedy = Remedy.FATAL


class RequestTimedOut(PulsarError):
    """No answer came in time. Whether the broker has done it is unknown."""


class ServerRefused(PulsarError):
    """The broker answered with an error.

    Args:
        what: what was asked for, in words, e.g. "PRODUCER on persistent://public/default/t".
        error: the number on the wire; compares equal to a ServerError.
        message: the broker's own text.
    """

    def __init__(self, what: str, error: int, message: str) -> None:
        super().__init__(f"{what}: {error_name(error)}: {message}")
        self.error = error
        self.message = message
        self.remedy = remedy(error)


class ConsumerBusy(ServerRefused):
    """The subscription is held by another consumer."""


class ProducerFenced(ServerRefused):
    """A newer producer has taken over the topic; this one will never be let in again."""


class LookupFailed(ServerRefused):
    """No broker serves the topic at the moment (or it does not exist: see `error`)."""


class SendFailed(ServerRefused):
    """One SEND was refused. Later sends of this producer are lost too, whatever the reason."""

    def __init__(self, what: str, error: int, message: str) -> None:
        super().__init__(what, error, message)
        self.remedy = Remedy.REACQUIRE


class NotStored(PulsarError):
    """The broker took a SEND for a repeat of an earlier one and did not store it (receipt -1:-1)."""


class EndpointClosed(PulsarError):
    """The producer, consumer or coordinator has been closed, by the broker (unload, fencing) or by ourselves."""


class CorruptBatch(PulsarError):
    """The bytes of an entry are not what its metadata says. Reading them again gives the same."""

    remedy = Remedy.FATAL


_REFUSALS: Mapping[int, type[ServerRefused]] = MappingProxyType(
    {ServerError.CONSUMER_BUSY: ConsumerBusy, ServerError.PRODUCER_FENCED: ProducerFenced}
)


def refusal(what: str, error: int, message: str) -> ServerRefused:
    """The most telling exception for an error answer to a request."""
    return _REFUSALS.get(error, ServerRefused)(what, error, message)
