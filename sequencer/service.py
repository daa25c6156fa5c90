"""The process: one life after another for each of its partitions, signals, and workers.

A life (`partition.live`) ends at the first failure. Here it is told why in the log and begun again, sooner after a rare
failure and later after repeated ones. What no restart can mend stops that partition alone; the others go on.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import uniform
from typing import TypeVar

from sequencer import NeedsOperator, SequencerError
from sequencer.names import Topics, index_directory
from sequencer.partition import Partition, live
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.errors import AuthFailed, PulsarError, ServerError, ServerRefused
from sequencer.pulsar.settings import NO_AUTH, Auth, token_auth
from sequencer.replies import REPLY_CLIENT, Replies
from sequencer.topics import partition_count
from state.allocator import hold_little
from state.index import IndexFailure, IndexMismatch

BACKOFF_FIRST_S = 0.05
"""Wait before the second life; doubled with each that fails."""

BACKOFF_MAX_S = 2.0
"""Short, because a broker that comes back should not be kept waiting; a life that cannot begin costs little."""

GOOD_LIFE_S = 60.0
"""A life this long forgives the failures before it."""

GC_THRESHOLD = 100_000
"""Allocations between two passes of the garbage collector: a batch allocates thousands of values and no cycle."""

PERMISSIONS = "'Permissions' in docs/operations.md"

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class NoSuchPartition(SequencerError):
    """A partition was asked for that the topics do not have."""


@dataclass(frozen=True)
class ServiceSettings:
    """What `sequencer run` is told."""

    service_url: str
    namespace: str
    partitions: tuple[int, ...] | None
    """Which partitions to run; None = all."""
    index_dir: Path
    workers: int = 1
    """Processes to spread the partitions over."""
    token: str | None = None


def run(settings: ServiceSettings) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code: 1 where a partition was stopped for good.

    Raises:
        TopicMissing, NoSuchPartition, PulsarError: nothing could be started.
    """
    hold_little()
    count = _run_loop(_partition_count(settings))
    chosen = tuple(range(count)) if settings.partitions is None else settings.partitions
    if beyond := [number for number in chosen if number >= count]:
        raise NoSuchPartition(f"there is no partition {beyond[0]}: {settings.namespace} has {count}")
    settings = replace(settings, partitions=chosen)
    if settings.workers > 1 and len(chosen) > 1:
        return _supervise(settings, count)
    return _run_loop(_serve(settings, count))


def _run_loop(main: Coroutine[None, None, Result]) -> Result:
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    return uvloop.run(main)


def _auth(settings: ServiceSettings) -> Auth:
    return NO_AUTH if settings.token is None else token_auth(settings.token)


async def _partition_count(settings: ServiceSettings) -> int:
    async with PulsarClient(settings.service_url, auth=_auth(settings)) as client:
        return await partition_count(client, Topics(settings.namespace).submitted)


# --- one process ---


async def _serve(settings: ServiceSettings, count: int) -> int:
    stop = asyncio.Event()
    _on_signals(stop.set)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 50, 100)
    topics = Topics(settings.namespace)
    partitions = [Partition(number, count, topics) for number in settings.partitions or ()]
    async with Replies(partial(_reply_client, settings), topics) as replies:
        well = await asyncio.gather(*(_keep_alive(settings, partition, replies, stop) for partition in partitions))
    return 0 if all(well) else 1


def _reply_client(settings: ServiceSettings) -> PulsarClient:
    return PulsarClient(settings.service_url, auth=_auth(settings), settings=REPLY_CLIENT)


async def _keep_alive(settings: ServiceSettings, partition: Partition, replies: Replies, stop: asyncio.Event) -> bool:
    """One life after another until `stop`. False: the partition needs a person, and was left alone."""
    index_dir = index_directory(settings.index_dir, settings.namespace, partition.number)
    backoff_s = BACKOFF_FIRST_S
    denied: set[str] = set()
    while not stop.is_set():
        began_s = time.monotonic()
        try:
            async with PulsarClient(settings.service_url, auth=_auth(settings)) as client:
                await live(client, partition, index_dir, replies, stop)
            continue
        except (NeedsOperator, IndexMismatch) as reason:
            log.error("%s: stopped: %s", partition, reason)
            return False
        except (PulsarError, SequencerError, IndexFailure, OSError) as reason:
            why, is_denied = f"{type(reason).__name__}: {reason}", _is_denied(reason)
        except Exception:
            log.exception("%s: a bug ended this life", partition)
            why, is_denied = "a bug", False
        if time.monotonic() - began_s > GOOD_LIFE_S:
            backoff_s = BACKOFF_FIRST_S
        wait_s = backoff_s * uniform(0.8, 1.2)
        backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
        if not is_denied:
            denied.clear()
            log.warning("%s: %s; starting anew in %.2f s", partition, why, wait_s)
        elif why not in denied:
            # Somebody has to grant something, which may be tomorrow: it is tried until then, but told once.
            denied.add(why)
            log.error("%s: not permitted: %s; trying until it is, see %s", partition, why, PERMISSIONS)
        try:
            async with asyncio.timeout(wait_s):
                await stop.wait()
        except TimeoutError:
            pass
    return True


def _is_denied(reason: Exception) -> bool:
    """Whether the broker does not know us, or does not let our role do what it must."""
    return isinstance(reason, AuthFailed) or (
        isinstance(reason, ServerRefused)
        and reason.error in (ServerError.AUTHENTICATION_ERROR, ServerError.AUTHORIZATION_ERROR)
    )


def _on_signals(stop: Callable[[], None]) -> None:
    """Stop at SIGTERM, SIGINT, and where this is a worker at the death of the process that started it."""
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def orphaned() -> None:
            loop.remove_reader(sentinel)
            stop()

        loop.add_reader(sentinel, orphaned)


# --- several processes ---


def _supervise(settings: ServiceSettings, count: int) -> int:
    """Spread the partitions over workers, and start a worker again when it dies."""
    shares = [share for share in _shares(settings.partitions or (), settings.workers) if share]
    spawn = multiprocessing.get_context("spawn")
    stopping = False

    def start(share: Sequence[int]) -> BaseProcess:
        worker = spawn.Process(target=_work, args=(replace(settings, partitions=tuple(share), workers=1), count))
        worker.start()
        return worker

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        for worker in workers:
            if worker.is_alive():
                worker.terminate()

    workers = [start(share) for share in shares]
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while alive := [worker for worker in workers if worker.is_alive()]:
        wait([worker.sentinel for worker in alive], timeout=BACKOFF_MAX_S)
        for number, worker in enumerate(workers):
            # Negative: a signal, or the kernel, took it. An exit code of its own is its last word.
            if not stopping and not worker.is_alive() and (worker.exitcode or 0) < 0:
                log.warning("worker %d died (exit %s); starting it again", number, worker.exitcode)
                workers[number] = start(shares[number])
    return max(abs(worker.exitcode or 0) for worker in workers)


def _shares(partitions: Sequence[int], workers: int) -> list[Sequence[int]]:
    return [partitions[first::workers] for first in range(workers)]


def _work(settings: ServiceSettings, count: int) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    hold_little()
    sys.exit(_run_loop(_serve(settings, count)))
