"""The official pulsar-client as our commands use it: quiet on standard output, errors as ours, canonical routing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import pulsar

from sequencer import SequencerError
from sequencer.event import canonical_partition

OPERATION_TIMEOUT_S = 30
CONNECT_TIMEOUT_MS = 10_000

log = logging.getLogger("sequencer.official")


class OfficialClientFailed(SequencerError):
    """The official client gave up."""


@contextlib.contextmanager
def official_client(service_url: str, token: str | None) -> Iterator[Any]:
    """A pulsar.Client; closed on the way out whatever happens to the broker.

    Raises: OfficialClientFailed, for every failure of the client inside the `with` too.
    """
    # Its default logger writes to standard output, which belongs to our JSON.
    auth = pulsar.AuthenticationToken(token) if token else None
    try:
        client = pulsar.Client(
            service_url,
            authentication=auth,
            operation_timeout_seconds=OPERATION_TIMEOUT_S,
            connection_timeout_ms=CONNECT_TIMEOUT_MS,
            logger=log,
        )
    except (pulsar.PulsarException, ValueError, RuntimeError) as error:
        raise OfficialClientFailed(f"cannot use {service_url!r}: {error}") from error
    try:
        yield client
    except pulsar.PulsarException as error:
        raise OfficialClientFailed(f"Pulsar at {service_url}: {error}") from error
    finally:
        # shutdown() rather than close(): it does not wait for a broker that has gone.
        client.shutdown()


def route(message: Any, partitions: int) -> int:
    """A message_router: the Python client would use BoostHash and so put aggregates where other clients do not."""
    return canonical_partition(message.partition_key(), partitions)
