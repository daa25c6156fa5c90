"""The publisher of an open loop: every event is sent when it is due, from a process of its own.

`python -m bench.due_publisher SERVICE_URL AGGREGATES EVENT_BYTES` reads from standard input, for each run, a topic,
which it answers with `ready` when it may publish there, and a schedule (schedule.py), which it answers with one line of
JSON when all events are stored: `late_p99_ms`, how long after its time an entry was sent, of 99 of 100 entries. It ends
with its input.
"""

from __future__ import annotations

import asyncio
import gc
import json
import selectors
import sys
import time

from bench.numbered import Numbered
from bench.schedule import NS_PER_S, Schedule
from sequencer.pulsar.client import Producer, PulsarClient


async def serve(service_url: str, aggregates: int, event_bytes: int) -> None:
    """Publish run after run, on one connection."""
    gc.disable()
    producers: dict[str, Producer] = {}
    async with PulsarClient(service_url) as client:
        while topic := (await _line()).strip():
            if topic not in producers:
                producers[topic] = await client.producer(topic)
            print("ready", flush=True)
            schedule = Schedule.from_json(await _line())
            late_ms = await publish(
                producers[topic], Numbered(aggregates, event_bytes, schedule.batch_events), schedule
            )
            print(json.dumps({"late_p99_ms": late_ms[len(late_ms) * 99 // 100]}), flush=True)


async def _line() -> str:
    return await asyncio.to_thread(sys.stdin.readline)


async def publish(producer: Producer, numbered: Numbered, schedule: Schedule) -> list[float]:
    """Send every entry when its last event is due, whatever became of those before, and return when all are stored.

    Returns: for every entry, sorted, how many milliseconds after its time it was sent.
    """
    receipts, late_ms = [], []
    for first in range(schedule.first, schedule.first + schedule.events, schedule.batch_events):
        output = numbered.output(first // schedule.batch_events)  # made before its time comes
        due_ns = schedule.due_ns(first + schedule.batch_events - 1)
        await asyncio.sleep((due_ns - time.monotonic_ns()) / NS_PER_S)
        late_ms.append((time.monotonic_ns() - due_ns) / 1e6)
        receipts.append(producer.send(*output))
    await asyncio.gather(*receipts)
    return sorted(late_ms)


def precise_loop() -> asyncio.AbstractEventLoop:
    """One that wakes up within some 0.1 ms. With epoll, and with uvloop, a timer may be a whole millisecond late."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
