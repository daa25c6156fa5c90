"""Lists of events: all or none, in order, in one piece; whatever else is left of one is reported."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sequencer.pulsar.frames import MessageId
from sequencer.verify.lists import MAX_NAMED
from sequencer.verify.tables import Submission
from sequencer.verify.verifier import Acknowledged, IdWindow, Rejected, Verifier
from tests.verified_log import INPUT_LEDGER, REJECTED_LEDGER, Log, event_id, judge, list_log, list_name, shown

Plant = Callable[[Log], set[str]]
"""Damages a log; returns the message ids that must be named."""


def test_a_clean_log_of_lists_reports_nothing_and_says_what_it_checked() -> None:
    report = judge(list_log())
    assert report.ok, str(report)
    assert report.pending == report.before_retention == 0
    checked = {line.invariant.name: line.checked for line in report.lines}
    assert checked == {"I1": 10, "I2": 10, "I3": 12, "I4": 7, "I5": 3, "I6": 15, "I7": 12}


def place(log: Log, name: str) -> int:
    """Where an event stands."""
    (found,) = (at for at, event in enumerate(log.accepted) if event.event_id == event_id(name))
    return found


def submission(log: Log, name: str) -> str:
    return log.accepted[place(log, name)].submission


def named(log: Log, *names: str) -> set[str]:
    """The message ids of a list's events, and of the list."""
    return {submission(log, names[0]), *(str(log.accepted[place(log, name)].message_id) for name in names)}


def missing(name: str) -> Plant:
    def plant(log: Log) -> set[str]:
        del log.accepted[place(log, name)]
        log.renumber()
        return named(log, *({"z0", "z1", "z2"} - {name}))

    return plant


def swapped(log: Log) -> set[str]:
    first, second = place(log, "z0"), place(log, "z1")
    log.accepted[first], log.accepted[second] = log.accepted[second], log.accepted[first]
    log.renumber()
    return named(log, "z0", "z1")


def interrupted(log: Log) -> set[str]:
    """Another aggregate's event stands between two of the list."""
    log.accepted.insert(place(log, "z1"), log.accepted.pop(place(log, "b0")))
    log.renumber()
    return named(log, "z0", "z1")


def doubled(log: Log) -> set[str]:
    at = place(log, "z1")
    log.accepted.insert(at, log.accepted[at])
    log.renumber()
    return {log.accepted[at].submission, *(str(log.accepted[twin].message_id) for twin in (at, at + 1))}


def another_event_in_its_place(log: Log) -> set[str]:
    at = place(log, "z1")
    log.accepted[at] = log.accepted[at]._replace(event_id=event_id("somebody else"))
    return named(log, "somebody else")


def one_event_more(log: Log) -> set[str]:
    at = place(log, "z2")
    log.accepted.insert(at + 1, log.accepted[at]._replace(event_id=event_id("somebody else")))
    log.renumber()
    return named(log, "somebody else")


def nothing_of_it(log: Log) -> set[str]:
    of = submission(log, "z0")
    log.accepted = [event for event in log.accepted if event.submission != of]
    log.renumber()
    return {of}


def also_rejected(log: Log) -> set[str]:
    names = ["z0", "z1", "z2"]
    rejection = Rejected(
        MessageId(REJECTED_LEDGER, 99, 0, -1), "z", "malformed", submission(log, "z0"), event_id(list_name(names))
    )
    log.rejected.append(rejection)
    return named(log, *names) | {str(rejection.message_id)}


def rejected_and_accepted_in_part(log: Log) -> set[str]:
    both = also_rejected(log)
    return missing("z1")(log) | {str(log.rejected[-1].message_id)} | (both & named(log, "z0"))


def first_expects_another_version(log: Log) -> set[str]:
    for at, submitted in enumerate(log.submitted):
        if str(submitted.message_id) == submission(log, "a1"):
            log.submitted[at] = submitted._replace(expected_version=1)
    return named(log, "a1")


def accepted_again(log: Log) -> set[str]:
    first = log.accepted[place(log, "z2")]
    log.accept_list("z", ["z0", "z1", "z2"], at_ms=99)
    return {str(first.message_id), str(log.accepted[-1].message_id)}


def accepted_again_in_part(log: Log) -> set[str]:
    """Though its expected version matches: a list is always looked up."""
    first = log.accepted[place(log, "z2")]
    log.accept_list("z", ["z2", "z3"], 2, at_ms=99)
    return {str(first.message_id), str(log.accepted[-2].message_id)}


