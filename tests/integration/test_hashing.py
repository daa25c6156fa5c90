"""Publishers in other languages, which hash keys as they do: 1,000 keys over 4 partitions each, on a real broker.

The messages go to the partitions that the Java and the Go client send them to by default, as recorded from those
clients; C++ and Python are represented by the official client itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from sequencer.broker import EmbeddedBroker
from tests.hashed_keys import HASHED_KEYS
from tests.outcomes import Logs
from tests.publishing import publish, structured
from tests.sequencer_process import SequencerProcess, init

PARTITIONS = 4
EVENTS_PER_KEY = 3
ALL_WITHIN_S = 60.0

JAVA = {hashed.key: hashed.java_partition(PARTITIONS) for hashed in HASHED_KEYS}
GO = {hashed.key: hashed.go_partition(PARTITIONS) for hashed in HASHED_KEYS}


def recorded(partitions: dict[str, int]) -> Callable[[Any, int], int]:
    def route(message: Any, count: int) -> int:
        assert count == PARTITIONS
        return partitions[message.partition_key()]

    return route


@pytest.mark.parametrize("language", ["java", "go", "python"])
def test_keys_as_other_clients_hash_them(
    broker: EmbeddedBroker, namespace: str, client: Any, tmp_path: Path, language: str
) -> None:
    """Every event expects the version before it: one out of order, in two lines of versions, or lost, shows."""
    init(broker, namespace, PARTITIONS)
    logs = Logs(client, broker, namespace, PARTITIONS)
    drafts = [structured(key, uuid4(), turn - 1) for turn in range(EVENTS_PER_KEY) for key in JAVA]
    router = {"java": recorded(JAVA), "go": recorded(GO), "python": None}[language]
    with SequencerProcess(broker, namespace, tmp_path) as process:
        publish(client, logs.topics.submitted, drafts, router=router)
        logs.read_submitted()
        arrived = routed(logs)
        logs.await_all(ALL_WITHIN_S, process.check_running)
        process.stop()
    logs.check(tmp_path)

    assert sum(len(logs.rejected(n)) for n in range(PARTITIONS)) == 0
    for n in range(PARTITIONS):
        assert Counter(message.key for message in logs.events(n)) == dict.fromkeys(
            (key for key, home in JAVA.items() if home == n), EVENTS_PER_KEY
        ), "every aggregate is in one partition only, whole"
    misrouted = {key for key, partition in arrived.items() if partition != JAVA[key]}
    assert len(logs.copied()) == len(misrouted) * EVENTS_PER_KEY == forwarded_in_log(process)
    match language:
        case "java":
            assert not misrouted, "Java's own hash needs no detour"
        case "go":
            assert misrouted == {key for key in JAVA if JAVA[key] != GO[key]}
            assert not any(key.isascii() for key in misrouted), "Go's differs where text is not ASCII"
            assert len(misrouted) > 300
        case "python":
            assert 600 < len(misrouted) < 900, "another hash altogether: three of four arrive elsewhere"


def routed(logs: Logs) -> dict[str, int]:
    """Where the keys arrived from their publisher; each in one partition."""
    arrived: dict[str, int] = {}
    for n in range(PARTITIONS):
        for message in logs.submitted(n):
            if "forwarded_from" not in message.properties:
                assert arrived.setdefault(message.key, n) == n
    return arrived


def forwarded_in_log(process: SequencerProcess) -> int:
    """How many messages it says that it forwarded, over all partitions."""
    told = re.findall(r"stopped after \d+ messages in \d+ transactions, (\d+) forwarded", "".join(process.lines()))
    assert len(told) == PARTITIONS
    return sum(map(int, told))
