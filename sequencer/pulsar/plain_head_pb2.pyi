from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class PlainHead(_message.Message):
    __slots__ = ("partition_key", "payload_size", "properties", "compacted_out", "null_value", "null_partition_key")
    PARTITION_KEY_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_SIZE_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    COMPACTED_OUT_FIELD_NUMBER: _ClassVar[int]
    NULL_VALUE_FIELD_NUMBER: _ClassVar[int]
    NULL_PARTITION_KEY_FIELD_NUMBER: _ClassVar[int]
    partition_key: str
    payload_size: int
    properties: bytes
    compacted_out: bool
    null_value: bool
    null_partition_key: bool
    def __init__(self, partition_key: _Optional[str] = ..., payload_size: _Optional[int] = ..., properties: _Optional[bytes] = ..., compacted_out: bool = ..., null_value: bool = ..., null_partition_key: bool = ...) -> None: ...
