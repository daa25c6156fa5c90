"""`sequencer publish`: JSON lines to submitted events, through the official client with canonical routing."""

from __future__ import annotations

import functools
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import msgspec
import pulsar

from sequencer import SequencerError
from sequencer.event import MAX_KEY_BYTES, BrokenContract, structured_envelope
from sequencer.official import route

MAX_LINE_BYTES = 5 * 1024 * 1024
"""As large as the largest message that a broker takes unless told otherwise."""
MAX_IN_FLIGHT_MESSAGES = 10_000
MAX_IN_FLIGHT_BYTES = 64 * 1024 * 1024
BATCH_MESSAGES = 1000
BATCH_BYTES = 128 * 1024
BATCH_DELAY_MS = 10
SEND_TIMEOUT_MS = 30_000


class BadLine(ValueError):
    """Says in a few words why a line is sent nowhere."""


class BrokerStopped(SequencerError):
    """Sending failed in mid-way. What was not acknowledged may or may not have been stored."""

    def __init__(self, reason: str, acknowledged: int, unknown: int) -> None:
        super().__init__(
            f"the broker stopped taking events ({reason}): {acknowledged} acknowledged, outcome unknown for {unknown}"
        )
        self.acknowledged = acknowledged
        self.unknown = unknown


class Event(NamedTuple):
    """One event ready to be sent."""

    key: str
    payload: bytes


class Summary(NamedTuple):
    published: int
    bad_lines: int
    seconds: float

    @property
    def events_per_s(self) -> float:
        return self.published / self.seconds if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, float]:
        return self._asdict() | {"events_per_s": round(self.events_per_s, 1)}


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


def parse_line(line: bytes, new_id: Callable[[], str]) -> Event:
    """One JSON line {"key", "id"?, "version"?, "data"} as an event. Everything but the key goes into the payload as it
    was written, unknown fields too.

    Raises: BadLine.
    """
    try:
        if not line.isascii():
            line.decode()
        fields = _decode_fields(line)
    except UnicodeDecodeError as error:
        raise BadLine(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise BadLine("nested too deeply") from None
    except msgspec.ValidationError:
        raise BadLine("not a JSON object") from None
    except msgspec.DecodeError as error:
        raise BadLine(f"not JSON: {error}") from None
    key = _key(fields)
    if "id" not in fields:
        fields["id"] = msgspec.Raw(_encode(new_id()))
    payload = _encode(fields)
    try:
        structured_envelope(payload)
    except BrokenContract as broken:
        raise BadLine(broken.detail) from None
    return Event(key, payload)


def _key(fields: dict[str, msgspec.Raw]) -> str:
    """Takes the key out of a line's fields."""
    try:
        key = _decode_text(fields.pop("key"))
    except KeyError:
        raise BadLine("no key") from None
    except msgspec.ValidationError:
        raise BadLine("the key is not a string") from None
    if not key:
        raise BadLine("the key is empty")
    key_bytes = len(key.encode())
    if key_bytes > MAX_KEY_BYTES:
        raise BadLine(f"the key has {key_bytes} bytes, {MAX_KEY_BYTES} are allowed")
    return key


def random_id() -> str:
    """An id for an event that came without one.

    Random (UUID 4): nothing here needs ids in the order of time, and a clock that is set back cannot repeat one.
    """
    return str(uuid.uuid4())


def read_lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes | None]]:
    """Yields (line number from 1, bytes read, the line without its end); None for a line beyond MAX_LINE_BYTES, whose
    bytes are read past and never held. Blank lines are left out.
    """
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        size = len(line)
        if size > MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
                size += len(line)
            yield number, size, None
        elif stripped := line.strip():
            yield number, size, stripped


