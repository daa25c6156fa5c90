"""The verifier's records of one partition, as a correct sequencer leaves them; tests then damage and judge them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from sequencer.pulsar.frames import MessageId
from sequencer.verify.verifier import Accepted, Acknowledged, IdWindow, Rejected, Report, Submitted, Verifier

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
        self,
        key: str | None,
        name: str,
        expected: int | None = None,
        forwarded_from: MessageId | None = None,
        members: Sequence[str] = (),
    ) -> MessageId:
        """Three messages to a batch entry."""
        entry, batch_index = divmod(len(self.submitted), 3)
        message_id = MessageId(INPUT_LEDGER, entry, self.number, batch_index)
        original = str(forwarded_from) if forwarded_from else None
        ids = tuple(map(event_id, members))
        self.submitted.append(Submitted(message_id, key, event_id(name), expected, original, ids))
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
        self._event(key, name, self.submit(key, name, expected, forwarded_from), at_ms)

    def accept_list(self, key: str, names: Sequence[str], expected: int | None = None, *, at_ms: int = 0) -> None:
        submission = self.submit(key, list_name(names), expected, members=names)
        for name in names:
            self._event(key, name, submission, at_ms)

    def _event(self, key: str, name: str, submission: MessageId, at_ms: int) -> None:
        self.tails[key] = version = self.tails.get(key, -1) + 1
        sequence = len(self.accepted)
        message_id = MessageId(EVENTS_LEDGER, sequence, self.number, -1)
        self.accepted.append(Accepted(message_id, key, event_id(name), version, sequence, str(submission), at_ms))

    def reject(
        self,
        key: str | None,
        name: str,
        reason: str,
        *,
        expected: int | None = None,
        current: int | None = None,
        accepted: int | None = None,
        members: Sequence[str] = (),
        at_ms: int | None = None,
    ) -> None:
        submission = self.submit(key, name, expected, members=members)
        message_id = MessageId(REJECTED_LEDGER, len(self.rejected), self.number, -1)
        record = Rejected(message_id, key, reason, str(submission), event_id(name), expected, current, accepted)
        self.rejected.append(record._replace(published_at_ms=at_ms))

    def reject_list(
        self,
        key: str,
        names: Sequence[str],
        reason: str,
        *,
        expected: int | None = None,
        current: int | None = None,
        accepted: int | None = None,
        at_ms: int | None = None,
    ) -> None:
        self.reject(
            key, list_name(names), reason,
            expected=expected, current=current, accepted=accepted, members=names, at_ms=at_ms,
        )  # fmt: skip

    def renumber(self) -> None:
        """Give the accepted events the places, sequences and versions that their order says."""
        self.tails = {}
        events, self.accepted = self.accepted, []
        for event in events:
            assert event.key is not None
            self.tails[event.key] = version = self.tails.get(event.key, -1) + 1
            place = len(self.accepted)
            message_id = event.message_id._replace(entry=place)
            self.accepted.append(event._replace(message_id=message_id, version=version, sequence=place))


def list_name(names: Sequence[str]) -> str:
    """What the id of a list is made from."""
    return "the list " + " ".join(names)


def judge(*logs: Log, window: IdWindow | None = None) -> Report:
    verifier = Verifier(window or IdWindow())
    for log in logs:
        for submitted in log.submitted:
            verifier.submitted(log.number, submitted)
    for log in logs:
        for accepted in log.accepted:
            verifier.accepted(log.number, accepted)
        for rejected in log.rejected:
            verifier.rejected(log.number, rejected)
        if log.acknowledged is not None:
            verifier.acknowledged(log.number, log.acknowledged)
        verifier.index_tails(log.number, (dict(verifier.tails(log.number)) | log.index).items())
    report = verifier.report()
    assert verifier.report() == report, "a report changes nothing"
    return report


def shown(report: Report, name: str) -> set[str]:
    """The message ids that the violations of one invariant name."""
    line = next(line for line in report.lines if line.invariant.name == name)
    return {message_id for example in line.examples for message_id in example.message_ids}


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


def list_log() -> Log:
    """Lists of two aggregates, one of them all over; every kind of outcome once at least."""
    log = Log()
    log.accept("a", "a0", -1)
    log.accept_list("a", ["a1", "a2", "a3"], 0, at_ms=1)
    log.accept_list("z", ["z0", "z1", "z2"], at_ms=2)
    log.accept("b", "b0", at_ms=3)
    log.reject_list("a", ["a1", "a2", "a3"], "duplicate", expected=0, current=3, accepted=1, at_ms=4)
    log.reject_list("a", ["a0", "a2"], "duplicate", current=3, accepted=0, at_ms=5)
    log.reject_list("a", ["a3", "a4"], "conflicting_ids", expected=3, current=3, at_ms=6)
    log.reject_list("a", ["a5", "a6"], "wrong_expected_version", expected=2, current=3, at_ms=7)
    log.reject_list("c", ["c0", "c1"], "too_large", at_ms=8)
    log.accept_list("a", ["a7"], 3, at_ms=9)
    log.accept("a", "a8", 4, at_ms=10)
    log.reject("a", "a7", "duplicate", current=5, accepted=4, at_ms=11)
    log.acknowledged = Acknowledged(MessageId(INPUT_LEDGER, 99))
    return log
