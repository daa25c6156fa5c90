"""An index in which every aggregate exists already, without the hours of events that would have filled it.

It is level with a topic that shows no event yet: version 0 of every aggregate, sequence 0 next. It is filled in another
order than that of the keys, as aggregates come, so that RocksDB has had to sort and merge it; one that is written in
order would be easier to read than any real one.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from bench.workload import key_of
from sequencer.recovery import START
from state.index import VersionIndex
from state.store import MIB, Store, StoreOptions

WRITE_ROWS = 50_000
"""Rows in one batch."""

STRIDE = 7_368_787
"""Each row is that of the aggregate so many further on, or a few more, until all have had their turn."""

TEMPLATE = "template"
"""The identity of an index that has no topic."""


def build(directory: Path, numbers: Sequence[int]) -> None:
    """Fill an index with these aggregates. Ten million take about 20 s."""
    count = len(numbers)
    stride = STRIDE
    while math.gcd(stride, count) > 1:
        stride += 1
    with VersionIndex.open(directory, identity=TEMPLATE) as index:
        for first in range(0, count, WRITE_ROWS):
            places = range(first, min(first + WRITE_ROWS, count))
            tails = {key_of(numbers[place * stride % count]): 0 for place in places}
            index.apply(tails, {}, accepted_at_ms=0, checkpoint=None)
        index.apply({}, {}, accepted_at_ms=0, checkpoint=START.to_bytes())


def copy(template: Path, directory: Path, *, identity: str) -> None:
    """A copy of what `build` has made, for a topic."""
    shutil.copytree(template, directory)
    store = Store(directory, StoreOptions(block_cache_bytes=MIB, write_buffer_bytes=MIB))
    try:
        row = store.read(b"format")
        assert row is not None
        assert row.endswith(TEMPLATE.encode()), row
        store.db[b"format"] = row.removesuffix(TEMPLATE.encode()) + identity.encode()
    finally:
        store.close()
