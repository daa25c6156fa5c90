"""Where the benchmarks of one partition run: a namespace of its own with its topics, made by `sequencer init`."""

from __future__ import annotations

from sequencer.admin import Admin
from sequencer.broker import EmbeddedBroker
from sequencer.initialize import initialize
from sequencer.names import Topics
from sequencer.pulsar.client import PulsarClient
from sequencer.topics import TopicPlan


def make_topics(broker: EmbeddedBroker, admin: Admin) -> Topics:
    """The topics of the only partition; compaction is left to the benchmark."""
    topics = Topics("public/bench")
    admin.put(f"v2/namespaces/{topics.namespace}", {})
    plan = TopicPlan(partitions=1, compaction_threshold_bytes=0)
    for _ in initialize(lambda: PulsarClient(broker.service_url), admin, topics, plan):
        pass
    return topics
