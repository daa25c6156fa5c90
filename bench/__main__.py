"""`python -m bench NAME`: the benchmarks' command line."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import click
from rich.progress import Progress

from bench import append, recovery, restart, takeover, throughput, verify
from bench.numbered import Numbered
from bench.report import hand_over, progress_bar, spreads
from bench.workload import Workload
from sequencer.broker import EmbeddedBroker

BROKER_MEMORY = "1g"
"""A compaction holds every key with its newest position in memory."""

BATCHES_PER_S = 200
"""Of the open-loop load: a publisher that sends every 5 ms what has come up since."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def bench() -> None:
    """Measure the sequencer on a real broker that the benchmark starts itself.

    \b
    Example:  python -m bench throughput --events 1000000
    """


@contextlib.contextmanager
def _stage(full_compiler: bool, **settings: str) -> Iterator[tuple[Path, EmbeddedBroker, Progress]]:
    """A directory that is removed at the end, a broker of its own with these settings, and a progress bar."""
    with tempfile.TemporaryDirectory(prefix="sequencer-bench-") as name, progress_bar() as progress:
        directory = Path(name)
        broker = EmbeddedBroker(
            directory / "broker", memory=BROKER_MEMORY, full_compiler=full_compiler, extra_settings=settings
        )
        with broker:
            yield directory, broker, progress


def _common(command: Callable[..., None]) -> Callable[..., None]:
    """The options that every benchmark has."""
    for option in (
        click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there too."),
        click.option("--full-compiler", is_flag=True, help="Run the broker with Java's optimizing compiler."),
    ):
        command = option(command)
    return command


@bench.command("throughput")
@click.option("--events", type=click.IntRange(1_000), default=600_000, show_default=True)
@click.option("--event-bytes", type=click.IntRange(100, 1_000_000), default=160, show_default=True, help="Payload.")
@click.option("--aggregates", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--conflicts", type=click.IntRange(0, 100), default=0, show_default=True, help="Per cent.")
@click.option("--batch", type=click.IntRange(1, 10_000), default=500, show_default=True, help="Events per entry.")
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="After one that warms up.")
@_common
def throughput_command(
    events: int,
    event_bytes: int,
    aggregates: int,
    conflicts: int,
    batch: int,
    runs: int,
    full_compiler: bool,
    json_file: Path | None,
) -> None:
    """Events per second of one sequencer process over one partition, from ready to the last commit.

    \b
    Example:  python -m bench throughput --events 1000000 --conflicts 5
    """
    workload = Workload(events, event_bytes, aggregates, conflicts, batch)
    with _stage(full_compiler) as (directory, broker, progress):
        measured = throughput.measure(workload, broker, runs=runs, directory=directory, progress=progress)
    title = f"throughput, {runs} runs of {events:,} events"
    hand_over("throughput", title, asdict(workload), throughput.summary(measured), json_file)


@bench.command("append")
@click.option("--round-trips", type=click.IntRange(10), default=500, show_default=True, help="One after the other.")
@click.option("--at-once", type=click.IntRange(1, 10_000), default=1_000, show_default=True)
@click.option("--appends", type=click.IntRange(100), default=50_000, show_default=True, help="With so many at once.")
@click.option("--events", type=click.IntRange(1_000), default=600_000, show_default=True, help="To ask replies for.")
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True)
@_common
def append_command(
    round_trips: int,
    at_once: int,
    appends: int,
    events: int,
    runs: int,
    full_compiler: bool,
    json_file: Path | None,
) -> None:
    """How long an append takes, how many one process gets through, and what replies cost the sequencer.

    \b
    Example:  python -m bench append --runs 1 --appends 10000 --events 100000
    """
    plan = append.Plan(round_trips, at_once, appends, Workload(events), runs)
    with _stage(full_compiler) as (directory, broker, progress):
        figures = append.measure(plan, broker, directory=directory, progress=progress)
    hand_over("append", f"append, {runs} runs", asdict(plan), figures, json_file)


