"""`sequencer status`: a look, shown as a table or as JSON lines, once or again and again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NoReturn

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sequencer.admin import AdminReader
from sequencer.console import EXIT_FAILED, KNOWN_FAILURES, Connection, one_line
from sequencer.pulsar.client import ClientSettings, PulsarClient
from sequencer.pulsar.errors import PulsarError
from sequencer.pulsar.settings import NO_AUTH, token_auth
from sequencer.status import NO_EVENT, Hold, PartitionState, Problem, diagnose, diagnose_topics
from sequencer.status_look import QUESTION_LIMIT_S, REJECTIONS_WINDOW_S, Sight, look

WATCH_INTERVAL_S = 2.0
"""Between the end of one look and the begin of the next."""

LIMITS = ClientSettings(request_timeout_s=QUESTION_LIMIT_S, connect_timeout_s=QUESTION_LIMIT_S, retry_for_s=2.0)
"""A status is asked for when something is wrong: it must not wait as patiently as a sequencer."""

NARROW_COLUMNS = 120
"""Where the output is no terminal: wide enough for a row of the table."""


def show_status(connection: Connection, index_dir: Path | None, *, as_json: bool, watch: bool) -> int:
    """Look once, or until Ctrl-C, and print. Returns the exit code: 0 where nothing is wrong.

    Raises:
        PulsarError, AdminUnreachable: the broker cannot be asked (not with `watch`, which goes on trying).
    """
    if watch:
        with _screen(connection.namespace, as_json=as_json) as show:
            asyncio.run(_watch(connection, index_dir, show))
    sight = asyncio.run(_look(connection, index_dir))
    if as_json:
        _print_json(connection.namespace, sight)
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = NARROW_COLUMNS
        console.print(_shown(connection.namespace, sight))
    return EXIT_FAILED if _anything_wrong(sight) else 0


async def _look(connection: Connection, index_dir: Path | None) -> Sight:
    auth = token_auth(connection.token) if connection.token else NO_AUTH
    try:
        client = PulsarClient(connection.service_url, auth=auth, settings=LIMITS)
    except ValueError as error:
        raise click.UsageError(f"--service-url: {error}") from error
    async with (
        client,
        AdminReader(connection.admin_url, connection.token, timeout_s=QUESTION_LIMIT_S) as admin,
    ):
        return await look(client, admin, connection.topics, index_dir)


async def _watch(connection: Connection, index_dir: Path | None, show: Callable[[Sight | str], None]) -> NoReturn:
    """Look again and again; a broker that is gone is told, and tried again."""
    while True:
        try:
            show(await _look(connection, index_dir))
        except KNOWN_FAILURES as error:
            where = "Pulsar: " if isinstance(error, PulsarError) else ""
            show(where + one_line(error))
        await asyncio.sleep(WATCH_INTERVAL_S)


@contextmanager
def _screen(namespace: str, *, as_json: bool) -> Iterator[Callable[[Sight | str], None]]:
    """Gives a function that shows the newest look, or why there is none, in place of the one before."""
    if as_json:
        yield partial(_print_json, namespace)
        return
    with Live(console=Console(highlight=False), auto_refresh=False) as live:

        def show(seen: Sight | str) -> None:
            if isinstance(seen, str):
                live.update(Text(f"{_clock()}  error: {seen}", style="red"), refresh=True)
            else:
                live.update(_shown(namespace, seen, at=_clock()), refresh=True)

        yield show


def _anything_wrong(sight: Sight) -> bool:
    return bool(diagnose_topics(sight.topics)) or any(map(diagnose, sight.partitions))


# --- JSON ---


def _print_json(namespace: str, sight: Sight | str) -> None:
    """One line for the namespace, then one for each partition; one line where there was nothing to be seen."""
    at_ms = time.time_ns() // 1_000_000
    if isinstance(sight, str):
        print(json.dumps({"at_ms": at_ms, "namespace": namespace, "error": sight}), flush=True)
        return
    shared = {
        "at_ms": at_ms,
        "namespace": namespace,
        "topics": dict(sight.topics.partitions),
        "problems": _as_json(diagnose_topics(sight.topics)),
    }
    for line in (shared, *({"at_ms": at_ms, **partition_as_json(state)} for state in sight.partitions)):
        print(json.dumps(line), flush=True)


def partition_as_json(state: PartitionState) -> dict[str, object]:
    """One partition for machines. null = not known; see docs/operations.md."""
    ownership, backlog, record, rejections = state.ownership, state.backlog, state.record, state.rejections
    producer = None if ownership is None else ownership.producer
    return {
        "partition": state.number,
        "owned": None if ownership is None else producer is not None,
        "owner": None if state.owner is None else state.owner._asdict(),
        "producer": None if producer is None else producer._asdict(),
        "epoch": None if ownership is None else ownership.epoch,
        "last_record": None if record is None else record._asdict(),
        "standbys_at_most": None if ownership is None else ownership.waiting,
        "backlog_entries": None if backlog is None else backlog.entries,
        "backlog_oldest_s": None if state.oldest_s is None else round(state.oldest_s, 1),
        "last_sequence": state.last_sequence,
        "index_next_sequence": None if state.index is None else state.index.next_sequence,
        "index_lag": state.index_lag,
        "rejections": None if rejections is None else dict(rejections.counts),
        "rejections_window_s": None if rejections is None else rejections.window_s,
        "rejections_complete": None if rejections is None else rejections.complete,
        "holds": [_hold_as_json(hold) for hold in state.holds],
        "problems": _as_json(diagnose(state)),
    }


def _hold_as_json(hold: Hold) -> Mapping[str, object]:
    return {**hold._asdict(), "held_s": round(hold.held_s, 1)}


def _as_json(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [{"what": problem.what, "remedy": problem.remedy} for problem in problems]


# --- For people ---


def _shown(namespace: str, sight: Sight, at: str = "") -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("partition", "owner", "epoch", "since (UTC)", "standbys"):
        table.add_column(title, no_wrap=title != "owner", overflow="fold")
    for title in ("backlog", "sequence", "index", f"rejected/{REJECTIONS_WINDOW_S // 60} min", "open"):
        table.add_column(title, justify="right", overflow="fold")
    for state in sight.partitions:
        table.add_row(*partition_row(state))
    wrong = [("topics", problem) for problem in diagnose_topics(sight.topics)]
    wrong += [(f"partition {s.number}", problem) for s in sight.partitions for problem in diagnose(s)]
    lines: list[RenderableType] = [Text(f"{at}  {namespace}".strip())]
    if sight.partitions:
        lines.append(table)
    for where, problem in wrong:
        lines.append(Text.assemble((f"{where}: ", "bold"), (problem.what, "red")))
        lines.append(Text(f"  -> {problem.remedy}"))
    if not wrong:
        lines.append(Text("nothing is wrong", style="green"))
    return Group(*lines)


def partition_row(state: PartitionState) -> list[str]:
    """One partition for people, in the order of the table's columns. "?" = not known, "-" = none."""
    ownership = state.ownership
    return [
        str(state.number),
        _owner_text(state),
        "?" if ownership is None else "-" if ownership.epoch is None else str(ownership.epoch),
        _since_text(state),
        "?" if ownership is None else f"<= {ownership.waiting}" if ownership.waiting else "-",
        _backlog_text(state),
        "?" if state.last_sequence is None else "-" if state.last_sequence == NO_EVENT else str(state.last_sequence),
        _index_text(state),
        _rejections_text(state),
        " ".join(f"{hold.topic.partition('-')[0]} {hold.transactions}" for hold in state.holds) or "-",
    ]


