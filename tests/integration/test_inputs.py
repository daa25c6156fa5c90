"""Every kind of submission, good and bad, from the official client: each has its outcome, and the partition goes on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pulsar
import pytest

from sequencer.broker import EmbeddedBroker
from tests.model import MAX_BATCH_MESSAGES, MAX_LIST_EVENTS, MAX_LISTED_EVENTS, MAX_MESSAGE_BYTES, home
from tests.outcomes import Logs
from tests.publishing import Draft, binary, listed, publish, structured
from tests.sequencer_process import SequencerProcess, init

PARTITIONS = 2
ALL_WITHIN_S = 60.0
KEY = "account-1"

TWICE = uuid4()
NO_VERSIONS: list[Any] = ["1", 1.5, 1.0, True, -2, 2**53 + 1, []]
UNREADABLE: list[Draft] = [
    Draft(KEY, b"{no json"),
    Draft(KEY, b'{"id": "\xff\xfe", "data": 1}'),
    Draft(KEY, f'{{"id": "{uuid4()}", "data": "\xff"}}'.encode("latin-1")),
    Draft(KEY, b"[1, 2]"),
    Draft(KEY, b'"a text"'),
    Draft(KEY, b'{"data": 1}'),
    Draft(KEY, f'{{"id": "{uuid4()}"}}'.encode()),
    structured(KEY, "no uuid"),
    structured(KEY, uuid4().hex),
    *(structured(KEY, uuid4(), number) for number in NO_VERSIONS),
    listed(KEY, uuid4(), []),
    listed(KEY, uuid4(), [uuid4() for _ in range(MAX_LIST_EVENTS + 1)]),
    listed(KEY, uuid4(), [TWICE, uuid4(), TWICE]),
    listed(KEY, uuid4(), [uuid4(), "no uuid"]),
    listed(KEY, uuid4(), [uuid4()], type=7),
    structured(KEY, uuid4(), events=[{"id": str(uuid4()), "data": 1}]),
    binary(KEY, "no uuid", None, b"bytes"),
    *(binary(KEY, uuid4(), text, b"bytes") for text in ("one", "1.0", "", "-2", " 1", "1_0", str(2**53 + 1))),
]
EMPTY: list[Draft] = [
    Draft(KEY, b""),
    Draft(KEY, None),
    binary(KEY, uuid4(), None, b""),
    Draft(KEY, None, {"id": str(uuid4())}),
]


class Job:
    """A namespace and its sequencer, which runs while things are submitted."""

    def __init__(self, broker: EmbeddedBroker, namespace: str, client: Any, index_dir: Path) -> None:
        init(broker, namespace, PARTITIONS)
        self.client, self._index_dir = client, index_dir
        self.logs = Logs(client, broker, namespace, PARTITIONS)
        self.process = SequencerProcess(broker, namespace, index_dir)

    def submit(self, *drafts: Draft, **options: Any) -> None:
        publish(self.client, self.logs.topics.submitted, drafts, **options)

    def finish(self) -> Counter[str]:
        """All is judged, and judged right; how often each reason came, "" = accepted."""
        self.logs.read_submitted()
        self.logs.await_all(ALL_WITHIN_S, self.process.check_running)
        self.process.stop()
        self.logs.check(self._index_dir)
        rejected = [message for n in range(PARTITIONS) for message in self.logs.rejected(n)]
        reasons = Counter(message.properties["reason"] for message in rejected)
        reasons[""] = sum(len(self.logs.events(n)) for n in range(PARTITIONS))
        return reasons


@pytest.fixture
def job(broker: EmbeddedBroker, namespace: str, client: Any, tmp_path: Path) -> Iterator[Job]:
    job = Job(broker, namespace, client, tmp_path)
    with job.process:
        yield job


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
def test_messages_that_break_the_contract(job: Job, batched: bool) -> None:
    """Each stands between two good events of the same aggregate, which it must not disturb."""
    bad = [*UNREADABLE, *EMPTY, Draft(None, structured("", uuid4()).payload)]
    drafts = [structured(KEY, uuid4(), -1)]
    for version, draft in enumerate(bad):
        drafts += [draft, structured(KEY, uuid4(), version)]
    job.submit(*drafts, batching_enabled=batched)
    reasons = {"": len(bad) + 1, "malformed": len(UNREADABLE) + len(EMPTY), "missing_key": 1}
    assert job.finish() == reasons


def test_chunked_messages(job: Job) -> None:
    """Chunks are judged one by one: they are messages of their own to the broker."""
    job.submit(structured(KEY, uuid4(), -1))
    job.submit(binary(KEY, uuid4(), 0, bytes(2 * MAX_MESSAGE_BYTES)), chunking_enabled=True)
    job.submit(structured(KEY, uuid4(), 0))
    reasons = job.finish()
    [chunked] = [message for message in job.logs.submitted(home(KEY, PARTITIONS)) if message.chunks]
    assert len(chunked.chunks) >= 2
    assert reasons == {"": 2, "chunked": len(chunked.chunks)}


def test_messages_that_are_too_large(job: Job) -> None:
    largest = MAX_MESSAGE_BYTES - 300  # what the official client just lets through
    text = random.Random(1).randbytes(2**19).hex() * 20  # 20 MiB that ZSTD makes one of
    job.submit(structured(KEY, uuid4(), -1))
    job.submit(binary(KEY, uuid4(), 0, bytes(largest)))
    job.submit(structured(KEY, uuid4(), 0))
    for batched in (True, False):
        options = {"compression_type": pulsar.CompressionType.ZSTD, "batching_enabled": batched}
        job.submit(structured(KEY, uuid4(), 1, data=text), **options)
        options = {"compression_type": pulsar.CompressionType.LZ4, "batching_enabled": batched}
        job.submit(structured(KEY, uuid4(), 1, data="y" * (20 * 2**20)), **options)
    job.submit(structured(KEY, uuid4(), 1))
    assert job.finish() == {"": 3, "too_large": 5}


def test_the_largest_messages_that_are_accepted(job: Job) -> None:
    for version, compression in enumerate((pulsar.CompressionType.NONE, pulsar.CompressionType.LZ4)):
        payload = random.Random(version).randbytes(MAX_MESSAGE_BYTES - 32 * 1024)
        job.submit(binary(KEY, uuid4(), version - 1, payload), compression_type=compression)
    assert job.finish() == {"": 2}


def test_a_batch_that_is_too_long_has_one_outcome(job: Job) -> None:
    job.submit(structured(KEY, uuid4(), -1))
    events = [binary(KEY, UUID(int=number), None, b"x") for number in range(MAX_BATCH_MESSAGES + 1)]
    options = {
        "batching_enabled": True,
        "batching_max_messages": len(events),
        "batching_max_allowed_size_in_bytes": 4 * 2**20,
        "batching_max_publish_delay_ms": 60_000,
    }
    job.submit(*events, **options)
    job.submit(structured(KEY, uuid4(), 0))
    assert job.finish() == {"": 2, "too_large": 1}


def test_lists_of_events(job: Job) -> None:
    """All or none of each, whatever is between them; a list that has no room in its batch is too large."""
    ids = [uuid4() for _ in range(MAX_LIST_EVENTS)]
    few = [listed(KEY, uuid4(), ids[:3], -1, type="opened", subject="é"), structured(KEY, ids[3], 2)]
    few += [listed(KEY, uuid4(), ids[3:5], 3), listed(KEY, uuid4(), ids[4:6], 3), listed(KEY, uuid4(), ids[:3], -1)]
    few += [listed(KEY, uuid4(), ids[6:8], 4), structured(KEY, ids[1], 0)]
    mine = {"type": "replaced", "trace": "abc", "version": "mine"}
    for batched in (True, False):
        job.submit(*(draft._replace(properties=mine) for draft in few), batching_enabled=batched)
    whole = [listed(f"order-{n}", uuid4(), ids) for n in range(MAX_LISTED_EVENTS // MAX_LIST_EVENTS)]
    options = {"batching_enabled": True, "batching_max_messages": 1000, "batching_max_publish_delay_ms": 60_000}
    options |= {"compression_type": pulsar.CompressionType.ZSTD, "batching_max_allowed_size_in_bytes": 4 * 2**20}
    publisher = [*whole, listed(KEY, uuid4(), ids[8:10]), structured(KEY, ids[10])]
    job.submit(*publisher, router=lambda message, partitions: home(KEY, partitions), **options)
    reasons = job.finish()
    assert reasons["too_large"] == 1
    assert reasons["conflicting_ids"] >= 1


@pytest.mark.parametrize("batching", [True, False])
def test_keys_that_arrive_in_another_partition_are_forwarded(job: Job, batching: bool) -> None:
    """The Python client's own routing is another one than the Java client's: about half of the keys arrive elsewhere.

    Three events of each key, in order, with conflicts that the order decides: nothing is lost, doubled or turned round.
    """
    keys = [f"order-{number}" for number in range(200)]
    drafts = [structured(key, uuid4(), expected) for expected in (-1, 0, 0) for key in keys]
    others = [binary(key, uuid4(), 1, b"bytes") for key in keys]
    others += [listed(key, uuid4(), [uuid4(), uuid4()], 2, type="shipped") for key in keys]
    job.submit(*drafts, *others, router=None, batching_enabled=batching)
    assert job.finish() == {"": 1000, "wrong_expected_version": 200}
    assert 200 < len(job.logs.forwarded()) < 800


def test_one_aggregate_by_two_routes_has_one_line_of_versions(job: Job) -> None:
    """Two publishers that hash differently write to the same aggregates, without expecting a version."""
    keys = [f"order-{number}" for number in range(50)]
    for _ in range(4):
        job.submit(*(structured(key, uuid4(), None) for key in keys), router=None)
        job.submit(*(structured(key, uuid4(), None) for key in keys))
    assert job.finish() == {"": 400}


def test_a_repeat_of_a_forwarded_message_is_a_duplicate(job: Job) -> None:
    """As after a crash between the copy's receipt and the commit: the original is forwarded once more."""
    keys = [f"order-{number}" for number in range(20)]
    drafts = [structured(key, uuid4(), -1) for key in keys]
    job.submit(*drafts, router=None)
    job.submit(*drafts, router=None)
    assert job.finish() == {"": 20, "duplicate": 20}