@bench.command("takeover")
@click.option("--rounds", type=click.IntRange(1), default=50, show_default=True)
@click.option("--rate", type=click.IntRange(BATCHES_PER_S, 80_000), default=20_000, show_default=True, help="Events/s.")
@click.option("--freeze", is_flag=True, help="SIGSTOP instead of kill -9.")
@click.option("--keep-alive", type=click.IntRange(1), default=30, show_default=True, help="Of the broker, seconds.")
@_common
def takeover_command(
    rounds: int, rate: int, freeze: bool, keep_alive: int, full_compiler: bool, json_file: Path | None
) -> None:
    """From the death of a loaded owner to the first commit of the standby that was waiting for it.

    \b
    Example:  python -m bench takeover --rounds 5 --freeze --keep-alive 3
    """
    plan = takeover.Plan(rounds, rate, freeze, _numbered(rate))
    with _stage(full_compiler, keepAliveIntervalSeconds=str(keep_alive)) as (directory, broker, progress):
        measured = takeover.measure(plan, broker, directory=directory, progress=progress)
    title = f"takeover after {'SIGSTOP' if freeze else 'kill -9'}, {rounds} rounds at {rate:,} events/s"
    hand_over("takeover", title, asdict(plan) | {"keep_alive_s": keep_alive}, spreads(measured), json_file)


@bench.command("restart")
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True)
@click.option("--rate", type=click.IntRange(BATCHES_PER_S, 80_000), default=20_000, show_default=True, help="Events/s.")
@_common
def restart_command(rounds: int, rate: int, full_compiler: bool, json_file: Path | None) -> None:
    """The broker is killed under load and started again: from there to the first commit, and nothing is lost.

    \b
    Example:  python -m bench restart --rounds 3
    """
    plan = restart.Plan(rounds, rate, _numbered(rate))
    with _stage(full_compiler) as (directory, broker, progress):
        measured = restart.measure(plan, broker, directory=directory, progress=progress)
    title = f"broker killed and restarted, {rounds} rounds at {rate:,} events/s"
    hand_over("restart", title, asdict(plan), spreads(measured), json_file)


@bench.command("recovery")
@click.option("--events", type=click.IntRange(1_000), default=5_000_000, show_default=True)
@click.option("--aggregates", type=click.IntRange(1), default=500_000, show_default=True)
@click.option("--window", type=click.IntRange(1, 100), default=10, show_default=True, help="Events in it, per cent.")
@click.option("--runs", type=click.IntRange(1, 100), default=3, show_default=True)
@_common
def recovery_command(
    events: int, aggregates: int, window: int, runs: int, full_compiler: bool, json_file: Path | None
) -> None:
    """From the start of a sequencer to its first look at the input, with an empty index and with a warm one.

    \b
    Example:  python -m bench recovery --events 500000 --aggregates 50000
    """
    plan = recovery.Plan(events, aggregates, window, runs)
    with _stage(full_compiler) as (directory, broker, progress):
        measured = recovery.measure(plan, broker, directory=directory, progress=progress)
    title = f"recovery, {runs} runs over {events:,} events of {aggregates:,} aggregates"
    hand_over("recovery", title, asdict(plan), spreads(measured), json_file)


@bench.command("verify")
@click.option("--events", type=click.IntRange(1_000), default=10_000_000, show_default=True)
@click.option("--aggregates", type=click.IntRange(4), default=1_000_000, show_default=True)
@click.option("--partitions", type=click.IntRange(1), default=4, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there too.")
def verify_command(events: int, aggregates: int, partitions: int, json_file: Path | None) -> None:
    """Time, memory and disk of what `sequencer verify` does with what it has read; needs no broker.

    \b
    Example:  python -m bench verify --events 1000000 --aggregates 100000
    """
    plan = verify.Plan(events, aggregates, partitions)
    with progress_bar() as progress:
        task = progress.add_task("verify", total=3 * events)
        figures = verify.measure(plan, lambda count: progress.advance(task, count))
    title = f"verify, {events:,} events of {aggregates:,} aggregates"
    hand_over("verify", title, asdict(plan), spreads([figures]), json_file)


def _numbered(rate: int) -> Numbered:
    return Numbered(aggregates=100_000, event_bytes=160, batch_events=rate // BATCHES_PER_S)


if __name__ == "__main__":
    # Whatever ends it, nothing that it started may go on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    bench()