def accepted_again_as_a_single_event(log: Log) -> set[str]:
    first = log.accepted[place(log, "z1")]
    log.accept("z", "z1", at_ms=99)
    return {str(first.message_id), str(log.accepted[-1].message_id)}


def last_rejection(log: Log) -> set[str]:
    return {log.rejected[-1].submission, str(log.rejected[-1].message_id)}


def duplicate_of_another_version(log: Log) -> set[str]:
    log.reject_list("z", ["z0", "z1", "z2"], "duplicate", current=2, accepted=1)
    return last_rejection(log)


def duplicate_with_a_new_id(log: Log) -> set[str]:
    log.reject_list("z", ["z0", "z1", "new"], "duplicate", current=2, accepted=0)
    return last_rejection(log)


def conflicting_though_all_new(log: Log) -> set[str]:
    log.reject_list("z", ["new", "newer"], "conflicting_ids", current=2)
    return last_rejection(log)


def conflicting_though_a_duplicate(log: Log) -> set[str]:
    log.reject_list("z", ["z0", "z1", "z2"], "conflicting_ids", current=2, at_ms=99)
    return last_rejection(log)


def conflicting_though_alone(log: Log) -> set[str]:
    log.reject_list("z", ["z0"], "conflicting_ids", current=2, at_ms=99)
    return last_rejection(log)


def conflict_though_known(log: Log) -> set[str]:
    log.reject_list("z", ["z0", "new"], "wrong_expected_version", expected=0, current=2, at_ms=99)
    return last_rejection(log)


def conflict_though_a_duplicate(log: Log) -> set[str]:
    log.reject("b", "b0", "wrong_expected_version", expected=-1, current=0, at_ms=99)
    return last_rejection(log)


def rejected_under_the_id_of_an_event(log: Log) -> set[str]:
    log.reject_list("z", ["z3", "z4"], "wrong_expected_version", expected=0, current=2)
    log.rejected[-1] = log.rejected[-1]._replace(event_id=event_id("z3"))
    return last_rejection(log)


def before_an_earlier_event(log: Log) -> set[str]:
    log.accept("z", "early")
    log.accept_list("z", ["late", "later"])
    early = log.accepted.pop(place(log, "early"))
    log.accepted.append(early)
    log.renumber()
    return named(log, "late") | {str(log.accepted[-1].message_id)}


PLANTS: list[tuple[str, str, Plant]] = [
    ("I3", "the first is missing", missing("z0")),
    ("I3", "one is missing", missing("z1")),
    ("I3", "the last is missing", missing("z2")),
    ("I3", "swapped", swapped),
    ("I3", "interrupted", interrupted),
    ("I3", "doubled", doubled),
    ("I3", "another event in its place", another_event_in_its_place),
    ("I3", "one event more", one_event_more),
    ("I3", "nothing of it", nothing_of_it),
    ("I3", "also rejected", also_rejected),
    ("I3", "rejected and accepted in part", rejected_and_accepted_in_part),
    ("I3", "rejected under the id of an event", rejected_under_the_id_of_an_event),
    ("I4", "the first expects another version", first_expects_another_version),
    ("I6", "accepted again", accepted_again),
    ("I6", "accepted again in part", accepted_again_in_part),
    ("I6", "accepted again as a single event", accepted_again_as_a_single_event),
    ("I6", "duplicate of another version", duplicate_of_another_version),
    ("I6", "duplicate with a new id", duplicate_with_a_new_id),
    ("I6", "conflicting though all are new", conflicting_though_all_new),
    ("I6", "conflicting though a duplicate", conflicting_though_a_duplicate),
    ("I6", "conflicting though alone", conflicting_though_alone),
    ("I6", "conflict though known", conflict_though_known),
    ("I6", "conflict though a duplicate", conflict_though_a_duplicate),
    ("I7", "before an earlier event", before_an_earlier_event),
]


@pytest.mark.parametrize(("invariant", "plant"), [pytest.param(i, p, id=f"{i} {n}") for i, n, p in PLANTS])
def test_a_planted_fault_is_reported_under_its_invariant_only(invariant: str, plant: Plant) -> None:
    log = list_log()
    wrong = plant(log)
    report = judge(log)
    assert list(report.violated()) == [invariant], str(report)
    assert wrong <= shown(report, invariant)