def test_what_says_that_it_was_forwarded_is_not_forwarded_again(job: Job) -> None:
    """A forged `forwarded_from` goes round once at most."""
    original = structured(KEY, uuid4(), -1)
    job.submit(original)
    job.logs.read_submitted()
    [first] = [message for n in range(PARTITIONS) for message in job.logs.submitted(n)]
    forged = [structured(f"order-{number}", uuid4(), -1) for number in range(40)]
    strays = [draft._replace(properties={"forwarded_from": str(first.message_id)}) for draft in forged]
    publish(job.client, job.logs.topics.submitted, strays, router=None)
    job.logs.read_submitted()
    job.logs.await_all(ALL_WITHIN_S, job.process.check_running)
    job.process.stop()
    job.logs.read_outcomes()
    reasons = {m.properties["reason"] for n in range(PARTITIONS) for m in job.logs.rejected(n)}
    assert reasons == {"misrouted"}
    assert job.logs.outcome_count() == 41


def test_keys_beyond_ascii_are_routed_as_java_does(job: Job) -> None:
    keys = ["Ünïcödé", "東京", "😀 smile", "𝒳" * 20, " ", "a" * 1024]
    job.submit(*(structured(key, uuid4(), -1) for key in keys))
    assert job.finish() == {"": len(keys)}


def test_what_belongs_to_the_application_is_kept(job: Job) -> None:
    """Properties, event time and ordering key; names that an outcome uses are the sequencer's."""
    mine = {"trace": "abc", "empty": "", "ключ": "значение", "submission": "mine", "sequence": "mine", "reason": "mine"}
    accepted = binary(KEY, uuid4(), -1, b"bytes", event_time_ms=1_700_000_000_000, ordering_key="order")
    rejected = binary(KEY, uuid4(), 7, b"bytes", event_time_ms=1_700_000_000_001, ordering_key="order")
    for batched in (True, False):
        drafts = [draft._replace(properties={**mine, **draft.properties}) for draft in (accepted, rejected)]
        job.submit(*drafts, structured(KEY, uuid4(), None), batching_enabled=batched)
    assert job.finish() == {"": 3, "wrong_expected_version": 2, "duplicate": 1}
