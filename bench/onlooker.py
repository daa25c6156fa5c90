"""Somebody who consumes events with the official client, in a process of its own, and knows when each was due.

`python -m bench.onlooker SERVICE_URL` reads from standard input, for each run, a topic, which it answers with `ready`
when it is subscribed, and a schedule (schedule.py), which it answers with one line of JSON when all events have come:
`histogram` (HdrHistogram, encoded) of the microseconds from when each event was due to when the client has handed it
over. It fails unless every event arrives, once and in order. It ends with its input.

`receive` with a time-out waits inside the client's C++ queue; a listener would need a thread more, and `receive`
without one goes through a callback. Nothing is done per event while the run lasts but to note its time and number.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from array import array
from collections.abc import Iterable
from typing import Any

import pulsar
from hdrh.histogram import HdrHistogram

from bench.schedule import Schedule
from sequencer.official import official_client

SUBSCRIPTION = "onlooker"
RECEIVE_QUEUE_MESSAGES = 50_000
"""So large that the broker never waits for permits."""

STUCK_AFTER_MS = 60_000
LATENCY_MAX_US = 600_000_000
DIGITS = 3

NUMBER = slice(len('{"id":"') + 24, len('{"id":"') + 36)
"""Where the payload of a numbered event (numbered.py) holds its number: the last 12 hexadecimal digits of its id."""


def empty_histogram() -> HdrHistogram:
    """Of microseconds, to three digits."""
    return HdrHistogram(1, LATENCY_MAX_US, DIGITS)


def serve(service_url: str) -> None:
    """Watch run after run, on one connection."""
    gc.disable()
    consumers: dict[str, Any] = {}
    with official_client(service_url, None) as client:
        while topic := sys.stdin.readline().strip():
            if topic not in consumers:
                consumers[topic] = _subscribe(client, topic)
            print("ready", flush=True)
            schedule = Schedule.from_json(sys.stdin.readline())
            arrivals, numbers = _receive(consumers[topic], schedule.events)
            print(json.dumps({"histogram": latencies(schedule, arrivals, numbers).encode().decode()}), flush=True)


def _subscribe(client: Any, topic: str) -> Any:
    return client.subscribe(
        topic,
        SUBSCRIPTION,
        consumer_type=pulsar.ConsumerType.Exclusive,
        initial_position=pulsar.InitialPosition.Latest,
        receiver_queue_size=RECEIVE_QUEUE_MESSAGES,
    )


def _receive(consumer: Any, events: int) -> tuple[array[int], array[int]]:
    """When each event arrived, and its number."""
    arrivals, numbers = array("q"), array("q")
    arrived, numbered, receive, now_ns = arrivals.append, numbers.append, consumer.receive, time.monotonic_ns
    for _ in range(events):
        message = receive(STUCK_AFTER_MS)
        arrived(now_ns())
        numbered(int(message.data()[NUMBER], 16))
    consumer.acknowledge_cumulative(message)
    return arrivals, numbers


def latencies(schedule: Schedule, arrivals: Iterable[int], numbers: Iterable[int]) -> HdrHistogram:
    """From when each event was due to its arrival, in microseconds.

    Raises:
        RuntimeError: one is missing, came twice or in the wrong place, or too late to be counted.
    """
    histogram = empty_histogram()
    for expected, (arrived_ns, number) in enumerate(zip(arrivals, numbers, strict=True), schedule.first):
        if number != expected:
            raise RuntimeError(f"event {number} arrived in place of {expected}")
        if not histogram.record_value((arrived_ns - schedule.due_ns(number)) // 1000):
            raise RuntimeError(f"event {number} took longer than {LATENCY_MAX_US / 1e6:.0f} s")
    return histogram


if __name__ == "__main__":
    serve(sys.argv[1])