def test_of_a_long_list_a_violation_names_some_events() -> None:
    log = Log()
    log.accept_list("a", [f"a{number}" for number in range(1000)])
    del log.accepted[500]
    log.renumber()
    report = judge(log)
    assert report.violated() == {"I3": 1}
    assert len(shown(report, "I3")) == 1 + MAX_NAMED
    assert "999 of the 1000 events" in str(report)


def test_a_list_may_come_again_when_its_ids_have_left_the_window() -> None:
    log = list_log()
    log.accept_list("z", ["z0", "z1", "z2"], at_ms=1002)
    assert judge(log, window=IdWindow(ms=1000)).ok
    assert judge(log, window=IdWindow(ms=1001)).violated() == {"I6": 3}
    assert judge(log, window=IdWindow(events=6)).ok
    assert judge(log, window=IdWindow(events=7)).violated() == {"I6": 3}


@pytest.mark.parametrize("reason", ["conflicting_ids", "wrong_expected_version"])
def test_what_may_have_left_the_window_may_have_been_forgotten(reason: str) -> None:
    log = list_log()
    log.reject_list("z", ["z0", "z1", "z2"], reason, expected=7, current=2, at_ms=1002)
    assert judge(log, window=IdWindow(ms=1000)).ok
    assert judge(log, window=IdWindow(events=4)).ok
    assert judge(log, window=IdWindow(ms=1001)).violated() == {"I6": 1}


def test_lists_whose_submission_was_trimmed_still_bind_the_later_ones() -> None:
    log = list_log()
    del log.submitted[:4]
    report = judge(log)
    assert report.ok, str(report)
    assert report.before_retention == 8, "events"
    log.rejected[0] = log.rejected[0]._replace(accepted_version=2)
    assert judge(log).violated() == {"I6": 1}


def test_a_list_of_which_some_is_not_visible_yet_is_waited_for() -> None:
    log, verifier = Log(), Verifier()
    log.accept_list("a", ["a0", "a1", "a2"])
    log.accept("a", "a3", 2)
    for submitted in log.submitted:
        verifier.submitted(0, submitted)
    verifier.acknowledged(0, Acknowledged(MessageId(INPUT_LEDGER, 0)))
    for accepted in log.accepted[:2]:
        verifier.accepted(0, accepted)
    report = verifier.report({})
    assert (report.ok, report.pending, list(report.unsettled)) == (True, 2, [0])
    for accepted in log.accepted[2:]:
        verifier.accepted(0, accepted)
    report = verifier.report({})
    assert (report.ok, report.pending, list(report.unsettled)) == (True, 0, []), str(report)


def test_a_list_of_which_some_is_not_visible_once_it_is_settled_is_a_violation() -> None:
    log, verifier = Log(), Verifier()
    log.accept_list("a", ["a0", "a1", "a2"])
    for submitted in log.submitted:
        verifier.submitted(0, submitted)
    verifier.acknowledged(0, Acknowledged(MessageId(INPUT_LEDGER, 0)))
    for accepted in log.accepted[:2]:
        verifier.accepted(0, accepted)
    assert verifier.report({}).ok
    assert verifier.report(verifier.frontiers()).violated() == {"I3": 1}


def test_a_list_that_is_answered_and_not_acknowledged_stays_open() -> None:
    log, verifier = Log(), Verifier()
    log.accept_list("a", ["a0", "a1", "a2"])
    verifier.submitted(0, log.submitted[0])
    verifier.acknowledged(0, Acknowledged(MessageId(INPUT_LEDGER, -1)))
    for accepted in log.accepted:
        verifier.accepted(0, accepted)
    assert verifier.report({}).ok
    assert verifier.report(verifier.frontiers()).violated() == {"I3": 1}
    verifier.acknowledged(0, Acknowledged(MessageId(INPUT_LEDGER, 0)))
    assert verifier.report({}).ok


@pytest.mark.parametrize("members", [b"", b"m" * 16, b"m" * 32])
def test_a_submission_survives_its_row(members: bytes) -> None:
    row = Submission(-1, True, b"i" * 16, b"\x01key", members)
    assert Submission.from_bytes(row.to_bytes()) == row
    assert row.events == max(1, len(members) // 16)
    assert row.event_ids == ([b"m" * 16] * (len(members) // 16) or [b"i" * 16])
