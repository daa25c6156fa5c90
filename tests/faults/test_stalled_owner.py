"""An owner that stood still for more than half of its transactions' life must not use those that it had ready.

They may expire in the middle of their work, or have been ended by a successor. It has a full pool of them when it is
frozen, and events wait for it when it goes on. A proxy sees what it then does with each transaction.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pulsar
import pytest

from sequencer.broker import EmbeddedBroker
from sequencer.pool import REFILL_BELOW
from sequencer.pulsar.frames import TxnId
from tests.faults.brokers import Brokers, create_namespace
from tests.faults.proxy import FaultProxy
from tests.faults.transactions import ABORTED, OPENED, Deed, Transactions
from tests.faults.verified import check_verified
from tests.outcomes import Logs
from tests.publishing import Publisher, structured
from tests.sequencer_process import SequencerProcess, init

LIFE_S = 3.0
"""Of a transaction: the owner may use it for the first half."""

STALLED_S = 0.6 * LIFE_S
EXPIRED_S = 1.2 * LIFE_S
EVENTS = 12
JUDGED_WITHIN_S = 30.0
READY_WITHIN_S = 10.0
BROKER_GIVES_UP_S = 4.5
"""More than the broker waits for a frozen sequencer's PONG, see BROKER_SETTINGS."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Stage:
    """One partition, sequencers behind a proxy, and somebody who publishes."""

    def __init__(self, broker: EmbeddedBroker, client: Any, namespace: str, directory: Path) -> None:
        init(broker, namespace, 1)
        self.transactions = Transactions()
        self.proxy = FaultProxy(broker.port, 2, self.transactions.watch)
        self.logs = Logs(client, broker, namespace, 1)
        self._publisher = Publisher(client, self.logs.topics.submitted, batching_enabled=False)
        self._broker = broker
        self._namespace = namespace
        self._directory = directory
        self._version = -1
        self._submissions = 0

    def sequencer(self, link: int) -> SequencerProcess:
        """Start one."""
        environment = {"SEQUENCER_SERVICE_URL": self.proxy.url(link), "FAULTS_TTL_S": str(LIFE_S)}
        index_dir = self._directory / f"index-{link}"
        return SequencerProcess(
            self._broker, self._namespace, index_dir, module="tests.faults.launcher", environment=environment
        )

    def publish(self) -> None:
        """Submit the next events of one aggregate, and some in conflict."""
        for number in range(EVENTS):
            conflicts = number % 4 == 3
            expected = self._version + 7 if conflicts else self._version
            self._publisher.send([structured("account-1", uuid4(), expected)])
            self._version += not conflicts
        self._submissions += EVENTS

    def await_judged(self, process: SequencerProcess) -> None:
        """Return when all that was submitted has its outcome."""
        self.logs.await_outcomes(self._submissions, JUDGED_WITHIN_S, process.check_running)

    def full_pool(self, process: SequencerProcess, link: int) -> set[TxnId]:
        """The transactions of an owner that has just done some work and waits for more."""
        self.publish()
        self.await_judged(process)
        return self.transactions.await_ready(link, REFILL_BELOW - 1, READY_WITHIN_S)

    def check(self, link: int) -> None:
        """Judge everything; the sequencers have stopped."""
        self.logs.read_submitted()
        self.logs.check(self._directory / f"index-{link}")
        check_verified(self._broker, self._namespace, self._directory / f"index-{link}", self._submissions)


@contextmanager
def stage(broker: EmbeddedBroker, namespace: str, directory: Path) -> Iterator[Stage]:
    client = pulsar.Client(broker.service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        it = Stage(broker, client, namespace, directory)
        with it.proxy:
            yield it
    finally:
        client.shutdown()


def freeze(process: SequencerProcess) -> float:
    """Stop it where it is. Returns when that was."""
    process.process.send_signal(signal.SIGSTOP)
    return time.monotonic()


def wake(process: SequencerProcess, *, not_before_s: float) -> None:
    """Let it go on, when transactions have become old."""
    time.sleep(max(0.0, not_before_s - time.monotonic()))
    process.process.send_signal(signal.SIGCONT)


def aborted(txns: set[TxnId], owner: int, ended_by: int) -> set[Deed]:
    """All that may ever be done with transactions that an owner had ready and must not use."""
    return {Deed(link, what, txn) for txn in txns for link, what in ((owner, OPENED), (ended_by, ABORTED))}


def test_one_that_is_still_the_owner(broker: EmbeddedBroker, namespace: str, tmp_path: Path) -> None:
    """The broker waits for a minute before it gives up a silent connection: nobody has noticed anything."""
    with stage(broker, namespace, tmp_path) as here, here.sequencer(0) as owner:
        owner.await_sequencing(1)
        for stalled_s in (STALLED_S, EXPIRED_S):
            old = here.full_pool(owner, 0)
            frozen_s = freeze(owner)
            here.publish()
            wake(owner, not_before_s=frozen_s + stalled_s)
            here.await_judged(owner)
            assert here.transactions.deeds(old) == aborted(old, owner=0, ended_by=0)
        owner.stop()
        assert sum("sequencing, epoch" in line for line in owner.lines()) == 1
        here.check(0)


def test_one_that_becomes_the_owner_again(brokers: Brokers, tmp_path: Path) -> None:
    """The broker has given it up, and nobody else was there. It ends what it had ready as its own successor."""
    create_namespace(brokers.current, "public/stalled-again")
    with stage(brokers.current, "public/stalled-again", tmp_path) as here, here.sequencer(0) as owner:
        owner.await_sequencing(1)
        old = here.full_pool(owner, 0)
        frozen_s = freeze(owner)
        here.publish()
        wake(owner, not_before_s=frozen_s + BROKER_GIVES_UP_S)
        here.await_judged(owner)
        owner.await_sequencing(2)
        assert here.transactions.deeds(old) == aborted(old, owner=0, ended_by=0)
        owner.stop()
        here.check(0)


def test_one_that_wakes_up_as_a_zombie(brokers: Brokers, tmp_path: Path) -> None:
    """Its successor has ended what it had ready, and goes on without noticing that it is there again."""
    create_namespace(brokers.current, "public/stalled-zombie")
    with stage(brokers.current, "public/stalled-zombie", tmp_path) as here, here.sequencer(0) as zombie:
        zombie.await_sequencing(1)
        with here.sequencer(1) as successor:
            successor.await_standby(1)
            old = here.full_pool(zombie, 0)
            frozen_s = freeze(zombie)
            here.publish()
            successor.await_sequencing(1)
            assert here.transactions.deeds(old) == aborted(old, owner=0, ended_by=1)
            wake(zombie, not_before_s=frozen_s + STALLED_S)
            here.publish()
            here.await_judged(successor)
            zombie.await_standby(1)
            here.publish()
            here.await_judged(successor)
            assert here.transactions.deeds(old) == aborted(old, owner=0, ended_by=1)
            successor.stop()
        zombie.stop()
        assert sum("sequencing, epoch" in line for line in successor.lines()) == 1
        here.check(1)
