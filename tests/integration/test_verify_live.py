"""`sequencer verify` beside a sequencer that is at work, behind one that was killed, and after retention."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from sequencer.broker import EmbeddedBroker
from sequencer.names import Topics
from tests.publishing import Stream, Workload, publish, structured
from tests.sequencer_process import SequencerProcess, environment_of, init, sequencer

PARTITIONS = 2
FOLLOWING_WITHIN_S = 60.0
ENDED_WITHIN_S = 30.0
TRIMMED_WITHIN_S = 30.0
ADMIN_LIMIT_S = 30.0


@contextlib.contextmanager
def following(broker: EmbeddedBroker, namespace: str) -> Iterator[subprocess.Popen[bytes]]:
    """`sequencer verify --follow` that has checked everything up to now."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sequencer", "verify", "--follow", "--json"],
        env=environment_of(broker, namespace),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        assert b"following" in process.stderr.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[bytes]) -> tuple[int, dict[str, Any]]:
    """Its exit code and its findings."""
    output, errors = process.communicate(timeout=ENDED_WITHIN_S)
    assert output, errors.decode()
    return process.returncode, json.loads(output)


def verify(broker: EmbeddedBroker, namespace: str, *options: str) -> dict[str, Any]:
    """The findings of a verification that finds no violation."""
    done = sequencer(broker, namespace, "verify", "--json", *options)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def checked(found: dict[str, Any]) -> dict[str, int]:
    return {line["name"]: line["checked"] for line in found["invariants"]}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_sequencer_at_work_one_that_was_killed_and_a_trimmed_input(
    broker: EmbeddedBroker, namespace: str, client: Any, tmp_path: Path
) -> None:
    init(broker, namespace, PARTITIONS)
    topics = Topics(namespace)
    workload = Workload(5, aggregates=200, conflicts=0.1, lists=0.1)
    with SequencerProcess(broker, namespace, tmp_path) as process:
        process.await_sequencing(PARTITIONS)
        # What the Python client's own routing brings to the wrong partition is forwarded.
        publish(client, topics.submitted, workload.take(500), router=None)
        stream = Stream(client, topics.submitted, workload)
        with following(broker, namespace) as follower:
            counts = []
            for _ in range(2):
                found = verify(broker, namespace)
                counts.append(checked(found)["I3"])
                stream.follow(counts[-1])
                assert checked(found)["I5"] == 0
            found = verify(broker, namespace, "--index-dir", str(tmp_path))
            assert found["notes"] == []
            assert checked(found)["I5"] > 0, "although the indexes are in use"
            stream.stop()
            assert 500 < counts[0] < counts[1]
            follower.send_signal(signal.SIGINT)
            code, found = ended(follower)
            assert code == 0
            assert checked(found)["I3"] >= counts[0]
        process.kill()
    found = verify(broker, namespace, "--index-dir", str(tmp_path))
    assert checked(found)["I5"] == 200
    judged = checked(found)["I3"]

    trim(broker, client, topics.submitted_partition(0))
    found = verify(broker, namespace)
    assert found["before_retention"] > 0
    assert checked(found)["I1"] == checked(found)["I2"] > 0
    assert 0 < checked(found)["I3"] < judged


def test_following_ends_at_the_first_violation(broker: EmbeddedBroker, namespace: str, client: Any) -> None:
    init(broker, namespace, 1)
    topics = Topics(namespace)
    publish(client, topics.submitted, [structured("a", uuid4())])
    with following(broker, namespace) as follower:
        assert follower.poll() is None
        producer = client.create_producer(topics.events_partition(0), batching_enabled=False)
        properties = {"id": str(uuid4()), "version": "1", "sequence": "0", "submission": "0:0:0:0"}
        foreign = producer.send(b"content", properties, partition_key="a")
        code, found = ended(follower)
    assert code == 4
    named = {m for line in found["invariants"] for example in line["examples"] for m in example["message_ids"]}
    assert f"{foreign.ledger_id()}:{foreign.entry_id()}:0:-1" in named


def trim(broker: EmbeddedBroker, client: Any, topic: str) -> None:
    """Have retention remove what a partition of submitted_events holds, all of which was acknowledged."""
    url = f"{broker.admin_url}/admin/v2/{topic.replace('://', '/')}"
    whole = re.sub(r"-partition-\d+$", "", url)
    with httpx.Client(timeout=ADMIN_LIMIT_S, trust_env=False) as admin:
        policy = {"retentionTimeInMinutes": 0, "retentionSizeInMB": 0}
        admin.post(f"{whole}/retention", json=policy).raise_for_status()
        first = admin.get(f"{url}/internalStats").raise_for_status().json()["ledgers"][0]["ledgerId"]
        deadline = time.monotonic() + TRIMMED_WITHIN_S
        while admin.get(f"{url}/internalStats").raise_for_status().json()["ledgers"][0]["ledgerId"] == first:
            assert time.monotonic() < deadline, "it is not trimmed"
            admin.put(f"{url}/unload").raise_for_status()
            admin.post(f"{url}/trim").raise_for_status()
