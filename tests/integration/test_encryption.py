"""Events that their publisher encrypts: what can be judged travels on sealed, and what cannot stays readable to whoever
has the key. With the official client at both ends, on keys that protect nothing but these tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pulsar
import pytest

from sequencer.broker import EmbeddedBroker
from sequencer.names import Topics
from sequencer.pulsar.batches import split_batch
from tests.publishing import Draft, binary, publish, structured
from tests.sequencer_process import SequencerProcess, init

KEYS = Path(__file__).parent.parent / "keys"
KEY = "account-1"
READ_LIMIT_MS = 20_000


def key_reader() -> Any:
    return pulsar.CryptoKeyReader(str(KEYS / "public.pem"), str(KEYS / "private.pem"))


def encrypt(client: Any, topic: str, drafts: list[Draft], **options: Any) -> None:
    """Publish as a publisher does that encrypts."""
    publish(client, topic, drafts, encryption_key="ours", crypto_key_reader=key_reader(), **options)


class Reader:
    """The messages of one topic, one after another, to somebody who has the key, or who has not."""

    def __init__(self, client: Any, topic: str, *, has_key: bool) -> None:
        options: dict[str, Any] = (
            {"crypto_key_reader": key_reader()}
            if has_key
            else {"crypto_failure_action": pulsar.ConsumerCryptoFailureAction.CONSUME}
        )
        self._reader = client.create_reader(topic, pulsar.MessageId.earliest, **options)

    def next(self) -> Any:
        return self._reader.read_next(READ_LIMIT_MS)


@pytest.mark.parametrize("compression", [pulsar.CompressionType.NONE, pulsar.CompressionType.ZSTD])
def test_what_is_encrypted(
    broker: EmbeddedBroker, namespace: str, client: Any, tmp_path: Path, compression: Any
) -> None:
    init(broker, namespace, 1)
    topics = Topics(namespace)
    payloads = [f"payload {number} ".encode() * 20 for number in range(4)]
    ids = [uuid4() for _ in payloads]
    options = {"compression_type": compression}
    with SequencerProcess(broker, namespace, tmp_path) as process:
        encrypt(client, topics.submitted, [binary(KEY, ids[0], -1, payloads[0])], batching_enabled=False, **options)
        encrypt(client, topics.submitted, [binary(KEY, ids[1], 7, payloads[1])], batching_enabled=False, **options)
        batch = [binary(KEY, ids[2], None, payloads[2]), binary("other", ids[3], None, payloads[3])]
        encrypt(client, topics.submitted, batch, batching_enabled=True, **options)
        encrypt(client, topics.submitted, [structured(KEY, uuid4(), 0, "secret")], batching_enabled=False, **options)
        publish(client, topics.submitted, [structured(KEY, uuid4(), 0)])

        accepted = Reader(client, topics.events_partition(0), has_key=True)
        event = accepted.next()
        assert (event.data(), event.partition_key()) == (payloads[0], KEY)
        assert event.properties().items() >= {"id": str(ids[0]), "version": "0", "sequence": "0"}.items()
        assert accepted.next().properties()["version"] == "1", "the partition goes on"

        rejected = Reader(client, topics.rejected_partition(0), has_key=True)
        conflict = rejected.next()
        assert conflict.data() == payloads[1]
        assert conflict.properties().items() >= {"reason": "wrong_expected_version", "id": str(ids[1])}.items()
        closed = rejected.next()
        assert closed.properties().items() >= {"reason": "encrypted"}.items()
        assert closed.properties()["detail"].endswith("messages in it: 2")
        messages = list(split_batch(closed.data(), 2))
        assert [payload for _, _, payload in messages] == payloads[2:], "whoever has the key gets at what was sent"
        assert [single.partition_key for single, _, _ in messages] == [KEY, "other"]
        plain = rejected.next()
        assert b'"secret"' in plain.data()
        assert plain.properties().items() >= {"reason": "encrypted"}.items()

        stranger = Reader(client, topics.rejected_partition(0), has_key=False)
        seen = [stranger.next() for _ in range(3)]
        reasons = [message.properties()["reason"] for message in seen]
        assert reasons == ["wrong_expected_version", "encrypted", "encrypted"], "without the key the reason is seen"
        assert all(b"payload" not in message.data() and b"secret" not in message.data() for message in seen)
        process.stop()
