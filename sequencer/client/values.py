"""What goes into the client and what comes out of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import UnionType
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast, overload
from uuid import UUID

import msgspec

from sequencer.event import ATTRIBUTES, NO_AGGREGATE
from sequencer.names import DEFAULT_NAMESPACE
from sequencer.pulsar.frames import MessageId

T = TypeVar("T")

_as_it_is = cast(Callable[[bytes], Any], bytes)


class AnyVersion(Enum):
    """The type of ANY. None is not used for it: a version that was forgotten must not mean "whatever"."""

    ANY = "any"


ANY: Final = AnyVersion.ANY
"""As expected version: append at whatever version the aggregate is."""


class From(Enum):
    """Where a subscription begins, if not at a checkpoint."""

    BEGINNING = "beginning"
    END = "end"


BEGINNING: Final = From.BEGINNING
"""Every event of the partitions, from the first one on."""

END: Final = From.END
"""Only what is accepted after the subscription has begun."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Which sequencer to speak to.

    Attributes:
        service_url: pulsar://host:port, several hosts separated by commas, or pulsar+ssl://...
        namespace: where the topics are, tenant/namespace.
        token: to authenticate with; None where the broker does not ask for one.
    """

    service_url: str = "pulsar://127.0.0.1:6650"
    namespace: str = DEFAULT_NAMESPACE
    token: str | None = None


# Without slots: Python 3.11 cannot call `Codec[...]` of a frozen dataclass that has them.
@dataclass(frozen=True)
class Codec(Generic[T]):
    """How an application's events become JSON and come back.

    Attributes:
        encode: an event's data as JSON, in UTF-8.
        decode: the reverse.
        binary: what becomes of a payload that is not the JSON object of the contract: an event that was submitted in
            binary mode, by another publisher. By default its bytes are the data, as they are.
    """

    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]
    binary: Callable[[bytes], T] = _as_it_is


@overload
def json_codec(of: type[T]) -> Codec[T]: ...
@overload
def json_codec(of: UnionType) -> Codec[Any]: ...
def json_codec(of: Any) -> Codec[Any]:
    """JSON by msgspec: dataclasses, TypedDicts, Structs and unions of tagged Structs, checked when they are decoded."""
    return Codec(msgspec.json.Encoder().encode, msgspec.json.Decoder(of).decode)


JSON: Final[Codec[Any]] = Codec(msgspec.json.Encoder().encode, msgspec.json.Decoder().decode)
"""The codec of a store that was given none: dicts, lists, strings, numbers."""


# Without slots: Python 3.11 cannot call `NewEvent[...]` of a frozen dataclass that has them.
@dataclass(frozen=True)
class NewEvent(Generic[T]):
    """An event to be appended, where it has more than its data.

    Attributes:
        data: what the codec encodes.
        id: a UUID, the event's own for ever: to append it again with the same id is not a new event. Made up if absent.
        type, source, subject, time, datacontenttype, correlationid, causationid, traceparent: message properties on
            `events`; the first five as in CloudEvents (`time` is RFC 3339), the last as in W3C Trace Context.
    """

    data: T
    id: str | UUID | None = None
    type: str | None = None
    source: str | None = None
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    correlationid: str | None = None
    causationid: str | None = None
    traceparent: str | None = None

    def attributes(self) -> dict[str, str]:
        """Those that it has."""
        return {name: value for name in ATTRIBUTES if (value := getattr(self, name)) is not None}


class Appended(NamedTuple):
    """What became of an append that was accepted.

    Attributes:
        first_version: the version of its first event.
        last_version: the version of its last event; the same where there was only one.
        sequence: of the first event, among all accepted events of its partition; the others follow without a gap.
        duplicate: it was in already: by an earlier append with the same ids, or by an attempt of this one whose
            reply was lost.
    """

    first_version: int
    last_version: int
    sequence: int
    duplicate: bool


class PartitionPoint(NamedTuple):
    """How far a partition has been read."""

    next_sequence: int | None
    """The sequence that must come next; None where nothing has been seen yet."""
    position: MessageId
    """Of the last event that was read."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far each partition has been read: where a subscription goes on after this event. Store it with a read model.

    A partition that is not in it is read from its beginning.
    """

    points: Mapping[int, PartitionPoint]

    def to_json(self) -> str:
        """As text, to be stored; `from_json` reads it."""
        points = {str(n): [point.next_sequence, str(point.position)] for n, point in self.points.items()}
        return msgspec.json.encode(points).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Checkpoint:
        """What `to_json` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            points = msgspec.json.decode(text, type=dict[int, tuple[int | None, str]])
            return cls({n: PartitionPoint(sequence, _position(at)) for n, (sequence, at) in points.items()})
        except (msgspec.MsgspecError, ValueError) as wrong:
            raise ValueError(f"not a checkpoint: {wrong}") from None

    def after(self, partition: int, point: PartitionPoint) -> Checkpoint:
        """This one, with a partition read further."""
        return Checkpoint({**self.points, partition: point})


def _position(text: str) -> MessageId:
    ledger, entry, partition, batch_index = map(int, text.split(":"))
    return MessageId(ledger, entry, partition, batch_index)


class Recorded(msgspec.Struct, Generic[T], frozen=True):
    """An accepted event, as a subscription gives it.

    Attributes:
        key: the aggregate.
        version: the event's position in its aggregate, from 0.
        sequence: its position among the accepted events of its partition, from 0.
        partition: of `events`.
        id: the UUID that it was submitted with.
        data: decoded by the codec; see `Codec.binary` for what was submitted in binary mode.
        attributes: those of `ATTRIBUTES` that it has.
        properties: all of its message properties, the sequencer's own included.
        position: where it stands, `ledger:entry:partition:batch index`.
        published_at_ms: when its sequencer published it, Unix time.
        batch_size: events in the entry that holds it, which `GroupSubscription.commit` has to know.
        checkpoint: where to go on after this event.
    """

    key: str
    version: int
    sequence: int
    partition: int
    id: str
    data: T
    attributes: Mapping[str, str]
    properties: Mapping[str, str]
    position: MessageId
    published_at_ms: int
    batch_size: int
    checkpoint: Checkpoint


__all__ = [
    "ANY",
    "ATTRIBUTES",
    "BEGINNING",
    "END",
    "JSON",
    "NO_AGGREGATE",
    "AnyVersion",
    "Appended",
    "Checkpoint",
    "Codec",
    "From",
    "NewEvent",
    "PartitionPoint",
    "Recorded",
    "StoreSettings",
    "json_codec",
]
