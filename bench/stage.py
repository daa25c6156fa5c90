"""What every benchmark stands on: a directory, a real broker, a progress bar, and the options that all share."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from sequencer.broker import EmbeddedBroker

BROKER_MEMORY = "1g"
"""A compaction holds every key with its newest position in memory."""

LINE_EVERY_S = 30.0
"""Between two lines on standard error that say how far it is, where there is no terminal for a bar."""


@contextlib.contextmanager
def stage(full_compiler: bool, **settings: str) -> Iterator[tuple[Path, EmbeddedBroker, Progress]]:
    """A directory that is removed at the end, a broker of its own with these settings, and a progress bar."""
    with tempfile.TemporaryDirectory(prefix="sequencer-bench-") as name, progress_bar() as progress:
        directory = Path(name)
        broker = EmbeddedBroker(
            directory / "broker", memory=BROKER_MEMORY, full_compiler=full_compiler, extra_settings=settings
        )
        with broker:
            yield directory, broker, progress


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """On standard error, so that standard output holds nothing but figures. Where that is no terminal, a line now and
    then takes the bar's place."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        if console.is_terminal:
            yield progress
            return
        ended = threading.Event()
        lines = threading.Thread(target=_lines, args=(progress, ended), daemon=True)
        lines.start()
        try:
            yield progress
        finally:
            ended.set()
            lines.join()


def _lines(progress: Progress, ended: threading.Event) -> None:
    while not ended.wait(LINE_EVERY_S):
        for task in progress.tasks:
            if task.percentage < 100:
                line = f"{task.description}: {task.percentage:.0f} % after {task.elapsed or 0:.0f} s"
                print(line, file=sys.stderr, flush=True)


def json_option(command: Callable[..., None]) -> Callable[..., None]:
    """Where the figures go besides the terminal."""
    return click.option(
        "--json",
        "json_file",
        type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
        help="Write the figures there too, as JSON; - is standard output.",
    )(command)


def broker_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every benchmark that has a broker."""
    full = click.option("--full-compiler", is_flag=True, help="Run the broker with Java's optimizing compiler.")
    return json_option(full(command))
