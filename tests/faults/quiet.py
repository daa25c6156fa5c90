"""When everything has been judged that was submitted, copies of what was forwarded included."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from sequencer.broker import EmbeddedBroker
from sequencer.names import SUBSCRIPTION, Topics
from tests.faults.brokers import ADMIN_LIMIT_S

SWEEPS = 2
"""What is acknowledged at the first may have been forwarded to a partition that was looked at before it."""

POLL_S = 0.1


def await_quiet(
    broker: EmbeddedBroker, topics: Topics, partitions: int, within_s: float, alive: Callable[[], None]
) -> None:
    """Return when every submission is acknowledged; nobody may publish any more, and one sequencer be at work.

    A sequencer that dies between forwarding and its commit leaves an original that is forwarded again. So as long as
    anything is not acknowledged, more can come.

    Args:
        within_s: fail after that time.
        alive: called over and over; raises where waiting has become pointless.
    """
    deadline = time.monotonic() + within_s
    with httpx.Client(timeout=ADMIN_LIMIT_S, trust_env=False) as admin:
        sweeps = 0
        while sweeps < SWEEPS:
            left = [_backlog(admin, broker, topics.submitted_partition(number)) for number in range(partitions)]
            sweeps = 0 if any(left) else sweeps + 1
            alive()
            assert time.monotonic() < deadline, f"after {within_s} s, entries not acknowledged per partition: {left}"
            if sweeps == 0:
                time.sleep(POLL_S)  # the broker tells nobody


def _backlog(admin: httpx.Client, broker: EmbeddedBroker, topic: str) -> int:
    url = f"{broker.admin_url}/admin/v2/{topic.replace('persistent://', 'persistent/')}/stats"
    stats = admin.get(url, params={"getPreciseBacklog": "true"}).raise_for_status().json()
    return int(stats["subscriptions"][SUBSCRIPTION]["msgBacklog"])
