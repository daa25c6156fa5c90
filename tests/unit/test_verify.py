"""Every invariant: a clean log reports nothing, a planted fault is reported under exactly its invariant."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sequencer.pulsar.frames import MessageId
from sequencer.verify.report import MAX_EXAMPLES
from sequencer.verify.verifier import (
    UNREADABLE,
    Acknowledged,
    IdWindow,
    Invariant,
    Rejected,
    Verifier,
    parse_message_id,
)
from tests.verified_log import INPUT_LEDGER, REJECTED_LEDGER, Log, clean_log, event_id, forwarding_logs, judge, shown


def test_a_clean_log_reports_nothing_and_says_what_it_checked() -> None:
    report = judge(clean_log())
    assert report.ok
    assert report.violated() == {}
    assert report.pending == report.before_retention == 0
    checked = {line.invariant.name: line.checked for line in report.lines}
    assert checked == {"I1": 6, "I2": 6, "I3": 11, "I4": 8, "I5": 2, "I6": 10, "I7": 11}
    assert "I1 ok, 6 checked" in str(report)


def test_the_tails_are_those_of_the_events() -> None:
    verifier = Verifier()
    for accepted in clean_log().accepted:
        verifier.accepted(0, accepted)
    assert dict(verifier.tails(0)) == clean_log().tails == {"a": 3, "b": 1}


def test_an_empty_namespace_is_clean() -> None:
    assert judge(Log()).ok


def change_accepted(at: int, **changes: object) -> Callable[[Log], None]:
    def plant(log: Log) -> None:
        log.accepted[at] = log.accepted[at]._replace(**changes)  # type: ignore[arg-type]

    return plant


def change_rejected(at: int, **changes: object) -> Callable[[Log], None]:
    def plant(log: Log) -> None:
        log.rejected[at] = log.rejected[at]._replace(**changes)  # type: ignore[arg-type]

    return plant


def change_submitted(at: int, **changes: object) -> Callable[[Log], None]:
    def plant(log: Log) -> None:
        log.submitted[at] = log.submitted[at]._replace(**changes)  # type: ignore[arg-type]

    return plant


def version_gap(log: Log) -> None:
    log.accept("d", "d0")
    log.accept("d", "d1")
    log.accepted[-1] = log.accepted[-1]._replace(version=2)


def version_repeat(log: Log) -> None:
    log.accept("d", "d0")
    log.accept("d", "d1")
    log.accepted[-1] = log.accepted[-1]._replace(version=0)


def version_missing(log: Log) -> None:
    log.accept("d", "d0")
    log.accepted[-1] = log.accepted[-1]._replace(version=UNREADABLE)


def event_without_key(log: Log) -> None:
    log.accept("d", "d0")
    log.accepted[-1] = log.accepted[-1]._replace(key=None)
    log.submitted[-1] = log.submitted[-1]._replace(key=None)


def no_outcome(log: Log) -> None:
    log.submit("d", "d0")


def lost_rejection(log: Log) -> None:
    del log.rejected[0]


def second_outcome(log: Log) -> None:
    first = log.rejected[0]
    log.rejected.append(first._replace(message_id=MessageId(REJECTED_LEDGER, 99, 0, -1)))


def accepted_and_rejected(log: Log) -> None:
    submission = log.accepted[-1].submission
    log.rejected.append(Rejected(MessageId(REJECTED_LEDGER, 99, 0, -1), "a", "malformed", submission))


def outcome_of_nothing(log: Log) -> None:
    submission = str(MessageId(INPUT_LEDGER, 0, 0, 77))
    log.rejected.append(Rejected(MessageId(REJECTED_LEDGER, 99, 0, -1), "a", "malformed", submission))


def outcome_of_another_partition(log: Log) -> None:
    submission = str(MessageId(INPUT_LEDGER, 0, 5, 0))
    log.rejected.append(Rejected(MessageId(REJECTED_LEDGER, 99, 0, -1), "a", "malformed", submission))


def outcome_without_submission(log: Log) -> None:
    log.rejected.append(Rejected(MessageId(REJECTED_LEDGER, 99, 0, -1), "a", "malformed", ""))


def not_acknowledged(log: Log) -> None:
    """The second entry of four is left."""
    log.acknowledged = Acknowledged(
        MessageId(INPUT_LEDGER, 0), [(MessageId(INPUT_LEDGER, 1), MessageId(INPUT_LEDGER, 3))]
    )


def retry_accepted(log: Log) -> None:
    """No expected version, an id that was accepted a moment before."""
    log.accept("a", "a3")


def swapped_acceptances(log: Log) -> None:
    """Two submissions of one aggregate come out in the other order."""
    log.accept("d", "d0")
    log.accept("d", "d1")
    first, second = log.accepted[-2:]
    log.accepted[-2:] = [
        first._replace(submission=second.submission, event_id=second.event_id),
        second._replace(submission=first.submission, event_id=first.event_id),
    ]


def swapped_rejections(log: Log) -> None:
    log.reject("d", "d0", "malformed")
    log.reject("d", "d1", "malformed")
    first, second = log.rejected[-2:]
    log.rejected[-2:] = [
        first._replace(submission=second.submission),
        second._replace(submission=first.submission),
    ]


PLANTS: list[tuple[str, str, Callable[[Log], None]]] = [
    ("I1", "gap", version_gap),
    ("I1", "repeat", version_repeat),
    ("I1", "missing", version_missing),
    ("I1", "no key", event_without_key),
    ("I2", "gap", change_accepted(5, sequence=6)),
    ("I2", "missing", change_accepted(5, sequence=UNREADABLE)),
    ("I3", "no outcome", no_outcome),
    ("I3", "lost rejection", lost_rejection),
    ("I3", "second outcome", second_outcome),
    ("I3", "accepted and rejected", accepted_and_rejected),
    ("I3", "outcome of nothing", outcome_of_nothing),
    ("I3", "outcome of another partition", outcome_of_another_partition),
    ("I3", "outcome without submission", outcome_without_submission),
    ("I3", "not acknowledged", not_acknowledged),
    ("I3", "another id", change_accepted(5, event_id=event_id("x"))),
    ("I3", "no id", change_accepted(5, event_id=None)),
    ("I3", "another key", change_rejected(2, key="a")),
    ("I3", "another expected version", change_rejected(0, expected_version=0)),
    ("I4", "accepted at another version", change_submitted(1, expected_version=1)),
    ("I4", "accepted though it must not exist", change_submitted(3, expected_version=-1)),
    ("I4", "another version was current", change_rejected(0, current_version=1)),
    ("I4", "a later version was current", change_rejected(0, current_version=3)),
    ("I4", "no current version", change_rejected(0, current_version=None)),
    ("I6", "retry accepted", retry_accepted),
    ("I6", "duplicate of another event", change_rejected(1, accepted_version=0)),
    ("I6", "duplicate of no event", change_rejected(1, accepted_version=9)),
    ("I6", "no accepted version", change_rejected(1, accepted_version=None)),
    ("I7", "accepted", swapped_acceptances),
    ("I7", "rejected", swapped_rejections),
]


@pytest.mark.parametrize(("invariant", "plant"), [pytest.param(i, p, id=f"{i} {n}") for i, n, p in PLANTS])
def test_a_planted_fault_is_reported_under_its_invariant_only(invariant: str, plant: Callable[[Log], None]) -> None:
    log = clean_log()
    plant(log)
    report = judge(log)
    assert list(report.violated()) == [invariant]
    assert shown(report, invariant), "a violation names the messages that show it"
    assert not report.ok
    assert f"{invariant} " in str(report)


def test_a_rejection_for_a_matching_expected_version_is_a_violation() -> None:
    log = clean_log()
    log.reject("a", "a-right", "wrong_expected_version", expected=3, current=3)
    log.reject("a", "a-any", "wrong_expected_version", current=3)
    report = judge(log)
    assert report.violated() == {"I4": 2}
    assert shown(report, "I4") == {
        *(str(log.submitted[at].message_id) for at in (-1, -2)),
        *(str(log.rejected[at].message_id) for at in (-1, -2)),
    }


def test_a_rejection_may_lack_the_key_but_not_one_that_is_about_the_aggregate() -> None:
    log = clean_log()
    log.reject("a", "large", "too_large")
    log.rejected[-1] = log.rejected[-1]._replace(key=None)
    assert judge(log).ok
    log.rejected[0] = log.rejected[0]._replace(key=None)
    assert judge(log).violated() == {"I3": 1}


def test_index_tails_behind_ahead_and_unknown_are_violations() -> None:
    for tail in (2, 4, -1):
        log = clean_log()
        log.index["a"] = tail
        assert judge(log).violated() == {"I5": 1}
    verifier = Verifier()
    verifier.index_tails(0, [("ghost", 0)])
    assert verifier.report().violated() == {"I5": 1}


def test_an_aggregate_in_two_partitions_is_a_violation() -> None:
    other = Log(number=1)
    other.accept("a", "elsewhere")
    report = judge(clean_log(), other)
    assert report.violated() == {"I1": 1}
    assert shown(report, "I1") == {str(other.accepted[0].message_id)}


def test_acknowledged_ranges_are_open_at_their_start_and_closed_at_their_end() -> None:
    log = clean_log()
    log.acknowledged = Acknowledged(
        MessageId(INPUT_LEDGER, -1),
        [
            (MessageId(INPUT_LEDGER, -1), MessageId(INPUT_LEDGER, 1)),
            (MessageId(INPUT_LEDGER, 1), MessageId(INPUT_LEDGER, 3)),
        ],
    )
    assert judge(log).ok
    log.acknowledged = Acknowledged(MessageId(INPUT_LEDGER, 2))
    report = judge(log)
    assert report.violated() == {"I3": 2}
    assert shown(report, "I3") == {str(submitted.message_id) for submitted in log.submitted[9:]}


def test_a_submission_that_is_neither_acknowledged_nor_answered_is_pending() -> None:
    log = clean_log()
    while len(log.submitted) % 3:
        log.reject("a", "bad", "malformed")
    log.submit("a", "waiting")
    log.acknowledged = Acknowledged(MessageId(INPUT_LEDGER, 3))
    report = judge(log)
    assert report.ok
    assert report.pending == 1
    log.acknowledged = Acknowledged(MessageId(INPUT_LEDGER, 4))
    assert judge(log).violated() == {"I3": 1}


def test_outcomes_of_trimmed_submissions_are_counted_and_still_bind_the_later_ones() -> None:
    log = clean_log()
    del log.submitted[:4]
    report = judge(log)
    assert report.ok, str(report)
    assert report.before_retention == 4
    log.rejected[0] = log.rejected[0]._replace(current_version=1)
    assert judge(log).violated() == {"I4": 1}


def closed_batch() -> Log:
    """The last entry, a batch of three, was rejected as one."""
    log = clean_log()
    while len(log.submitted) % 3:
        log.reject("a", "bad", "malformed")
    for name in ("x", "y", "z"):
        log.submit("a", name)
    submission = log.submitted[-1].message_id._replace(batch_index=-1)
    log.rejected.append(Rejected(MessageId(REJECTED_LEDGER, 99, 0, -1), None, "too_large", str(submission)))
    return log


def test_a_batch_that_stayed_closed_has_one_outcome_for_all_its_messages() -> None:
    assert judge(closed_batch()).ok


def test_an_own_outcome_beside_that_of_the_whole_batch_is_a_violation() -> None:
    log = closed_batch()
    submission = str(log.submitted[-2].message_id)
    log.rejected.append(Rejected(MessageId(REJECTED_LEDGER, 100, 0, -1), "a", "malformed", submission))
    assert judge(log).violated() == {"I3": 1}


def test_an_event_cannot_be_a_whole_batch() -> None:
    log = clean_log()
    log.accepted[-1] = log.accepted[-1]._replace(submission=str(log.submitted[-1].message_id._replace(batch_index=-1)))
    assert judge(log).violated() == {"I3": 2}, "an outcome of nothing, and a submission without one"


def test_the_same_id_with_a_newer_matching_expected_version_is_a_new_event() -> None:
    log = clean_log()
    log.accept("a", "a3", 3)
    log.accept("a", "a3", 4)
    log.reject("a", "a3", "duplicate", expected=2, current=5, accepted=5)
    assert judge(log).ok


def test_the_same_id_and_expected_version_accepted_again_is_a_violation_beside_the_wrong_version() -> None:
    log = clean_log()
    log.accept("a", "a3", 2)
    assert judge(log).violated() == {"I4": 1, "I6": 1}


@pytest.mark.parametrize(
    ("window", "at_ms", "wrong"),
    [
        (IdWindow(ms=1000), 999, True),
        (IdWindow(ms=1000), 1000, False),
        (IdWindow(events=1), 0, False),
        (IdWindow(events=2), 0, True),
    ],
)
def test_an_id_may_come_again_without_expected_version_once_it_has_left_the_window(
    window: IdWindow, at_ms: int, wrong: bool
) -> None:
    log = clean_log()
    log.accept("a", "a3", at_ms=at_ms)
    assert judge(log, window=window).violated() == ({"I6": 1} if wrong else {})


def test_the_same_id_in_another_aggregate_is_another_event() -> None:
    log = clean_log()
    log.accept("b", "a3")
    assert judge(log).ok


def test_a_forwarded_copy_is_its_originals_outcome() -> None:
    report = judge(*forwarding_logs())
    assert report.ok, str(report)


def test_a_second_copy_after_a_crash_is_no_second_outcome() -> None:
    source, target = forwarding_logs()
    for name, original, version in (("m0", source.submitted[0], 1), ("m1", source.submitted[1], 2)):
        target.reject("m", name, "duplicate", current=3, accepted=version)
        target.submitted[-1] = target.submitted[-1]._replace(forwarded_from=str(original.message_id))
    report = judge(source, target)
    assert report.ok, str(report)


def test_an_original_that_was_forwarded_and_has_an_outcome_is_a_violation() -> None:
    source, target = forwarding_logs()
    submission = str(source.submitted[0].message_id)
    source.rejected.append(Rejected(MessageId(REJECTED_LEDGER, 0, 0, -1), "m", "misrouted", submission))
    assert judge(source, target).violated() == {"I3": 1}


def test_a_forwarded_original_that_is_not_acknowledged_yet_is_no_violation() -> None:
    source, target = forwarding_logs()
    source.acknowledged = Acknowledged(MessageId(INPUT_LEDGER, -1))
    assert judge(source, target).ok


@pytest.mark.parametrize("origin", [str(MessageId(INPUT_LEDGER, 0, 0, 9)), "nonsense"])
def test_a_copy_of_nothing_is_a_violation(origin: str) -> None:
    source, target = forwarding_logs()
    target.submitted[0] = target.submitted[0]._replace(forwarded_from=origin)
    report = judge(source, target)
    assert report.violated() == {"I3": 1}
    assert str(target.submitted[0].message_id) in shown(report, "I3")


def test_a_copy_with_another_key_is_a_violation() -> None:
    source, target = forwarding_logs()
    source.submitted[0] = source.submitted[0]._replace(key="n")
    assert judge(source, target).violated() == {"I3": 1}


def test_copies_in_another_order_than_their_originals_are_a_violation() -> None:
    source, target = forwarding_logs()
    first, second = target.submitted[1:3]
    target.submitted[1:3] = [
        first._replace(forwarded_from=second.forwarded_from),
        second._replace(forwarded_from=first.forwarded_from),
    ]
    assert judge(source, target).violated() == {"I7": 1}


def test_examples_are_bounded_and_all_violations_counted() -> None:
    log = Log()
    for number in range(MAX_EXAMPLES + 50):
        log.submit("a", f"a{number}")
    line = judge(log).lines[list(Invariant).index(Invariant.I3)]
    assert line.violations == MAX_EXAMPLES + 50
    assert len(line.examples) == MAX_EXAMPLES


@pytest.mark.parametrize("text", ["1:2:3:-1", "1:2:3:0", "7:0:0:4095"])
def test_message_ids_survive_their_text(text: str) -> None:
    assert str(parse_message_id(text)) == text


@pytest.mark.parametrize("text", ["", "1:2:3", "1:2:3:4:5", "a:2:3:4", "-1:-1:-1:-1", "1:2:3:-2"])
def test_other_texts_are_no_message_ids(text: str) -> None:
    assert parse_message_id(text) is None
