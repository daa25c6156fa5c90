"""What becomes of a line, and of the file's other lines when the broker fails; the client is a stand-in here."""

from __future__ import annotations

import io
import json
import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import pulsar
import pytest

from sequencer import publish as module
from sequencer.event import MAX_KEY_BYTES, structured_envelope
from sequencer.publish import BadLine, BrokerStopped, Summary, parse_line, publish, random_id, read_lines

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER_ID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


def parse(line: str | bytes) -> tuple[str, bytes]:
    return parse_line(line.encode() if isinstance(line, str) else line, lambda: ID)


# --- One line ---


def test_a_complete_line() -> None:
    key, payload = parse(f'{{"key": "a", "id": "{OTHER_ID}", "version": 4, "data": {{"n": 1}}}}')
    assert key == "a"
    assert json.loads(payload) == {"id": OTHER_ID, "version": 4, "data": {"n": 1}}


def test_an_id_is_made_up_where_there_is_none() -> None:
    assert json.loads(parse('{"key": "a", "data": null}')[1]) == {"id": ID, "data": None}


def test_made_up_ids_are_uuids_and_differ() -> None:
    ids = {random_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(uuid.UUID(text).version == 4 for text in ids)


def test_everything_else_stays_as_it_was_written() -> None:
    line = '{"key":"a","data":[1.00, 12345678901234567890123, "\\u00fc"],"trace":  "t-1","version":null}'
    payload = parse(line)[1]
    assert b'[1.00, 12345678901234567890123, "\\u00fc"]' in payload
    assert b'"trace":"t-1"' in payload
    assert b'"key"' not in payload
    assert structured_envelope(payload).expected is None


@pytest.mark.parametrize("key", ["ü", "日本", "a b", "\U0001f600", "x" * MAX_KEY_BYTES])
def test_any_text_is_a_key(key: str) -> None:
    assert parse(json.dumps({"key": key, "data": 1}))[0] == key
    assert parse(json.dumps({"key": key, "data": 1}, ensure_ascii=False))[0] == key


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nope", "not JSON"),
        ('{"key": "a", "data": 1', "not JSON"),
        ('{"key": "a", "data": NaN}', "not JSON"),
        ('{"key": "a", "data": 1} x', "not JSON"),
        (b'{"key": "\xff", "data": 1}', "not UTF-8 at byte 9"),
        ("[1]", "not a JSON object"),
        ("null", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ('{"key": "a", "data": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"data": 1}', "no key"),
        ('{"key": 7, "data": 1}', "key is not a string"),
        ('{"key": null, "data": 1}', "key is not a string"),
        ('{"key": "\\ud800", "data": 1}', "not JSON"),
        ('{"key": "", "data": 1}', "key is empty"),
        (json.dumps({"key": "ü" * MAX_KEY_BYTES, "data": 1}), "the key has 2048 bytes, 1024 are allowed"),
        ('{"key": "a"}', "data"),
        ('{"key": "a", "id": "7", "data": 1}', "id is not a UUID"),
        ('{"key": "a", "id": null, "data": 1}', "id"),
        ('{"key": "a", "version": "4", "data": 1}', "version"),
        ('{"key": "a", "version": 4.5, "data": 1}', "version"),
        ('{"key": "a", "version": -2, "data": 1}', "version"),
        ('{"key": "a", "version": 9007199254740993, "data": 1}', "version"),
    ],
)
def test_bad_lines(line: str | bytes, told: str) -> None:
    with pytest.raises(BadLine, match=told) as bad:
        parse(line)
    assert "\n" not in str(bad.value)


# --- The lines of a file ---


def test_lines_are_numbered_as_an_editor_does() -> None:
    lines = list(read_lines(io.BytesIO(b"one\n\n  \r\nfour\r\nfive")))
    assert lines == [(1, 4, b"one"), (4, 6, b"four"), (5, 4, b"five")]


def test_a_line_beyond_the_limit_is_read_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 4)
    lines = list(read_lines(io.BytesIO(b"abcd\n" + b"x" * 20 + b"\nok\n" + b"y" * 9)))
    # A line's end counts: "abcd\n" has 5 bytes.
    assert lines == [(1, 5, None), (2, 21, None), (3, 3, b"ok"), (4, 9, None)]


