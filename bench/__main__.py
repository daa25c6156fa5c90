"""`python -m bench NAME`: the benchmarks' command line. Every benchmark is a module that brings its own `command`."""

from __future__ import annotations

import contextlib
import functools
import importlib
import signal
from collections.abc import Iterator
from typing import Any

import click

from bench.origin import beginning
from sequencer import SequencerError
from sequencer.console import KNOWN_FAILURES, Failure, one_line, reported

SECTIONS = {
    "How fast": ("throughput", "matrix", "ceiling", "at-least-once", "latency", "append"),
    "Beside what else one would pick": ("alternatives",),
    "When something dies": ("takeover", "restart", "recovery"),
    "Parts, without a broker": ("micro", "growth", "verify"),
    "Results": ("compare", "table", "plots"),
}
"""All commands, each that of the module with its name: "at-least-once" is `bench/at_least_once.py`."""

EXTRA = "pip install -e '.[bench]'"


class BenchmarkFailed(SequencerError):
    """What was measured did not do what it must, or took too long."""


class Suite(click.Group):
    """Imports a command's module when the command is asked for: one that lacks a package stops none of the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in SECTIONS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        try:
            module = importlib.import_module(f"bench.{cmd_name.replace('-', '_')}")
        except ModuleNotFoundError as error:
            raise Failure(f"{cmd_name} needs the package {error.name}: {EXTRA}") from error
        command = module.command
        assert isinstance(command, click.Command)
        assert command.name == cmd_name
        return failing_in_one_line(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self._summary(ctx, name)) for name in names])

    def _summary(self, ctx: click.Context, name: str) -> str:
        try:
            command = self.get_command(ctx, name)
        except Failure as failure:
            return f"({failure.message})"
        assert command is not None
        return command.get_short_help_str(limit=200)


def failing_in_one_line(command: click.Command) -> click.Command:
    """The same command; what goes wrong becomes one line and an exit code, and --verbose shows the traceback too."""
    body = command.callback
    assert body is not None

    @functools.wraps(body)
    def wrapped(verbose: bool, **options: Any) -> None:
        beginning()
        with reported(verbose=verbose), _known():
            body(**options)

    verbose = click.Option(["-v", "--verbose"], is_flag=True, help="Show the traceback of what goes wrong.")
    return click.Command(
        command.name,
        callback=wrapped,
        params=[*command.params, verbose],
        help=command.help,
        context_settings=command.context_settings,
    )


@contextlib.contextmanager
def _known() -> Iterator[None]:
    """Benchmarks raise RuntimeError where what they measure misbehaves, their task groups wrap it."""
    try:
        yield
    except (RuntimeError, ExceptionGroup) as error:
        first = _first(error)
        if isinstance(first, (RuntimeError, *KNOWN_FAILURES)):
            raise BenchmarkFailed(one_line(first)) from error
        raise


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


@click.command(cls=Suite, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def bench() -> None:
    """Measure the sequencer, on a real broker that the benchmark starts itself, and show what was measured.

    Each command has a --help with its sizes; the defaults give figures to trust, and take minutes. What they mean is
    told in docs/benchmarks.md.

    \b
    Examples:
      python -m bench throughput
      python -m bench throughput --events 100000 --runs 2 --json new.json
      python -m bench compare bench/results/throughput.json new.json
      make bench                      # all of them, into bench/results/, and the plots
      make bench NAME=throughput      # one
    """


if __name__ == "__main__":
    # Whatever ends it, nothing that it started may go on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    bench(prog_name="python -m bench")
