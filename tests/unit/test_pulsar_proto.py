"""The generated modules say what the .proto files say, checked without the compiler."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto

import sequencer.pulsar
from sequencer.pulsar import plain_head_pb2, pulsar_api_pb2
from sequencer.pulsar.errors import ServerError

PROTO = (Path(sequencer.pulsar.__file__).parent / "pulsar_api.proto").read_text()
TYPES = {3: "int64", 4: "uint64", 5: "int32", 8: "bool", 9: "string", 12: "bytes", 13: "uint32"}
LABELS = {1: "optional", 2: "required", 3: "repeated"}
FIELD = re.compile(r"(optional|required|repeated) (\w+) (\w+) = (\d+)(?: \[default = (\S+)\])?;")
VALUE = re.compile(r"(\w+) = (\d+);")
OPENING = re.compile(r"(message|enum) (\w+) \{")

Fields = dict[str, tuple[str, int, str, str | None]]


def parsed() -> tuple[dict[str, Fields], dict[str, dict[str, int]]]:
    """Messages as name -> field -> (label, number, type, default), and enums as name -> value -> number."""
    messages: dict[str, Fields] = {}
    enums: dict[str, dict[str, int]] = {}
    path: list[tuple[str, str]] = []
    for line in PROTO.splitlines():
        text = line.split("//")[0].strip()
        name = ".".join(part for _, part in path)
        if opening := OPENING.fullmatch(text):
            path.append((opening[1], opening[2]))
            inner = ".".join(part for _, part in path)
            if opening[1] == "message":
                messages[inner] = {}
            else:
                enums[inner] = {}
        elif text == "}":
            path.pop()
        elif field := FIELD.fullmatch(text):
            messages[name][field[3]] = (field[1], int(field[4]), field[2], field[5])
        elif value := VALUE.fullmatch(text):
            enums[name][value[1]] = int(value[2])
        else:
            assert text == "" or text.startswith(("syntax", "package")), f"not understood: {line!r}"
    assert not path
    return messages, enums


MESSAGES, ENUMS = parsed()
GENERATED = FileDescriptorProto.FromString(pulsar_api_pb2.DESCRIPTOR.serialized_pb)


def described(field: FieldDescriptorProto) -> tuple[str, int, str, str | None]:
    kind = field.type_name.rpartition(".")[2] or TYPES[field.type]
    return LABELS[field.label], field.number, kind, field.default_value if field.HasField("default_value") else None


def numbers(enum: EnumDescriptorProto) -> dict[str, int]:
    return {value.name: value.number for value in enum.value}


def test_the_package_is_pulsars_own() -> None:
    assert "package pulsar.proto;" in PROTO
    assert GENERATED.package == "pulsar.proto"


def test_messages_agree() -> None:
    generated = {
        message.name: {field.name: described(field) for field in message.field} for message in GENERATED.message_type
    }
    assert generated == MESSAGES
    assert len(MESSAGES) > 40


def test_enums_agree() -> None:
    generated = {enum.name: numbers(enum) for enum in GENERATED.enum_type}
    for message in GENERATED.message_type:
        assert not message.nested_type
        generated.update({f"{message.name}.{enum.name}": numbers(enum) for enum in message.enum_type})
    assert generated == ENUMS


def test_a_commands_type_is_the_number_of_its_field() -> None:
    types = {number: name for name, number in ENUMS["BaseCommand.Type"].items()}
    for name, (_, number, _, _) in MESSAGES["BaseCommand"].items():
        if name != "type":
            assert number in types, name


def test_our_error_numbers_are_the_wire_ones() -> None:
    ours = {error.name.replace("_", "").lower(): error.value for error in ServerError}
    assert ours == {name.lower(): number for name, number in ENUMS["ServerError"].items()}


# --- plain_head.proto ---

PLAIN_PROTO = (Path(sequencer.pulsar.__file__).parent / "plain_head.proto").read_text()
PLAIN_MESSAGE = re.compile(r"^message (\w+) \{(.*?)^\}", re.MULTILINE | re.DOTALL)
PLAIN_FIELD = re.compile(r"^ +(?:optional )?(\w+) (\w+) = (\d+);", re.MULTILINE)
VIEWS = {
    view.name: view for view in FileDescriptorProto.FromString(plain_head_pb2.DESCRIPTOR.serialized_pb).message_type
}
OF_NO_CONSEQUENCE = {
    "PlainHead": set[str](),  # it knows them all, so that what it does not know nobody knows
    "PlainEntry": {
        "producer_name", "sequence_id", "publish_time", "replicated_from", "replicate_to", "uncompressed_size",
        "encryption_algo", "encryption_param", "deliver_at_time", "marker_type", "txnid_least_bits", "txnid_most_bits",
        "highest_sequence_id", "uuid", "total_chunk_msg_size", "chunk_id",
    },
}  # fmt: skip


def test_plain_views_are_what_their_file_says() -> None:
    written = dict(PLAIN_MESSAGE.findall(PLAIN_PROTO))
    assert written.keys() == VIEWS.keys()
    for name, text in written.items():
        fields = {field: (kind, int(number)) for kind, field, number in PLAIN_FIELD.findall(text)}
        assert fields == {field.name: (TYPES[field.type], field.number) for field in VIEWS[name].field}
        assert [one.name for one in VIEWS[name].oneof_decl] == ["remarkable"]
        one_of = {field.name for field in VIEWS[name].field if field.HasField("oneof_index")}
        assert one_of == {field for _, field, _ in PLAIN_FIELD.findall(text[text.index("oneof remarkable {") :])}


@pytest.mark.parametrize(("view", "of"), [("PlainHead", "SingleMessageMetadata"), ("PlainEntry", "MessageMetadata")])
def test_a_plain_view_is_one_of_a_messages_metadata(view: str, of: str) -> None:
    """The same fields at the same numbers; whatever makes a message mean something else makes it remarkable."""
    whole = MESSAGES[of]
    for field in VIEWS[view].field:
        _, number, kind, _ = whole[field.name]
        assert (field.number, TYPES[field.type]) == (number, "bytes" if kind[0].isupper() else kind)
    seen = {field.name for field in VIEWS[view].field}
    assert set(whole) == seen | OF_NO_CONSEQUENCE[view], "a new field must be one or the other"
    assert not seen & OF_NO_CONSEQUENCE[view]
