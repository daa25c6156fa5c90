"""A sequencer killed, or frozen, at every point of its life: before, while, and after it asks anything of anyone.

Each of a few partitions has a chain of sequencers. Every one takes over from a predecessor that was killed, gets some
events to judge, and is killed at its own point; what it leaves behind is what the next one must make good. Some stand
by first, beside an owner that is killed when they have followed it. At the end a sequencer that is left alone finishes
the job, and everything that the topics hold is judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pulsar
import pytest

from sequencer.broker import EmbeddedBroker
from sequencer.names import Topics
from tests.faults.brokers import Brokers, create_namespace
from tests.faults.chains import BEFORE_WORK, Chain, Forks, Situation
from tests.faults.quiet import await_quiet
from tests.faults.verified import check_verified
from tests.outcomes import Logs
from tests.sequencer_process import SequencerProcess, init

CHAINS = 6
SETTLED_WITHIN_S = 60.0
PHASES = {"STANDBY", "ACQUIRE", "RECOVER", "FILL", "SEQUENCE", "STOP"}
FROZEN_AT = ("sent", "after")
FROZEN_CALLS = 3
"""Of each kind: one that is frozen between the tenth and the eleventh of many is where it was before."""

Points = dict[Situation, list[str]]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def passed(brokers: Brokers, tmp_path_factory: pytest.TempPathFactory) -> Points:
    """Every point that lives pass, by what they found when they began."""
    broker, directory = brokers.current, tmp_path_factory.mktemp("listed")
    passed: Points = {}
    with _chains(broker, "public/crash-points-listed", 2, directory) as (chain, _), Forks() as forks:
        for situation in Situation:
            if not situation.is_beside and situation is not Situation.FIRST:
                chain.leave_much(forks)
            passed[situation] = chain.record(forks, situation, directory / "points")
    for situation, points in passed.items():
        phases = {point.split()[0] for point in points}
        # A standby finds nothing left to judge.
        expected = PHASES if situation.is_beside else PHASES | {"REFILL"}
        assert phases == expected, f"where {situation.value}, {phases} were passed"
    return passed


@pytest.mark.parametrize(
    "beside", [pytest.param(False, id="alone"), pytest.param(True, id="beside-an-owner", marks=pytest.mark.long)]
)
def test_killed_at_every_point(
    brokers: Brokers, passed: Points, tmp_path: Path, capsys: pytest.CaptureFixture[str], beside: bool
) -> None:
    every = {
        Situation.FIRST: _before_work(passed[Situation.FIRST], passed[Situation.TAKEOVER]),
        Situation.TAKEOVER: passed[Situation.TAKEOVER],
        Situation.REBUILD: [point for point in passed[Situation.REBUILD] if point.startswith("RECOVER ")],
        Situation.STANDBY: _before_work(passed[Situation.STANDBY]),
        Situation.STANDBY_REBUILD: [p for p in passed[Situation.STANDBY_REBUILD] if p.startswith("STANDBY ")],
    }
    points = {situation: its for situation, its in every.items() if situation.is_beside is beside}
    namespace = f"public/crash-points-{beside}"
    with _chains(brokers.current, namespace, CHAINS, tmp_path) as chains, _forks() as (pool, forks):
        for situation in points:
            shares = [points[situation][number::CHAINS] for number in range(CHAINS)]
            list(pool.map(Chain.crash, chains, forks, [situation] * CHAINS, shares))
    _say(capsys, "crash points", sum(map(len, points.values())), chains)
    _judge(brokers.current, namespace, tmp_path)


@pytest.mark.long
def test_frozen_at_every_step_of_a_takeover(
    brokers: Brokers, passed: Points, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Meanwhile another is elected and takes over; the one that wakes up still believes that it was elected."""
    points = [point for point in passed[Situation.TAKEOVER] if _is_to_be_frozen(*point.split())]
    namespace = "public/freeze-points"
    with _chains(brokers.current, namespace, CHAINS, tmp_path) as chains, _forks() as (pool, forks):
        list(pool.map(Chain.freeze, chains, forks, [points[number::CHAINS] for number in range(CHAINS)]))
    _say(capsys, "freeze points", len(points), chains)
    _judge(brokers.current, namespace, tmp_path)


def _before_work(points: Sequence[str], covered: Sequence[str] = ()) -> list[str]:
    return [point for point in points if point.startswith(BEFORE_WORK) and point not in covered]


def _is_to_be_frozen(phase: str, what: str, number: str, moment: str) -> bool:
    return phase == "ACQUIRE" and moment in FROZEN_AT and int(number) <= FROZEN_CALLS


@contextmanager
def _chains(broker: EmbeddedBroker, namespace: str, count: int, directory: Path) -> Iterator[list[Chain]]:
    """One for each partition of a new namespace."""
    create_namespace(broker, namespace)
    init(broker, namespace, count)
    client = _client(broker)
    yield [Chain(broker, client, namespace, number, count, directory) for number in range(count)]
    client.shutdown()


@contextmanager
def _forks() -> Iterator[tuple[ThreadPoolExecutor, list[Forks]]]:
    with ExitStack() as stack, ThreadPoolExecutor(CHAINS) as pool:
        yield pool, [stack.enter_context(Forks()) for _ in range(CHAINS)]


def _client(broker: EmbeddedBroker) -> Any:
    return pulsar.Client(broker.service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))


def _say(capsys: pytest.CaptureFixture[str], what: str, total: int, chains: Sequence[Chain]) -> None:
    missed = [point for chain in chains for point in chain.missed]
    with capsys.disabled():
        print(f"\n{what}: {total - len(missed)} of {total} reached")
    assert not missed


def _judge(broker: EmbeddedBroker, namespace: str, directory: Path) -> None:
    with SequencerProcess(broker, namespace, directory / "index") as process:
        process.await_sequencing(CHAINS)
        await_quiet(broker, Topics(namespace), CHAINS, SETTLED_WITHIN_S, process.check_running)
        process.stop()
    client = _client(broker)
    logs = Logs(client, broker, namespace, CHAINS)
    logs.read_submitted()
    logs.check(directory / "index")
    check_verified(broker, namespace, directory / "index", sum(len(logs.submitted(n)) for n in logs.partitions))
    client.shutdown()
