"""Whatever dies in mid-run: nothing is lost, doubled, half done or judged against a stale version."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pulsar
import pytest

from sequencer.admin import Admin
from sequencer.broker import EmbeddedBroker
from tests.outcomes import Logs
from tests.publishing import Stream, Workload
from tests.sequencer_process import SequencerProcess, init

PARTITIONS = 2
ALL_WITHIN_S = 60.0

pytestmark = pytest.mark.slow


class Run:
    """A stream of submissions over two partitions, and the processes that judge them."""

    def __init__(self, broker: EmbeddedBroker, namespace: str, client: Any, index_dir: Path) -> None:
        init(broker, namespace, PARTITIONS)
        self._broker, self._namespace = broker, namespace
        self.index_dir = index_dir
        self.logs = Logs(client, broker, namespace, PARTITIONS)
        self.stream = Stream(client, self.logs.topics.submitted, Workload(2, aggregates=300, conflicts=0.1, lists=0.1))

    def start(self, *, index_dir: Path | None = None, workers: int = 1) -> SequencerProcess:
        """Another sequencer of all partitions."""
        return SequencerProcess(self._broker, self._namespace, index_dir or self.index_dir, workers=workers)

    def await_more(self, process: SequencerProcess, more: int) -> None:
        """Return in mid-run: after `more` outcomes beyond those that are there, while submissions go on."""

        def go_on() -> None:
            process.check_running()
            self.stream.follow(self.logs.outcome_count())

        process.await_sequencing(PARTITIONS)
        self.logs.read_outcomes()
        self.logs.await_outcomes(self.logs.outcome_count() + more, ALL_WITHIN_S, go_on)

    def unload_owner_topics(self) -> None:
        """As a broker does that hands its topics over to another one."""
        with Admin(self._broker.admin_url) as admin:
            for n in range(PARTITIONS):
                admin.put(f"v2/{self.logs.topics.owners_partition(n).replace('://', '/')}/unload")

    def finish(self, process: SequencerProcess, index_dir: Path | None = None) -> None:
        """The stream ends, all of it gets its outcome, the process leaves cleanly, and every check is passed."""
        self.stream.stop()
        self.logs.read_submitted()
        self.logs.await_all(ALL_WITHIN_S, process.check_running)
        process.stop()
        self.logs.check(index_dir or self.index_dir)


@pytest.fixture
def run(broker: EmbeddedBroker, namespace: str, client: Any, tmp_path: Path) -> Run:
    return Run(broker, namespace, client, tmp_path / "index")


def test_killed_and_restarted_several_times(run: Run) -> None:
    for more in (0, 1, 300, 1000, 3000):
        with run.start() as process:
            run.await_more(process, more)
            process.kill()
    with run.start() as process:
        run.finish(process)


def test_killed_while_it_recovers(run: Run) -> None:
    with run.start() as process:
        run.await_more(process, 1000)
        process.kill()
    for _ in range(2):
        with run.start() as process:
            process.await_line("index level at")
            process.kill()
    with run.start() as process:
        run.finish(process)


def test_the_standby_finishes_what_the_killed_owner_began(run: Run) -> None:
    standby_dir = run.index_dir.with_name("standby")
    with run.start() as owner:
        run.await_more(owner, 0)
        with run.start(index_dir=standby_dir) as standby:
            standby.await_standby(PARTITIONS)
            run.await_more(owner, 1000)
            owner.kill()
            run.await_more(standby, 1000)
            run.finish(standby, standby_dir)


def test_owner_and_standby_in_the_same_index_directory(run: Run) -> None:
    """The owner holds it, so the standby keeps a private index; whoever starts next finds what the owner left."""
    with run.start() as owner:
        run.await_more(owner, 0)
        with run.start() as standby:
            standby.await_standby(PARTITIONS)
            run.await_more(owner, 1000)
            owner.stop()
            run.await_more(standby, 1000)
            standby.stop()
    assert sorted(path.name for path in run.index_dir.glob("*/partition-*")) == ["partition-0", "partition-1"]
    with run.start() as process:
        run.finish(process)


def test_the_owner_topic_is_unloaded_while_a_standby_is_parked(run: Run) -> None:
    """The broker forgets the parked request then, and tells nobody; both ask anew, and the standby still takes over."""
    standby_dir = run.index_dir.with_name("standby")
    with run.start() as owner:
        run.await_more(owner, 0)
        with run.start(index_dir=standby_dir) as standby:
            standby.await_standby(PARTITIONS)
            run.unload_owner_topics()
            standby.await_line("starting anew", count=PARTITIONS)
            owner.kill()
            run.await_more(standby, 1000)
            run.finish(standby, standby_dir)


def test_a_warm_standby_has_little_to_recover(run: Run) -> None:
    """It has followed the events while it was parked: what it reads after the grant is what came last."""
    standby_dir = run.index_dir.with_name("standby")
    with run.start() as owner:
        run.await_more(owner, 1000)
        with run.start(index_dir=standby_dir) as standby:
            standby.await_standby(PARTITIONS)
            run.await_more(owner, 3000)
            owner.kill()
            standby.await_sequencing(PARTITIONS)
            read = re.findall(r"index level at sequence \d+ after \S+ s, (\d+) events", "".join(standby.lines()))
            assert len(read) == PARTITIONS
            assert sum(map(int, read)) < 1000
            run.finish(standby, standby_dir)


def test_the_index_is_deleted_in_mid_run(run: Run) -> None:
    with run.start() as process:
        run.await_more(process, 3000)
        process.kill()
    shutil.rmtree(run.index_dir)
    with run.start() as process:
        run.await_more(process, 1000)
        run.finish(process)


def test_sigterm_in_mid_run_leaves_nothing_half_done(run: Run) -> None:
    with run.start() as process:
        run.await_more(process, 1000)
        process.stop()
    with run.start() as process:
        run.finish(process)


def test_the_workers_of_a_killed_supervisor_let_go(run: Run) -> None:
    with run.start(workers=2) as process:
        run.await_more(process, 1000)
        process.kill()
    with run.start(workers=2) as process:
        run.await_more(process, 1000)
        run.finish(process)


def test_the_broker_is_killed_in_mid_run(tmp_path: Path) -> None:
    """What it had acknowledged is on its disk; everybody comes back by themselves."""
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start()
    client = pulsar.Client(broker.service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        run = Run(broker, "public/default", client, tmp_path / "index")
        with run.start() as process:
            run.await_more(process, 3000)
            broker.kill()
            broker.start()
            process.await_sequencing(2 * PARTITIONS)
            run.await_more(process, 1000)
            run.finish(process)
    finally:
        client.shutdown()
        broker.kill()
