"""A system at work is judged in rounds: what is under way waits, what is missing for good is a violation."""

from __future__ import annotations

import pytest

from sequencer.pulsar.frames import MessageId
from sequencer.verify.verifier import Acknowledged, Report, Verifier
from tests.verified_log import INPUT_LEDGER, Log, clean_log, forwarding_logs

NOTHING_SETTLED: dict[int, bytes] = {}


def feed_submitted(verifier: Verifier, log: Log, first: int = 0, last: int | None = None) -> None:
    for record in log.submitted[first:last]:
        verifier.submitted(log.number, record)


def feed_outcomes(
    verifier: Verifier, log: Log, *, accepted: slice = slice(None), rejected: slice = slice(None)
) -> None:
    for one in log.accepted[accepted]:
        verifier.accepted(log.number, one)
    for other in log.rejected[rejected]:
        verifier.rejected(log.number, other)


def up_to(entry: int) -> Acknowledged:
    return Acknowledged(MessageId(INPUT_LEDGER, entry))


def checked(report: Report) -> dict[str, int]:
    return {line.invariant.name: line.checked for line in report.lines if line.checked}


def test_what_was_judged_is_not_judged_again() -> None:
    log, verifier = clean_log(), Verifier()
    feed_submitted(verifier, log)
    feed_outcomes(verifier, log)
    verifier.acknowledged(0, up_to(99))
    first = verifier.report()
    log.accept("a", "more", 3)
    feed_submitted(verifier, log, -1)
    feed_outcomes(verifier, log, accepted=slice(-1, None), rejected=slice(0, 0))
    second = verifier.report()
    assert first.ok
    assert second.ok
    assert checked(second)["I3"] == checked(first)["I3"] + 1
    assert checked(second)["I4"] == checked(first)["I4"] + 1


def test_an_outcome_that_is_not_visible_yet_holds_back_what_was_decided_after_it() -> None:
    """The end of events was asked a moment before that of rejected_events: a rejection speaks of an unseen event."""
    log, verifier = Log(), Verifier()
    log.accept("a", "a0", -1)
    log.accept("a", "a1", 0)
    log.reject("a", "late", "wrong_expected_version", expected=0, current=1)
    feed_submitted(verifier, log)
    feed_outcomes(verifier, log, accepted=slice(1))
    verifier.acknowledged(0, up_to(0))
    report = verifier.report(NOTHING_SETTLED)
    assert report.ok, str(report)
    assert report.pending == 2
    assert list(report.unsettled) == [0]
    feed_outcomes(verifier, log, accepted=slice(1, None), rejected=slice(0, 0))
    report = verifier.report(NOTHING_SETTLED)
    assert report.ok, str(report)
    assert (report.pending, dict(report.unsettled)) == (0, {})
    assert checked(report) == {"I1": 2, "I2": 2, "I3": 3, "I4": 3, "I6": 3, "I7": 3}


def test_what_nobody_has_worked_on_is_pending_and_settled() -> None:
    log, verifier = clean_log(), Verifier()
    while len(log.submitted) % 3:
        log.reject("a", "bad", "malformed")
    last_entry = len(log.submitted) // 3 - 1
    log.submit("a", "waiting")
    feed_submitted(verifier, log)
    feed_outcomes(verifier, log)
    verifier.acknowledged(0, up_to(last_entry))
    report = verifier.report(NOTHING_SETTLED)
    assert (report.ok, report.pending, dict(report.unsettled)) == (True, 1, {})


def test_acknowledged_without_an_outcome_is_a_violation_once_it_is_settled() -> None:
    log, verifier = clean_log(), Verifier()
    lost = log.submit("a", "lost")
    feed_submitted(verifier, log)
    feed_outcomes(verifier, log)
    verifier.acknowledged(0, up_to(99))
    report = verifier.report(NOTHING_SETTLED)
    assert (report.ok, report.pending, list(report.unsettled)) == (True, 1, [0])
    settled = verifier.frontiers()
    for _ in range(2):
        report = verifier.report(settled)
        assert report.violated() == {"I3": 1}
        assert report.lines[2].examples[0].message_ids == (str(lost),)
        assert report.pending == 0
    # It came after all: as long as it is not there it is missing, and no longer.
    log.tails["a"] += 1
    late = log.accepted[-1]._replace(
        message_id=MessageId(20, 99, 0, -1),
        submission=str(lost),
        event_id=log.submitted[-1].event_id,
        version=log.tails["a"],
        sequence=len(log.accepted),
    )
    verifier.accepted(0, late)
    assert verifier.report(settled).ok


