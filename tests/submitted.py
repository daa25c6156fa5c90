"""Submitted entries as publishers' clients write them, good and bad, for the tests of the core."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sequencer.packing import Output
from sequencer.pulsar.batches import Compression, compress, join_batch
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.pulsar.pulsar_api_pb2 import MessageMetadata, SingleMessageMetadata

MAX_MESSAGE_BYTES = 5 * 1024 * 1024
KEY = "account-1"
ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
BINARY = {"id": ID, "version": "3"}
POSITION = MessageId(7, 3, 0)
DELIVERED_AT = MessageId(20, 0, 0)

Properties = Mapping[str, str] | Sequence[tuple[str, str]]
Message = tuple[bytes, bytes]


def event_id(name: str) -> str:
    """The same UUID for the same name."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def structured(id_text: Any = ID, data: Any = None, **others: Any) -> bytes:
    """A payload of the structured mode; `version` is one of the `others`, absent unless given."""
    return json.dumps({"id": id_text, "data": data, **others}).encode()


def listed(*names: str, id_text: Any = ID, **others: Any) -> bytes:
    """A payload that holds a list, whose events are named."""
    events = [{"id": event_id(name), "data": name} for name in names]
    return json.dumps({"id": id_text, "events": events, **others}).encode()


def message(payload: bytes, key: str | None = KEY, properties: Properties = (), **fields: Any) -> Message:
    """One message of a batch: (serialized SingleMessageMetadata, payload)."""
    single = SingleMessageMetadata(payload_size=len(payload), partition_key=key, **fields)
    _add(single, properties)
    return single.SerializeToString(), payload


def batch(messages: Sequence[Message], *, compression: int = 0, **fields: Any) -> Entry:
    """A batch; `count` and `uncompressed_size` among the fields overrule the true ones."""
    plain = join_batch(messages)
    metadata = sent_metadata(num_messages_in_batch=len(messages), uncompressed_size=len(plain), compression=compression)
    _set(metadata, fields)
    return stored(metadata, compress(compression, plain))


def single(
    payload: bytes, key: str | None = KEY, properties: Properties = (), *, compression: int = 0, **fields: Any
) -> Entry:
    """A message that was sent without batching."""
    metadata = sent_metadata(partition_key=key, uncompressed_size=len(payload), compression=compression)
    _add(metadata, properties)
    _set(metadata, fields)
    return stored(metadata, compress(compression, payload))


def encrypted(entry: Entry) -> Entry:
    """The same, as if its payload were encrypted."""
    entry.metadata.encryption_keys.add(key="ours", value=b"wrapped key")
    entry.metadata.encryption_param = b"nonce"
    return entry._replace(payload=b"\x8e" + entry.payload[1:])


def sealed_entry(payload: bytes = b"secret", **properties: str) -> Entry:
    """An encrypted message that can be judged: in binary mode."""
    entry = single(payload, properties={**BINARY, **properties}, compression=Compression.LZ4, event_time=5)
    return encrypted(entry)


def raw_property(name: bytes, value: bytes, tag: bytes = b"\x0a") -> bytes:
    """A property that need not be UTF-8, serialized as field 1 (of SingleMessageMetadata) or another."""
    pair = b"\x0a" + bytes([len(name)]) + name + b"\x12" + bytes([len(value)]) + value
    return tag + bytes([len(pair)]) + pair


def sent_metadata(**fields: Any) -> MessageMetadata:
    """Metadata with what every producer adds."""
    return MessageMetadata(producer_name="publisher-1", sequence_id=4, publish_time=1_700_000_000_000, **fields)


def stored(metadata: MessageMetadata, payload: bytes, position: MessageId = POSITION) -> Entry:
    """As the broker delivers it."""
    return Entry(position, metadata, payload, 0, (), "")


def delivered(output: Output, position: MessageId = DELIVERED_AT, publish_time: int = 1) -> Entry:
    """An output as a reader gets it back: with the fields that the producer adds."""
    added = MessageMetadata(producer_name="sequencer", sequence_id=0, publish_time=publish_time)
    metadata = MessageMetadata.FromString(output.metadata + added.SerializeToString())
    return stored(metadata, output.payload, position)


def properties_of(serialized: bytes) -> dict[str, str]:
    """The properties in a serialized SingleMessageMetadata, none of which may be there twice."""
    found = [(field.key, field.value) for field in SingleMessageMetadata.FromString(serialized).properties]
    assert len(dict(found)) == len(found), f"a property twice in {found}"
    return dict(found)


def _add(metadata: MessageMetadata | SingleMessageMetadata, properties: Properties) -> None:
    for name, value in properties.items() if isinstance(properties, Mapping) else properties:
        metadata.properties.add(key=name, value=value)


def _set(metadata: MessageMetadata, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        setattr(metadata, "num_messages_in_batch" if name == "count" else name, value)
