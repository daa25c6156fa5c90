"""Where the benchmarks run: a namespace of its own for each, with its topics as init makes them."""

from __future__ import annotations

from sequencer.admin import Admin
from sequencer.broker import EmbeddedBroker
from sequencer.initialize import initialize
from sequencer.names import Topics
from sequencer.pulsar.client import PulsarClient
from sequencer.topics import TopicPlan


def make_topics(broker: EmbeddedBroker, name: str, partitions: int = 1) -> Topics:
    """The topics, in namespace public/NAME. When they are compacted is left to the benchmark."""
    topics = Topics(f"public/{name}")
    plan = TopicPlan(partitions=partitions, compaction_threshold_bytes=0)
    with Admin(broker.admin_url) as admin:
        admin.put(f"v2/namespaces/{topics.namespace}", {})
        for _ in initialize(lambda: PulsarClient(broker.service_url), admin, topics, plan):
            pass
    return topics


def delete_topics(broker: EmbeddedBroker, topics: Topics) -> None:
    """Delete all of them with what they hold; the disk is free again when the broker has collected its garbage."""
    with Admin(broker.admin_url) as admin:
        for topic in (topics.submitted, topics.events, topics.rejected, topics.owners):
            admin.delete(f"v2/{topic.replace('://', '/')}/partitions", {"force": "true"})
