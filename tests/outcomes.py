"""Reads what the topics hold, with the official client, waits until every submission has its outcome, and judges it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pulsar

from sequencer.broker import EmbeddedBroker
from sequencer.event import PRIMING
from sequencer.names import Topics
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.frames import MessageId
from sequencer.pulsar.pulsar_api_pb2 import MessageIdData
from sequencer.verify.verifier import Accepted, Acknowledged, Rejected, Report, Submitted, Verifier
from state.index import VersionIndex
from tests.model import FORWARDED_FROM, Message, Outcome, Refused, envelope, home, predict
from tests.told import check_kept, check_outcomes, number, rejected_outcome

READ_LIMIT_MS = 20_000  # for one message that is known to be there
POLL_MS = 20  # how long to wait on one reader before looking at the next
MISSING_SHOWN = 5
ADMIN_LIMIT_S = 30.0
SETTLED_WITHIN_S = 10.0


class LogReader:
    """Reads one topic partition from its beginning, in order, as far as asked; keeps everything."""

    def __init__(self, client: Any, topic: str) -> None:
        self.topic = topic
        self.messages: list[Message] = []
        self._reader = client.create_reader(topic, pulsar.MessageId.earliest)

    def poll(self) -> None:
        """Take what has arrived, waiting POLL_MS for the first message."""
        wait_ms = POLL_MS
        try:
            while True:
                self.messages.append(_message(self._reader.read_next(wait_ms)))
                wait_ms = 1
        except pulsar.Timeout:
            return

    def read_to(self, end: MessageId) -> list[Message]:
        """Everything up to and including the message `end`; ledger -1 = the topic is empty."""
        place = end.ledger, end.entry, end.batch_index
        while end.ledger != -1 and (not self.messages or _place(self.messages[-1]) < place):
            self.messages.append(_message(self._reader.read_next(READ_LIMIT_MS)))
        return self.messages


def _primed(messages: list[Message]) -> list[Message]:
    """Without the message of the aborted first transaction, which a killed broker may show (see PRIMING)."""
    return messages[1:] if messages and messages[0].payload == PRIMING and not messages[0].properties else messages


class Logs:
    """The submissions and outcomes of one namespace. Close the client when done: it owns the readers."""

    def __init__(self, client: Any, broker: EmbeddedBroker, namespace: str, partitions: int) -> None:
        self.topics = Topics(namespace)
        self.partitions = range(partitions)
        self._broker = broker
        self._submitted = [LogReader(client, self.topics.submitted_partition(n)) for n in self.partitions]
        self._events = [LogReader(client, self.topics.events_partition(n)) for n in self.partitions]
        self._rejected = [LogReader(client, self.topics.rejected_partition(n)) for n in self.partitions]

    def submitted(self, partition: int) -> list[Message]:
        """What has been read of submitted_events-n."""
        return self._submitted[partition].messages

    def events(self, partition: int) -> list[Message]:
        """What has been read of events-n."""
        return _primed(self._events[partition].messages)

    def rejected(self, partition: int) -> list[Message]:
        """What has been read of rejected_events-n."""
        return _primed(self._rejected[partition].messages)

    def predicted(self, partition: int) -> dict[str, Outcome]:
        """What must become of what was read of submitted_events-n, by submission."""
        outcomes = predict(partition, len(self.partitions), self.submitted(partition))
        return {outcome.submission: outcome for outcome in outcomes}

    def read_submitted(self) -> None:
        """Read everything that is submitted now."""
        self._read_all(self._submitted)

    def outcome_count(self) -> int:
        """Messages of both outputs that were read so far."""
        return sum(len(self.events(n)) + len(self.rejected(n)) for n in self.partitions)

    def await_outcomes(self, count: int, within_s: float, alive: Callable[[], None]) -> None:
        """Return when `count` messages of the outputs have been read.

        Args:
            count: how many, over all partitions; an accepted list is as many as it has events.
            within_s: fail with what is missing after that time.
            alive: called over and over; raises where waiting has become pointless.
        """
        deadline = time.monotonic() + within_s
        while self.outcome_count() < count:
            for reader in (*self._events, *self._rejected):
                reader.poll()
            alive()
            assert time.monotonic() < deadline, f"after {within_s} s {self._missing(count)}"

    def await_all(self, within_s: float, alive: Callable[[], None]) -> None:
        """Return when every submission that was read has an outcome, as far as numbers tell.

        What is forwarded has its outcome where its copy arrives, so the copies are awaited, and read, first.
        """
        deadline = time.monotonic() + within_s
        while missing := self.forwarded() - self.copied():
            self.read_submitted()
            alive()
            assert time.monotonic() < deadline, f"after {within_s} s {len(missing)} messages have not been forwarded"
        predicted = [outcome for n in self.partitions for outcome in self.predicted(n).values()]
        self.await_outcomes(sum(outcome.messages for outcome in predicted), within_s, alive)

    def forwarded(self) -> set[str]:
        """The submissions that were read and arrived in a partition other than their key's."""
        return {
            str(message.message_id)
            for n in self.partitions
            for message in self.submitted(n)
            if _is_forwarded(message, n, len(self.partitions))
        }

    def copied(self) -> set[str]:
        """The submissions of which a forwarded copy was read."""
        copies = (message.properties.get(FORWARDED_FROM) for n in self.partitions for message in self.submitted(n))
        return {original for original in copies if original is not None}

    def read_outcomes(self) -> None:
        """Read both outputs to their ends: what comes after the outcomes that were waited for shows here."""
        self._read_all((*self._events, *self._rejected))

    def check(self, index_dir: Path | None = None) -> Report:
        """Every outcome as the model predicts, its content kept, and I1 to I7; the outputs are read to their ends.

        Args:
            index_dir: where the sequencer, which must have stopped, has its indexes; None leaves I5 out.
        """
        self.read_outcomes()
        for n in self.partitions:
            check_outcomes(self.predicted(n), self.submitted(n), self.events(n), self.rejected(n))
        self._check_copies()
        report = self._verify(index_dir)
        assert report.ok, str(report)
        assert report.pending == report.before_retention == 0
        return report

    def _check_copies(self) -> None:
        originals = {str(message.message_id): message for n in self.partitions for message in self.submitted(n)}
        for n in self.partitions:
            for message in self.submitted(n):
                if original := message.properties.get(FORWARDED_FROM):
                    check_kept(originals[original], message, {FORWARDED_FROM})

    def _verify(self, index_dir: Path | None) -> Report:
        verifier = Verifier()
        for n in self.partitions:
            for message in self.submitted(n):
                for submitted in _submitted_records(message):
                    verifier.submitted(n, submitted)
            for message in self.events(n):
                verifier.accepted(n, _accepted_record(message))
            for message in self.rejected(n):
                verifier.rejected(n, _rejected_record(message))
            verifier.acknowledged(n, self._acknowledged(n))
            if index_dir is not None:
                verifier.index_tails(n, self._index_tails(n, index_dir, [key for key, _ in verifier.tails(n)]))
        return verifier.report()

    def _acknowledged(self, partition: int) -> Acknowledged:
        """The subscription's state, once it has taken in all of the partition: a cursor is updated in its own time."""
        topic = self.topics.submitted_partition(partition).replace("persistent://", "persistent/")
        url = f"{self._broker.admin_url}/admin/v2/{topic}/internalStats"
        last = self.submitted(partition)[-1].message_id if self.submitted(partition) else MessageId(-1, -1)
        deadline = time.monotonic() + SETTLED_WITHIN_S
        with httpx.Client(timeout=ADMIN_LIMIT_S, trust_env=False) as admin:
            while True:
                cursor = admin.get(url).raise_for_status().json()["cursors"]["sequencer"]
                state = Acknowledged(_position(cursor["markDeletePosition"]), _ranges(cursor))
                if state.mark_delete[:2] >= last[:2] or time.monotonic() > deadline:
                    return state

    def _index_tails(self, partition: int, index_dir: Path, keys: list[str]) -> Iterable[tuple[str, int]]:
        directory = index_dir / self.topics.namespace.replace("/", "_") / f"partition-{partition}"
        with VersionIndex.open(directory, identity=self.topics.events_partition(partition)) as index:
            return list(zip(keys, index.tails(keys), strict=True))

    def _missing(self, count: int) -> str:
        lines = [f"{self.outcome_count()} of {count} outcomes were read"]
        for n in self.partitions:
            have = {m.properties.get("submission") for m in (*self.events(n), *self.rejected(n))}
            predicted = self.predicted(n)
            missing = [submission for submission in predicted if submission not in have]
            if missing:
                shown = ", ".join(missing[:MISSING_SHOWN])
                lines.append(f"partition {n}: {len(missing)} of {len(predicted)} have none, the first: {shown}")
        return "; ".join(lines)

    def _read_all(self, readers: Sequence[LogReader]) -> None:
        ends = asyncio.run(_ends(self._broker.service_url, [reader.topic for reader in readers]))
        for reader, end in zip(readers, ends, strict=True):
            reader.read_to(end)


