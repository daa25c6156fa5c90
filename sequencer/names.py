"""The four topics of a namespace. Pure.

Every topic has the same number of partitions, fixed for life: it decides which partition an aggregate belongs to.
Partition n of `submitted_events` is judged into partition n of `events` and `rejected_events` by the owner of
`sequencer_owners`-n.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sequencer import SequencerError

DEFAULT_NAMESPACE = "public/default"
SUBSCRIPTION = "sequencer"
"""The durable subscription on every partition of `submitted_events`, from the first message on."""

_NAMESPACE = re.compile(r"[-=:.\w]+/[-=:.\w]+", re.ASCII)

_REPLY_NAME = re.compile(r"(?!__)[A-Za-z0-9_.-]{1,128}")
"""What begins with __ is the broker's own."""
_NAME_OF_PARTITION = re.compile(r".*-partition-[0-9]+")


class NamespaceInvalid(SequencerError):
    """Not of the form tenant/namespace."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of the four topics in a namespace.

    Raises: NamespaceInvalid.
    """

    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        parts = self.namespace.split("/")
        if not _NAMESPACE.fullmatch(self.namespace) or any(part.strip(".") == "" for part in parts):
            raise NamespaceInvalid(
                f"not a namespace: {self.namespace!r} (expected tenant/namespace, as in public/default)"
            )

    @property
    def submitted(self) -> str:
        return self._full("submitted_events")

    @property
    def events(self) -> str:
        return self._full("events")

    @property
    def rejected(self) -> str:
        return self._full("rejected_events")

    @property
    def owners(self) -> str:
        return self._full("sequencer_owners")

    @property
    def replies_namespace(self) -> str:
        """The namespace of the topics on which publishers wait for outcomes; nobody else is written to."""
        return f"{self.namespace}-replies"

    def reply_topic(self, name: str) -> str:
        """The topic `name` of the replies namespace: what a publisher writes into the property `reply_to`."""
        return f"non-persistent://{self.replies_namespace}/{name}"

    def takes_replies(self, topic: object) -> bool:
        """Whether `topic`, which is whatever a publisher wrote, is a topic of the replies namespace.

        The name of a partition is none: nothing there is partitioned.
        """
        prefix = self.reply_topic("")
        if not isinstance(topic, str) or not topic.startswith(prefix):
            return False
        name = topic[len(prefix) :]
        return _REPLY_NAME.fullmatch(name) is not None and _NAME_OF_PARTITION.fullmatch(name) is None

    @property
    def all(self) -> tuple[str, str, str, str]:
        return (self.submitted, self.events, self.rejected, self.owners)

    def submitted_partition(self, partition: int) -> str:
        return partition_of(self.submitted, partition)

    def events_partition(self, partition: int) -> str:
        return partition_of(self.events, partition)

    def rejected_partition(self, partition: int) -> str:
        return partition_of(self.rejected, partition)

    def owners_partition(self, partition: int) -> str:
        return partition_of(self.owners, partition)

    def _full(self, name: str) -> str:
        return f"persistent://{self.namespace}/{name}"


def partition_of(topic: str, partition: int) -> str:
    assert partition >= 0
    return f"{topic}-partition-{partition}"


def index_directory(index_dir: Path, namespace: str, partition: int) -> Path:
    """Where an instance keeps the index of a partition, below the directory that it was told."""
    return index_dir / namespace.replace("/", "_") / f"partition-{partition}"


def short_name(topic: str) -> str:
    """The last part of a full topic name: what people call it."""
    return topic.rpartition("/")[2]