def test_an_outcome_without_its_acknowledgement_is_a_violation_once_it_is_settled() -> None:
    log, verifier = clean_log(), Verifier()
    feed_submitted(verifier, log)
    feed_outcomes(verifier, log)
    verifier.acknowledged(0, up_to(2))
    report = verifier.report(NOTHING_SETTLED)
    assert (report.ok, report.pending, list(report.unsettled)) == (True, 0, [0])
    report = verifier.report(verifier.frontiers())
    assert report.violated() == {"I3": 2}
    verifier.acknowledged(0, up_to(99))
    report = verifier.report(NOTHING_SETTLED)
    assert (report.ok, dict(report.unsettled)) == (True, {})
    assert checked(report)["I3"] == len(log.submitted)


def test_a_second_outcome_is_noticed_when_the_first_was_judged_long_ago() -> None:
    log, verifier = clean_log(), Verifier()
    feed_submitted(verifier, log)
    feed_outcomes(verifier, log)
    assert verifier.report().ok
    verifier.rejected(0, log.rejected[0]._replace(message_id=MessageId(30, 99, 0, -1)))
    assert verifier.report().violated() == {"I3": 1}


def test_a_copy_whose_original_is_not_read_yet_waits_for_it() -> None:
    """The input of one partition is read before that of another."""
    source, target = forwarding_logs()
    verifier = Verifier()
    feed_submitted(verifier, source, 0, 0)
    feed_submitted(verifier, target)
    feed_outcomes(verifier, target)
    for log in (source, target):
        assert log.acknowledged is not None
        verifier.acknowledged(log.number, log.acknowledged)
    assert verifier.report(NOTHING_SETTLED).ok
    feed_submitted(verifier, source)
    report = verifier.report(NOTHING_SETTLED)
    assert (report.ok, report.pending, dict(report.unsettled)) == (True, 0, {}), str(report)
    assert verifier.report().ok


def test_a_second_copy_of_what_was_judged_long_ago_is_no_violation() -> None:
    source, target = forwarding_logs()
    verifier = Verifier()
    for log in (source, target):
        feed_submitted(verifier, log)
        feed_outcomes(verifier, log)
    assert verifier.report().ok
    original = source.submitted[0]
    target.reject("m", "m0", "duplicate", current=3, accepted=1)
    verifier.submitted(1, target.submitted[-1]._replace(forwarded_from=str(original.message_id)))
    verifier.rejected(1, target.rejected[-1])
    assert verifier.report().ok


@pytest.mark.parametrize("kept", [0, 2])
def test_a_copy_that_retention_removed_is_known_from_its_outcome(kept: int) -> None:
    source, target = forwarding_logs()
    verifier = Verifier()
    feed_submitted(verifier, source)
    feed_submitted(verifier, target, 4 - kept)
    copies = {str(record.message_id): record.forwarded_from for record in target.submitted}
    for accepted in target.accepted:
        verifier.accepted(1, accepted._replace(forwarded_from=copies[accepted.submission]))
    for log in (source, target):
        assert log.acknowledged is not None
        verifier.acknowledged(log.number, log.acknowledged)
    report = verifier.report()
    assert report.ok, str(report)
    assert report.before_retention == 4 - kept


def test_a_partition_that_is_not_verified_can_hold_the_copies_of_one_that_is() -> None:
    source, target = forwarding_logs()
    for copies in (True, False):
        verifier = Verifier()
        feed_submitted(verifier, source)
        for record in target.submitted:
            if copies and record.forwarded_from:
                verifier.copied(target.number, record)
        verifier.acknowledged(0, up_to(99))
        assert verifier.report().violated() == ({} if copies else {"I3": 2})


def test_what_the_index_does_not_have_is_noticed() -> None:
    log, verifier = clean_log(), Verifier()
    for accepted in log.accepted:
        verifier.accepted(0, accepted)
    verifier.index_tails(0, [("b", 1), ("ghost", 4)])
    assert verifier.report().violated() == {"I5": 2}


def test_an_index_that_is_behind_is_compared_where_it_is() -> None:
    log, verifier = clean_log(), Verifier()
    verifier.indexed(0, [("a", 1)])
    for accepted in log.accepted[:2]:
        verifier.accepted(0, accepted)
    verifier.check_index(0)
    for accepted in log.accepted[2:]:
        verifier.accepted(0, accepted)
    report = verifier.report()
    assert "I5" not in report.violated()
    assert checked(report)["I5"] == 1


def test_the_progress_counts_every_submission_once() -> None:
    log, verifier, counts = clean_log(), Verifier(), list[int]()
    feed_submitted(verifier, log)
    feed_outcomes(verifier, log)
    assert verifier.unjudged() == len(log.submitted)
    verifier.report(progress=counts.append)
    assert sum(counts) == len(log.submitted)
    assert verifier.unjudged() == 0
