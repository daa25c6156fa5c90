"""What a sequencer does with its transactions, as seen by a proxy in between."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import NamedTuple

from sequencer.pulsar.frames import TxnId
from sequencer.pulsar.pulsar_api_pb2 import COMMIT, BaseCommand

OPENED, USED, COMMITTED, ABORTED = "opened", "used", "committed", "aborted"

SETTLED_S = 0.3
"""A process that has done nothing with transactions for so long waits for work. It tells nobody when it begins to."""


class Deed(NamedTuple):
    """One thing done with a transaction, by the process behind a link of the proxy."""

    link: int
    what: str
    txn: TxnId


class Transactions:
    """Everything that was done with transactions, in order. Its `watch` is for the proxy."""

    def __init__(self) -> None:
        self._deeds: list[Deed] = []
        self._registrations = Counter[TxnId]()
        self._changed = threading.Condition()

    def watch(self, link: int, command: BaseCommand) -> None:
        """Note what a command does."""
        match command.type:
            case BaseCommand.NEW_TXN_RESPONSE:
                answer = command.newTxnResponse
                if not answer.HasField("error"):
                    self._note(link, OPENED, answer.txnid_most_bits, answer.txnid_least_bits)
            case BaseCommand.ADD_PARTITION_TO_TXN_RESPONSE:
                added = command.addPartitionToTxnResponse
                self._note_registration(TxnId(added.txnid_most_bits, added.txnid_least_bits))
            case BaseCommand.ADD_SUBSCRIPTION_TO_TXN_RESPONSE:
                joined = command.addSubscriptionToTxnResponse
                self._note_registration(TxnId(joined.txnid_most_bits, joined.txnid_least_bits))
            case BaseCommand.SEND if command.send.HasField("txnid_least_bits"):
                self._note(link, USED, command.send.txnid_most_bits, command.send.txnid_least_bits)
            case BaseCommand.ACK if command.ack.HasField("txnid_least_bits"):
                self._note(link, USED, command.ack.txnid_most_bits, command.ack.txnid_least_bits)
            case BaseCommand.END_TXN:
                end = command.endTxn
                what = COMMITTED if end.txn_action == COMMIT else ABORTED
                self._note(link, what, end.txnid_most_bits, end.txnid_least_bits)

    def await_ready(self, link: int, at_least: int, within_s: float) -> set[TxnId]:
        """What a process has opened and nobody has ended, once there are so many and it waits for work: none is still
        being registered, and none is about to be opened."""
        deadline_s = time.monotonic() + within_s
        with self._changed:
            while self._changed.wait(SETTLED_S) or not self._are_ready(link, at_least):
                assert time.monotonic() < deadline_s, f"{self._open(link)} are open, {at_least} were to be ready"
            return self._open(link)

    def deeds(self, txns: set[TxnId]) -> set[Deed]:
        """Everything that was ever done with some transactions."""
        with self._changed:
            return {deed for deed in self._deeds if deed.txn in txns}

    def _note(self, link: int, what: str, most: int, least: int) -> None:
        with self._changed:
            self._deeds.append(Deed(link, what, TxnId(most, least)))
            self._changed.notify_all()

    def _note_registration(self, txn: TxnId) -> None:
        with self._changed:
            self._registrations[txn] += 1
            self._changed.notify_all()

    def _are_ready(self, link: int, at_least: int) -> bool:
        """Each is registered with the output and with the subscription."""
        opened = self._open(link)
        return len(opened) >= at_least and all(self._registrations[txn] >= 2 for txn in opened)

    def _open(self, link: int) -> set[TxnId]:
        opened = {deed.txn for deed in self._deeds if deed.what == OPENED and deed.link == link}
        return opened - {deed.txn for deed in self._deeds if deed.what in (COMMITTED, ABORTED)}
