"""`sequencer init`: the topics, and then every partition owned once, so that its outputs are primed.

Owning is the one way in which a partition's topics are written to, also here: whoever owns a partition already has
primed it, and is left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from sequencer.admin import Admin
from sequencer.names import Topics
from sequencer.partition import Partition, take_over
from sequencer.pulsar.client import AccessMode, PulsarClient
from sequencer.pulsar.errors import PulsarError, Remedy, ServerError, ServerRefused
from sequencer.topics import Step, TopicPlan, create_topics, is_primed

ATTEMPTS = 4
"""Loading a topic can stall in the broker for 30 s and then close the topic: asking again is all that helps."""

RETRY_DELAY_S = 1.0


def initialize(connect: Callable[[], PulsarClient], admin: Admin, topics: Topics, plan: TopicPlan) -> Iterator[Step]:
    """Create what is missing and yield every step when it is done. Running it again changes nothing.

    Args:
        connect: makes a client of our own protocol; called inside an event loop, once per attempt.

    Raises:
        AdminFailed, NamespaceMissing, PartitionsFixed, PolicyNotVisible: see `create_topics`.
        PulsarError, SequencerError: a partition's outputs cannot be primed.
    """
    yield from create_topics(admin, topics, plan)
    for number in range(plan.partitions):
        # One after another: topics of a namespace that are first loaded at the same moment can stall each other.
        partition = Partition(number, plan.partitions, topics)
        waiting = [output for output in (partition.events, partition.rejected) if not is_primed(admin, output)]
        owned = bool(waiting) and asyncio.run(_own_once(connect, partition))
        for output in (partition.events, partition.rejected):
            yield Step(output, "primed", changed=owned and output in waiting)


async def _own_once(connect: Callable[[], PulsarClient], partition: Partition) -> bool:
    """Take the partition over and leave it again. False: it has an owner."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with connect() as client:
                owner = await client.producer(partition.owners, access_mode=AccessMode.EXCLUSIVE)
                await take_over(client, partition, owner)
                return True
        except ServerRefused as refused:
            if refused.error in (ServerError.PRODUCER_FENCED, ServerError.PRODUCER_BUSY):
                return False
            if refused.remedy is Remedy.FATAL or attempt == ATTEMPTS:
                raise
        except PulsarError:
            if attempt == ATTEMPTS:
                raise
        await asyncio.sleep(RETRY_DELAY_S * attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")
