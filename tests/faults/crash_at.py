"""Sequencers that kill themselves at a named point: python -m tests.faults.crash_at

A point is `PHASE what number moment`: the phase of the partition's life, what is being asked of the broker or the
index, which call of that kind in that phase, and when: `before` it, `sent` (asked, not yet answered), `after` it.
Nothing of this exists in production code: the calls are wrapped here.

The program is a server: it imports everything once, then forks a sequencer for each request, a line of JSON on standard
input, and answers with a line of JSON when that sequencer is dead.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import sequencer.partition
from sequencer.owner import OwnerLog
from sequencer.pulsar.client import Consumer, Coordinator, Producer, PulsarClient
from sequencer.service import ServiceSettings, run
from state.index import VersionIndex
from tests.faults.launcher import hurry

BATCH_MESSAGES = 6
"""Messages per transaction, so that a few events make several."""

IDLE_S = 0.4
"""A sequencer that asks nothing of anyone for so long has done its work. It gets a SIGTERM, and may crash on that."""

REACHED_WITHIN_S = 15.0
REAP_POLL_S = 0.005
FIRST_CALLS = 3
"""Of each kind in SEQUENCE, which goes on and on, and in STOP. Of the other phases, every call is a point."""


class Request(NamedTuple):
    """What the server is asked for. `point` "" = never crash; `record`: a file for the points that are passed."""

    service_url: str
    namespace: str
    partition: int
    index_dir: str
    point: str
    log: str
    record: str = ""


class Crash:
    """Counts the calls, and kills this process at its point."""

    def __init__(self, point: str, record: Path | None) -> None:
        self.phase = "STANDBY"
        self._point = point
        self._record = record
        self._calls: Counter[tuple[str, str]] = Counter()
        self._last_call_s = time.monotonic()

    def call(self, what: str) -> Callable[[str], None]:
        """One call begins; returns what is to be told its moments."""
        phase = self.phase
        self._last_call_s = time.monotonic()
        self._calls[phase, what] += 1
        number = self._calls[phase, what]
        if phase in ("SEQUENCE", "STOP") and number > FIRST_CALLS:
            return lambda moment: None
        return lambda moment: self._at(f"{phase} {what} {number} {moment}")

    def stop_when_idle(self) -> None:
        """Return when the work is done, with a SIGTERM to this process. In a thread of its own."""
        while self.phase != "SEQUENCE" or time.monotonic() - self._last_call_s < IDLE_S:
            time.sleep(IDLE_S / 4)
        self.phase = "STOP"
        os.kill(os.getpid(), signal.SIGTERM)

    def _at(self, point: str) -> None:
        if point == self._point:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._record is not None:
            with self._record.open("a") as points:
                points.write(point + "\n")


def install(crash: Crash) -> None:
    """Wrap everything that asks something of the broker or the index."""
    _phases(crash)
    for name in ("producer", "subscribe", "reader", "coordinators", "coordinator"):
        _wrap_async(crash, PulsarClient, name, _topic_of_argument)
    for name in ("new_txn", "add_partitions", "add_subscription", "end"):
        _wrap_async(crash, Coordinator, name, _of_coordinator)
    _wrap_async(crash, OwnerLog, "record", _nothing)
    for name in ("take", "bounds", "close"):
        _wrap_async(crash, Consumer, name, _topic_of_self)
    _wrap_future(crash, Producer, "send")
    _wrap_future(crash, Consumer, "ack")
    for name in ("apply", "tails"):
        _wrap_sync(crash, VersionIndex, name)
    _wrap_open(crash)


def _phases(crash: Crash) -> None:
    for name, phase in (("take_over", "ACQUIRE"), ("recover", "RECOVER"), ("sequence", "SEQUENCE")):
        _enter(crash, name, phase)


def _enter(crash: Crash, name: str, phase: str) -> None:
    real = getattr(sequencer.partition, name)

    async def entered(*args: Any, **kwargs: Any) -> Any:
        crash.phase = phase
        return await real(*args, **kwargs)

    setattr(sequencer.partition, name, entered)


def _topic_of_argument(args: Any, kwargs: Any) -> str:
    return f"({_short(str(args[1]))})" if len(args) > 1 else ""


def _topic_of_self(args: Any, kwargs: Any) -> str:
    return f"({_short(args[0].topic)})"


def _of_coordinator(args: Any, kwargs: Any) -> str:
    if "commit" in kwargs:
        return "(commit)" if kwargs["commit"] else "(abort)"
    return f"({_short(args[2][0])})" if len(args) > 2 and isinstance(args[2], list) else ""


def _nothing(args: Any, kwargs: Any) -> str:
    return ""


def _short(topic: str) -> str:
    return topic.rpartition("/")[2].partition("-partition-")[0]


def _wrap_async(crash: Crash, owner: type, name: str, detail: Callable[[Any, Any], str]) -> None:
    real = getattr(owner, name)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        at = crash.call(f"{owner.__name__}.{name}{detail(args, kwargs)}")
        at("before")
        _soon(at)
        try:
            return await real(*args, **kwargs)
        finally:
            at("after")

    setattr(owner, name, wrapped)


def _wrap_future(crash: Crash, owner: type, name: str) -> None:
    real = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        at = crash.call(f"{owner.__name__}.{name}({_short(args[0].topic)})")
        at("before")
        future = real(*args, **kwargs)
        _soon(at)
        future.add_done_callback(lambda _: at("after"))
        return future

    setattr(owner, name, wrapped)


def _wrap_sync(crash: Crash, owner: type, name: str) -> None:
    real = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        at = crash.call(f"{owner.__name__}.{name}")
        at("before")
        result = real(*args, **kwargs)
        at("after")
        return result

    setattr(owner, name, wrapped)


def _wrap_open(crash: Crash) -> None:
    real = VersionIndex.open

    def wrapped(directory: Path, *, identity: str) -> VersionIndex:
        at = crash.call("VersionIndex.open")
        at("before")
        index = real(directory, identity=identity)
        at("after")
        return index

    VersionIndex.open = wrapped  # type: ignore[method-assign, assignment]


def _soon(at: Callable[[str], None]) -> None:
    """Tell it `sent` after the turn of the loop in which the transport has written."""
    loop = asyncio.get_running_loop()
    loop.call_soon(lambda: loop.call_soon(at, "sent"))


def _become_sequencer(request: Request) -> None:
    """In the child. Does not return."""
    os.dup2(os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True)
    logging.info("--- until %s", request.point or "stopped")
    crash = Crash(request.point, Path(request.record) if request.record else None)
    hurry()
    install(crash)
    sequencer.partition.BATCH_MESSAGES = BATCH_MESSAGES

    threading.Thread(target=crash.stop_when_idle, daemon=True).start()
    settings = ServiceSettings(
        service_url=request.service_url,
        namespace=request.namespace,
        partitions=(request.partition,),
        index_dir=Path(request.index_dir),
    )
    try:
        code = run(settings)
    except BaseException:
        logging.exception("it ended")
        code = 1
    os._exit(code)


def _answer(request: Request) -> dict[str, object]:
    """Fork a sequencer, wait for its end, and say how it came."""
    began_s = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become_sequencer(request)
    while time.monotonic() - began_s < REACHED_WITHIN_S:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return {"code": code, "crashed": code == -signal.SIGKILL, "took_s": time.monotonic() - began_s}
        time.sleep(REAP_POLL_S)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return {"code": None, "crashed": False, "took_s": REACHED_WITHIN_S}


def serve() -> None:
    """Answer requests until standard input ends."""
    for line in sys.stdin:
        print(json.dumps(_answer(Request(*json.loads(line)))), flush=True)


if __name__ == "__main__":
    serve()
