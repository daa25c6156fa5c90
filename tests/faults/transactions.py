"""What a sequencer does with its transactions, as seen by a proxy in between."""

from __future__ import annotations

import threading
from typing import NamedTuple

from sequencer.pulsar.frames import TxnId
from sequencer.pulsar.pulsar_api_pb2 import COMMIT, BaseCommand

OPENED, USED, COMMITTED, ABORTED = "opened", "used", "committed", "aborted"


class Deed(NamedTuple):
    """One thing done with a transaction, by the process behind a link of the proxy."""

    link: int
    what: str
    txn: TxnId


class Transactions:
    """Everything that was done with transactions, in order. Its `watch` is for the proxy."""

    def __init__(self) -> None:
        self._deeds: list[Deed] = []
        self._changed = threading.Condition()

    def watch(self, link: int, command: BaseCommand) -> None:
        """Note what a command does."""
        match command.type:
            case BaseCommand.NEW_TXN_RESPONSE:
                answer = command.newTxnResponse
                if not answer.HasField("error"):
                    self._note(link, OPENED, answer.txnid_most_bits, answer.txnid_least_bits)
            case BaseCommand.SEND if command.send.HasField("txnid_least_bits"):
                self._note(link, USED, command.send.txnid_most_bits, command.send.txnid_least_bits)
            case BaseCommand.ACK if command.ack.HasField("txnid_least_bits"):
                self._note(link, USED, command.ack.txnid_most_bits, command.ack.txnid_least_bits)
            case BaseCommand.END_TXN:
                end = command.endTxn
                what = COMMITTED if end.txn_action == COMMIT else ABORTED
                self._note(link, what, end.txnid_most_bits, end.txnid_least_bits)

    def await_open(self, link: int, at_least: int, within_s: float) -> set[TxnId]:
        """What a process has opened and nobody has ended, once there are so many."""
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self._open(link)) >= at_least, within_s)
            assert enough, f"{len(self._open(link))} of {at_least} transactions are open after {within_s} s"
            return self._open(link)

    def deeds(self, txns: set[TxnId]) -> set[Deed]:
        """Everything that was ever done with some transactions."""
        with self._changed:
            return {deed for deed in self._deeds if deed.txn in txns}

    def _note(self, link: int, what: str, most: int, least: int) -> None:
        with self._changed:
            self._deeds.append(Deed(link, what, TxnId(most, least)))
            self._changed.notify_all()

    def _open(self, link: int) -> set[TxnId]:
        opened = {deed.txn for deed in self._deeds if deed.what == OPENED and deed.link == link}
        return opened - {deed.txn for deed in self._deeds if deed.what in (COMMITTED, ABORTED)}
