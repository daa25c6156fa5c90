"""An open loop's schedule: numbered events, each due at a time of its own, whatever became of those before. Pure.

Publisher and onlooker are processes of their own that get the same schedule. So neither has to tell the other when an
event was due: its number says it. Times are those of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import json
from typing import NamedTuple, Self

NS_PER_S = 1_000_000_000

ENTRIES_PER_S_MAX = 1_000
"""At higher rates an entry is sent every millisecond, and holds what has become due since the last one."""


class Schedule(NamedTuple):
    """One run."""

    first: int
    """Number of the first event."""
    events: int
    rate: int
    """Events per second."""
    began_ns: int
    """When the first event is due."""

    def due_ns(self, number: int) -> int:
        """When an event is due."""
        return self.began_ns + (number - self.first) * NS_PER_S // self.rate

    @property
    def batch_events(self) -> int:
        """Events per entry. An entry is sent when its last event is due."""
        return entry_events(self.rate)

    def to_json(self) -> str:
        """In one line."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """What `to_json` made."""
        return cls(*json.loads(line))


def entry_events(rate: int) -> int:
    """Events per entry at `rate` events per second: one, until that would be too many entries."""
    return -(-rate // ENTRIES_PER_S_MAX)
