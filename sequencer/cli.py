"""The command line. It only parses, calls and prints: every command's work is in a module of its own.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 rejected, 4 `verify` found violations, 5 outcome unknown, 130 Ctrl-C.
Modules are imported by the commands that need them, so that a help text does not wait for the official client.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import click

from sequencer import __version__
from sequencer.admin import Admin
from sequencer.console import EXIT_FAILED, EXIT_VIOLATIONS, Connection, OutcomeUnknown, command, connected, one_line
from sequencer.names import short_name
from sequencer.pulsar.frames import MessageId
from sequencer.topics import (
    FOR_EVER_DAYS,
    MAX_PARTITIONS,
    MAX_RETENTION_DAYS,
    REJECTED_RETENTION_DAYS,
    SUBMITTED_RETENTION_DAYS,
    TopicPlan,
    partition_count,
)

MAX_WORKERS = 256
MAX_APPEND_TIMEOUT_S = 600
DEFAULT_MEMORY = "512m"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="sequencer")
def cli() -> None:
    """A single-writer event sequencer on Apache Pulsar.

    Events are submitted with the version of the aggregate that their writer has seen; one writer per partition accepts
    them, with the next version, or rejects them.

    \b
    Try it:  sequencer demo
    """


@cli.command()
@click.option(
    "--partitions", type=click.IntRange(1, MAX_PARTITIONS), required=True, help="Of every topic, fixed for life."
)
@click.option(
    "--submitted-retention-days",
    type=click.IntRange(FOR_EVER_DAYS, MAX_RETENTION_DAYS),
    default=SUBMITTED_RETENTION_DAYS,
    show_default=True,
    help="How long judged submissions are kept; -1 = for ever.",
)
@click.option(
    "--rejected-retention-days",
    type=click.IntRange(FOR_EVER_DAYS, MAX_RETENTION_DAYS),
    default=REJECTED_RETENTION_DAYS,
    show_default=True,
    help="How long rejected events are kept; -1 = for ever.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON line per step.")
@connected
def init(
    connection: Connection,
    partitions: int,
    submitted_retention_days: int,
    rejected_retention_days: int,
    as_json: bool,
) -> None:
    """Create the topics, or check that they are as they should be.

    Running it again changes nothing. The number of partitions can never be changed.

    \b
    Example:  sequencer init --partitions 4
    """
    from sequencer.initialize import initialize

    if 0 in (submitted_retention_days, rejected_retention_days):
        raise click.UsageError("a retention of 0 days would keep nothing")
    plan = TopicPlan(partitions, submitted_retention_days, rejected_retention_days)

    def step(topic: str, what: str, changed: bool) -> None:
        if as_json:
            click.echo(json.dumps({"topic": topic, "what": what, "changed": changed}))
        else:
            click.echo(f"{'done' if changed else 'kept'}  {short_name(topic)}: {what}")

    with Admin(connection.admin_url, connection.token) as admin:
        for done in initialize(connection.client, admin, connection.topics, plan):
            step(*done)
    if not as_json:
        click.echo(f"{connection.namespace} is ready: sequencer run")


@cli.command()
@click.option("--partitions", metavar="LIST", help="Such as 0-3,7.  [default: all]")
@click.option(
    "--index-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="SEQUENCER_INDEX_DIR",
    show_envvar=True,
    help="Where the indexes are kept; they can be deleted at any time.  [default: in the user's data directory]",
)
@click.option(
    "--workers", type=click.IntRange(1, MAX_WORKERS), default=1, show_default=True, help="Processes to spread over."
)
@connected
def run(connection: Connection, partitions: str | None, index_dir: Path | None, workers: int) -> int:
    """Judge what is submitted, until SIGTERM or Ctrl-C.

    Where another instance owns a partition, this one waits as its standby.

    \b
    Example:  sequencer run --partitions 0-3,7
    """
    from sequencer import service

    if not connection.verbose:
        logging.getLogger().setLevel(logging.INFO)
        logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = service.ServiceSettings(
        service_url=connection.service_url,
        namespace=connection.topics.namespace,
        partitions=None if partitions is None else parse_partitions(partitions),
        index_dir=index_dir or default_index_dir(connection.service_url),
        workers=workers,
        token=connection.token,
    )
    return service.run(settings)


def parse_partitions(text: str) -> tuple[int, ...]:
    """ "0-3,7" as (0, 1, 2, 3, 7), in order and without repeats.

    Raises: click.UsageError.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        matched = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part, re.ASCII)
        if not matched:
            raise click.UsageError(f"--partitions {text!r}: {part.strip()!r} is neither a number nor a range like 0-3")
        first, last = int(matched[1]), int(matched[2] or matched[1])
        if first > last:
            raise click.UsageError(f"--partitions {text!r}: the range {part.strip()} runs backwards")
        if last >= MAX_PARTITIONS:
            raise click.UsageError(f"--partitions {text!r}: {last} is beyond the last possible partition")
        chosen.update(range(first, last + 1))
    return tuple(sorted(chosen))


