"""`sequencer demo`: a bank account on a broker of its own, judged by a sequencer of its own; what `make demo` runs.

Two servers have seen version 1 of the account and both withdraw the last 50. Without a single writer both withdrawals
would be appended as version 2; here the second one is told that it is too late.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pulsar
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sequencer import SequencerError
from sequencer.admin import Admin
from sequencer.broker import EmbeddedBroker
from sequencer.initialize import initialize
from sequencer.names import Topics
from sequencer.official import official_client, route
from sequencer.publish import random_id
from sequencer.pulsar.client import PulsarClient
from sequencer.tail import next_message
from sequencer.topics import TopicPlan

ACCOUNT = "account-1"
PARTITIONS = 1
OUTCOMES_WITHIN_S = 60.0
STOP_LIMIT_S = 15.0
POLL_MS = 20
LOG_TAIL_LINES = 5


class DemoFailed(SequencerError):
    """The demonstration could not be shown to its end."""


class Outcome(NamedTuple):
    """What became of an event: its new version, or why it was rejected."""

    accepted: bool
    detail: str


class Act(NamedTuple):
    """One event of the story."""

    who: str
    event_id: str
    version: int | None
    """The version that `who` has seen; None: any will do."""
    data: Mapping[str, object]
    ends_as: Outcome


def story() -> list[Act]:
    """The bank account, with fresh ids."""
    withdrawal = random_id()
    too_late = Outcome(False, "wrong_expected_version (current version 2)")
    return [
        Act("server A", random_id(), -1, {"type": "open-account"}, Outcome(True, "version 0")),
        Act("server A", random_id(), 0, {"type": "deposit", "amount": 50}, Outcome(True, "version 1")),
        Act("server A", withdrawal, 1, {"type": "withdraw", "amount": 50}, Outcome(True, "version 2")),
        Act("server B", random_id(), 1, {"type": "withdraw", "amount": 50}, too_late),
        Act("server B", random_id(), None, {"type": "send-statement"}, Outcome(True, "version 3")),
        Act("server A", withdrawal, 1, {"type": "withdraw", "amount": 50}, Outcome(False, "duplicate of version 2")),
    ]


def outcome_of(properties: Mapping[str, str], *, accepted: bool) -> Outcome:
    """An outcome read from the properties of a message on `events` (accepted) or `rejected_events`."""
    if accepted:
        return Outcome(True, f"version {properties.get('version')}")
    reason = properties.get("reason", "no reason")
    if reason == "duplicate":
        return Outcome(False, f"duplicate of version {properties.get('accepted_version')}")
    if "current_version" in properties:
        return Outcome(False, f"{reason} (current version {properties['current_version']})")
    return Outcome(False, reason)


def run_demo(*, verbose: bool) -> int:
    """Plays the story and prints it as a table. Returns the exit code: 1 where it did not end as it should.

    Raises: SequencerError, PulsarError.
    """
    notes = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="sequencer-demo-", ignore_cleanup_errors=True) as directory:
        broker = EmbeddedBroker(Path(directory) / "broker")
        with contextlib.ExitStack() as running:
            with _step(notes, "starting a real Pulsar broker (fetched once, about 145 MB)"):
                running.enter_context(broker)
            with _step(notes, "creating the topics"):
                _create_topics(broker)
            sequencer = running.enter_context(_sequencer(broker, Path(directory)))
            client = running.enter_context(official_client(broker.service_url, None, verbose=verbose))
            with _step(notes, "submitting events, and waiting for what becomes of them"):
                acts = story()
                submissions = _submit(client, acts)
                outcomes = _outcomes(client, submissions, sequencer)
            with _step(notes, "stopping everything"):
                running.close()
    ended = [outcomes[submission] for submission in submissions]
    Console().print(table_of(acts, ended))
    for act, outcome in zip(acts, ended, strict=True):
        if outcome != act.ends_as:
            notes.print(
                f"error: {act.data['type']} ended as {outcome.detail!r}, not as {act.ends_as.detail!r}", markup=False
            )
    return 0 if ended == [act.ends_as for act in acts] else 1


@contextlib.contextmanager
def _step(notes: Console, what: str) -> Iterator[None]:
    """Says what is under way, and how long it took."""
    started_s = time.monotonic()
    notes.print(f"{what} ...", style="dim")
    yield
    notes.print(f"  {time.monotonic() - started_s:.1f} s", style="dim")


def _create_topics(broker: EmbeddedBroker) -> None:
    with Admin(broker.admin_url) as admin:
        for _ in initialize(lambda: PulsarClient(broker.service_url), admin, Topics(), TopicPlan(PARTITIONS)):
            pass


class _Sequencer(NamedTuple):
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raises: DemoFailed, where it has ended."""
        if self.process.poll() is not None:
            last_lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
            raise DemoFailed(f"the sequencer ended with exit code {self.process.returncode}: {' | '.join(last_lines)}")


