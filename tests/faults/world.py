"""A run: publishers, sequencers behind the proxy, and a plan of faults; then quiet, and judgement."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pulsar

from sequencer.broker import EmbeddedBroker
from sequencer.names import Topics
from tests.faults.broker_defect import pending_ack_replay_spins
from tests.faults.brokers import Brokers
from tests.faults.injection import World
from tests.faults.publishers import Publisher
from tests.faults.schedule import Plan
from tests.faults.verified import check_verified
from tests.outcomes import Logs

LISTS = (0.0, 0.0, 0.0, 0.7)
"""Of each publisher: the share of what it submits that are lists of events."""

ATTEMPTS = 3
SETTLED_WITHIN_S = 120.0


class Figures(NamedTuple):
    """What a run really did."""

    submissions: int
    accepted: int
    rejected: int
    resubmitted: int
    took_s: float
    faults: Counter[str]
    """By kind; only those that met something: a kill of a dead process does not count."""


def run(plan: Plan, broker: EmbeddedBroker, namespace: str, directory: Path) -> Figures:
    """Run a plan on a broker that was started with `brokers.BROKER_SETTINGS`.

    Raises:
        AssertionError: what is wrong.
        BrokerDefect: nothing can be said.
    """
    with blamed_on(broker, plan, directory):
        return _run(World(plan, broker, namespace, directory), broker, namespace, directory)


@contextlib.contextmanager
def blamed_on(broker: EmbeddedBroker, plan: object, directory: Path) -> Iterator[None]:
    """Say of every failure in which plan it happened, and raise BrokerDefect where the broker is to blame."""
    try:
        yield
    except BaseException as failure:
        failure.add_note(f"{plan}\nlogs in {directory}")
        if isinstance(failure, Exception) and pending_ack_replay_spins(broker):
            raise BrokerDefect(f"pending-ack replay spins in the broker (apache/pulsar#26368): {failure}") from failure
        raise


def _run(world: World, broker: EmbeddedBroker, namespace: str, directory: Path) -> Figures:
    """Publishers in a world, and the judgement of what came out."""
    began_s = time.monotonic()
    seed, submitted = str(world.plan.seed), Topics(namespace).submitted
    # The official client tells of every lost connection: into a file.
    log = pulsar.FileLogger(pulsar.LoggerLevel.Warn, str(directory / "client.log"))
    client = pulsar.Client(broker.service_url, logger=log)
    try:
        with world:
            publishers = [
                Publisher(client, submitted, f"publisher-{n}", seed, lists=share) for n, share in enumerate(LISTS)
            ]
            for publisher in publishers:
                publisher.start()
            world.follow_plan()
            world.heal()
            for publisher in publishers:
                publisher.stop()
            logs = Logs(client, broker, namespace, world.plan.partitions)
            _judge(world, logs, publishers, broker)
        return Figures(
            sum(len(logs.submitted(n)) for n in logs.partitions),
            sum(len(logs.events(n)) for n in logs.partitions),
            sum(len(logs.rejected(n)) for n in logs.partitions),
            sum(publisher.resubmitted for publisher in publishers),
            time.monotonic() - began_s,
            world.faults,
        )
    finally:
        client.shutdown()


def _judge(world: World, logs: Logs, publishers: list[Publisher], broker: EmbeddedBroker) -> None:
    logs.read_submitted()
    stored = {str(message.message_id) for n in logs.partitions for message in logs.submitted(n)}
    for publisher in publishers:
        lost = [receipt for receipt in publisher.receipts if receipt not in stored]
        assert not lost, f"the broker has lost {len(lost)} submissions that it had acknowledged: {lost[:5]}"
    logs.await_all(SETTLED_WITHIN_S, world.tend)
    index_dir = world.stop()
    logs.read_submitted()  # what was forwarded once more
    logs.check(index_dir)
    check_verified(broker, logs.topics.namespace, index_dir, sum(len(logs.submitted(n)) for n in logs.partitions))


class BrokerDefect(Exception):
    """A run that came to nothing because the broker answers no more, for a reason that is known and not ours."""


def run_on(brokers: Brokers, plan: Plan, directory: Path) -> Figures:
    """Run a plan, and once more on a fresh broker where a known defect of the broker brought it to nothing.

    Raises:
        AssertionError: what is wrong.
    """
    for attempt in range(ATTEMPTS):
        try:
            return run(plan, brokers.current, f"public/seed-{plan.seed}-{attempt}", directory / str(attempt))
        except BrokerDefect:
            brokers.renew()
    raise AssertionError(f"the broker stopped answering in {ATTEMPTS} attempts")
