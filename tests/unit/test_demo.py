"""The story of the bank account, as data."""

from __future__ import annotations

import io

from rich.console import Console

from sequencer.demo import Outcome, outcome_of, story, table_of


def test_the_last_act_sends_the_first_withdrawal_again() -> None:
    acts = story()
    assert acts[5][:4] == acts[2][:4]
    assert len({act.event_id for act in acts}) == 5


def test_outcomes_from_properties() -> None:
    assert outcome_of({"version": "3"}, accepted=True) == Outcome(True, "version 3")
    duplicate = {"reason": "duplicate", "accepted_version": "2", "current_version": "4"}
    assert outcome_of(duplicate, accepted=False) == Outcome(False, "duplicate of version 2")
    conflict = {"reason": "wrong_expected_version", "current_version": "2"}
    assert outcome_of(conflict, accepted=False) == Outcome(False, "wrong_expected_version (current version 2)")
    assert outcome_of({"reason": "malformed"}, accepted=False) == Outcome(False, "malformed")


def test_the_table_fits_into_80_columns() -> None:
    text = io.StringIO()
    acts = story()
    Console(file=text, width=80).print(table_of(acts, [act.ends_as for act in acts]))
    assert max(len(line.rstrip()) for line in text.getvalue().splitlines()) <= 80
    for act in acts:
        assert str(act.data["type"]) in text.getvalue()
    assert "duplicate of version 2" in text.getvalue()
