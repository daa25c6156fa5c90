"""Where the benchmarks run: a namespace of its own for each, with its topics as init makes them."""

from __future__ import annotations

import time
from http import HTTPStatus

from sequencer.admin import Admin, AdminFailed
from sequencer.broker import EmbeddedBroker
from sequencer.initialize import initialize
from sequencer.names import Topics
from sequencer.pulsar.client import PulsarClient
from sequencer.topics import TopicPlan

DELETED_WITHIN_S = 10.0
"""How long a broker that refuses to delete a topic is asked again."""

DELETE_RETRY_S = 0.5


def make_topics(broker: EmbeddedBroker, name: str, partitions: int = 1) -> Topics:
    """The topics, in namespace public/NAME. When they are compacted is left to the benchmark."""
    topics = Topics(f"public/{name}")
    plan = TopicPlan(partitions=partitions, compaction_threshold_bytes=0)
    with Admin(broker.admin_url) as admin:
        admin.put(f"v2/namespaces/{topics.namespace}", {})
        for _ in initialize(lambda: PulsarClient(broker.service_url), admin, topics, plan):
            pass
    return topics


def delete_topics(broker: EmbeddedBroker, topics: Topics) -> list[str]:
    """Delete all of them with what they hold; the disk is free again when the broker has collected its garbage.

    A broker (4.2.4) may refuse it for a while, or for good: it deletes no topic whose snapshot of aborted transactions
    it cannot clear at the time. Such a topic stays until the broker's directory goes; to a benchmark that is no harm.

    Returns: why, of each that stays.
    """
    with Admin(broker.admin_url) as admin:
        return [
            why
            for topic in (topics.submitted, topics.events, topics.rejected, topics.owners)
            if (why := _delete(admin, f"v2/{topic.replace('://', '/')}/partitions"))
        ]


def _delete(admin: Admin, path: str) -> str:
    """Returns: why it could not be deleted, or nothing."""
    deadline_s = time.monotonic() + DELETED_WITHIN_S
    while True:
        try:
            admin.delete(path, {"force": "true"})
        except AdminFailed as failed:
            if failed.status == HTTPStatus.NOT_FOUND:
                return ""
            if failed.status != HTTPStatus.CONFLICT:
                raise
            if time.monotonic() > deadline_s:
                return str(failed)
        else:
            return ""
        # Paced, not awaited: the broker does not tell when it could.
        time.sleep(DELETE_RETRY_S)
