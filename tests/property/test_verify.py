"""However a history is cut into rounds, and wherever it is kept, it is judged the same."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from sequencer.pulsar.frames import MessageId
from sequencer.verify.spill import spilled_tables
from sequencer.verify.tables import Tables, memory_tables
from sequencer.verify.verifier import Acknowledged, IdWindow, Report, Verifier
from tests.verified_log import INPUT_LEDGER, Log

REASONS = ("wrong_expected_version", "duplicate", "conflicting_ids", "malformed")


def history(seed: int, faults: int) -> Log:
    """What a sequencer may leave, with some numbers of it changed."""
    chance = random.Random(seed)
    log, ids = Log(), list[tuple[str, str, int]]()
    for number in range(chance.randrange(60)):
        key = chance.choice("abc")
        tail = log.tails.get(key, -1)
        match chance.randrange(7):
            case 0 if ids:
                key, name, version = chance.choice(ids)
                tail = log.tails[key]
                log.reject(key, name, "duplicate", expected=tail + 5, current=tail, accepted=version)
            case 1:
                log.reject(key, f"{number}", "wrong_expected_version", expected=tail + 2, current=tail)
            case 2 if ids:
                key, name, _ = chance.choice(ids)
                log.reject_list(key, [f"{number}", name], "conflicting_ids", current=log.tails[key], at_ms=number)
            case 3 | 4:
                names = [f"{number}-{n}" for n in range(chance.randrange(1, 5))]
                log.accept_list(key, names, chance.choice([None, tail]), at_ms=number)
                ids += [(key, name, tail + 1 + n) for n, name in enumerate(names)]
            case _:
                log.accept(key, f"{number}", chance.choice([None, tail]), at_ms=number)
                ids.append((key, f"{number}", tail + 1))
    for _ in range(faults):
        _damage(log, chance)
    return log


def _damage(log: Log, chance: random.Random) -> None:
    at = chance.randrange(len(log.accepted)) if log.accepted else None
    match chance.randrange(7):
        case 0 if at is not None:
            log.accepted[at] = log.accepted[at]._replace(version=chance.randrange(9))
        case 1 if at is not None:
            log.accepted[at] = log.accepted[at]._replace(sequence=chance.randrange(9))
        case 2 if at is not None:
            log.accepted[at] = log.accepted[at]._replace(submission=str(chance.choice(log.submitted).message_id))
        case 3 if log.rejected:
            which = chance.randrange(len(log.rejected))
            log.rejected[which] = log.rejected[which]._replace(current_version=chance.randrange(9))
        case 4 if log.rejected:
            which = chance.randrange(len(log.rejected))
            log.rejected[which] = log.rejected[which]._replace(reason=chance.choice(REASONS))
        case 5 if log.submitted:
            which = chance.randrange(len(log.submitted))
            log.submitted[which] = log.submitted[which]._replace(expected_version=chance.randrange(9))
        case 6 if at is not None:
            del log.accepted[at]


def judged(log: Log, tables: Tables, cuts: list[tuple[int, int]]) -> list[Report]:
    """The history fed in rounds, and what each reports; a cut says how much more of each output a round sees."""
    verifier = Verifier(IdWindow(ms=10), tables)
    place = {str(record.message_id): number for number, record in enumerate(log.submitted)}
    submitted = accepted = rejected = 0
    reports: list[Report] = []
    for more_accepted, more_rejected in (*cuts, (len(log.accepted), len(log.rejected))):
        events = log.accepted[accepted : accepted + more_accepted]
        others = log.rejected[rejected : rejected + more_rejected]
        accepted, rejected = accepted + len(events), rejected + len(others)
        seen = [
            place[submission] + 1 for submission in (*(e.submission for e in events), *(o.submission for o in others))
        ]
        reach = len(log.submitted) if len(reports) == len(cuts) else max([submitted, *seen])
        for record in log.submitted[submitted:reach]:
            verifier.submitted(0, record)
        submitted = reach
        for event in events:
            verifier.accepted(0, event)
        for other in others:
            verifier.rejected(0, other)
        # An acknowledgement may show before its outcome does.
        verifier.acknowledged(0, Acknowledged(MessageId(INPUT_LEDGER, 10**6)))
        reports.append(verifier.report({}))
    return [*reports, verifier.report()]


CUTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=5)
SEEDS = st.integers(0, 2**32)


@given(seed=SEEDS, cuts=CUTS)
@settings(max_examples=200, deadline=None)
def test_a_correct_history_is_found_correct_however_it_is_cut(seed: int, cuts: list[tuple[int, int]]) -> None:
    log = history(seed, 0)
    reports = judged(log, memory_tables(), cuts)
    for report in reports:
        assert report.ok, str(report)
    assert reports[-1].pending == 0
    assert reports[-1].lines == judged(log, memory_tables(), [])[-1].lines


@given(seed=SEEDS, cuts=CUTS, faults=st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_a_fault_is_found_however_it_is_cut(seed: int, cuts: list[tuple[int, int]], faults: int) -> None:
    log = history(seed, faults)
    assert judged(log, memory_tables(), cuts)[-1].ok == judged(log, memory_tables(), [])[-1].ok


@given(seed=SEEDS, cuts=CUTS, faults=st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_tables_on_disk_hold_what_tables_in_memory_hold(seed: int, cuts: list[tuple[int, int]], faults: int) -> None:
    log = history(seed, faults)
    with spilled_tables() as tables:
        assert judged(log, tables, cuts) == judged(log, memory_tables(), cuts)
