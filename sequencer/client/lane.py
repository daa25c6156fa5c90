"""In which order the appends of one partition are sent, and sent again. Pure.

    waiting        accepted from the caller, never sent
    unanswered     sent at least once, in the order of their calls
    again          those of the unanswered that are to be sent once more

What was never sent goes out in the order of the calls. When a life has ended, everything unanswered goes out first, in
the order of the calls, then what waits: so the log has the first copies in the order of the calls, whatever was lost.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

BATCH_BYTES = 1024 * 1024
"""Payload bytes after which an entry is closed. A larger append goes alone."""

BATCH_EVENTS = 5_000
"""Events in one entry, the members of lists counted: half of what the sequencer judges in one."""

REPLY_TIMEOUTS_S = (1.0, 2.0, 4.0, 8.0)
"""How long to wait for the answer to an attempt before the next one: the first, the second, ...; then always the
last."""


class Item(Protocol):
    """What a lane must know of an append."""

    size_bytes: int
    events: int
    due_at_s: float
    """When it is to be sent again."""
    sent: int
    """How often it has been sent."""


ItemT = TypeVar("ItemT", bound=Item)


class Lane(Generic[ItemT]):
    """The appends of one partition that have no answer yet."""

    def __init__(self) -> None:
        # Ordered dicts as queues: an append that is answered or given up leaves from wherever it is.
        self._waiting: OrderedDict[ItemT, None] = OrderedDict()
        self._unanswered: OrderedDict[ItemT, None] = OrderedDict()
        self._again: OrderedDict[ItemT, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._unanswered)

    @property
    def has_work(self) -> bool:
        """Whether something is to be sent now."""
        return bool(self._again or self._waiting)

    def add(self, item: ItemT) -> None:
        """A new append."""
        self._waiting[item] = None

    def discard(self, item: ItemT) -> None:
        """It is answered, or nobody waits for it any more."""
        self._waiting.pop(item, None)
        self._unanswered.pop(item, None)
        self._again.pop(item, None)

    def begin_anew(self) -> None:
        """A new life: what was sent in the last one may or may not be stored."""
        self._again = self._unanswered.copy()

    def collect_overdue(self, now_s: float) -> bool:
        """Have everything sent again whose reply is overdue. Returns whether there is any."""
        overdue = [item for item in self._unanswered if item.due_at_s <= now_s]
        self._again.update((item, None) for item in overdue)
        return bool(overdue)

    def next_batch(self, now_s: float, max_bytes: int = BATCH_BYTES) -> list[ItemT]:
        """What is to be sent next, in one entry; empty where there is nothing. It counts as sent.

        Args:
            now_s: the loop's time.
            max_bytes: what the broker takes in one entry, if that is less than BATCH_BYTES.
        """
        batch: list[ItemT] = []
        size_bytes = events = 0
        while self.has_work:
            queue = self._again or self._waiting
            item = next(iter(queue))
            size_bytes += item.size_bytes
            events += item.events
            if batch and (size_bytes > min(max_bytes, BATCH_BYTES) or events > BATCH_EVENTS):
                break
            del queue[item]
            self._unanswered.setdefault(item)
            item.due_at_s = now_s + REPLY_TIMEOUTS_S[min(item.sent, len(REPLY_TIMEOUTS_S) - 1)]
            item.sent += 1
            batch.append(item)
        return batch
