"""What clients asked for and what they were told: the operations of a history, and the files that they are written to.

A client process appends one line when it asks and one when it is answered, each with a single write, so that a
kill -9 loses at most what had not happened yet. Times are those of the monotonic clock, which all processes of a host
share.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

Ids = tuple[str, ...]


class Appended(NamedTuple):
    """The events are in, as these versions, at this sequence and those that follow."""

    first: int
    last: int
    sequence: int
    duplicate: bool


class Conflict(NamedTuple):
    """WrongExpectedVersion: nothing was appended, the aggregate is at `current`."""

    current: int


class Refused(NamedTuple):
    """Nothing was appended, whatever the aggregate's version: rejected for another reason, or NOT_SENT."""

    reason: str


NOT_SENT = "not sent"
"""The reason where the client itself says that it has not sent anything, and will not."""


Answer = Appended | Conflict | Refused


class Operation(NamedTuple):
    """One call of `append`. Operations with the same ids are attempts at the same append.

    Attributes:
        expected: the expected version; None = any.
        answer: None = unknown: it may have happened, and may yet.
        answered_ns: None as long as the answer is.
    """

    client: str
    key: str
    ids: Ids
    expected: int | None
    invoked_ns: int
    answered_ns: int | None = None
    answer: Answer | None = None

    def __str__(self) -> str:
        expected = "any" if self.expected is None else self.expected
        asked = f"{self.client} append {len(self.ids)} ({self.ids[0][:8]}) to {self.key} at {expected}"
        if self.answer is None:
            return f"{asked} [{self.invoked_ns} ..: unknown"
        return f"{asked} [{self.invoked_ns} .. {self.answered_ns}]: {self.answer}"


class Recorder:
    """Writes what one client does. Call `asked` before the append, `answered` when it has returned."""

    def __init__(self, file: Path, client: str) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._client = client
        self._count = 0

    def asked(self, key: str, ids: Ids, expected: int | None) -> int:
        """Returns a number for `answered`."""
        self._count += 1
        self._write(["asked", self._count, self._client, key, ids, expected, time.monotonic_ns()])
        return self._count

    def answered(self, number: int, answer: Answer | None) -> None:
        """None: it is unknown, and this client will not hear of it any more."""
        kind = "Unknown" if answer is None else type(answer).__name__
        self._write(["answered", number, kind, answer or (), time.monotonic_ns()])

    def _write(self, line: list[object]) -> None:
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")


def read(files: Iterable[Path]) -> list[Operation]:
    """The operations of several clients, in the order in which they were asked for."""
    return sorted((one for file in files for one in _read(file)), key=lambda operation: operation.invoked_ns)


def _read(file: Path) -> Iterator[Operation]:
    operations: dict[int, Operation] = {}
    for line in file.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # the process was killed while it wrote
        kind, number, *rest = json.loads(line)
        if kind == "asked":
            client, key, ids, expected, at_ns = rest
            operations[number] = Operation(client, key, tuple(ids), expected, at_ns)
        else:
            name, fields, at_ns = rest
            answer = _answer(name, fields)
            if answer is not None:
                operations[number] = operations[number]._replace(answered_ns=at_ns, answer=answer)
    yield from operations.values()


def _answer(name: str, fields: list[object]) -> Answer | None:
    return next((one._make(fields) for one in (Appended, Conflict, Refused) if one.__name__ == name), None)
