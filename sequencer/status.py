"""What `sequencer status` makes of what it has seen: judgement and words. Pure.

`diagnose` turns what is known of one partition into what is wrong with it and what to do; `diagnose_topics` does it for
what all partitions share. What could not be found out is a problem too: nobody should take silence for health.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

BACKLOG_AGE_LIMIT_S = 30.0
"""How long a submitted entry may wait while the partition has an owner. Rebuilding an index may well take longer."""

HELD_LIMIT_S = 10.0
"""How long a transaction may hold back the readers of an output. Commits take milliseconds."""

NO_EVENT = -1
"""`last_sequence` where the partition holds no event."""

OUR_CLIENT = "pulsar-sequencer"
"""How our own client introduces itself to the broker."""

FOR_EVER: Mapping[str, int] = {"retentionTimeInMinutes": -1, "retentionSizeInMB": -1}


class Problem(NamedTuple):
    """Something is wrong: what, in words, and what to do about it."""

    what: str
    remedy: str


class Record(NamedTuple):
    """The last record of the owner log."""

    host: str
    pid: int
    epoch: int
    since_ms: int
    """Unix time."""


class Peer(NamedTuple):
    """A producer or consumer, as the broker sees it."""

    address: str
    since: str
    """ISO 8601. For a standby that was granted: when it asked."""
    client: str
    """How its client introduced itself; empty where it did not."""

    @property
    def is_ours(self) -> bool:
        return self.client == OUR_CLIENT

    def __str__(self) -> str:
        return f"{self.address} ({self.client or 'unknown client'}, since {self.since})"


class Ownership(NamedTuple):
    """What the broker shows of `sequencer_owners`-n."""

    producer: Peer | None
    """Whoever has the exclusive access that makes the owner."""
    epoch: int | None
    """Of the last grant; None where there was never one."""
    waiting: int
    """Requests for that access in the broker's queue. Those of instances that have left stay in it until the next
    takeover, so this is only the most standbys that there can be; but 0 means none."""


class Backlog(NamedTuple):
    """What is not acknowledged on `submitted_events`-n."""

    subscribed: bool
    """Whether the durable subscription exists."""
    entries: int
    """Stored entries; a batch is one. The broker does not count the messages in them."""
    oldest_ms: int | None
    """When the oldest was published, Unix time."""
    consumer: Peer | None


class IndexState(NamedTuple):
    """The index of a partition, as it is on disk."""

    next_sequence: int | None
    """None: there is no complete index; the next owner here rebuilds it."""


class Rejections(NamedTuple):
    """What was rejected of late, by reason."""

    counts: Mapping[str, int]
    window_s: int
    complete: bool
    """False: the window holds more than was read."""


class Hold(NamedTuple):
    """Open transactions with messages on an output: readers see nothing from the first of them on."""

    topic: str
    transactions: int
    stuck: bool
    """Where readers stop did not move between two looks."""
    silent_s: float | None
    """Since anything was last stored there."""
    transaction: str
    """The one that holds, such as "(0,43)", where a coordinator knows it; else empty."""
    open_s: float | None
    """Since that one was opened: it may have been opened ahead, and used much later."""

    @property
    def held_s(self) -> float:
        """How long readers may have been waiting; 0 where they are not known to."""
        return max(self.silent_s or 0.0, self.open_s or 0.0) if self.stuck else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """One partition at one moment. None is what could not be found out, unless it says otherwise."""

    number: int
    now_ms: int
    ownership: Ownership | None = None
    record: Record | None = None
    """None also where nobody has ever recorded anything."""
    backlog: Backlog | None = None
    last_sequence: int | None = None
    """Of the last readable event; NO_EVENT where there is none."""
    index: IndexState | None = None
    """None also where no index directory was given."""
    rejections: Rejections | None = None
    holds: tuple[Hold, ...] = ()
    strangers: tuple[str, ...] = ()
    """Producers on our outputs that are not a sequencer's, in words."""
    unreadable: tuple[Problem, ...] = ()
    """What was found to be broken while it was read."""
    unknown: tuple[str, ...] = ()
    """What could not be found out, and why."""

    @property
    def owner(self) -> Record | None:
        """Who owns it now, where that is on record: an owner writes its first record with its first transaction."""
        if self.ownership is None or self.ownership.producer is None or self.record is None:
            return None
        return self.record if self.record.epoch == self.ownership.epoch else None

    @property
    def index_lag(self) -> int | None:
        """Events that the index does not know yet; below 0 it is ahead."""
        if self.index is None or self.index.next_sequence is None or self.last_sequence is None:
            return None
        return self.last_sequence + 1 - self.index.next_sequence

    @property
    def oldest_s(self) -> float | None:
        """How long the oldest entry of the backlog has waited."""
        if self.backlog is None or self.backlog.oldest_ms is None:
            return None
        return max(0.0, (self.now_ms - self.backlog.oldest_ms) / 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicsState:
    """What all partitions share. A topic or policy that is not in a mapping could not be found out."""

    partitions: Mapping[str, int]
    """By short topic name; 0 = there is no such partitioned topic."""
    retention: Mapping[str, object]
    """The policy in effect, by short topic name, as the admin interface writes it."""
    compaction_threshold: int | None = None
    """Bytes, of `events`; 0 = never; None = could not be found out."""
    deduplication: Mapping[str, object]
    """By short topic name: whether it is on."""
    message_ttl_s: int = 0
    """Of `submitted_events`: after so many seconds the broker drops what nobody has judged; 0 = never, or not known."""
    unknown: tuple[str, ...] = ()


def diagnose(state: PartitionState) -> list[Problem]:
    """Everything that is wrong with a partition, the worst first; empty = healthy."""
    return [
        *state.unreadable,
        *_ownership_problems(state),
        *_input_problems(state),
        *_output_problems(state),
        *_index_problems(state),
        *(_unknown(what) for what in state.unknown),
    ]


def diagnose_topics(state: TopicsState) -> list[Problem]:
    """Everything that is wrong with the topics as such; empty = healthy."""
    return [*_partition_count_problems(state), *_policy_problems(state), *(_unknown(what) for what in state.unknown)]


def _unknown(what: str) -> Problem:
    return Problem(f"could not be found out: {what}", "see whether the broker is reachable and lets this role ask")


def _ownership_problems(state: PartitionState) -> Iterator[Problem]:
    ownership, record = state.ownership, state.record
    if ownership is None:
        return
    if record is not None and record.epoch > (-1 if ownership.epoch is None else ownership.epoch):
        yield Problem(
            f"the owner log holds epoch {record.epoch} but the broker is at {ownership.epoch}: owners give up at once",
            "the owner topic was made anew or restored: see 'Superseded' in docs/operations.md",
        )
    if ownership.producer is None:
        yield _no_owner(ownership, record)
    elif not ownership.producer.is_ours:
        yield Problem(
            f"the owner topic is held by something that is no sequencer: {ownership.producer}",
            "end it, and let only the sequencer's role produce to sequencer_owners",
        )


def _no_owner(ownership: Ownership, record: Record | None) -> Problem:
    if record is None:
        what = "no owner: nobody has ever owned it"
    else:
        what = f"no owner: {record.host} pid {record.pid} (epoch {record.epoch}) was the last on record"
    if ownership.waiting:
        return Problem(
            f"{what}; up to {ownership.waiting} wait for it",
            "look again in a minute; if it stays so, restart the standbys",
        )
    return Problem(
        what,
        "start `sequencer run` for this partition; where one runs, its log says why: stopped, or 'not permitted'",
    )


def _input_problems(state: PartitionState) -> Iterator[Problem]:
    backlog = state.backlog
    if backlog is None:
        return
    if not backlog.subscribed:
        yield Problem(
            "the subscription on submitted_events is missing: what is submitted may be deleted unread",
            "run `sequencer init` again: it creates it, from the first message that is still there",
        )
    if backlog.consumer is not None and not backlog.consumer.is_ours:
        yield Problem(
            f"the subscription is held by something that is no sequencer: {backlog.consumer}",
            "end it: the owner cannot subscribe, and what it acknowledges is lost",
        )
    owned = state.ownership is not None and state.ownership.producer is not None
    if owned and state.oldest_s is not None and state.oldest_s > BACKLOG_AGE_LIMIT_S:
        who = state.owner
        where = f"{who.host} pid {who.pid}" if who else "the owner"
        yield Problem(
            f"the oldest submitted entry has waited {state.oldest_s:.0f} s although there is an owner",
            f"see the log of {where}: it may be frozen, starting anew again and again, 'not permitted' to do what it "
            "must, rebuilding its index, or unable to keep up (then more partitions would have been needed)",
        )


def _output_problems(state: PartitionState) -> Iterator[Problem]:
    for stranger in state.strangers:
        yield Problem(
            f"a producer that is no sequencer is connected: {stranger}",
            "end it, and let only the sequencer's role produce there",
        )
    for hold in state.holds:
        if hold.held_s > HELD_LIMIT_S:
            named = f" {hold.transaction}" if hold.transaction else ""
            yield Problem(
                f"an open transaction{named} has held back the readers of {hold.topic} for up to {hold.held_s:.0f} s",
                "the next owner ends what its predecessor recorded: start an instance where there is no owner, "
                "else restart the owner",
            )


def _index_problems(state: PartitionState) -> Iterator[Problem]:
    if state.index_lag is not None and state.index_lag < 0:
        yield Problem(
            f"the index knows {-state.index_lag} events that are not in events",
            "events were lost, or the topic was made anew: see 'IndexAhead' in docs/operations.md",
        )


def _partition_count_problems(state: TopicsState) -> Iterator[Problem]:
    for topic, count in state.partitions.items():
        if count == 0:
            yield Problem(f"there is no partitioned topic {topic}", "run `sequencer init`")
    counts = {count for count in state.partitions.values() if count}
    if len(counts) > 1:
        listed = ", ".join(f"{topic} {count}" for topic, count in state.partitions.items())
        yield Problem(
            f"the topics do not have the same number of partitions: {listed}",
            "stop the sequencers: see 'PartitionsFixed' in docs/operations.md",
        )


def _policy_problems(state: TopicsState) -> Iterator[Problem]:
    for topic, policy in state.retention.items():
        kept = isinstance(policy, Mapping) and all(policy.get(name) == value for name, value in FOR_EVER.items())
        if not kept:
            yield Problem(f"{topic} is not kept for ever: its retention is {policy}", "run `sequencer init` again")
    if state.compaction_threshold is not None and state.compaction_threshold <= 0:
        yield Problem(
            "events is never compacted: rebuilding an index will take longer and longer", "run `sequencer init` again"
        )
    if state.message_ttl_s > 0:
        yield Problem(
            f"the broker drops submitted events that have waited {state.message_ttl_s} s, without an outcome",
            "set the message TTL of submitted_events to 0, or remove that of the namespace",
        )
    for topic, on in state.deduplication.items():
        if on:
            yield Problem(
                f"deduplication is on for {topic}: an outcome can be taken for a repeat and not be stored",
                "run `sequencer init` again",
            )