def default_index_dir(service_url: str) -> Path:
    """A directory of its own for every cluster: the same topic elsewhere is another log."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "pulsar-sequencer" / "index" / re.sub(r"[^A-Za-z0-9.]+", "_", service_url)


@cli.command()
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON line.")
@connected
def publish(connection: Connection, file: BinaryIO, as_json: bool) -> int:
    """Submit events from FILE, or from standard input.

    One JSON object a line: {"key": the aggregate, "id": a UUID, "version": the version seen, "data": any JSON}.
    Without an id one is made up; without a version the event is accepted at any version. A line that is not like that
    is reported with its number and sent nowhere; the exit code is then 1.

    \b
    Example:  echo '{"key": "account-1", "version": -1, "data": {"opened": true}}' | sequencer publish
    """
    from sequencer import publish as publishing
    from sequencer.official import official_client

    # The official client would look for a broker or a topic that is not there until it times out.
    asyncio.run(_partition_count(connection, connection.topics.submitted))
    with (
        progress_over(file) as progress,
        official_client(connection.service_url, connection.token, verbose=connection.verbose) as client,
    ):
        try:
            summary = publishing.publish(
                client,
                connection.topics.submitted,
                file,
                bad_line=lambda number, what: click.echo(f"line {number}: {what}", err=True),
                progress=progress,
            )
        except publishing.BrokerStopped as error:
            raise OutcomeUnknown(one_line(error)) from error
    if as_json:
        click.echo(json.dumps(summary.as_dict()))
    else:
        bad = f", {summary.bad_lines} bad lines" if summary.bad_lines else ""
        click.echo(f"{summary.published} events in {summary.seconds:.2f} s ({summary.events_per_s:,.0f}/s){bad}")
    return EXIT_FAILED if summary.bad_lines else 0


@cli.command("append")
@click.argument("key")
@click.option(
    "--expect", metavar="N|none|any", required=True, help="The aggregate's version; none = it must not exist; any."
)
@click.option(
    "--data", multiple=True, required=True, metavar="JSON|@FILE|@-", help="One event's data; repeated = all or none."
)
@click.option("--type", "kind", metavar="TYPE", help="What kind of event it is: a message property.")
@click.option("--id", "ids", multiple=True, metavar="UUID", help="One for each --data.  [default: made up]")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, MAX_APPEND_TIMEOUT_S, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds to wait for the answer.",
)
@click.option("--json", "as_json", is_flag=True, help="The outcome as one JSON line.")
@connected
def append_events(
    connection: Connection,
    key: str,
    expect: str,
    data: tuple[str, ...],
    kind: str | None,
    ids: tuple[str, ...],
    timeout_s: float,
    as_json: bool,
) -> int:
    """Append events to the aggregate KEY, and say what became of them.

    The exit code is 0 where they are in (also where they were in already), 3 where they were rejected, and 5 where no
    answer came in time: then the same command with the ids that are printed settles it.

    \b
    Example:  sequencer append account-1 --expect none --data '{"opened": true}' --type opened
    """
    from sequencer.client.command import append, order_of

    return append(connection, order_of(key, expect, data, ids, kind, timeout_s), as_json=as_json)


async def _partition_count(connection: Connection, topic: str) -> int:
    async with connection.client() as client:
        return await partition_count(client, topic)


@contextlib.contextmanager
def progress_over(file: BinaryIO) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, where that is a terminal; it is told the bytes read since the last call."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=_size_of(file))
        yield lambda count: bar.advance(task, count)


def _size_of(file: BinaryIO) -> int | None:
    """None for what has no size: a pipe, a terminal."""
    try:
        return os.fstat(file.fileno()).st_size or None
    except OSError:
        return None


@cli.command()
@click.argument("topic", type=click.Choice(["events", "rejected", "submitted"]))
@click.option("--key", help="Only this aggregate.")
@click.option(
    "--from",
    "start",
    type=click.Choice(["earliest", "latest"]),
    default="earliest",
    show_default=True,
    help="Where to start.",
)
@click.option("--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@connected
def tail(connection: Connection, topic: str, key: str | None, start: str, follow: bool) -> None:
    """Print a topic as JSON lines.

    Without --follow it stops at the end as it was when the command started. A payload that is JSON is shown as "data",
    any other one as "data_base64".

    \b
    Example:  sequencer tail events --key account-1 --follow
    """
    from sequencer import tail as tailing
    from sequencer.official import official_client

    if start == "latest" and not follow:
        raise click.UsageError("--from latest reads nothing without --follow")
    name = {
        "events": connection.topics.events,
        "rejected": connection.topics.rejected,
        "submitted": connection.topics.submitted,
    }[topic]
    if follow:
        asyncio.run(_partition_count(connection, name))
        messages_of = functools.partial(tailing.follow_topic, topic=name, from_latest=start == "latest")
    else:
        ends = asyncio.run(_last_messages(connection, name))
        messages_of = functools.partial(tailing.read_topic, topic=name, ends=ends)
    output = sys.stdout.buffer
    with official_client(connection.service_url, connection.token, verbose=connection.verbose) as client:
        for message in messages_of(client):
            if key is None or message.key == key:
                output.write(message.json_line())
                if follow:
                    output.flush()
    output.flush()


async def _last_messages(connection: Connection, topic: str) -> dict[int, MessageId]:
    from sequencer.tail import last_messages

    async with connection.client() as client:
        return await last_messages(client, topic)


@cli.command()
@click.option(
    "--index-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="SEQUENCER_INDEX_DIR",
    show_envvar=True,
    help="Of an instance on this machine: says how far behind its indexes are.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON lines: one for the topics, one for each partition.")
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@connected
def status(connection: Connection, index_dir: Path | None, as_json: bool, watch: bool) -> int:
    """Who owns which partition, what waits, what is wrong, and what to do about it.

    It only looks, and answers in seconds also where the broker does not. The exit code is 0 where nothing is wrong, and
    1 where something is, could not be found out, or cannot be reached.

    \b
    Example:  sequencer status --watch
    """
    from sequencer.status_command import show_status

    return show_status(connection, index_dir, as_json=as_json, watch=watch)


@cli.command()
@click.option("--partitions", metavar="LIST", help="Such as 0-3,7.  [default: all]")
@click.option(
    "--index-dir",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="What run has as its --index-dir: the indexes there are checked too.",
)
@click.option("--follow", is_flag=True, help="Go on with what comes, until a violation or Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="The findings as one JSON line.")
@connected
def verify(connection: Connection, partitions: str | None, index_dir: Path | None, follow: bool, as_json: bool) -> int:
    """Check the sequencer's promises on what the topics really hold.

    It reads submitted_events, events, rejected_events and what is acknowledged, and only reads; sequencers may be at
    work. The exit code is 0 where every promise was kept, and 4 where one was not: then the message ids that show it
    are printed. It needs about 250 bytes of disk under TMPDIR for every event.

    With --follow it goes on until the first violation. Ctrl-C then prints what was checked, and the exit code is 0.

    \b
    Example:  sequencer verify --follow
    """
    from sequencer.verify import command as verifying

    with Admin(connection.admin_url, connection.token) as admin, progress_of_steps() as show:
        target = verifying.Target(
            connection.client,
            admin,
            connection.topics,
            None if partitions is None else parse_partitions(partitions),
            index_dir,
        )
        begun = functools.partial(click.echo, "no violation up to now; following, Ctrl-C ends", err=True)
        found = verifying.verify(target, follow=begun if follow else None, show=show)
    if as_json:
        click.echo(json.dumps(found.as_dict()))
    else:
        for note in found.notes:
            click.echo(f"note: {note}", err=True)
        click.echo(str(found))
    return 0 if found.report.ok else EXIT_VIOLATIONS


@contextlib.contextmanager
def progress_of_steps() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on standard error, where that is a terminal; it is told the step, what is done, of how much."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, done, total: None
        return
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


@cli.command()
@command
def demo(verbose: bool) -> int:
    """Watch a bank account: two servers, a broker and a sequencer of its own, and one withdrawal too many.

    It needs nothing that runs already, and ends everything that it starts.

    \b
    Example:  sequencer demo
    """
    from sequencer.demo import run_demo

    return run_demo(verbose=verbose)


@cli.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("pulsar-data"),
    show_default=True,
    help="Everything that the broker keeps; it survives restarts.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=6650, show_default=True, help="0 = a free one.")
@click.option("--http-port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 = a free one.")
@click.option("--memory", default=DEFAULT_MEMORY, show_default=True, help="Java's heap, such as 512m or 2g.")
@command
def broker(verbose: bool, data_dir: Path, port: int, http_port: int, memory: str) -> None:
    """Run a real Pulsar broker on this machine, until SIGTERM or Ctrl-C.

    The first time it is fetched from Maven Central (about 145 MB). It listens on loopback only.

    \b
    Example:  sequencer broker --data-dir /tmp/pulsar --port 0 --http-port 0
    """
    from sequencer.broker import run_foreground

    run_foreground(data_dir=data_dir, port=port, http_port=http_port, memory=memory)


def main() -> None:
    cli(prog_name="sequencer")


if __name__ == "__main__":
    main()
