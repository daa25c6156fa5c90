"""The life of one transaction, as its client knows it.

                 +--> COMMITTING --> COMMITTED
    OPEN --------+
                 +--> ABORTING ----> ABORTED

TIMED_OUT is the broker's doing: it has begun to abort an OPEN transaction. UNKNOWN means that an answer was lost, or
that somebody else opened it; an END may then be sent until the broker says what has become of it. A refusal may name
the state that the transaction really is in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from sequencer.pulsar.frames import TxnId


class TransactionState(Enum):
    """Where a transaction is."""

    OPEN = "open"
    COMMITTING = "committing"
    COMMITTED = "committed"
    ABORTING = "aborting"
    ABORTED = "aborted"
    TIMED_OUT = "timed out"
    UNKNOWN = "unknown"


class Step(Enum):
    """What happens to a transaction."""

    COMMIT = "END_TXN(COMMIT) is sent"
    ABORT = "END_TXN(ABORT) is sent"
    ENDED = "the broker confirms the END"
    LOSE = "the connection or the answer is lost"


TRANSITIONS: Mapping[TransactionState, Mapping[Step, TransactionState]] = MappingProxyType(
    {
        TransactionState.OPEN: {
            Step.COMMIT: TransactionState.COMMITTING,
            Step.ABORT: TransactionState.ABORTING,
            Step.LOSE: TransactionState.UNKNOWN,
        },
        TransactionState.COMMITTING: {
            Step.COMMIT: TransactionState.COMMITTING,
            Step.ENDED: TransactionState.COMMITTED,
            Step.LOSE: TransactionState.UNKNOWN,
        },
        TransactionState.ABORTING: {
            Step.ABORT: TransactionState.ABORTING,
            Step.ENDED: TransactionState.ABORTED,
            Step.LOSE: TransactionState.UNKNOWN,
        },
        TransactionState.TIMED_OUT: {
            Step.ABORT: TransactionState.ABORTING,
            Step.LOSE: TransactionState.UNKNOWN,
        },
        TransactionState.UNKNOWN: {
            Step.COMMIT: TransactionState.COMMITTING,
            Step.ABORT: TransactionState.ABORTING,
            Step.LOSE: TransactionState.UNKNOWN,
        },
        TransactionState.COMMITTED: {},
        TransactionState.ABORTED: {},
    }
)
"""A step that is missing here is a bug of the caller."""


class Transaction:
    """One transaction: its id and its state. One that somebody else has opened is UNKNOWN at first."""

    def __init__(self, txn_id: TxnId, state: TransactionState = TransactionState.OPEN) -> None:
        self.id = txn_id
        self.state = state

    def __repr__(self) -> str:
        return f"<Transaction {self.id} {self.state.value}>"

    def advance(self, step: Step) -> TransactionState:
        """Take `step` and return the new state. A step that the state does not allow is a bug, told by an assert."""
        following = TRANSITIONS[self.state].get(step)
        assert following is not None, f"{self!r}: not when {step.value}"
        self.state = following
        return following

    def learn(self, message: str) -> None:
        """Take over the state that a refusal names: the broker knows better. Where it names none, ours is UNKNOWN."""
        self.state = state_named_in(message) or TransactionState.UNKNOWN


_BROKER_STATES: Mapping[str, TransactionState] = MappingProxyType(
    {
        "OPEN": TransactionState.OPEN,
        "COMMITTING": TransactionState.COMMITTING,
        "COMMITTED": TransactionState.COMMITTED,
        "ABORTING": TransactionState.ABORTING,
        "ABORTED": TransactionState.ABORTED,
        "TIME_OUT": TransactionState.TIMED_OUT,
    }
)

_ACTUAL_STATE = re.compile(r"but it is in ([A-Z_]+)")


def state_named_in(message: str) -> TransactionState | None:
    """The state that the broker names in the text of an INVALID_TXN_STATUS answer; None where it names none.

    The text reads: Expect Txn `(0,7)` to be in OPEN status but it is in ABORTED status.
    """
    found = _ACTUAL_STATE.search(message)
    return _BROKER_STATES.get(found.group(1)) if found else None
