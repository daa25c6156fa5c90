"""The official pulsar-client as our commands use it: quiet on standard output, errors as ours, canonical routing."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import pulsar

from sequencer import SequencerError
from sequencer.event import canonical_partition

OPERATION_TIMEOUT_S = 45
"""Longer than the 30 s for which loading a topic can stall in the broker."""
CONNECT_TIMEOUT_MS = 10_000


class OfficialClientFailed(SequencerError):
    """The official client gave up."""


@contextlib.contextmanager
def official_client(service_url: str, token: str | None, *, verbose: bool = False) -> Iterator[Any]:
    """A pulsar.Client, closed on the way out. Its log goes to standard error where `verbose`, else nowhere.

    Raises: OfficialClientFailed, for every failure of the client inside the `with` too.
    """
    # Its default log goes to standard output, which belongs to our JSON. A Python logger is no way out: closing the
    # client then waits 5 s for a thread of its own that waits for the interpreter (3.13.0); shutdown() may never end.
    logger = pulsar.FileLogger(pulsar.LoggerLevel.Info, _stderr_path() if verbose else os.devnull)
    try:
        client = pulsar.Client(
            service_url,
            authentication=pulsar.AuthenticationToken(token) if token else None,
            operation_timeout_seconds=OPERATION_TIMEOUT_S,
            connection_timeout_ms=CONNECT_TIMEOUT_MS,
            logger=logger,
        )
    except (pulsar.PulsarException, ValueError, RuntimeError) as error:
        raise OfficialClientFailed(f"cannot use {service_url!r}: {error}") from error
    try:
        yield client
    except pulsar.PulsarException as error:
        raise OfficialClientFailed(f"Pulsar at {service_url}: {error}") from error
    finally:
        with contextlib.suppress(pulsar.PulsarException):
            client.close()


def _stderr_path() -> str:
    return "CON" if sys.platform == "win32" else "/dev/stderr"


def route(message: Any, partitions: int) -> int:
    """A message_router: the Python client would use BoostHash and so put aggregates where other clients do not."""
    return canonical_partition(message.partition_key(), partitions)
