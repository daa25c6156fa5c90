"""What all commands share: the options that say where Pulsar is, and failures in one line with an exit code."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click
import httpx

from sequencer import SequencerError
from sequencer.names import DEFAULT_NAMESPACE, NamespaceInvalid, Topics
from sequencer.pulsar.client import NO_AUTH, PulsarClient, token_auth
from sequencer.pulsar.errors import PulsarError
from state.errors import IndexFailure

EXIT_FAILED = 1
EXIT_REJECTED = 3
EXIT_VIOLATIONS = 4
EXIT_OUTCOME_UNKNOWN = 5
EXIT_INTERRUPTED = 130
LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

KNOWN_FAILURES = (SequencerError, PulsarError, IndexFailure, httpx.HTTPError, OSError)
"""What is nobody's bug: reported in one line."""


@dataclass(frozen=True, slots=True)
class Connection:
    """The options that all commands share."""

    service_url: str
    admin_url: str
    namespace: str
    token: str | None
    verbose: bool

    @property
    def topics(self) -> Topics:
        """Raises: click.UsageError."""
        try:
            return Topics(self.namespace)
        except NamespaceInvalid as error:
            raise click.UsageError(str(error)) from error

    def client(self) -> PulsarClient:
        """Our own client of the binary protocol. Raises: click.UsageError."""
        try:
            return PulsarClient(self.service_url, auth=token_auth(self.token) if self.token else NO_AUTH)
        except ValueError as error:
            raise click.UsageError(f"--service-url: {error}") from error


class Failure(click.ClickException):
    """A command failed: one line on standard error."""

    exit_code = EXIT_FAILED

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


class OutcomeUnknown(Failure):
    """A command failed in mid-way, and what it asked for may or may not have happened."""

    exit_code = EXIT_OUTCOME_UNKNOWN


_SHARED_OPTIONS = (
    click.option(
        "--service-url",
        envvar="SEQUENCER_SERVICE_URL",
        default="pulsar://127.0.0.1:6650",
        show_default=True,
        show_envvar=True,
        help="Pulsar's binary protocol.",
    ),
    click.option(
        "--admin-url",
        envvar="SEQUENCER_ADMIN_URL",
        default="http://127.0.0.1:8080",
        show_default=True,
        show_envvar=True,
        help="Pulsar's admin interface.",
    ),
    click.option(
        "--namespace",
        envvar="SEQUENCER_NAMESPACE",
        default=DEFAULT_NAMESPACE,
        show_default=True,
        show_envvar=True,
        help="Where the topics are: tenant/namespace.",
    ),
    click.option("--token", envvar="SEQUENCER_TOKEN", show_envvar=True, help="A token to authenticate with."),
)


def command(body: Callable[..., int | None]) -> Callable[..., None]:
    """Makes a function a command's body: the exit code is what it returns (None = 0), and failures become one line.

    It gets --verbose as `verbose`.
    """

    @click.option("-v", "--verbose", is_flag=True, help="Log more; show tracebacks.")
    @functools.wraps(body)
    def wrapped(verbose: bool, **options: Any) -> None:
        level = logging.DEBUG if verbose else logging.WARNING
        logging.basicConfig(level=level, format=LOG_FORMAT, stream=sys.stderr, force=True)
        with reported(verbose=verbose):
            sys.exit(body(verbose=verbose, **options) or 0)

    return wrapped


def connected(body: Callable[..., int | None]) -> Callable[..., None]:
    """Makes a function the body of a command that speaks to Pulsar. Its first argument is a `Connection`."""

    @functools.wraps(body)
    def wrapped(
        service_url: str, admin_url: str, namespace: str, token: str | None, verbose: bool, **options: Any
    ) -> int | None:
        return body(Connection(service_url, admin_url, namespace, token, verbose), **options)

    decorated: Callable[..., None] = command(wrapped)
    for option in reversed(_SHARED_OPTIONS):
        decorated = option(decorated)
    return decorated


@contextlib.contextmanager
def reported(*, verbose: bool) -> Iterator[None]:
    """Turns what may happen to a command into one line and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except click.ClickException:
        raise
    except KNOWN_FAILURES as error:
        if verbose:
            logging.getLogger("sequencer").exception("failed")
        where = "Pulsar: " if isinstance(error, PulsarError) else ""
        raise Failure(where + one_line(error)) from error


def one_line(error: Exception) -> str:
    """What an error says, in one line; its class where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
