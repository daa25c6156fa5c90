"""The contract: both content modes, ids, versions, where a key belongs, and the properties of an outcome."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from sequencer.event import (
    ATTRIBUTES,
    MAX_DETAIL_BYTES,
    MAX_LIST_EVENTS,
    OUTCOME_BYTES,
    REPLY_TO,
    BrokenContract,
    Envelope,
    Reason,
    Rejected,
    Source,
    Submission,
    accepted_properties,
    binary_envelope,
    canonical_partition,
    rejected_properties,
    reply_property,
    structured_envelope,
    uuid_bytes,
)
from sequencer.pulsar.pulsar_api_pb2 import SingleMessageMetadata
from tests.hashed_keys import HASHED_KEYS
from tests.submitted import ID, KEY, properties_of, structured

ID_BYTES = bytes.fromhex(ID.replace("-", ""))

MEMBERS = [{"id": f"00000000-0000-4000-8000-{n:012}", "data": {"n": n}} for n in range(2)]


def listed(events: object, **others: object) -> bytes:
    """A payload that holds a list of events."""
    return json.dumps({"id": ID, "events": events, **others}).encode()


# --- structured mode ---


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        pytest.param(structured(), None, id="version-absent"),
        pytest.param(structured(version=None), None, id="version-null"),
        pytest.param(structured(version=-1), -1, id="version-minus-one"),
        pytest.param(structured(version=0), 0, id="version-zero"),
        pytest.param(structured(version=2**53), 2**53, id="version-largest"),
        pytest.param(structured(version=3, data={"amount": [1, 2.5, None, "ü"]}), 3, id="any-data"),
        pytest.param(structured(version=3, type="deposit", data="x"), 3, id="unknown-field"),
        pytest.param(b' {"data" : 1 ,\n"version":3,"id":"' + ID.encode() + b'"}\n', 3, id="blanks-and-any-order"),
        pytest.param(structured(data="?").replace(b"?", "\U0001f600".encode()), None, id="beyond-ascii"),
        pytest.param(structured(version=1)[:-1] + b', "version": 2}', 2, id="of-a-repeated-field-the-last"),
        pytest.param(structured(data="?").replace(b"?", rb"\u00fc\ud83d\ude00"), None, id="escapes"),
    ],
)
def test_structured_mode(payload: bytes, expected: int | None) -> None:
    assert structured_envelope(payload) == Envelope(ID, ID_BYTES, expected)


def test_a_list_of_events() -> None:
    attributes = {name: f"the {name}" for name in ATTRIBUTES}
    payload = json.dumps(MEMBERS[1] | attributes | {"subject": None, "more": [1]}, indent=1)
    envelope = structured_envelope(
        f'{{"events": [{json.dumps(MEMBERS[0])}, {payload} ], "version": 4, "id": "{ID}"}}'.encode()
    )
    assert (envelope.id_text, envelope.event_id, envelope.expected) == (ID, ID_BYTES, 4)
    assert envelope.members is not None
    plain, rich = envelope.members
    assert (plain.id_text, plain.payload, plain.attributes) == (MEMBERS[0]["id"], json.dumps(MEMBERS[0]).encode(), {})
    assert rich.event_id == uuid_bytes(rich.id_text)
    assert rich.payload == payload.encode(), "the event's own bytes, blanks included"
    del attributes["subject"]
    assert rich.attributes == attributes


def test_a_list_as_long_as_it_may_be() -> None:
    events = [{"id": f"00000000-0000-4000-8000-{n:012}", "data": n} for n in range(MAX_LIST_EVENTS)]
    members = structured_envelope(listed(events)).members
    assert members is not None
    assert [member.id_text for member in members] == [event["id"] for event in events]


def test_no_list_is_null() -> None:
    assert structured_envelope(structured(events=None)).members is None


def nested(depth: int) -> bytes:
    return structured(data="HERE").replace(b'"HERE"', b"[" * depth + b"]" * depth)


@pytest.mark.parametrize(
    ("payload", "detail"),
    [
        pytest.param(b"", "JSON object", id="empty"),
        pytest.param(b"deposit 50", "JSON object", id="text"),
        pytest.param(structured()[:-1], "JSON object", id="cut-off"),
        pytest.param(structured() + b"{}", "JSON object", id="more-after-the-object"),
        pytest.param(b"\xef\xbb\xbf" + structured(), "JSON object", id="byte-order-mark"),
        pytest.param(structured().decode().encode("utf-16"), "not UTF-8", id="utf-16"),
        pytest.param(structured(data="?").replace(b"?", b"\xff"), "not UTF-8: byte", id="not-utf8-in-data"),
        pytest.param(structured(data="?").replace(b"?", b"\xed\xa0\x80"), "not UTF-8", id="surrogate-as-utf8"),
        pytest.param(structured(note="?").replace(b"?", b"\xc3"), "not UTF-8", id="not-utf8-in-unknown-field"),
        pytest.param(structured(ID[:-1] + "?").replace(b"?", b"\x80"), "not UTF-8", id="not-utf8-in-id"),
        pytest.param(structured(data="D").replace(b'"D"', b"nul"), "JSON object", id="data-is-not-json"),
        pytest.param(structured(data="D").replace(b'"D"', b"NaN"), "JSON object", id="data-is-nan"),
        pytest.param(structured(data="D").replace(b"D", b"\x01"), "JSON object", id="control-character-in-data"),
        pytest.param(structured(data="\ud83d, half a character"), "JSON object", id="lone-surrogate-in-data"),
        pytest.param(b"null", "Expected `object`", id="null"),
        pytest.param(b"[]", "Expected `object`", id="array"),
        pytest.param(json.dumps(structured().decode()).encode(), "Expected `object`", id="json-in-a-string"),
        pytest.param(b"{}", "missing required field `id`", id="empty-object"),
        pytest.param(b'{"data": 1}', "missing required field `id`", id="no-id"),
        pytest.param(b'{"ID": "%b", "data": 1}' % ID.encode(), "missing required field `id`", id="id-in-capitals"),
        pytest.param(b'{"id": "%b"}' % ID.encode(), "neither data nor events", id="no-data"),
        pytest.param(structured(events=[]), "length >= 1", id="empty-list"),
        pytest.param(structured(events=MEMBERS), "both data and events", id="data-and-events"),
        pytest.param(listed(MEMBERS * 501), "length <= 1000", id="more-events-than-a-list-may-have"),
        pytest.param(listed({"id": ID}), "Expected `array | null`", id="an-object-for-a-list"),
        pytest.param(listed([*MEMBERS, ID]), "event 2 of the list: Expected `object`", id="a-text-for-an-event"),
        pytest.param(listed([{"id": ID}]), "event 0 of the list: Object missing", id="event-without-data"),
        pytest.param(listed([{"data": 1}]), "event 0 of the list: Object missing", id="event-without-id"),
        pytest.param(listed([{"id": "7", "data": 1}]), "event 0 of the list: id is not a UUID", id="event-with-bad-id"),
        pytest.param(listed([*MEMBERS, MEMBERS[0]]), "an id comes twice", id="an-id-twice"),
        pytest.param(
            listed([{"id": ID, "data": 1}, {"id": ID.upper(), "data": 1}]),
            "an id comes twice",
            id="an-id-twice-in-capitals",
        ),
        pytest.param(listed([{"id": ID, "data": 1, "type": 7}]), "Expected `str | null`", id="attribute-is-a-number"),
        pytest.param(structured(None), "got `null`", id="id-null"),
        pytest.param(structured(17), "got `int`", id="id-number"),
        pytest.param(structured(""), "id is not a UUID", id="id-empty"),
        pytest.param(structured("order-17"), "id is not a UUID", id="id-text"),
        pytest.param(structured(version="3"), "got `str`", id="version-string"),
        pytest.param(structured(version=""), "got `str`", id="version-empty-string"),
        pytest.param(structured(version=3.5), "got `float`", id="version-float"),
        pytest.param(structured(version=3.0), "got `float`", id="version-whole-float"),
        pytest.param(structured(version=1e300), "`$.version`", id="version-huge-float"),
        pytest.param(structured(version=True), "got `bool`", id="version-bool"),
        pytest.param(structured(version=[3]), "got `array`", id="version-array"),
        pytest.param(structured(version=-2), ">= -1", id="version-below-minus-one"),
        pytest.param(structured(version=-(2**70)), "`$.version`", id="version-far-below"),
        pytest.param(structured(version=2**53 + 1), "<= 9007199254740992", id="version-above-2-to-53"),
        pytest.param(structured(version=2**64), "`$.version`", id="version-above-64-bits"),
        pytest.param(structured(version=10**400), "`$.version`", id="version-400-digits"),
        pytest.param(nested(100_000), "nested too deeply", id="nested-too-deeply"),
    ],
)
def test_structured_mode_refuses(payload: bytes, detail: str) -> None:
    with pytest.raises(BrokenContract) as broken:
        structured_envelope(payload)
    assert detail in broken.value.detail


def test_nesting_that_a_client_writes_is_no_reason() -> None:
    assert structured_envelope(nested(200)).event_id == ID_BYTES


# --- binary mode ---


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (None, None), ("-1", -1), ("0", 0), ("-0", 0), ("7", 7), ("007", 7), ("9007199254740992", 2**53),
    ],
)  # fmt: skip
def test_binary_mode(version: str | None, expected: int | None) -> None:
    properties = {"id": ID, "other": "kept"} | ({} if version is None else {"version": version})
    assert binary_envelope(properties) == Envelope(ID, ID_BYTES, expected)


@pytest.mark.parametrize(
    "version",
    [
        "", " ", "-", "--1", "+1", " 1", "1 ", "1\n", "1_000", "1.0", "1e3", "0x1", "-2", "null", "None", "true", "v1",
        "9007199254740993", "-9007199254740993", "99999999999999999", "1" * 5000, "\N{ARABIC-INDIC DIGIT ONE}",
        "\N{SUPERSCRIPT TWO}", "\N{MINUS SIGN}1", "1\0",
    ],
)  # fmt: skip
def test_binary_mode_refuses_the_version(version: str) -> None:
    with pytest.raises(BrokenContract) as broken:
        binary_envelope({"id": ID, "version": version})
    assert "property version is not an integer" in broken.value.detail
    assert broken.value.id_text == ID, "the id was good and helps the publisher to find the event"
    assert len(broken.value.detail) < 500


def test_binary_mode_refuses_the_id_before_the_version() -> None:
    with pytest.raises(BrokenContract, match="id is not a UUID") as broken:
        binary_envelope({"id": "1", "version": "x"})
    assert broken.value.id_text == ""


# --- ids ---


@pytest.mark.parametrize("text", [ID, ID.upper(), ID.title()])
def test_an_id_is_the_same_in_either_case(text: str) -> None:
    assert uuid_bytes(text) == ID_BYTES


@pytest.mark.parametrize(
    "text",
    [
        "", "-", ID[:-1], ID + "0", f" {ID}", f"{ID} ", f"{ID}\n", f"{{{ID}}}", f"urn:uuid:{ID}", ID.replace("-", ""),
        ID.replace("-", "_"), ID.replace("-", " "), f"  {ID[:-2]}", f"{ID[:9]}  {ID[11:]}", f"{ID[:9]}--{ID[11:]}",
        ID[1:] + "-", "g" + ID[1:], ID[:-1] + "\N{FULLWIDTH DIGIT ONE}", ID[:-1] + "\0", "ü" * 36, "-" * 36, "0" * 36,
        f"{ID[:8]}{ID[9]}-{ID[10:]}", "x" * 100_000,
    ],
)  # fmt: skip
def test_an_id_is_refused(text: str) -> None:
    with pytest.raises(BrokenContract, match="id is not a UUID") as broken:
        uuid_bytes(text)
    assert len(broken.value.detail) < 500


# --- where a key belongs ---


@pytest.mark.parametrize(
    ("key", "java_hash"),
    [
        # String.hashCode() as Java 17 computes it.
        ("", 0),
        ("a", 97),
        ("account-1", -1827030895),
        ("polygenelubricants", -2147483648),  # Math.abs() of it is negative
        ("AaAaBB", 1952508096),
        ("BBBBAa", 1952508096),
        ("key with blanks", 1919269368),
        ("\0", 0),
        ("\t\n", 289),
        ("00000000-0000-0000-0000-000000000000", 1428967488),
        ("7f9c24e8-3b12-4f5e-9d0a-5a1c2b3d4e5f", -733201979),
        ("".join(chr(ord("a") + i % 26) for i in range(1024)), -142983936),
        ("aggregate/\u00fc", 841519276),
        ("\u03a9mega", 868686747),
        ("\u00e9", 233),
        ("e\u0301", 3900),  # the same letter, decomposed: another key
        ("\u4f60\u597d", 652829),
        ("\ue000", 57344),
        ("\uffff\ufffe", 2097119),
        ("\U0001f600", 1772899),
        ("order-\U0001f600-7", -1884536468),
        ("\U0001d11ex", 54944334),
        ("\ud83d", 55357),  # half a character: no message can carry it, but a publisher's router must not fail
    ],
)
def test_canonical_partition_is_javas_hash(key: str, java_hash: int) -> None:
    assert canonical_partition(key, 2**31) == java_hash & 0x7FFFFFFF, "the hash itself"
    for partitions in (1, 2, 3, 8, 1000):
        assert canonical_partition(key, partitions) == (java_hash & 0x7FFFFFFF) % partitions


@pytest.mark.parametrize("partitions", [1, 2, 3, 4, 7, 64, 1000])
def test_1000_keys_as_the_java_client_hashes_them(partitions: int) -> None:
    assert len({hashed.key for hashed in HASHED_KEYS}) == 1000
    for hashed in HASHED_KEYS:
        assert canonical_partition(hashed.key, partitions) == hashed.java_partition(partitions)


@pytest.mark.parametrize("partitions", [1, 2, 4, 64, 1024])
def test_the_go_client_agrees_on_ascii_where_the_partitions_are_a_power_of_two(partitions: int) -> None:
    for hashed in HASHED_KEYS:
        if hashed.key.isascii():
            assert canonical_partition(hashed.key, partitions) == hashed.go_partition(partitions)


def test_the_go_client_does_not_agree_on_everything() -> None:
    """As it is documented, and why a Go publisher's messages may be forwarded."""
    elsewhere = {n: {h.key for h in HASHED_KEYS if h.go_partition(n) != h.java_partition(n)} for n in (4, 7)}
    assert len([key for key in elsewhere[4] if not key.isascii()]) == len(elsewhere[4]) == 357
    assert len([key for key in elsewhere[7] if key.isascii()]) == 238


