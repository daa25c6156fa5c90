"""The verifier's records of one partition, as a correct sequencer leaves them; tests then damage them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from sequencer.pulsar.frames import MessageId
from sequencer.verify import Accepted, Acknowledged, Rejected, Submitted

INPUT_LEDGER, EVENTS_LEDGER, REJECTED_LEDGER = 10, 20, 30


def event_id(name: str) -> bytes:
    return uuid.uuid5(uuid.NAMESPACE_OID, name).bytes


@dataclass
class Log:
    """One partition's three topics as a correct sequencer leaves them; tests then damage the lists."""

    number: int = 0
    submitted: list[Submitted] = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    acknowledged: Acknowledged | None = None
    index: dict[str, int] = field(default_factory=dict)  # where the index differs from the log
    tails: dict[str, int] = field(default_factory=dict)

    def submit(
        self, key: str | None, name: str, expected: int | None = None, forwarded_from: MessageId | None = None
    ) -> MessageId:
        """Three messages to a batch entry."""
        entry, batch_index = divmod(len(self.submitted), 3)
        message_id = MessageId(INPUT_LEDGER, entry, self.number, batch_index)
        original = str(forwarded_from) if forwarded_from else None
        self.submitted.append(Submitted(message_id, key, event_id(name), expected, original))
        return message_id

    def accept(
        self,
        key: str,
        name: str,
        expected: int | None = None,
        *,
        at_ms: int = 0,
        forwarded_from: MessageId | None = None,
    ) -> None:
        submission = self.submit(key, name, expected, forwarded_from)
        self.tails[key] = version = self.tails.get(key, -1) + 1
        sequence = len(self.accepted)
        message_id = MessageId(EVENTS_LEDGER, sequence, self.number, -1)
        record = Accepted(message_id, key, event_id(name), version, sequence, str(submission), at_ms)
        self.accepted.append(record)

    def reject(
        self,
        key: str | None,
        name: str,
        reason: str,
        *,
        expected: int | None = None,
        current: int | None = None,
        accepted: int | None = None,
    ) -> None:
        submission = self.submit(key, name, expected)
        message_id = MessageId(REJECTED_LEDGER, len(self.rejected), self.number, -1)
        record = Rejected(message_id, key, reason, str(submission), event_id(name), expected, current, accepted)
        self.rejected.append(record)


def clean_log() -> Log:
    """Two aggregates; every kind of outcome once at least."""
    log = Log()
    log.accept("a", "a0", -1)
    log.accept("a", "a1", 0)
    log.accept("b", "b0")
    log.accept("a", "a2")
    log.reject("a", "a-late", "wrong_expected_version", expected=1, current=2)
    log.reject("a", "a1", "duplicate", expected=0, current=2, accepted=1)
    log.reject(None, "nobody", "missing_key")
    log.accept("b", "b1", 0)
    log.reject("c", "c-early", "wrong_expected_version", expected=3, current=-1)
    log.reject("b", "b0", "duplicate", current=1, accepted=0)
    log.accept("a", "a3", 2)
    log.acknowledged = Acknowledged(MessageId(INPUT_LEDGER, 99))
    return log


def forwarding_logs() -> tuple[Log, Log]:
    """Two events of one aggregate arrive in partition 0 and are forwarded to 1, between two of its own."""
    source, target = Log(number=0), Log(number=1)
    originals = [source.submit("m", "m0"), source.submit("m", "m1")]
    target.accept("m", "direct0")
    for name, original in zip(("m0", "m1"), originals, strict=True):
        target.accept("m", name, forwarded_from=original)
    target.accept("m", "direct1")
    for log in (source, target):
        log.acknowledged = Acknowledged(MessageId(INPUT_LEDGER, 99))
    return source, target
