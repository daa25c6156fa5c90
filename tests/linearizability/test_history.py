"""What a client has written is what is read, also where it was killed."""

from __future__ import annotations

import time
from pathlib import Path

from tests.linearizability.history import Appended, Conflict, Recorder, Refused, read


def test_what_was_recorded_is_read(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "client", "client-0")
    before_ns = time.monotonic_ns()
    numbers = [recorder.asked("account-1", (f"id-{n}",), expected) for n, expected in enumerate([None, -1, 7, 8, 9])]
    recorder.answered(numbers[2], Refused("too_large"))
    recorder.answered(numbers[1], Conflict(3))
    recorder.answered(numbers[0], Appended(4, 4, 17, duplicate=True))
    recorder.answered(numbers[3], None)
    operations = read([tmp_path / "client"])
    assert [one.answer for one in operations] == [
        Appended(4, 4, 17, duplicate=True),
        Conflict(3),
        Refused("too_large"),
        None,
        None,
    ]
    assert [(one.client, one.key, one.ids, one.expected) for one in operations[:2]] == [
        ("client-0", "account-1", ("id-0",), None),
        ("client-0", "account-1", ("id-1",), -1),
    ]
    assert all(before_ns <= one.invoked_ns <= time.monotonic_ns() for one in operations)
    assert all(one.answered_ns is None or one.answered_ns >= one.invoked_ns for one in operations)


def test_a_line_that_was_cut_off(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "client", "client-0")
    number = recorder.asked("account-1", ("id",), None)
    recorder.answered(number, Conflict(0))
    whole = (tmp_path / "client").read_bytes()
    (tmp_path / "client").write_bytes(whole[:-3])
    assert [one.answer for one in read([tmp_path / "client"])] == [None]
    (tmp_path / "client").write_bytes(whole[:20])
    assert read([tmp_path / "client"]) == []


def test_clients_in_the_order_of_time(tmp_path: Path) -> None:
    recorders = [Recorder(tmp_path / name, name) for name in ("b", "a")]
    for n in range(3):
        for recorder in recorders:
            recorder.asked("account-1", (f"id-{n}",), None)
    operations = read([tmp_path / "a", tmp_path / "b"])
    assert [one.client for one in operations] == ["b", "a"] * 3