# --- properties of outcomes ---

EXTREME_SUBMISSION = f"{2**63 - 1}:{2**63 - 1}:{2**31 - 1}:{2**31 - 1}"


@pytest.mark.parametrize(
    ("version", "sequence", "submission"),
    [(0, 0, "0:0:0:-1"), (9, 10, "7:3:0:0"), (2**63 - 1, 2**63 - 1, EXTREME_SUBMISSION)],
)
def test_accepted_properties(version: int, sequence: int, submission: str) -> None:
    serialized = accepted_properties(ID, version, sequence, submission)
    assert properties_of(serialized) == {
        "id": ID, "version": str(version), "sequence": str(sequence), "submission": submission,
    }  # fmt: skip


def rejected(reason: Reason, detail: str = "", id_text: str = ID, **versions: int) -> Rejected:
    source = Source("7:3:0:", 0, b"", None)
    return Rejected(Submission(KEY, ID_BYTES, id_text, None, b"", None, b"", source, 0), reason, detail, **versions)


def test_rejected_properties_say_what_is_known() -> None:
    serialized = rejected_properties(
        rejected(Reason.DUPLICATE, "accepted before", expected=-1, current=5, accepted=0), "7:3:0:12"
    )
    assert properties_of(serialized) == {
        "id": ID, "reason": "duplicate", "detail": "accepted before", "expected_version": "-1", "current_version": "5",
        "accepted_version": "0", "submission": "7:3:0:12",
    }  # fmt: skip


