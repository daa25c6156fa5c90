"""The life of one transaction, as its client knows it.

                 +--> COMMITTING --> COMMITTED
    OPEN --------+
                 +--> ABORTING ----> ABORTED

TIMED_OUT is the broker's doing: it has begun to abort an OPEN transaction. UNKNOWN means that an answer was lost; the
same END may then be sent again until the broker says what has become of it.
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
    TIME_OUT = "the broker says that its time is over"
    LOSE = "the connection or the answer is lost"


TRANSITIONS: Mapping[TransactionState, Mapping[Step, TransactionState]] = MappingProxyType(
    {
        TransactionState.OPEN: {
            Step.COMMIT: TransactionState.COMMITTING,
            Step.ABORT: TransactionState.ABORTING,
            Step.TIME_OUT: TransactionState.TIMED_OUT,
            Step.LOSE: TransactionState.UNKNOWN,
        },
        TransactionState.COMMITTING: {
            Step.COMMIT: TransactionState.COMMITTING,
            Step.ENDED: TransactionState.COMMITTED,
            Step.TIME_OUT: TransactionState.TIMED_OUT,
            Step.LOSE: TransactionState.UNKNOWN,
        },
        TransactionState.ABORTING: {
            Step.ABORT: TransactionState.ABORTING,
            Step.ENDED: TransactionState.ABORTED,
            Step.TIME_OUT: TransactionState.TIMED_OUT,
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
    """One transaction: its id, its state, and what has been registered with its coordinator.

    `opened_at_s` is the caller's clock when it was opened, seconds.
    """

    def __init__(self, txn_id: TxnId, opened_at_s: float) -> None:
        self.id = txn_id
        self.opened_at_s = opened_at_s
        self.state = TransactionState.OPEN
        self._topics: set[str] = set()
        self._subscriptions: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        return f"<Transaction {self.id} {self.state.value}>"

    @property
    def topics(self) -> frozenset[str]:
        """Topics that are registered: only to these may be sent."""
        return frozenset(self._topics)

    @property
    def subscriptions(self) -> frozenset[tuple[str, str]]:
        """Registered (topic, subscription) pairs: only there may be acknowledged."""
        return frozenset(self._subscriptions)

    def register_topic(self, topic: str) -> None:
        """Note that the coordinator has registered `topic`."""
        assert self.state is TransactionState.OPEN, f"{self!r}: cannot register {topic}"
        self._topics.add(topic)

    def register_subscription(self, topic: str, subscription: str) -> None:
        """Note that the coordinator has registered `subscription` of `topic`."""
        assert self.state is TransactionState.OPEN, f"{self!r}: cannot register {subscription} of {topic}"
        self._subscriptions.add((topic, subscription))

    def advance(self, step: Step) -> TransactionState:
        """Take `step` and return the new state. A step that the state does not allow is a bug, told by an assert."""
        following = TRANSITIONS[self.state].get(step)
        assert following is not None, f"{self!r}: not when {step.value}"
        self.state = following
        return following


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
