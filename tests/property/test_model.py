"""The real reading, judging and packing against the tests' model of the contract, and both against the verifier."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sequencer.decide import Overlay
from sequencer.entries import read_entry, read_submitted
from sequencer.event import Flawed, Submission
from sequencer.plain import PlainBatch
from sequencer.pulsar.frames import Entry, MessageId
from sequencer.verify.read import accepted_records, rejected_records, submitted_records
from sequencer.verify.verifier import Acknowledged, Verifier
from tests.committed_log import opened
from tests.judged import outputs
from tests.model import ATTRIBUTES, Message, predict
from tests.submitted import batch, delivered, message, properties_of
from tests.told import check_outcomes

LIMIT_BYTES = 5 * 2**20
INPUT, OUTPUT = 10, 20

NAMES = [str(UUID(int=number << 100)) for number in range(1, 8)]
IDS = st.sampled_from(NAMES)
NO_IDS = st.sampled_from(["", "no id", "0" * 36, None, 7])
VERSIONS = st.sampled_from([None, -1, 0, 1, 2, 3, 4])
DATA: st.SearchStrategy[Any] = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.booleans(), max_size=3)
PROPERTIES = st.dictionaries(
    st.sampled_from(["type", "subject", "mine", "version", "submission", "reply_to"]),
    st.sampled_from(["x", "3", "é"]),
    max_size=3,
)
ANY_TEXT = st.sampled_from(["withdrawal", "", "\N{SNOWMAN}"])
MEMBERS = st.fixed_dictionaries(
    {"id": IDS, "data": DATA},
    optional={name: ANY_TEXT | st.none() for name in ATTRIBUTES} | {"mine": DATA, "version": DATA},
)
# Few lists, so that they come again, whole or in part.
LISTS = st.builds(
    lambda events, first: [event | {"id": NAMES[first + n]} for n, event in enumerate(events)],
    st.lists(MEMBERS, min_size=1, max_size=3),
    st.integers(0, 3),
)


def near(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly good."""
    return st.integers(0, 5).flatmap(lambda n: bad if n == 0 else good)


BAD_MEMBERS = (
    st.builds(lambda event, name, value: event | {name: value}, MEMBERS, st.sampled_from(ATTRIBUTES), DATA)
    | st.builds(lambda event, event_id: event | {"id": event_id}, MEMBERS, NO_IDS)
    | MEMBERS.map(lambda event: {"id": event["id"]})
    | DATA
)
BAD_LISTS = LISTS.map(lambda events: [*events, events[0]]) | st.lists(near(MEMBERS, BAD_MEMBERS), max_size=4) | DATA
SINGLE = st.fixed_dictionaries({"id": IDS, "data": DATA}, optional={"version": VERSIONS, "events": st.none()})
LISTED = st.fixed_dictionaries({"id": IDS, "events": near(LISTS, BAD_LISTS)}, optional={"version": VERSIONS})
ODD = st.fixed_dictionaries(
    {}, optional={"id": IDS | NO_IDS, "data": DATA, "events": LISTS | BAD_LISTS, "version": VERSIONS | DATA}
)
PAYLOADS = near(SINGLE | LISTED, ODD).map(lambda content: json.dumps(content, ensure_ascii=False).encode())
BINARY = st.fixed_dictionaries({"id": IDS | NO_IDS.map(str)}, optional={"version": VERSIONS.map(str)})
KEYS = st.sampled_from(["a", "a", "a", "b", "", None])
MESSAGES = st.builds(message, PAYLOADS, KEYS, PROPERTIES.filter(lambda properties: "id" not in properties)) | st.builds(
    lambda properties, mode, key: message(b"bytes", key, properties | mode), PROPERTIES, BINARY, KEYS
)
PLAIN = st.builds(message, SINGLE.map(lambda content: json.dumps(content).encode()), st.sampled_from("aab"))
BATCHES = (st.lists(MESSAGES, min_size=1, max_size=5) | st.lists(PLAIN, min_size=1, max_size=5)).map(batch)


class NoIndex:
    """An index that holds nothing: the overlay alone remembers."""

    def tails(self, keys: Any) -> list[int]:
        return [-1] * len(keys)

    def accepted(self, asked: Any) -> list[tuple[int, int] | None]:
        return [None] * len(asked)


def as_read(entry: Entry) -> list[Message]:
    """What the official client would make of an entry."""
    return [
        Message(
            entry.message_id._replace(batch_index=index),
            single.partition_key,
            properties_of(single.SerializeToString()),
            payload,
            single.null_value,
            single.event_time,
        )
        for index, (single, payload) in enumerate(opened(entry))
    ]


@pytest.mark.parametrize("read", [read_entry, lambda entry, limit: read_submitted([entry], limit)])
@settings(max_examples=100, deadline=None)
@given(batches=st.lists(BATCHES, min_size=1, max_size=6))
def test_what_is_told_is_what_the_model_predicts_and_the_verifier_finds_it_right(
    read: Callable[[Entry, int], Sequence[Submission | Flawed | PlainBatch]], batches: list[Entry]
) -> None:
    submitted = [entry._replace(message_id=MessageId(INPUT, n, 0)) for n, entry in enumerate(batches)]
    overlay = Overlay(NoIndex(), partition=0, partitions=1, next_sequence=0)
    events, rejected = list[Entry](), list[Entry]()
    for entry in submitted:
        decided = overlay.decide(read(entry, LIMIT_BYTES))
        made = outputs(decided.outcomes, 2**20)
        assert not made.forwarded
        events += [delivered(one, MessageId(OUTPUT, len(events), 0)) for one in made.events]
        rejected += [delivered(one, MessageId(OUTPUT, len(rejected), 0)) for one in made.rejected]

    messages = [one for entry in submitted for one in as_read(entry)]
    predicted = {outcome.submission: outcome for outcome in predict(0, 1, messages)}
    told = ([one for entry in entries for one in as_read(entry)] for entries in (events, rejected))
    check_outcomes(predicted, messages, *told)

    verifier = Verifier()
    for entry in submitted:
        for asked in submitted_records(entry):
            verifier.submitted(0, asked)
    for entry in events:
        for event in accepted_records(entry):
            verifier.accepted(0, event)
    for entry in rejected:
        for rejection in rejected_records(entry):
            verifier.rejected(0, rejection)
    verifier.acknowledged(0, Acknowledged(MessageId(INPUT, len(submitted))))
    report = verifier.report()
    assert report.ok, str(report)
    assert report.pending == report.before_retention == 0