async def _ends(service_url: str, topics: Sequence[str]) -> list[MessageId]:
    """The last readable message of each topic. Asked with our own client: it stops before open transactions."""
    ends = []
    async with PulsarClient(service_url) as client:
        for topic in topics:
            reader = await client.reader(topic)
            ends.append(await reader.last_message_id())
            await reader.close()
    return ends


def _is_forwarded(message: Message, partition: int, partitions: int) -> bool:
    try:
        envelope(message)
    except Refused:
        return False
    return home(message.key, partitions) != partition and FORWARDED_FROM not in message.properties


def _place(message: Message) -> tuple[int, int, int]:
    return message.message_id.ledger, message.message_id.entry, message.message_id.batch_index


def _message(read: Any) -> Message:
    message_id = read.message_id()
    wire = MessageIdData.FromString(message_id.serialize())
    last = MessageId(message_id.ledger_id(), message_id.entry_id(), message_id.partition(), message_id.batch_index())
    chunks: tuple[MessageId, ...] = ()
    if wire.HasField("first_chunk_message_id"):
        # The client names the first and the last one. Nobody else published to the partition in between.
        first = wire.first_chunk_message_id
        assert first.ledgerId == last.ledger
        chunks = tuple(last._replace(entry=entry) for entry in range(first.entryId, last.entry + 1))
    return Message(
        last,
        read.partition_key(),
        read.properties(),
        read.data(),
        read.has_null_value(),
        read.event_timestamp(),
        read.ordering_key(),
        read.publish_timestamp(),
        chunks,
    )


