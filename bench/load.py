"""Open-loop load: numbered submissions at a fixed rate, from a process of their own.

Open loop: batch k is sent when it is due, whether or not the broker has answered the ones before. So a sequencer that
stands still finds everything that came in meanwhile, as it would in the real world.

`python -m bench.load SERVICE_URL TOPIC RATE AGGREGATES EVENT_BYTES BATCH_EVENTS` runs until its standard input
ends, as it also does when whoever started it dies. Its first line is when batch 0 was due (Unix time), its second how
many events it has stored.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import deque

from bench.numbered import Numbered
from sequencer.pulsar.client import Producer, PulsarClient
from sequencer.pulsar.errors import PulsarError
from sequencer.pulsar.frames import MessageId

BATCHES_IN_FLIGHT = 256
"""Entries without a receipt. Only a publisher that catches up, after the broker was away, ever waits for one."""

COME_BACK_EVERY_S = 0.02
"""How often a publisher whose broker is gone tries to connect."""

LEAD_S = 0.1
"""From the start of the process to the first batch."""

ENDED_WITHIN_S = 60.0


class LoadProcess:
    """The load as a child process, as seen by who started it."""

    def __init__(self, service_url: str, topic: str, numbered: Numbered, *, rate: int) -> None:
        """`rate` in events per second. Returns when it has begun."""
        numbers = map(str, (rate, *numbered))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load", service_url, topic, *numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._rate = rate
        self._began_s = float(self._process.stdout.readline())

    def due_events(self) -> int:
        """How many events are due by now."""
        return max(0, int((time.time() - self._began_s) * self._rate))

    def stop(self) -> int:
        """End it, and return how many events it has stored."""
        output, _ = self._process.communicate(timeout=2 * ENDED_WITHIN_S)
        if self._process.returncode != 0:
            raise RuntimeError(f"the load ended with {self._process.returncode}")
        return int(output)

    def end(self) -> None:
        """Kill it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Load:
    """Sends batch after batch. What a lost broker has not confirmed is sent again, in order, with the same ids."""

    def __init__(self, service_url: str, topic: str, numbered: Numbered, rate: int) -> None:
        self._service_url = service_url
        self._topic = topic
        self._numbered = numbered
        self._every_s = numbered.batch_events / rate
        self._stored = 0
        self.stop = asyncio.Event()

    async def run(self) -> int:
        """Send until `stop` is set and all that was due is stored; return how many events that is."""
        loop = asyncio.get_running_loop()
        self._began_s = loop.time() + LEAD_S
        print(time.time() + LEAD_S, flush=True)
        due = None
        while due is None or self._stored < due:
            try:
                async with PulsarClient(self._service_url) as client:
                    due = await self._send(await client.producer(self._topic), due)
            except PulsarError:
                await asyncio.sleep(COME_BACK_EVERY_S)
        return self._stored * self._numbered.batch_events

    async def _send(self, producer: Producer, due: int | None) -> int:
        """Through one producer, up to batch `due`; None = until it is told to stop, and then return where that was."""
        number = self._stored
        pending: deque[asyncio.Future[MessageId]] = deque()
        while number != due:
            if not await self._due(number):
                break
            pending.append(producer.send(*self._numbered.output(number)))
            number += 1
            while pending and (pending[0].done() or len(pending) > BATCHES_IN_FLIGHT):
                await pending[0]
                pending.popleft()
                self._stored += 1
        for receipt in pending:
            await receipt
            self._stored += 1
        return number

    async def _due(self, number: int) -> bool:
        """Wait until a batch is due. False: the load was told to stop before that."""
        wait_s = self._began_s + number * self._every_s - asyncio.get_running_loop().time()
        if self.stop.is_set() or wait_s <= 0:
            return not self.stop.is_set()
        try:
            async with asyncio.timeout(wait_s):
                await self.stop.wait()
            return False
        except TimeoutError:
            return True


async def _main(service_url: str, topic: str, rate: str, *numbered: str) -> None:
    load = Load(service_url, topic, Numbered(*map(int, numbered)), int(rate))
    running = asyncio.create_task(load.run())
    await asyncio.to_thread(sys.stdin.read)
    load.stop.set()
    async with asyncio.timeout(ENDED_WITHIN_S):
        print(await running)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