def _owner_text(state: PartitionState) -> str:
    if state.ownership is None:
        return "?"
    producer = state.ownership.producer
    if producer is None:
        last = state.record
        return "none" if last is None else f"none (last: {last.host} pid {last.pid})"
    if state.owner is None:
        # Who it is stands in its first record, which comes with its first transaction.
        return f"{producer.address} (nothing judged yet)"
    return f"{state.owner.host} pid {state.owner.pid}"


def _since_text(state: PartitionState) -> str:
    if state.ownership is None or state.ownership.producer is None:
        return "-"
    if state.owner is None:
        return state.ownership.producer.since[:19]
    return datetime.fromtimestamp(state.owner.since_ms / 1000, UTC).isoformat()[:19]


def _backlog_text(state: PartitionState) -> str:
    if state.backlog is None:
        return "?"
    if not state.backlog.entries:
        return "-"
    return str(state.backlog.entries) + ("" if state.oldest_s is None else f" ({state.oldest_s:.0f} s)")


def _index_text(state: PartitionState) -> str:
    if state.index is None:
        return ""
    if state.index.next_sequence is None:
        return "to be built"
    if state.index_lag is None:
        return f"at {state.index.next_sequence}"
    return "level" if state.index_lag == 0 else f"{state.index_lag} behind"


def _rejections_text(state: PartitionState) -> str:
    if state.rejections is None:
        return "?"
    listed = " ".join(f"{reason} {count}" for reason, count in sorted(state.rejections.counts.items()))
    return (listed or "-") + ("" if state.rejections.complete else " or more")


def _clock() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")
