"""How `sequencer init` creates the four topics (partitions, retention, compaction, the subscription) and the namespace
in which publishers wait for replies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sequencer import SequencerError
from sequencer.admin import HTTP_CONFLICT, HTTP_NOT_FOUND, Admin, AdminFailed
from sequencer.names import SUBSCRIPTION, Topics, partition_of, short_name
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.errors import ServerError, ServerRefused

MAX_PARTITIONS = 1024
SUBMITTED_RETENTION_DAYS = 7
REJECTED_RETENTION_DAYS = 30
FOR_EVER_DAYS = -1
MAX_RETENTION_DAYS = 36_500
COMPACTION_THRESHOLD_BYTES = 100 * 1024 * 1024

POLICY_VISIBLE_WITHIN_S = 60.0
"""Topic policies travel through a system topic of the namespace, which the first one of all has to create."""
POLICY_ASK_AGAIN_S = 0.05
ATTEMPTS = 4
RETRY_DELAY_S = 1.0
MINUTES_PER_DAY = 24 * 60


class NamespaceMissing(SequencerError):
    """The namespace does not exist. Creating one takes decisions (clusters, quotas, roles) that are not ours."""


class PartitionsFixed(SequencerError):
    """The topics exist with another number of partitions than asked for, or disagree with each other."""


class TopicMissing(SequencerError):
    """The topics have not been created."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"there is no partitioned topic {topic}: sequencer init creates the topics")


class PolicyNotVisible(SequencerError):
    """The broker took a topic policy, but did not show it within POLICY_VISIBLE_WITHIN_S."""


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """What the topics should be. Retention in days counts from the acknowledgement; FOR_EVER_DAYS keeps everything."""

    partitions: int
    submitted_retention_days: int = SUBMITTED_RETENTION_DAYS
    rejected_retention_days: int = REJECTED_RETENTION_DAYS
    compaction_threshold_bytes: int = COMPACTION_THRESHOLD_BYTES


class Step(NamedTuple):
    """One thing that was looked at: `what` holds now; `changed` says whether it had to be made so."""

    topic: str
    what: str
    changed: bool


class _Policy(NamedTuple):
    topic: str  # or a namespace
    resource: str
    value: object
    what: str

    @property
    def path(self) -> str:
        """Where the admin interface has it: "v2/persistent/public/default/events/retention"."""
        is_topic = self.topic.startswith("persistent://")
        return f"{_path(self.topic) if is_topic else _namespace_path(self.topic)}/{self.resource}"


def create_topics(admin: Admin, topics: Topics, plan: TopicPlan) -> Iterator[Step]:
    """Creates what is missing and yields every step when it is done. Running it again changes nothing.

    Nothing is created before everything that exists has been found to agree with the plan.

    Raises: NamespaceMissing, PartitionsFixed, PolicyNotVisible, AdminFailed.
    """
    found = partitions_found(admin, topics)
    _check_partitions(found, plan.partitions)
    for topic in topics.all:
        yield _create_topic(admin, topic, plan.partitions, exists=found[topic] is not None)
    for policy in _policies(topics, plan):
        yield _set_policy(admin, policy)
    yield from _create_replies_namespace(admin, topics.replies_namespace)
    for partition in range(plan.partitions):
        yield _create_subscription(admin, topics.submitted_partition(partition))


def partitions_found(admin: Admin, topics: Topics) -> dict[str, int | None]:
    """How many partitions each topic has: None = there is no such topic, 0 = it exists and is not partitioned.

    Raises: NamespaceMissing, AdminFailed.
    """
    try:
        admin.get(_namespace_path(topics.namespace))
    except AdminFailed as error:
        if error.status != HTTP_NOT_FOUND:
            raise
        raise NamespaceMissing(
            f"namespace {topics.namespace} does not exist: create it first (pulsar-admin namespaces create ...)"
        ) from error
    return {topic: _partitions_of(admin, topic) for topic in topics.all}


async def partition_count(client: PulsarClient, topic: str) -> int:
    """How many partitions a topic has, asked over the binary protocol.

    Raises: TopicMissing, PulsarError.
    """
    try:
        count = await client.partitions(topic)
    except ServerRefused as error:
        if error.error != ServerError.TOPIC_NOT_FOUND:
            raise
        count = 0
    if count == 0:
        raise TopicMissing(topic)
    return count


def _partitions_of(admin: Admin, topic: str) -> int | None:
    try:
        return int(admin.get(f"{_path(topic)}/partitions")["partitions"])
    except AdminFailed as error:
        if error.status == HTTP_NOT_FOUND:
            return None
        raise


def _check_partitions(found: dict[str, int | None], asked: int) -> None:
    wrong = {short_name(topic): count for topic, count in found.items() if count not in (None, asked)}
    if not wrong:
        return
    listed = ", ".join(f"{name} {_has_partitions(count)}" for name, count in wrong.items())
    raise PartitionsFixed(
        f"{listed}, but {asked} were asked for: the number is fixed for life, for it decides where an aggregate lives"
    )


def _has_partitions(count: int | None) -> str:
    return f"has {_partitions(count)}" if count else "is not partitioned"


def _partitions(count: int) -> str:
    return f"{count} partition{'s' if count > 1 else ''}"