@contextlib.contextmanager
def _sequencer(broker: EmbeddedBroker, directory: Path) -> Iterator[_Sequencer]:
    """`sequencer run`, as anybody would start it."""
    arguments = ["run", "--service-url", broker.service_url, "--admin-url", broker.admin_url]
    arguments += ["--namespace", Topics().namespace, "--index-dir", str(directory / "index")]
    log = directory / "sequencer.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sequencer", *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield _Sequencer(process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _submit(client: Any, acts: Sequence[Act]) -> list[str]:
    """Sends the events one after another, each server through a producer of its own. Returns their submissions."""
    topic = Topics().submitted
    producers = {who: client.create_producer(topic, message_router=route) for who in {act.who for act in acts}}
    submissions = []
    for act in acts:
        payload: dict[str, object] = {"id": act.event_id, "data": act.data}
        if act.version is not None:
            payload["version"] = act.version
        at = producers[act.who].send(msgspec.json.encode(payload), partition_key=ACCOUNT)
        submissions.append(f"{at.ledger_id()}:{at.entry_id()}:{at.partition()}:{at.batch_index()}")
    return submissions


def _outcomes(client: Any, submissions: Sequence[str], sequencer: _Sequencer) -> dict[str, Outcome]:
    """Reads both outputs until every submission has its outcome.

    Raises: DemoFailed.
    """
    topics = Topics()
    readers = [
        (client.create_reader(topics.events, pulsar.MessageId.earliest), True),
        (client.create_reader(topics.rejected, pulsar.MessageId.earliest), False),
    ]
    outcomes: dict[str, Outcome] = {}
    deadline = time.monotonic() + OUTCOMES_WITHIN_S
    while not outcomes.keys() >= set(submissions):
        sequencer.check()
        if time.monotonic() > deadline:
            raise DemoFailed(
                f"only {len(outcomes)} of {len(submissions)} events were judged in {OUTCOMES_WITHIN_S:.0f} s"
            )
        for reader, accepted in readers:
            message = next_message(reader, POLL_MS)
            if message is not None:
                outcomes[message.properties.get("submission", "")] = outcome_of(message.properties, accepted=accepted)
    return outcomes


def table_of(acts: Sequence[Act], outcomes: Sequence[Outcome]) -> Table:
    """What happened, for people; fits into 80 columns."""
    table = Table(title=f"{ACCOUNT}, judged by a single writer", title_justify="left", box=SIMPLE_HEAD)
    for column in ("who", "event", "expected", "outcome", "version / reason"):
        table.add_column(column, overflow="fold")
    sent: set[str] = set()
    for act, outcome in zip(acts, outcomes, strict=True):
        what = " ".join(str(value) for value in act.data.values())
        again = ", again" if act.event_id in sent else ""
        sent.add(act.event_id)
        expected = "any" if act.version is None else str(act.version)
        verdict = "[green]accepted[/]" if outcome.accepted else "[red]rejected[/]"
        table.add_row(act.who, what + again, expected, verdict, outcome.detail)
    return table