def test_nothing_to_read() -> None:
    assert list(read_lines(io.BytesIO(b""))) == []


# --- Sending ---


class Answers:
    """A stand-in for the official client and its producer: answers every message with the next of some results, from a
    thread of its own as the real one does.
    """

    def __init__(self, results: Iterable[pulsar.Result]) -> None:
        self.results = iter(results)
        self.sent: list[tuple[str, bytes]] = []
        self.most_in_flight = 0
        self._waiting: list[Callable[[pulsar.Result, object], None]] = []
        self._lock = threading.Lock()

    def create_producer(self, topic: str, **options: Any) -> Answers:
        assert options["message_router"] is not None
        return self

    def send_async(self, content: bytes, callback: Callable[..., None], partition_key: str) -> None:
        with self._lock:
            self.sent.append((partition_key, content))
            self._waiting.append(callback)
            self.most_in_flight = max(self.most_in_flight, len(self._waiting))
        threading.Thread(target=self._answer_oldest).start()

    def _answer_oldest(self) -> None:
        with self._lock:
            callback = self._waiting.pop(0)
            result = next(self.results, pulsar.Result.Ok)
        callback(result, None)


def run(answers: Answers, text: str) -> tuple[Summary, list[tuple[int, str]], list[int]]:
    bad: list[tuple[int, str]] = []
    read: list[int] = []
    summary = publish(
        answers, "t", io.BytesIO(text.encode()), bad_line=lambda n, what: bad.append((n, what)), progress=read.append
    )
    return summary, bad, read


def line(key: str = "a", data: object = 1) -> str:
    return json.dumps({"key": key, "data": data}) + "\n"


def test_good_lines_go_although_bad_ones_are_between_them() -> None:
    answers = Answers([])
    text = line("a") + "nope\n" + line("b") + "{}\n"
    summary, bad, read = run(answers, text)
    assert [key for key, _ in answers.sent] == ["a", "b"]
    assert (summary.published, summary.bad_lines) == (2, 2)
    assert [number for number, _ in bad] == [2, 4]
    assert sum(read) == len(text)


def test_a_message_that_the_broker_finds_too_big_is_a_bad_line() -> None:
    answers = Answers([pulsar.Result.Ok, pulsar.Result.MessageTooBig])
    summary, bad, _ = run(answers, line() * 3)
    assert (summary.published, summary.bad_lines) == (2, 1)
    assert len(bad) == 1
    assert "largest message" in bad[0][1]


def test_a_failure_stops_the_rest_and_says_how_many_were_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IN_FLIGHT_MESSAGES", 1)
    answers = Answers([pulsar.Result.Ok, pulsar.Result.Ok, pulsar.Result.Timeout])
    with pytest.raises(BrokerStopped, match=r"\(Timeout\): 2 acknowledged, outcome unknown for 1") as stopped:
        run(answers, line() * 100)
    assert (stopped.value.acknowledged, stopped.value.unknown) == (2, 1)
    assert len(answers.sent) == 3


@pytest.mark.parametrize(("messages", "size"), [(3, 10**9), (10**9, 200)])
def test_what_is_in_flight_is_bounded(monkeypatch: pytest.MonkeyPatch, messages: int, size: int) -> None:
    monkeypatch.setattr(module, "MAX_IN_FLIGHT_MESSAGES", messages)
    monkeypatch.setattr(module, "MAX_IN_FLIGHT_BYTES", size)
    answers = Answers([])
    summary, _, _ = run(answers, line() * 200)
    assert summary.published == 200
    assert answers.most_in_flight <= 3


def test_a_message_larger_than_all_that_may_be_in_flight_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IN_FLIGHT_BYTES", 10)
    answers = Answers([])
    assert run(answers, line() * 5)[0].published == 5
    assert answers.most_in_flight == 1


def test_summary() -> None:
    assert Summary(100, 2, 4.0).as_dict() == {"published": 100, "bad_lines": 2, "seconds": 4.0, "events_per_s": 25.0}
    assert Summary(0, 0, 0.0).events_per_s == 0.0
