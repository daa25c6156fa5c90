"""What every benchmark stands on: a directory, a real broker, a progress bar, and the options that all share."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from sequencer.broker import EmbeddedBroker

BROKER_MEMORY = "1g"
"""A compaction holds every key with its newest position in memory."""


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


def progress_bar() -> Progress:
    """On standard error, so that standard output holds nothing but figures."""
    return Progress(console=Console(stderr=True), transient=True)


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