def _create_topic(admin: Admin, topic: str, partitions: int, *, exists: bool) -> Step:
    what = _partitions(partitions)
    if not exists:
        try:
            _retried(lambda: admin.put(f"{_path(topic)}/partitions", partitions))
        except AdminFailed as error:
            # Somebody else's init, or our own request whose answer was lost: what counts is what is there now.
            if error.status != HTTP_CONFLICT or _partitions_of(admin, topic) != partitions:
                raise
    # A creation that was cut short leaves partitions missing, and our brokers do not create any on use.
    missing = _missing_partitions(admin, topic, partitions)
    if missing:
        _retried(lambda: admin.post(f"{_path(topic)}/createMissedPartitions"))
        missing = _missing_partitions(admin, topic, partitions)
        if missing:
            raise AdminFailed(f"{topic}: the broker did not create partitions {missing}")
        return Step(topic, what, changed=True)
    return Step(topic, what, changed=not exists)


def _missing_partitions(admin: Admin, topic: str, partitions: int) -> list[int]:
    existing = set(admin.get(_path(topic).rpartition("/")[0]))
    return [n for n in range(partitions) if partition_of(topic, n) not in existing]


def _policies(topics: Topics, plan: TopicPlan) -> Iterator[_Policy]:
    for topic, days in (
        (topics.submitted, plan.submitted_retention_days),
        (topics.events, FOR_EVER_DAYS),
        (topics.rejected, plan.rejected_retention_days),
        (topics.owners, FOR_EVER_DAYS),
    ):
        yield _Policy(topic, "retention", retention(days), f"retention {'for ever' if days < 0 else f'{days} days'}")
        # A receipt of -1:-1 (taken for a duplicate) would mean that an outcome was not stored.
        yield _Policy(topic, "deduplicationEnabled", False, "deduplication off")
    threshold = plan.compaction_threshold_bytes
    yield _Policy(topics.events, "compactionThreshold", threshold, f"compaction from {threshold} bytes on")


def retention(days: int) -> dict[str, int]:
    """The retention policy as the admin interface writes it. Both limits hold at once: size -1 leaves only the time."""
    minutes = FOR_EVER_DAYS if days < 0 else days * MINUTES_PER_DAY
    return {"retentionTimeInMinutes": minutes, "retentionSizeInMB": -1}


def _set_policy(admin: Admin, policy: _Policy) -> Step:
    """Sets a topic policy and waits until the broker shows it, which is some time after it was taken."""
    path = policy.path
    if _same(_retried(lambda: admin.get(path)), policy.value):
        return Step(policy.topic, policy.what, changed=False)
    _retried(lambda: admin.post(path, policy.value))
    deadline = time.monotonic() + POLICY_VISIBLE_WITHIN_S
    while not _same(admin.get(path), policy.value):
        if time.monotonic() > deadline:
            raise PolicyNotVisible(
                f"{policy.topic}: {policy.resource} is not visible {POLICY_VISIBLE_WITHIN_S:.0f} s after it was set"
            )
        time.sleep(POLICY_ASK_AGAIN_S)
    return Step(policy.topic, policy.what, changed=True)


def _same(found: Any, wanted: object) -> bool:
    """Whether a policy holds. Newer brokers may add fields to an object: only ours are compared."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(found.get(name) == value for name, value in wanted.items())
    return type(found) is type(wanted) and bool(found == wanted)


def _create_replies_namespace(admin: Admin, namespace: str) -> Iterator[Step]:
    """Where the sequencer tells publishers what became of what they have submitted, on topics that they name.

    Nothing in it is stored. A topic is there from its first reader or reply on; the broker deletes it when it has been
    unused for a while, where it deletes inactive topics (brokerDeleteInactiveTopicsEnabled), and else when it ends.
    """
    exists = True
    try:
        admin.get(_namespace_path(namespace))
    except AdminFailed as error:
        if error.status != HTTP_NOT_FOUND:
            raise
        exists = False
    if not exists:
        try:
            _retried(lambda: admin.put(_namespace_path(namespace)))
        except AdminFailed as error:
            if error.status != HTTP_CONFLICT:
                raise
    yield Step(namespace, "namespace for replies", changed=not exists)
    on_use = {"allowAutoTopicCreation": True, "topicType": "non-partitioned"}
    yield _set_policy(admin, _Policy(namespace, "autoTopicCreation", on_use, "topics are created when they are used"))


def _create_subscription(admin: Admin, topic: str) -> Step:
    what = f"subscription {SUBSCRIPTION} from the first message on"
    existing = _retried(lambda: admin.get(f"{_path(topic)}/subscriptions"))
    if SUBSCRIPTION in existing:
        return Step(topic, what, changed=False)
    earliest = {"ledgerId": -1, "entryId": -1, "partitionIndex": -1}
    try:
        _retried(lambda: admin.put(f"{_path(topic)}/subscription/{SUBSCRIPTION}", earliest))
    except AdminFailed as error:
        if error.status != HTTP_CONFLICT:
            raise
    return Step(topic, what, changed=True)


def is_primed(admin: Admin, topic: str) -> bool:
    """Whether a partition's transaction buffer is Ready; what the broker does not want to tell counts as no.

    Raises: AdminFailed, where it cannot be asked.
    """
    try:
        stats = admin.get(f"v3/transactions/transactionBufferStats/{topic.removeprefix('persistent://')}")
    except AdminFailed as error:
        if error.status == 0:
            raise
        return False
    return isinstance(stats, dict) and stats.get("state") == "Ready"


def _retried(call: Any) -> Any:
    """Asks again where the broker itself failed (5xx: a topic in transfer, a transaction buffer that is loading)."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except AdminFailed as error:
            if error.status < 500 or attempt == ATTEMPTS:
                raise
        time.sleep(RETRY_DELAY_S * attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _namespace_path(namespace: str) -> str:
    return f"v2/namespaces/{namespace}"


def _path(topic: str) -> str:
    """Where the admin interface has a topic: "v2/persistent/public/default/events"."""
    return f"v2/persistent/{topic.removeprefix('persistent://')}"
