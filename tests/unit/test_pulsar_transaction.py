"""The table of a transaction's states."""

from __future__ import annotations

import itertools

import pytest

from sequencer.pulsar.frames import TxnId
from sequencer.pulsar.transaction import TRANSITIONS, Step, Transaction, TransactionState, state_named_in


def test_the_table_is_total_over_states() -> None:
    assert set(TRANSITIONS) == set(TransactionState)


def test_ended_is_ended() -> None:
    assert TRANSITIONS[TransactionState.COMMITTED] == TRANSITIONS[TransactionState.ABORTED] == {}


def test_a_commit_never_turns_into_an_abort_nor_the_other_way_round() -> None:
    assert Step.ABORT not in TRANSITIONS[TransactionState.COMMITTING]
    assert Step.COMMIT not in TRANSITIONS[TransactionState.ABORTING]
    assert Step.COMMIT not in TRANSITIONS[TransactionState.TIMED_OUT]


@pytest.mark.parametrize(
    ("steps", "end"),
    [
        ([Step.COMMIT, Step.ENDED], TransactionState.COMMITTED),
        ([Step.ABORT, Step.ENDED], TransactionState.ABORTED),
        ([Step.COMMIT, Step.COMMIT, Step.ENDED], TransactionState.COMMITTED),
        ([Step.COMMIT, Step.LOSE, Step.COMMIT, Step.ENDED], TransactionState.COMMITTED),
        ([Step.LOSE, Step.ABORT, Step.ENDED], TransactionState.ABORTED),
    ],
)
def test_lives(steps: list[Step], end: TransactionState) -> None:
    transaction = Transaction(TxnId(0, 0))
    assert transaction.state is TransactionState.OPEN
    for step in steps:
        transaction.advance(step)
    assert transaction.state is end


def test_what_the_table_does_not_have_is_a_bug() -> None:
    for state, step in itertools.product(TransactionState, Step):
        transaction = Transaction(TxnId(1, 2), state)
        if step in TRANSITIONS[state]:
            assert transaction.advance(step) is TRANSITIONS[state][step]
        else:
            with pytest.raises(AssertionError, match=r"\(1,2\)"):
                transaction.advance(step)
            assert transaction.state is state


def test_what_somebody_else_opened_can_be_ended_either_way() -> None:
    for step in (Step.COMMIT, Step.ABORT):
        Transaction(TxnId(0, 1), TransactionState.UNKNOWN).advance(step)


def test_a_refusal_teaches_the_state() -> None:
    transaction = Transaction(TxnId(0, 1))
    transaction.advance(Step.ABORT)
    transaction.learn("Expect Txn `(0,1)` to be in OPEN status but it is in COMMITTING status")
    assert transaction.advance(Step.COMMIT) is TransactionState.COMMITTING
    transaction.learn("something else went wrong")
    assert transaction.state is TransactionState.UNKNOWN


@pytest.mark.parametrize(
    ("message", "state"),
    [
        ("Expect Txn `(0,7)` to be in OPEN status but it is in ABORTED status", TransactionState.ABORTED),
        ("Expect Txn `(0,7)` to be in COMMITTING status but it is in ABORTING status ", TransactionState.ABORTING),
        ("... to be in OPEN status but it is in TIME_OUT status", TransactionState.TIMED_OUT),
        ("... but it is in COMMITTING status", TransactionState.COMMITTING),
        ("... but it is in SOMETHING_NEW status", None),
        ("The transaction with this txdID `(0,7)`not found", None),
        ("", None),
    ],
)
def test_the_state_in_the_brokers_words(message: str, state: TransactionState | None) -> None:
    assert state_named_in(message) is state
