"""Sequencers that die one after another on one partition, each at a point of its own (see crash_at.py)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import httpx

from sequencer.broker import EmbeddedBroker
from sequencer.names import Topics
from tests.faults.brokers import ADMIN_LIMIT_S
from tests.faults.crash_at import Request
from tests.model import home
from tests.publishing import Draft, Publisher, listed, structured

BEFORE_WORK = ("STANDBY ", "ACQUIRE ", "RECOVER ")
TRIES = 3
LEAVES_MUCH = "SEQUENCE VersionIndex.apply 1 before"
"""Who is killed here leaves a full pool of transactions, one that is committed, and an index that is behind."""

EVENTS = 24
AGGREGATES = 8


class Forks:
    """The server that forks sequencers; one request at a time. An answer is whether one crashed at its point."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.crash_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def run(self, request: Request) -> bool:
        """Run a sequencer until its end."""
        return self._ask("run", request)

    def stand_by(self, request: Request) -> bool:
        """Let a sequencer stand by, until it has followed what there is."""
        return self._ask("stand by", request)

    def take_over(self) -> bool:
        """Let the one that stands by follow what is new, then take over, to its end."""
        return self._ask("take over")

    def freeze(self, request: Request) -> bool:
        """Run a sequencer until it is frozen."""
        return self._ask("freeze", request)

    def wake(self) -> bool:
        """Let another one take over, then wake the frozen one: whether both find their places."""
        return self._ask("wake")

    def _ask(self, *words: object) -> bool:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(words) + "\n")
        self._server.stdin.flush()
        return bool(json.loads(self._server.stdout.readline()))


class Situation(Enum):
    """What a sequencer finds when it starts."""

    FIRST = "no event yet"
    TAKEOVER = "a predecessor was killed"
    REBUILD = "a predecessor was killed, and the index is gone"
    STANDBY = "another owns the partition, and is killed when this one has followed it"
    STANDBY_REBUILD = "another owns the partition, and the index is gone"

    @property
    def is_beside(self) -> bool:
        return self in (Situation.STANDBY, Situation.STANDBY_REBUILD)

    @property
    def is_without_index(self) -> bool:
        return self in (Situation.REBUILD, Situation.STANDBY_REBUILD)


class Chain:
    """One partition, and the sequencers that die on it one after another."""

    def __init__(
        self, broker: EmbeddedBroker, client: Any, namespace: str, number: int, count: int, directory: Path
    ) -> None:
        self.missed: list[str] = []
        index_dir = directory / "index"
        log = directory / f"{namespace.replace('/', '-')}-{number}.log"
        self._request = Request(broker.service_url, namespace, number, str(index_dir), str(log))
        self._index_dir = index_dir / namespace.replace("/", "_") / f"partition-{number}"
        topic = Topics(namespace).owners_partition(number).replace("persistent://", "persistent/")
        self._unload_url = f"{broker.admin_url}/admin/v2/{topic}/unload"
        self._random = Random(number)
        at_home = [name for name in (f"aggregate-{n}" for n in range(1000)) if home(name, count) == number]
        self._tails = dict.fromkeys(at_home[:AGGREGATES], -1)
        self._elsewhere = next(name for name in map(str, range(1000)) if home(name, count) != number)
        self._publisher = Publisher(
            client, Topics(namespace).submitted_partition(number), router=None, batching_enabled=False
        )

    def record(self, forks: Forks, situation: Situation, file: Path) -> list[str]:
        """Let one live until it has nothing to do, and stop it. The points that it passed."""
        file.unlink(missing_ok=True)
        if not situation.is_beside:
            self.publish()
        crashed = self._live(forks, situation, self._request._replace(record=str(file)))
        assert not crashed, situation
        return list(dict.fromkeys(file.read_text().splitlines()))

    def crash(self, forks: Forks, situation: Situation, points: Sequence[str]) -> None:
        """Crash one at each point. Those that did not come there are tried again, then they are `missed`."""
        for point in points:
            for _ in range(TRIES):
                if situation is Situation.TAKEOVER and point.startswith(BEFORE_WORK):
                    self.leave_much(forks)
                elif situation is Situation.TAKEOVER:
                    self.publish()
                if self._live(forks, situation, self._request._replace(point=point)):
                    break
            else:
                self.missed.append(f"{point} where {situation.value}")

    def leave_much(self, forks: Forks) -> None:
        """Let one be killed where that is most awkward for its successor."""
        for _ in range(TRIES):
            self.publish(EVENTS // 2)
            if forks.run(self._request._replace(point=LEAVES_MUCH)):
                return
        raise AssertionError("the predecessor came to nothing")

    def freeze(self, forks: Forks, points: Sequence[str]) -> None:
        """Freeze one at each point, and wake it when another has taken over. Where it goes wrong is `missed`."""
        for point in points:
            self.publish()
            if not forks.freeze(self._request._replace(point=point)):
                self.missed.append(f"{point} when it was to be frozen")
                continue
            # The broker elects another, although the connection of the frozen one lives.
            httpx.put(self._unload_url, timeout=ADMIN_LIMIT_S, trust_env=False).raise_for_status()
            self.publish()
            if not forks.wake():
                self.missed.append(f"{point} when it was woken up")

    def publish(self, count: int = EVENTS) -> None:
        """Submit some events."""
        self._publisher.send(self._drafts(count))

    def _live(self, forks: Forks, situation: Situation, request: Request) -> bool:
        """One life. Whether it crashed at its point."""
        if situation.is_without_index:
            shutil.rmtree(self._index_dir, ignore_errors=True)
        if not situation.is_beside:
            return forks.run(request)
        self.publish()
        if forks.stand_by(request):
            return True
        self.publish()
        return forks.take_over()

    def _drafts(self, count: int) -> Iterator[Draft]:
        """Mostly the next event of an aggregate, or several; some in conflict, and one of another partition."""
        for number in range(count):
            key = self._random.choice(list(self._tails))
            tail = self._tails[key]
            if number % 6 == 5:
                yield structured(key, self._id(), tail + 7)
            elif number % 6 == 3:
                yield listed(key, self._id(), [self._id() for _ in range(3)], tail)
                self._tails[key] += 3
            else:
                yield structured(key, self._id(), tail)
                self._tails[key] += 1
        yield structured(self._elsewhere, self._id())

    def _id(self) -> UUID:
        return UUID(int=self._random.getrandbits(128))
