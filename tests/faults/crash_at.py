"""Sequencers that kill themselves at a named point of their life.

A point is `PHASE what number moment`: the phase of the partition's life, what is being asked of the broker or the
index, which call of that kind in that phase, and when: `before` it, `sent` (asked, not yet answered), `after` it.
Much of a takeover runs side by side, so the phase is that of the task that asks, not what began last:

    STANDBY   until the grant: the index is opened, a standby's is kept level
    ACQUIRE   the predecessor is fenced, its transactions are ended
    RECOVER   the index is brought to the end, the input is subscribed to anew
    FILL      beside RECOVER: the first transactions are opened and recorded; REFILL: more of them, beside SEQUENCE
    SEQUENCE  events are judged and committed
    STOP      after SIGTERM

Nothing of this exists in production code: the calls are wrapped here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import sequencer.partition
import sequencer.pool
from sequencer.owner import OwnerLog
from sequencer.pool import TransactionPool
from sequencer.pulsar.client import Consumer, Coordinator, Producer, PulsarClient
from sequencer.service import ServiceSettings, run
from state.index import VersionIndex
from tests.faults.launcher import hurry

BATCH_MESSAGES = 6
"""Messages per transaction, so that a few events make several."""

POOL_TRANSACTIONS, REFILL_BELOW = 5, 3
"""A pool of which a few transactions use so much that it is filled again."""

GRANT_WAIT_S = 0.1
"""Where another one owns the partition anyway: it is not worth while to wait for long before standing by."""

IDLE_S = 0.4
"""A sequencer that asks nothing of anyone for so long has done its work. It gets a SIGTERM, and may crash on that."""

AWAITED_IDLE_S = 4.0
"""The same, where it is expected to crash before that: then it is only slow."""

LEVEL_S = 0.1
"""A standby that asks nothing of anyone for so long has followed everything that there is."""

FIRST_CALLS = 3
"""Of each kind that are points where it is done over and over."""

MOST_CALLS = POOL_TRANSACTIONS
"""Of any other kind: a predecessor leaves at least so many transactions."""

OVER_AND_OVER = ("FILL", "REFILL", "SEQUENCE", "STOP")
AS_MUCH_AS_THERE_IS = ("Consumer.take", "VersionIndex.")
"""How often depends on how much is to be read, in any phase."""

LEVEL, SEQUENCING, FROZEN = b"L", b"S", b"F"
"""What a sequencer says of itself."""

_phase: ContextVar[str] = ContextVar("phase", default="STANDBY")


class Request(NamedTuple):
    """Which sequencer is wanted.

    Attributes:
        point: where it is to crash; "" = nowhere.
        record: a file for the points that it passes; "" = none.
        stays: it goes on when it has nothing to do. Otherwise it is stopped then.
        stands_by: another one owns the partition.
        freezes: it does not crash at its point, but stops like a process that gets no time from its host.
    """

    service_url: str
    namespace: str
    partition: int
    index_dir: str
    log: str
    point: str = ""
    record: str = ""
    stays: bool = False
    stands_by: bool = False
    freezes: bool = False


class Crash:
    """Counts the calls, and kills this process at its point."""

    def __init__(self, request: Request, voice: int) -> None:
        """`voice`: the file descriptor on which it says how far it is."""
        self.follows = self.sequences = False
        self._stopping = False
        stops = not request.point or request.point.startswith("STOP ")
        self._patience_s = IDLE_S if stops else AWAITED_IDLE_S
        self._request = request
        self._voice = voice
        self._calls: Counter[tuple[str, str]] = Counter()
        self._last_call_s = time.monotonic()

    def call(self, what: str) -> Callable[[str], None]:
        """One call begins; returns what is to be told its moments."""
        phase = "STOP" if self._stopping else _phase.get()
        self._last_call_s = time.monotonic()
        self._calls[phase, what] += 1
        number = self._calls[phase, what]
        if number > (FIRST_CALLS if _is_repeated(phase, what) else MOST_CALLS):
            return lambda moment: None
        return lambda moment: self._at(f"{phase} {what} {number} {moment}")

    def watch(self) -> None:
        """Say how far it is, and stop it when its work is done. In a thread of its own."""
        told_s = 0.0
        while True:
            time.sleep(LEVEL_S / 4)
            idle_s = time.monotonic() - self._last_call_s
            if self.sequences:
                if self._request.stays:
                    os.write(self._voice, SEQUENCING)
                    return
                if idle_s > self._patience_s:
                    break
            elif self.follows and idle_s > LEVEL_S and told_s != self._last_call_s:
                told_s = self._last_call_s
                os.write(self._voice, LEVEL)
        self._stopping = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _at(self, point: str) -> None:
        if point == self._request.point:
            if self._request.freezes:
                os.write(self._voice, FROZEN)
            os.kill(os.getpid(), signal.SIGSTOP if self._request.freezes else signal.SIGKILL)
        if self._request.record:
            with Path(self._request.record).open("a") as points:
                points.write(point + "\n")


def _is_repeated(phase: str, what: str) -> bool:
    return phase in OVER_AND_OVER or what.startswith(AS_MUCH_AS_THERE_IS)


def install(crash: Crash) -> None:
    """Wrap everything that asks something of the broker or the index."""
    _phases(crash)
    for name in ("producer", "subscribe", "reader", "coordinators", "coordinator"):
        _wrap_async(crash, PulsarClient, name, _topic_of_argument)
    for name in ("new_txn", "add_partitions", "add_subscription", "end"):
        _wrap_async(crash, Coordinator, name, _of_coordinator)
    _wrap_async(crash, OwnerLog, "record", _nothing)
    for name in ("take", "bounds", "last_message_id", "close"):
        _wrap_async(crash, Consumer, name, _topic_of_self)
    _wrap_future(crash, Producer, "send")
    _wrap_future(crash, Consumer, "ack")
    for name in ("apply", "tails"):
        _wrap_sync(crash, VersionIndex, name)
    _wrap_open(crash)


def _phases(crash: Crash) -> None:
    def follows() -> None:
        crash.follows = True

    def sequences() -> None:
        crash.sequences = True

    module = sequencer.partition
    _enter(module, "keep_level", "STANDBY", follows)
    _enter(module, "take_over", "ACQUIRE")
    _enter(module, "_make_ready", "RECOVER")
    _enter(TransactionPool, "fill", "FILL")
    _enter(module, "sequence", "SEQUENCE", sequences)


def _enter(owner: Any, name: str, phase: str, entered: Callable[[], None] = lambda: None) -> None:
    real = getattr(owner, name)

    async def within(*args: Any, **kwargs: Any) -> Any:
        entered()
        # A task takes its phase from the one that started it.
        token = _phase.set("REFILL" if (phase, _phase.get()) == ("FILL", "SEQUENCE") else phase)
        try:
            return await real(*args, **kwargs)
        finally:
            _phase.reset(token)

    setattr(owner, name, within)


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


def become_sequencer(request: Request, voice: int) -> NoReturn:
    """Be the sequencer that is wanted, in a process that is made for it."""
    os.dup2(os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True)
    logging.info("--- until %s", request.point or ("killed" if request.stays else "stopped"))
    crash = Crash(request, voice)
    hurry()
    install(crash)
    sequencer.pool.POOL_TRANSACTIONS, sequencer.pool.REFILL_BELOW = POOL_TRANSACTIONS, REFILL_BELOW
    sequencer.partition.BATCH_MESSAGES = sequencer.partition.FIRST_BATCH_MESSAGES = BATCH_MESSAGES
    if request.stands_by or request.freezes:
        sequencer.partition.GRANT_WAIT_S = GRANT_WAIT_S
    threading.Thread(target=crash.watch, daemon=True).start()
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
