"""`sequencer verify`: reads the topics in rounds and has them judged, once or for as long as it is let.

A round fixes the ends of the outputs, then those of the inputs, asks what is acknowledged, reads up to the ends and
judges. Where a sequencer is at work, its newest transactions are half visible: an outcome without its acknowledgement,
an acknowledgement without its outcome. So what is missing is looked at again in further rounds, and called a violation
when it is still missing after SETTLED_WITHIN_S.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sequencer.admin import Admin
from sequencer.names import Topics
from sequencer.pulsar.client import PulsarClient
from sequencer.service import NoSuchPartition
from sequencer.topics import partition_count
from sequencer.verify.inspection import Inspection, ShowProgress
from sequencer.verify.report import Report
from sequencer.verify.spill import spilled_tables
from sequencer.verify.tables import Tables

SETTLED_WITHIN_S = 10.0
"""A transaction shows all of its parts in milliseconds, unless the broker is in trouble."""
ASK_AGAIN_S = 0.2
FOLLOW_EVERY_S = 1.0


class Verification(NamedTuple):
    """What `sequencer verify` found."""

    report: Report
    partitions: tuple[int, ...]
    notes: tuple[str, ...]
    """What could not be checked, in words."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**self.report.as_dict(), "partitions": self.partitions, "notes": self.notes}

    def __str__(self) -> str:
        lines = [str(self.report)]
        if self.report.pending:
            lines.append(f"{self.report.pending} submissions wait for their outcome, or came after this began")
        if self.report.before_retention:
            lines.append(
                f"{self.report.before_retention} outcomes of submissions that retention has removed: "
                "of them I1, I2 and I7 were checked"
            )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Target:
    """What to verify."""

    connect: Callable[[], PulsarClient]
    """Makes a client of our own protocol; called inside the event loop."""
    admin: Admin
    topics: Topics
    partitions: tuple[int, ...] | None
    """None = all."""
    index_dir: Path | None
    """Where the indexes of all partitions are; None = I5 is left out."""


def verify(target: Target, *, follow: Callable[[], None] | None, show: ShowProgress) -> Verification:
    """Check what the topics hold now; with `follow`, go on until a violation or Ctrl-C (SIGINT, SIGTERM).

    Args:
        follow: called when all that there was is checked, and what comes is going to be.
        show: told about the progress.

    Raises:
        TopicMissing, NoSuchPartition, NoIndex, SubscriptionMissing, AdminFailed, ReadStalled, SpillFailed.
        PulsarError, IndexFailure: as they come.
        KeyboardInterrupt: before the first check was complete.
    """
    # What is spilled may be gigabytes, and must not stay behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Around the event loop: its threads must have ended when the tables are closed.
    with spilled_tables() as tables:
        return asyncio.run(_verify(target, tables, follow=follow, show=show))


async def _verify(
    target: Target, tables: Tables, *, follow: Callable[[], None] | None, show: ShowProgress
) -> Verification:
    async with target.connect() as client:
        count = await partition_count(client, target.topics.submitted)
        chosen = tuple(range(count)) if target.partitions is None else target.partitions
        if beyond := [number for number in chosen if number >= count]:
            raise NoSuchPartition(f"there is no partition {beyond[0]}: {target.topics.namespace} has {count}")
        inspection = Inspection(client, target.admin, target.topics, chosen, count, tables, show)
        if target.index_dir is not None:
            await asyncio.to_thread(inspection.look_at_indexes, target.index_dir)
        report = await _once(inspection)
        if follow and report.ok:
            report = await _follow(inspection, report, follow)
        return Verification(report, chosen, tuple(inspection.notes))


async def _once(inspection: Inspection) -> Report:
    report = await inspection.round({})
    goal = inspection.frontiers()
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while any(position < goal[number] for number, position in report.unsettled.items()):
        settled = goal if time.monotonic() > deadline else {}
        await asyncio.sleep(ASK_AGAIN_S)
        report = await inspection.round(settled)
        if settled:
            break
    return report


async def _follow(inspection: Inspection, report: Report, begun: Callable[[], None]) -> Report:
    history = deque([(time.monotonic(), inspection.frontiers())])
    settled: Mapping[int, bytes] = {}
    with _stop_event() as stop:
        begun()
        while report.ok and not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FOLLOW_EVERY_S):
                    await stop.wait()
            while history and history[0][0] < time.monotonic() - SETTLED_WITHIN_S:
                settled = history.popleft()[1]
            report = await inspection.round(settled)
            history.append((time.monotonic(), inspection.frontiers()))
    return report


@contextlib.contextmanager
def _stop_event() -> Iterator[asyncio.Event]:
    """Set by SIGINT and SIGTERM, which then end nothing by themselves."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = () if sys.platform == "win32" else (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