def _submitted_records(message: Message) -> Iterator[Submitted]:
    try:
        event_id, expected, members = envelope(message)
    except Refused:
        for message_id in message.stored:
            yield Submitted(message_id, message.key or None, None, None)
        return
    origin = message.properties.get("forwarded_from")
    ids = tuple(member.event_id.bytes for member in members)
    yield Submitted(message.message_id, message.key, event_id.bytes, expected, origin, ids)


def _accepted_record(message: Message) -> Accepted:
    properties = message.properties
    return Accepted(
        message.message_id,
        message.key or None,
        _event_id(properties.get("id")),
        number(properties, "version"),
        number(properties, "sequence"),
        properties.get("submission", ""),
        message.published_at_ms,
    )


def _rejected_record(message: Message) -> Rejected:
    outcome = rejected_outcome(message)
    return Rejected(
        message.message_id,
        message.key or None,
        outcome.reason,
        outcome.submission,
        _event_id(message.properties.get("id")),
        outcome.expected_version,
        outcome.current_version,
        outcome.accepted_version,
        published_at_ms=message.published_at_ms,
    )


def _event_id(text: str | None) -> bytes | None:
    try:
        return None if text is None else UUID(text).bytes
    except ValueError:
        return None


def _position(text: str) -> MessageId:
    ledger, entry = text.split(":")
    return MessageId(int(ledger), int(entry))


def _ranges(cursor: dict[str, Any]) -> list[tuple[MessageId, MessageId]]:
    """individuallyDeletedMessages reads "[(5:1..5:3], (5:7..5:9]]"."""
    text = cursor["individuallyDeletedMessages"].strip("[]")
    pairs = [part.strip(" ,(") for part in text.split("]") if part.strip(" ,(")]
    return [(_position(first), _position(last)) for first, last in (pair.split("..") for pair in pairs)]
