"""One index that grows, in a process of its own: what `bench.growth` measures.

`python -m bench.growth_run DIRECTORY ACCESS RUN_EVENTS RUNS SIZE...` answers with one line of JSON after every run.
"""

from __future__ import annotations

import json
import mmap
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.free_index import FreeIndex
from sequencer.decide import TAIL_CACHE_AGGREGATES, Overlay
from sequencer.event import Source
from sequencer.partition import BATCH_MESSAGES
from sequencer.plain import PlainBatch
from state.allocator import hold_little
from state.index import VersionIndex
from state.store import TAILS

FILLING_EVENTS = 20_000
"""First events of so many aggregates go into the index at once."""

ENTRY_EVENTS = 500
"""Of a submitted entry; a transaction takes BATCH_MESSAGES."""

SPREAD = 0x9E3779B97F4A7C15F39CC0605CEDC835
"""Odd, so that a number times it, modulo 2**128, is another one for every number, and lies anywhere."""

SOURCE = Source("1:1:0:", 0, b"", None)
MIB = 1024 * 1024

Access = Callable[[int], int]
"""How many aggregates there are -> the one that gets the next event."""

Figures = dict[str, float]


def uniform(aggregates: int) -> int:
    return int(random.random() * aggregates)


def zipf(aggregates: int) -> int:
    """The one of rank r about 1/r times as often as the first: log(r + 1) - log(r)."""
    return int((aggregates + 1) ** random.random()) - 1


ACCESS: Final[dict[str, Access]] = {"uniform": uniform, "zipf": zipf}


