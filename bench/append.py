"""Appends: how long one takes, how many one process gets through, and what replies cost the sequencer.

Three parts on one broker:

- round trips: one after the other, at low load, an append, and then a plain publish until its event is visible, on the
  same topics, in turns. The second is the least that any answer can take.
- many at once: so many tasks of one process, each appending to an aggregate of its own, the next when the last is
  answered.
- replies: the throughput benchmark without and with a reply asked for every event, in turns, and somebody reads them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import click
from rich.progress import Progress, TaskID

from bench.report import Spread, hand_over, spreads
from bench.run import SEQUENCER, run_once
from bench.sequencer_process import SEQUENCING, SequencerProcess
from bench.setting import make_topics
from bench.stage import broker_options, stage
from bench.usage import cpu_seconds, peak_memory_mib
from bench.workload import Workload, batch
from sequencer.broker import EmbeddedBroker
from sequencer.client import NO_AGGREGATE, EventStore
from sequencer.entries import read_events
from sequencer.names import Topics
from sequencer.pulsar.client import LATEST, Consumer, Producer, PulsarClient
from sequencer.pulsar.pulsar_api_pb2 import SingleMessageMetadata

WARM_UP_APPENDS = 200
REPLIES_TAKE_MESSAGES = 20_000
REPLIES_TAKE_BYTES = 16 * 1024 * 1024
REPLY_WINDOW_MESSAGES = 1_000_000
"""The broker drops what a reader of a non-persistent topic has no room for; this one has room for everything."""

REPLIES_WITHIN_S = 20.0
"""Without another reply for so long, there is none any more. Longer than a topic is filled and a sequencer started."""


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    round_trips: int
    """Of each kind, per run."""
    at_once: int
    """Appends that are under way at the same time."""
    appends: int
    """Appends of one run with so many at once."""
    replies_of: Workload
    """The load of which every event asks for a reply."""
    runs: int


Figures = dict[str, float]


def measure(plan: Plan, broker: EmbeddedBroker, *, directory: Path, progress: Progress) -> dict[str, Spread]:
    """All figures: times in milliseconds, rates per second."""
    task = progress.add_task("append", total=plan.runs * 4 + 1)
    topics = make_topics(broker, "append")
    runs = asyncio.run(_appends(plan, broker, topics, directory, progress, task))
    for number in range(plan.runs + 1):
        figures, seen = {}, 0
        for kind in ("without", "with") if number else ("without",):
            place = directory / f"replies-{number}-{kind}"
            figures[kind], seen = _throughput(plan.replies_of, broker, place, kind == "with")
            progress.advance(task)
        if number:  # the first one only warms the broker's Java up
            runs[number - 1] |= {
                "events_per_s_without_replies": round(figures["without"]),
                "events_per_s_with_replies": round(figures["with"]),
                "with_to_without_replies": round(figures["with"] / figures["without"], 3),
                "replies_seen_percent": round(seen / plan.replies_of.events * 100, 1),
            }
    return spreads(runs)


# --- appends ---


async def _appends(
    plan: Plan, broker: EmbeddedBroker, topics: Topics, directory: Path, progress: Progress, task: TaskID
) -> list[Figures]:
    sequencer = SequencerProcess(broker, topics.namespace, directory / "index", directory / "sequencer.log")
    runs: list[Figures] = []
    try:
        sequencer.await_line(SEQUENCING)
        async with EventStore(service_url=broker.service_url, namespace=topics.namespace) as store:
            async with _publisher(broker, topics) as publisher:
                await _in_turns(store, publisher, WARM_UP_APPENDS, "warm-up")
                for run in range(plan.runs):
                    runs.append(await _in_turns(store, publisher, plan.round_trips, f"trip-{run}"))
                    progress.advance(task)
            for run in range(plan.runs):
                busy = Busy(sequencer.pid, broker.pid)
                many = await appends_at_once(store, f"many-{run}", busy, at_once=plan.at_once, appends=plan.appends)
                runs[run] |= many
                progress.advance(task)
        sequencer.stop()
    finally:
        sequencer.end()
    return runs


class _Publisher(NamedTuple):
    """Somebody who publishes and looks at `events`."""

    producer: Producer
    events: Consumer


@contextlib.asynccontextmanager
async def _publisher(broker: EmbeddedBroker, topics: Topics) -> AsyncIterator[_Publisher]:
    async with PulsarClient(broker.service_url) as client:
        producer = await client.producer(topics.submitted_partition(0))
        events = await client.reader(topics.events_partition(0), start=LATEST)
        events.start()
        yield _Publisher(producer, events)


async def _in_turns(store: EventStore[object], publisher: _Publisher, count: int, name: str) -> Figures:
    """One after the other: an append, then a publish until its event is visible."""
    appends, publishes = [], []
    for number in range(count):
        began_s = time.perf_counter()
        await store.append(f"{name}-{number}", {"note": "x" * 80}, NO_AGGREGATE)
        appends.append((time.perf_counter() - began_s) * 1000)
        await _visible(publisher.events, f"{name}-{number}")
        message = _message(f"{name}-plain-{number}", number)
        began_s = time.perf_counter()
        publisher.producer.send(*batch([message]))
        await _visible(publisher.events, f"{name}-plain-{number}")
        publishes.append((time.perf_counter() - began_s) * 1000)
    append, publish = sorted(appends), sorted(publishes)
    return {
        "append_ms": round(append[count // 2], 2),
        "append_p99_ms": round(append[count * 99 // 100], 2),
        "visible_ms": round(publish[count // 2], 2),
        "visible_p99_ms": round(publish[count * 99 // 100], 2),
        "append_to_visible": round(append[count // 2] / publish[count // 2], 3),
    }


async def _visible(events: Consumer, key: str) -> None:
    """Return when the event of this aggregate has been delivered."""
    while True:
        for entry in await events.take(max_messages=1_000, max_bytes=1024 * 1024):
            if any(event.key == key for event in read_events(entry)):
                return


def _message(key: str, number: int) -> tuple[bytes, bytes]:
    payload = b'{"id":"00000000-0000-4000-8000-%012x","version":-1,"data":{"note":"%b"}}' % (number, b"x" * 80)
    return SingleMessageMetadata(partition_key=key, payload_size=len(payload)).SerializeToString(), payload


class Busy(NamedTuple):
    """The processes that appends keep busy besides this one."""

    sequencer_pid: int
    broker_pid: int

    def cpu_seconds(self) -> tuple[float, float, float]:
        """Of this process, the sequencer and the broker."""
        return time.process_time(), cpu_seconds(self.sequencer_pid), cpu_seconds(self.broker_pid)


async def appends_at_once(store: EventStore[object], name: str, busy: Busy, *, at_once: int, appends: int) -> Figures:
    """So many tasks, each with an aggregate of its own, NAME-0 and on, whose version it knows: all appends of them."""
    left = iter(range(appends))
    took: list[float] = []

    async def work(key: str) -> None:
        version = NO_AGGREGATE
        for _ in left:
            began_s = time.perf_counter()
            version = (await store.append(key, {"note": "x" * 80}, version)).last_version
            took.append((time.perf_counter() - began_s) * 1000)

    cpu_s, began_s = busy.cpu_seconds(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(at_once):
            group.create_task(work(f"{name}-{number}"))
    seconds = time.perf_counter() - began_s
    client, sequencer, its_broker = (
        round((now_s - then_s) / appends * 1e6, 1) for now_s, then_s in zip(busy.cpu_seconds(), cpu_s, strict=True)
    )
    took.sort()
    return {
        "appends_per_s": round(appends / seconds),
        "append_at_once_ms": round(took[len(took) // 2], 1),
        "append_at_once_p99_ms": round(took[len(took) * 99 // 100], 1),
        "client_cpu_us_per_append": client,
        "sequencer_cpu_us_per_append": sequencer,
        "broker_cpu_us_per_append": its_broker,
        "sequencer_peak_memory_mib": round(peak_memory_mib(busy.sequencer_pid), 1),
    }


# --- what replies cost ---


def _throughput(workload: Workload, broker: EmbeddedBroker, directory: Path, replies: bool) -> tuple[float, int]:
    """Events per second, and how many replies somebody has seen: the broker may drop some, they are not stored."""
    directory.mkdir()
    topics = make_topics(broker, directory.name)
    return asyncio.run(_events_per_s(workload, broker, topics, directory, replies))


async def _events_per_s(
    workload: Workload, broker: EmbeddedBroker, topics: Topics, directory: Path, replies: bool
) -> tuple[float, int]:
    if not replies:
        run = await run_once(SEQUENCER, broker, topics, workload, directory)
        return run.events_per_s, 0
    async with PulsarClient(broker.service_url) as client:
        reply_topic = topics.reply_topic("bench")
        reader = await client.reader(reply_topic, start=LATEST, window_messages=REPLY_WINDOW_MESSAGES)
        reading = asyncio.create_task(_count(reader, workload.events))
        run = await run_once(SEQUENCER, broker, topics, workload.asking(reply_topic), directory)
        return run.events_per_s, await reading


async def _count(reader: Consumer, wanted: int) -> int:
    """Read until so many messages were there, or no more come; how many there were."""
    seen = 0
    with contextlib.suppress(TimeoutError):
        while seen < wanted:
            async with asyncio.timeout(REPLIES_WITHIN_S):
                entries = await reader.take(max_messages=REPLIES_TAKE_MESSAGES, max_bytes=REPLIES_TAKE_BYTES)
            seen += sum(entry.metadata.num_messages_in_batch for entry in entries)
    return seen


@click.command("append")
@click.option("--round-trips", type=click.IntRange(10), default=500, show_default=True, help="One after the other.")
@click.option("--at-once", type=click.IntRange(1, 10_000), default=1_000, show_default=True)
@click.option("--appends", type=click.IntRange(100), default=50_000, show_default=True, help="With so many at once.")
@click.option("--events", type=click.IntRange(1_000), default=600_000, show_default=True, help="To ask replies for.")
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True)
@broker_options
def command(
    round_trips: int,
    at_once: int,
    appends: int,
    events: int,
    runs: int,
    full_compiler: bool,
    json_file: Path | None,
) -> None:
    """How long an append takes, how many one process gets through, and what replies cost the sequencer.

    \b
    Example:  python -m bench append --runs 1 --appends 10000 --events 100000
    """
    plan = Plan(round_trips, at_once, appends, Workload(events), runs)
    with stage(full_compiler) as (directory, broker, progress):
        figures = measure(plan, broker, directory=directory, progress=progress)
    hand_over("append", f"append, {runs} runs", asdict(plan), figures, json_file)
