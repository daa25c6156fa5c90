"""How a message is shown, and where reading stops; the reader is a stand-in here."""

from __future__ import annotations

import base64
import json
from typing import Any

import pulsar
import pytest

from sequencer import tail as module
from sequencer.pulsar.frames import MessageId
from sequencer.tail import Message, TailIncomplete, read_topic


def shown(payload: bytes, key: str | None = "a") -> dict[str, Any]:
    raw = Message(MessageId(3, 4, 1, 2), key, {"version": "7"}, payload).json_line()
    assert raw.endswith(b"\n")
    assert raw.count(b"\n") == 1
    line: dict[str, Any] = json.loads(raw)
    return line


def test_a_json_payload() -> None:
    assert shown(b'{"id": "x",\n "data": [1]}') == {
        "key": "a",
        "properties": {"version": "7"},
        "data": {"id": "x", "data": [1]},
        "message_id": "3:4:1:2",
        "partition": 1,
    }


def test_numbers_are_shown_as_they_were_written() -> None:
    raw = Message(MessageId(3, 4, 1, 2), "a", {}, b'{"a": 1.00, "b": 123456789012345678901234567890}').json_line()
    assert b'{"a":1.00,"b":123456789012345678901234567890}' in raw


@pytest.mark.parametrize("payload", [b"", b"\x00\xff", b'"\xff"', b"{", b"plain text", b"[" * 100_000])
def test_any_other_payload(payload: bytes) -> None:
    line = shown(payload)
    assert base64.b64decode(line["data_base64"]) == payload
    assert "data" not in line


def test_a_payload_that_is_null_has_data() -> None:
    assert shown(b"null")["data"] is None


def test_no_key() -> None:
    assert shown(b"1", key=None)["key"] is None


class Delivered:
    """A message as the official client has it."""

    def __init__(self, ledger: int, entry: int, partition: int, batch_index: int) -> None:
        self.at = pulsar.MessageId(partition, ledger, entry, batch_index)

    def message_id(self) -> Any:
        return self.at

    def partition_key(self) -> str:
        return ""

    def properties(self) -> dict[str, str]:
        return {}

    def data(self) -> bytes:
        return b"1"


class Deliveries:
    """A stand-in for the official client and its reader: delivers some messages, then nothing."""

    def __init__(self, *ids: tuple[int, int, int, int]) -> None:
        self.messages = [Delivered(*at) for at in ids]

    def create_reader(self, topic: str, start: Any, **options: Any) -> Deliveries:
        return self

    def read_next(self, timeout_ms: int) -> Delivered:
        if not self.messages:
            raise pulsar.Timeout
        return self.messages.pop(0)


def read(deliveries: Deliveries, *ends: MessageId) -> list[str]:
    return [str(message.message_id) for message in read_topic(deliveries, "t", {end.partition: end for end in ends})]


def test_every_partition_stops_at_its_end() -> None:
    deliveries = Deliveries((1, 0, 0, -1), (1, 9, 1, 0), (1, 9, 1, 1), (1, 10, 1, -1), (1, 5, 0, -1), (1, 6, 0, -1))
    assert read(deliveries, MessageId(1, 5, 0), MessageId(1, 9, 1, 1)) == ["1:0:0:-1", "1:9:1:0", "1:9:1:1", "1:5:0:-1"]
    assert len(deliveries.messages) == 1


def test_an_empty_topic_is_not_even_opened() -> None:
    assert read(Deliveries((1, 0, 0, -1))) == []


def test_a_partition_that_was_empty_at_the_start_is_left_out() -> None:
    assert read(Deliveries((1, 0, 1, -1), (1, 0, 0, -1)), MessageId(1, 0, 0)) == ["1:0:0:-1"]


def test_an_encrypted_batch_comes_as_one_message() -> None:
    assert read(Deliveries((1, 5, 0, -1)), MessageId(1, 5, 0, 9)) == ["1:5:0:-1"]


def test_an_end_that_was_trimmed_away_meanwhile() -> None:
    assert read(Deliveries((2, 0, 0, -1)), MessageId(1, 5, 0)) == []


def test_an_end_that_does_not_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_LIMIT_S", 0.0)
    with pytest.raises(TailIncomplete, match="last message 1:5:0:-1 did not arrive"):
        read(Deliveries((1, 4, 0, -1)), MessageId(1, 5, 0))
