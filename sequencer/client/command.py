"""`sequencer append`: one decision from the command line, and what became of it."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from sequencer.client.errors import OutcomeUnknown, Rejected, WrongExpectedVersion
from sequencer.client.message import checked_id
from sequencer.client.store import EventStore
from sequencer.client.values import ANY, NO_AGGREGATE, AnyVersion, Appended, Codec, NewEvent
from sequencer.console import EXIT_OUTCOME_UNKNOWN, EXIT_REJECTED, Connection, Failure, one_line
from sequencer.event import MAX_VERSION

AS_IT_IS: Codec[bytes] = Codec(encode=bytes, decode=bytes)
"""What was given as JSON is sent as it was written."""


class Order(NamedTuple):
    """What is to be appended. The events have ids: whoever has to settle an unknown outcome needs them."""

    key: str
    expected: int | AnyVersion
    events: list[NewEvent[bytes]]
    timeout_s: float
    repeated: bool = False
    """Whether its ids were given: then an earlier call may have sent it."""

    @property
    def ids(self) -> list[str]:
        """Of the events, in order."""
        return [str(event.id) for event in self.events]


def parse_expected(text: str) -> int | AnyVersion:
    """ "none", "any" or a version.

    Raises: click.BadParameter.
    """
    if text == "any":
        return ANY
    if text == "none":
        return NO_AGGREGATE
    if text.isascii() and text.isdigit() and int(text) <= MAX_VERSION:
        return int(text)
    raise click.BadParameter(f"{text!r} is none of: none, any, a version")


def read_data(argument: str) -> bytes:
    """JSON as it was given, or what @FILE or @- (standard input) holds.

    Raises: click.BadParameter.
    """
    if not argument.startswith("@"):
        return argument.encode()
    try:
        with click.open_file(argument[1:], "rb") as file:
            content: bytes = file.read()
    except OSError as error:
        raise click.BadParameter(f"{argument}: {error.strerror}") from error
    return content.strip()


def order_of(
    key: str, expect: str, data: Sequence[str], ids: Sequence[str], kind: str | None, timeout_s: float
) -> Order:
    """The order that the command line gives.

    Raises: click.UsageError.
    """
    if ids and len(ids) != len(data):
        raise click.UsageError(f"{len(data)} times --data, but {len(ids)} times --id")
    try:
        event_ids = [checked_id(text) for text in ids] or [checked_id(None) for _ in data]
    except ValueError as wrong:
        raise click.UsageError(f"--id: {wrong}") from wrong
    events = [NewEvent(read_data(each), event_id, type=kind) for each, event_id in zip(data, event_ids, strict=True)]
    return Order(key, parse_expected(expect), events, timeout_s, repeated=bool(ids))


def append(connection: Connection, order: Order, *, as_json: bool) -> int:
    """Append, print what became of it, and return the exit code.

    Raises: click.UsageError, SequencerError, PulsarError.
    """
    try:
        appended = asyncio.run(_append(connection, order))
    except ValueError as wrong:
        raise click.UsageError(str(wrong)) from wrong
    except KeyboardInterrupt:
        click.echo(f"interrupted before the answer came; {_how_to_settle(order)}", err=True)
        raise
    except (WrongExpectedVersion, Rejected) as rejected:
        _show(as_json, _rejection(order, rejected), f"rejected: {rejected}", err=True)
        return EXIT_REJECTED
    except OutcomeUnknown as unknown:
        if unknown.attempts == 0 and not order.repeated:
            raise Failure(f"nothing was appended: {one_line(unknown)}") from unknown
        fields = {"key": order.key, "outcome": "unknown", "ids": order.ids, "attempts": unknown.attempts}
        _show(as_json, fields, f"unknown: {unknown}\n{_how_to_settle(order)}", err=True)
        return EXIT_OUTCOME_UNKNOWN
    _show(as_json, _acceptance(order, appended), _accepted_text(order, appended))
    return 0


async def _append(connection: Connection, order: Order) -> Appended:
    async with EventStore(
        service_url=connection.service_url,
        namespace=connection.topics.namespace,
        token=connection.token,
        codec=AS_IT_IS,
    ) as store:
        return await store.append(order.key, order.events, order.expected, order.timeout_s)


def _show(as_json: bool, fields: dict[str, Any], text: str, *, err: bool = False) -> None:
    if as_json:
        click.echo(json.dumps(fields))
    else:
        click.echo(text, err=err)


def _acceptance(order: Order, appended: Appended) -> dict[str, Any]:
    outcome = "duplicate" if appended.duplicate else "accepted"
    return {"key": order.key, "outcome": outcome, "ids": order.ids} | {
        "first_version": appended.first_version,
        "last_version": appended.last_version,
        "sequence": appended.sequence,
    }


def _accepted_text(order: Order, appended: Appended) -> str:
    first, last, sequence, duplicate = appended
    versions = f"version {first}" if first == last else f"versions {first} to {last}"
    return f"{order.key}: {'was in already: ' if duplicate else ''}{versions} (sequence {sequence})"


def _rejection(order: Order, rejected: WrongExpectedVersion | Rejected) -> dict[str, Any]:
    fields: dict[str, Any] = {"key": order.key, "outcome": "rejected", "ids": order.ids}
    if isinstance(rejected, Rejected):
        return fields | {"reason": rejected.reason, "detail": rejected.detail}
    return fields | {
        "reason": "wrong_expected_version",
        "expected_version": rejected.expected,
        "current_version": rejected.current,
    }


def _how_to_settle(order: Order) -> str:
    """The options that a second call needs besides those of the first."""
    options = " ".join(f"--id {shlex.quote(text)}" for text in order.ids)
    return f"to settle it within 15 minutes, give the same command with: {options}"
