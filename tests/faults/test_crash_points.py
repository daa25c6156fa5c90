"""A sequencer killed at every point of its life: before, during and after each thing that it asks of anyone.

Each of a few partitions has a chain of sequencers. Every one takes over from a predecessor that was killed, gets some
events to judge, and is killed at its own point; what it leaves behind is what the next one must make good. At the end
a sequencer that is left alone finishes the job, and everything that the topics hold is judged.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import pulsar
import pytest

from sequencer.broker import EmbeddedBroker
from sequencer.names import Topics
from tests.faults.crash_at import Request
from tests.faults.world import BROKER_SETTINGS, create_namespace
from tests.model import home
from tests.outcomes import Logs
from tests.publishing import Draft, Publisher, structured
from tests.sequencer_process import SequencerProcess, init

STARTING = ("STANDBY ", "ACQUIRE ", "RECOVER ")
CHAINS = 4
TRIES = 2
LEAVES_MUCH = "SEQUENCE VersionIndex.apply 1 before"
"""Who is killed here leaves a full pool of transactions, one that is committed, and an index that is behind."""

EVENTS = 24
AGGREGATES = 8
SETTLED_WITHIN_S = 60.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def faulty_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    broker = EmbeddedBroker(tmp_path_factory.mktemp("crash-points"), extra_settings=BROKER_SETTINGS)
    broker.start()
    yield broker
    broker.kill()


class Forks:
    """The server that forks sequencers; one request at a time."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.crash_at"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def crashed(self, request: Request) -> bool:
        """Run a sequencer until its death. False: it ended otherwise."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return bool(json.loads(self._server.stdout.readline())["crashed"])


class Situation(Enum):
    """What a sequencer finds when it starts."""

    FIRST = "no event yet"
    TAKEOVER = "a predecessor was killed"
    REBUILD = "a predecessor was killed, and the index is gone"


class Chain:
    """One partition, and the sequencers that die on it one after another."""

    def __init__(
        self, broker: EmbeddedBroker, client: Any, namespace: str, number: int, count: int, directory: Path
    ) -> None:
        self.missed: list[str] = []
        index_dir = directory / "index"
        log = directory / f"{namespace.replace('/', '-')}-{number}.log"
        self._request = Request(broker.service_url, namespace, number, str(index_dir), point="", log=str(log))
        self._index_dir = index_dir / namespace.replace("/", "_") / f"partition-{number}"
        self._random = Random(number)
        at_home = [name for name in (f"aggregate-{n}" for n in range(1000)) if home(name, count) == number]
        self._tails = dict.fromkeys(at_home[:AGGREGATES], -1)
        self._elsewhere = next(name for name in map(str, range(1000)) if home(name, count) != number)
        self._publisher = Publisher(
            client, Topics(namespace).submitted_partition(number), router=None, batching_enabled=False
        )

    def record(self, forks: Forks, situation: Situation, file: Path) -> list[str]:
        """Let one live until it has nothing to do, and stop it. The points that it passed."""
        self._prepare(situation)
        if situation is Situation.FIRST:
            self._publisher.send(self._drafts())
        file.unlink(missing_ok=True)
        forks.crashed(self._request._replace(record=str(file)))
        return list(dict.fromkeys(file.read_text().splitlines()))

    def crash(self, forks: Forks, situation: Situation, points: Sequence[str]) -> None:
        """Crash one at each point. Those that did not come there are tried once more, then they are `missed`."""
        for point in points:
            for _ in range(TRIES):
                if situation is Situation.TAKEOVER and point.startswith(STARTING):
                    self.publish()
                    forks.crashed(self._request._replace(point=LEAVES_MUCH))
                self._prepare(situation)
                if forks.crashed(self._request._replace(point=point)):
                    break
            else:
                self.missed.append(f"{point} where {situation.value}")

    def publish(self) -> None:
        """Submit some events."""
        self._publisher.send(self._drafts())

    def _prepare(self, situation: Situation) -> None:
        if situation is not Situation.FIRST:
            self.publish()
        if situation is Situation.REBUILD:
            shutil.rmtree(self._index_dir, ignore_errors=True)

    def _drafts(self) -> Iterator[Draft]:
        """Mostly the next event of an aggregate; some in conflict, and one that belongs to another partition."""
        for number in range(EVENTS):
            key = self._random.choice(list(self._tails))
            event_id = UUID(int=self._random.getrandbits(128))
            if number % 6 == 5:
                yield structured(key, event_id, self._tails[key] + 7)
            else:
                yield structured(key, event_id, self._tails[key])
                self._tails[key] += 1
        yield structured(self._elsewhere, UUID(int=self._random.getrandbits(128)))


def test_every_point(faulty_broker: EmbeddedBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace = "public/crash-points"
    create_namespace(faulty_broker, namespace)
    init(faulty_broker, namespace, CHAINS)
    client = pulsar.Client(faulty_broker.service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    points = _points(faulty_broker, client, tmp_path)
    chains = [Chain(faulty_broker, client, namespace, number, CHAINS, tmp_path) for number in range(CHAINS)]
    with ExitStack() as stack, ThreadPoolExecutor(CHAINS) as pool:
        forks = [stack.enter_context(Forks()) for _ in chains]
        for situation in Situation:
            shares = [points[situation][number::CHAINS] for number in range(CHAINS)]
            list(pool.map(Chain.crash, chains, forks, [situation] * CHAINS, shares))
    missed = [point for chain in chains for point in chain.missed]
    total = sum(map(len, points.values()))
    with capsys.disabled():
        print(f"\ncrash points: {total - len(missed)} of {total} reached")
    assert not missed
    logs = Logs(client, faulty_broker, namespace, CHAINS)
    with SequencerProcess(faulty_broker, namespace, tmp_path / "index") as process:
        process.await_sequencing(CHAINS)
        logs.read_submitted()
        logs.await_all(SETTLED_WITHIN_S, process.check_running)
        process.stop()
    logs.check(tmp_path / "index")
    client.shutdown()


def _points(broker: EmbeddedBroker, client: Any, directory: Path) -> dict[Situation, list[str]]:
    """Every point that lives pass, in the situation that it belongs to."""
    namespace = "public/crash-points-listed"
    create_namespace(broker, namespace)
    init(broker, namespace, 2)
    chain = Chain(broker, client, namespace, 0, 2, directory)
    with Forks() as forks:
        first = chain.record(forks, Situation.FIRST, directory / "points")
        chain.crash(forks, Situation.TAKEOVER, [LEAVES_MUCH])
        takeover = chain.record(forks, Situation.TAKEOVER, directory / "points")
        chain.crash(forks, Situation.TAKEOVER, [LEAVES_MUCH])
        rebuild = chain.record(forks, Situation.REBUILD, directory / "points")
    return {
        Situation.FIRST: [point for point in first if point.startswith(STARTING) and point not in takeover],
        Situation.TAKEOVER: takeover,
        Situation.REBUILD: [point for point in rebuild if point.startswith("RECOVER ")],
    }