@dataclass
class _InFlight:
    """Counts what was sent and not yet answered; the client's threads report here, the sender waits here for room."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    messages: int = 0
    size: int = 0
    acknowledged: int = 0
    too_big: list[int] = field(default_factory=list)
    lost: int = 0
    failure: str | None = None
    """The first reason why a message was lost: nothing is sent after it."""

    def reserve(self, size: int) -> bool:
        """Waits for room; a message beyond the limit goes alone. False: sending has failed, nothing is reserved."""
        with self.changed:
            while self.messages and self.failure is None and not self._room(size):
                self.changed.wait()
            if self.failure is not None:
                return False
            self.messages += 1
            self.size += size
            return True

    def _room(self, size: int) -> bool:
        return self.messages < MAX_IN_FLIGHT_MESSAGES and self.size + size <= MAX_IN_FLIGHT_BYTES

    def answered(self, line_number: int, size: int, result: pulsar.Result) -> None:
        with self.changed:
            self.messages -= 1
            self.size -= size
            if result == pulsar.Result.Ok:
                self.acknowledged += 1
            elif result == pulsar.Result.MessageTooBig:
                self.too_big.append(line_number)
            else:
                self.lost += 1
                self.failure = self.failure or result.name
            self.changed.notify()

    def wait_empty(self) -> None:
        """Every message is answered in the end: the client itself gives up after SEND_TIMEOUT_MS."""
        with self.changed:
            while self.messages:
                self.changed.wait()


def publish(
    client: Any,
    topic: str,
    file: BinaryIO,
    *,
    bad_line: Callable[[int, str], None],
    progress: Callable[[int], None],
) -> Summary:
    """Sends every good line of a file and waits for the receipts.

    Args:
        client: an official client.
        bad_line: called with a line's number and what is wrong with it.
        progress: called with the number of bytes read since its last call.

    Raises: BrokerStopped, pulsar.PulsarException.
    """
    started_s = time.monotonic()
    producer = client.create_producer(
        topic,
        message_router=route,
        batching_enabled=True,
        batching_max_messages=BATCH_MESSAGES,
        batching_max_allowed_size_in_bytes=BATCH_BYTES,
        batching_max_publish_delay_ms=BATCH_DELAY_MS,
        # The bound is ours (_InFlight), in bytes too; the client's own must never be the first to refuse.
        max_pending_messages=MAX_IN_FLIGHT_MESSAGES,
        max_pending_messages_across_partitions=MAX_IN_FLIGHT_MESSAGES,
        send_timeout_millis=SEND_TIMEOUT_MS,
    )
    in_flight = _InFlight()
    bad_lines = _send_all(producer, file, in_flight, bad_line, progress)
    in_flight.wait_empty()
    for number in sorted(in_flight.too_big):
        bad_line(number, "larger than the largest message that the broker takes")
    if in_flight.failure is not None:
        raise BrokerStopped(in_flight.failure, in_flight.acknowledged, in_flight.lost)
    return Summary(in_flight.acknowledged, bad_lines + len(in_flight.too_big), time.monotonic() - started_s)


def _send_all(
    producer: Any,
    file: BinaryIO,
    in_flight: _InFlight,
    bad_line: Callable[[int, str], None],
    progress: Callable[[int], None],
) -> int:
    """Sends until the file ends or sending has failed. Returns the number of bad lines."""
    bad_lines = 0
    for number, size, line in read_lines(file):
        progress(size)
        try:
            if line is None:
                raise BadLine(f"longer than {MAX_LINE_BYTES} bytes")
            event = parse_line(line, random_id)
        except BadLine as bad:
            bad_lines += 1
            bad_line(number, str(bad))
            continue
        if not in_flight.reserve(len(event.payload)):
            break
        answered = functools.partial(_answered, in_flight, number, len(event.payload))
        producer.send_async(event.payload, answered, partition_key=event.key)
    return bad_lines


def _answered(in_flight: _InFlight, line_number: int, size: int, result: pulsar.Result, _message_id: object) -> None:
    in_flight.answered(line_number, size, result)
