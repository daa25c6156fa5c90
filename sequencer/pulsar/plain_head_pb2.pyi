from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class PlainHead(_message.Message):
    __slots__ = ("partition_key", "payload_size", "event_time", "partition_key_b64_encoded", "ordering_key", "sequence_id", "properties", "compacted_out", "null_value", "null_partition_key")
    PARTITION_KEY_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_SIZE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    PARTITION_KEY_B64_ENCODED_FIELD_NUMBER: _ClassVar[int]
    ORDERING_KEY_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_ID_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    COMPACTED_OUT_FIELD_NUMBER: _ClassVar[int]
    NULL_VALUE_FIELD_NUMBER: _ClassVar[int]
    NULL_PARTITION_KEY_FIELD_NUMBER: _ClassVar[int]
    partition_key: str
    payload_size: int
    event_time: int
    partition_key_b64_encoded: bool
    ordering_key: bytes
    sequence_id: int
    properties: bytes
    compacted_out: bool
    null_value: bool
    null_partition_key: bool
    def __init__(self, partition_key: _Optional[str] = ..., payload_size: _Optional[int] = ..., event_time: _Optional[int] = ..., partition_key_b64_encoded: bool = ..., ordering_key: _Optional[bytes] = ..., sequence_id: _Optional[int] = ..., properties: _Optional[bytes] = ..., compacted_out: bool = ..., null_value: bool = ..., null_partition_key: bool = ...) -> None: ...

class PlainEntry(_message.Message):
    __slots__ = ("partition_key", "compression", "schema_version", "properties", "num_messages_in_batch", "event_time", "encryption_keys", "partition_key_b64_encoded", "ordering_key", "null_value", "num_chunks_from_msg", "null_partition_key")
    PARTITION_KEY_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    NUM_MESSAGES_IN_BATCH_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTION_KEYS_FIELD_NUMBER: _ClassVar[int]
    PARTITION_KEY_B64_ENCODED_FIELD_NUMBER: _ClassVar[int]
    ORDERING_KEY_FIELD_NUMBER: _ClassVar[int]
    NULL_VALUE_FIELD_NUMBER: _ClassVar[int]
    NUM_CHUNKS_FROM_MSG_FIELD_NUMBER: _ClassVar[int]
    NULL_PARTITION_KEY_FIELD_NUMBER: _ClassVar[int]
    partition_key: str
    compression: int
    schema_version: bytes
    properties: bytes
    num_messages_in_batch: int
    event_time: int
    encryption_keys: bytes
    partition_key_b64_encoded: bool
    ordering_key: bytes
    null_value: bool
    num_chunks_from_msg: int
    null_partition_key: bool
    def __init__(self, partition_key: _Optional[str] = ..., compression: _Optional[int] = ..., schema_version: _Optional[bytes] = ..., properties: _Optional[bytes] = ..., num_messages_in_batch: _Optional[int] = ..., event_time: _Optional[int] = ..., encryption_keys: _Optional[bytes] = ..., partition_key_b64_encoded: bool = ..., ordering_key: _Optional[bytes] = ..., null_value: bool = ..., num_chunks_from_msg: _Optional[int] = ..., null_partition_key: bool = ...) -> None: ...