def test_rejected_properties_leave_out_what_is_unknown() -> None:
    outcome = rejected(Reason.MALFORMED)
    nameless = replace(outcome, submission=replace(outcome.submission, id_text=""))
    assert properties_of(rejected_properties(nameless, "7:3:0:-1")) == {
        "reason": "malformed", "submission": "7:3:0:-1",
    }  # fmt: skip


@pytest.mark.parametrize("detail", ["x" * 100_000, "ü" * 100_000, "\U0001f600" * 100_000, "x\U0001f600" * 50_000])
def test_a_detail_is_cut_to_what_an_outcome_may_add(detail: str) -> None:
    outcome = rejected(Reason.WRONG_EXPECTED_VERSION, detail, expected=2**53, current=2**63 - 1, accepted=2**63 - 1)
    serialized = rejected_properties(outcome, EXTREME_SUBMISSION)
    kept = properties_of(serialized)["detail"]
    assert detail.startswith(kept)
    assert MAX_DETAIL_BYTES - 4 < len(kept.encode()) <= MAX_DETAIL_BYTES
    assert len(serialized) < OUTCOME_BYTES / 2, "the rest is for the metadata of a batch of one"


@pytest.mark.parametrize("character", ["x", "ü"])
@pytest.mark.parametrize("size", [0, 1, 100, 113, 114, 115, 127, 128, 300, 16_383, 16_384, 100_000])
def test_a_property_is_written_as_protobuf_writes_it(size: int, character: str) -> None:
    single = SingleMessageMetadata()
    single.properties.add(key=REPLY_TO, value=character * (size // len(character.encode())) + "x" * (size % 2))
    assert reply_property(single.properties[0].value) == single.SerializePartialToString()