def key_of(number: int) -> str:
    """An aggregate's key, a UUID: neighbours in number are none in the index."""
    digits = f"{number * SPREAD % 2**128:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Growing:
    """An index, an overlay over it, and what is known of every aggregate."""

    def __init__(self, directory: Path, access: str, most: int) -> None:
        self._pick = ACCESS[access]
        # Shared memory, so that it does not count as the index's: see `memory_mib`.
        self._versions = memoryview(mmap.mmap(-1, 4 * most)).cast("I")
        self._aggregates = 0
        self._base_mib = _memory_with_a_full_overlay()
        self._index = _Clocked(VersionIndex.open(directory, identity="growth"))
        self._overlay = Overlay(self._index, partition=0, partitions=1, next_sequence=0)

    def grow(self, aggregates: int) -> float:
        """To so many, which get their first event in no order. Returns: seconds."""
        began_s = time.perf_counter()
        for first in range(self._aggregates, aggregates, FILLING_EVENTS):
            numbers = range(first, min(first + FILLING_EVENTS, aggregates))
            self._index.apply(dict.fromkeys(map(key_of, numbers), 0), ())
        self._aggregates = aggregates
        return time.perf_counter() - began_s

    def run(self, events: int) -> Figures:
        """So many events, in batches as a sequencer under load makes them."""
        self._index.reset()
        decide_s, memory = 0.0, 0.0
        cpu_s = time.process_time() - time.thread_time()
        for _ in range(0, events, BATCH_MESSAGES):
            batches = [self._next_batch() for _ in range(0, BATCH_MESSAGES, ENTRY_EVENTS)]
            began_s = time.perf_counter()
            decided = self._overlay.decide(batches)
            decide_s += time.perf_counter() - began_s
            self._index.apply(decided.tails, decided.ids.rows())
            self._overlay.applied(decided)
            memory = max(memory, memory_mib())
        judged = BATCH_MESSAGES * -(-events // BATCH_MESSAGES)
        cpu_s = time.process_time() - time.thread_time() - cpu_s
        return self._figures(judged, decide_s, cpu_s, memory)

    def _figures(self, events: int, decide_s: float, background_cpu_s: float, memory: float) -> Figures:
        clocked, index = self._index, self._index.index
        limit_mib = index.limits.memory_bytes / MIB
        tails_bytes = index._store.family(TAILS).property_int_value("rocksdb.total-sst-files-size") or 0
        return {
            "events_per_s": round(events / (decide_s + clocked.apply_s)),
            "look_up_ns": round(clocked.look_up_s / events * 1e9),
            "decide_ns": round((decide_s - clocked.look_up_s) / events * 1e9),
            "apply_ns": round(clocked.apply_s / events * 1e9),
            "background_cpu_ns": round(background_cpu_s / events * 1e9),
            "looked_up_percent": round(clocked.looked_up / events * 100, 1),
            "memory_mib": round(memory, 1),
            "base_mib": round(self._base_mib, 1),
            "limit_mib": round(self._base_mib + limit_mib, 1),
            "tails_bytes_per_aggregate": round(tails_bytes / self._aggregates, 1),
            "disk_mib": round(index.size_bytes / MIB, 1),
        }

    def _next_batch(self) -> PlainBatch:
        numbers, expected = [], []
        for _ in range(ENTRY_EVENTS):
            number = self._pick(self._aggregates)
            numbers.append(number)
            expected.append(self._versions[number])
            self._versions[number] += 1
        return _batch(numbers, expected)


def _batch(numbers: Sequence[int], expected: Sequence[int]) -> PlainBatch:
    """One event each for the aggregates of these numbers, as far as a decision depends on it."""
    nothing = [b""] * len(numbers)
    return PlainBatch(
        source=SOURCE,
        batch_indexes=range(len(numbers)),
        keys=[key_of(number) for number in numbers],
        id_texts=[""] * len(numbers),
        event_ids=[random.randbytes(16) for _ in numbers],
        expected=expected,
        heads=nothing,
        bare_heads=nothing,
        payloads=nothing,
    )


class _Clocked:
    """The index, and what was asked of it."""

    def __init__(self, index: VersionIndex) -> None:
        self.index = index
        self.reset()

    def reset(self) -> None:
        self.look_up_s = self.apply_s = 0.0
        self.looked_up = 0

    def tails(self, keys: Sequence[str]) -> list[int]:
        began_s = time.perf_counter()
        tails = self.index.tails(keys)
        self.look_up_s += time.perf_counter() - began_s
        self.looked_up += len(keys)
        return tails

    def accepted(self, asked: Sequence[tuple[bytes, str]]) -> list[tuple[int, int] | None]:
        raise AssertionError("every expected version matches: no id is looked up")

    def apply(self, tails: Mapping[str, int], ids: Iterable[tuple[bytes, str, int, int]]) -> None:
        began_s = time.perf_counter()
        self.index.apply(tails, ids, accepted_at_ms=time.time_ns() // 1_000_000, checkpoint=bytes(24))
        self.apply_s += time.perf_counter() - began_s


def _memory_with_a_full_overlay() -> float:
    """MiB of this process when its overlay has all the aggregates that it ever holds, and there is no index yet.

    The overlay that is filled for this leaves its memory to the one that comes after.
    """
    overlay = Overlay(FreeIndex(), partition=0, partitions=1, next_sequence=0)
    for first in range(0, TAIL_CACHE_AGGREGATES, ENTRY_EVENTS):
        batch = _batch(range(-first - ENTRY_EVENTS, -first), [0] * ENTRY_EVENTS)
        overlay.applied(overlay.decide([batch]))
    return memory_mib()


def memory_mib() -> float:
    """Resident memory of this process that no file and no other process shares."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split(maxsplit=1)[0]) / 1024


def measured(directory: Path, access: str, run_events: int, runs: int, sizes: Sequence[int]) -> Iterator[Figures]:
    """Figures of every run at every size, smallest first; of each size the first one warms up and is not among them."""
    growing = Growing(directory, access, max(sizes))
    for size in sizes:
        filling_s = growing.grow(size)
        growing.run(run_events)
        for _ in range(runs):
            yield {"aggregates": size, "filling_s": round(filling_s, 1), **growing.run(run_events)}


if __name__ == "__main__":
    hold_little()  # as the sequencer's own process does
    _, place, kind, *numbers = sys.argv
    events, times, *growth = map(int, numbers)
    for figures in measured(Path(place), kind, events, times, growth):
        print(json.dumps(figures), flush=True)
