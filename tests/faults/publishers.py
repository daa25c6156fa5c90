"""Applications under faults: they publish with the official client, and submit again what has no receipt in time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from random import Random
from typing import Any

import pulsar

from tests.publishing import Draft, Workload, canonical

ANSWERED_WITHIN_S = 90.0
TRIES = 60
PATIENT_MS, IMPATIENT_MS = 30_000, 1_500
BATCH_MESSAGES = 40
WORKLOAD_AGGREGATES = 60
WORKLOAD_CONFLICTS = 0.15


class Publisher:
    """One application in a thread: turns of events, until it is stopped.

    Attributes:
        receipts: where the broker says that it stored events, as "ledger:entry:partition:batch index".
        resubmitted: events that were sent again under their ids.
    """

    def __init__(self, client: Any, topic: str, name: str, seed: str, *, lists: float = 0.0) -> None:
        """`lists`: the share of what it submits that are lists of events."""
        self.receipts: list[str] = []
        self.resubmitted = 0
        self._name = name
        self._lists = lists
        self._random = Random(f"{seed}/{name}")
        self._batched = self._random.random() < 0.7
        self._pause_s = self._random.choice([0.05, 0.1, 0.3])
        self._turn = self._random.choice([1, 20, 60]) if self._batched else self._random.choice([1, 10])
        self._producer = client.create_producer(
            topic,
            # Some hash keys in another way: what arrives elsewhere is forwarded.
            message_router=canonical if self._random.random() < 0.7 else None,
            batching_enabled=self._batched,
            batching_max_messages=BATCH_MESSAGES,
            send_timeout_millis=self._random.choice([PATIENT_MS, IMPATIENT_MS]),
            block_if_queue_full=True,
        )
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns when everything is stored. Raises what has gone wrong."""
        self._stopped.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            generation = 0
            workload = self._workload(generation)
            while not self._stopped.wait(self._pause_s):
                if not self._send(list(workload.take(self._turn))):
                    # What came late has changed the order: nothing would be accepted under the old plan any more.
                    generation += 1
                    workload = self._workload(generation)
            self._producer.close()
        except Exception as failure:
            self._failure = failure

    def _workload(self, generation: int) -> Workload:
        return Workload(
            self._random.getrandbits(64),
            aggregates=WORKLOAD_AGGREGATES,
            conflicts=WORKLOAD_CONFLICTS,
            lists=self._lists,
            prefix=f"{self._name}-{generation}-",
        )

    def _send(self, drafts: Sequence[Draft]) -> bool:
        """Store all of them, whatever it takes. False: not at the first attempt."""
        for attempt in range(TRIES):
            failed = self._attempt(drafts)
            if not failed:
                return attempt == 0
            self.resubmitted += len(failed)
            drafts = failed
        raise AssertionError(f"{self._name}: {len(drafts)} events were not stored in {TRIES} attempts")

    def _attempt(self, drafts: Sequence[Draft]) -> list[Draft]:
        answers: dict[int, bool] = {}

        def answered(number: int, result: Any, message_id: Any) -> None:
            with self._changed:
                answers[number] = result == pulsar.Result.Ok
                if answers[number]:
                    at = message_id
                    self.receipts.append(f"{at.ledger_id()}:{at.entry_id()}:{at.partition()}:{at.batch_index()}")
                self._changed.notify()

        for number, draft in enumerate(drafts):
            self._producer.send_async(
                draft.payload,
                lambda result, message_id, number=number: answered(number, result, message_id),
                properties=dict(draft.properties),
                partition_key=draft.key,
            )
        with self._changed:
            done = self._changed.wait_for(lambda: len(answers) == len(drafts), ANSWERED_WITHIN_S)
        assert done, f"{self._name}: {len(drafts) - len(answers)} events have no answer after {ANSWERED_WITHIN_S} s"
        return [draft for number, draft in enumerate(drafts) if not answers[number]]
