"""What the outputs tell of each submission, compared with what must be told: outcome by outcome, content included."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from sequencer.verify.verifier import UNREADABLE
from tests.model import Message, Outcome, envelope

DIFFERING_SHOWN = 5
ACCEPTED_PROPERTIES = {"id", "version", "sequence", "submission"}
REJECTED_PROPERTIES = {
    "id",
    "version",
    "reason",
    "detail",
    "expected_version",
    "current_version",
    "accepted_version",
    "submission",
}


def check_outcomes(
    predicted: Mapping[str, Outcome],
    submitted: Iterable[Message],
    events: Iterable[Message],
    rejected: Sequence[Message],
) -> None:
    """Fail unless the messages of one partition's outputs are the predicted outcomes, and keep what was submitted.

    Args:
        predicted: by submission, see `tests.model.predict`.
        submitted: what it was predicted from.
    """
    accepted = _by_submission(events)
    outcomes = [*map(_accepted_outcome, accepted.values()), *map(rejected_outcome, rejected)]
    found = {outcome.submission: outcome for outcome in outcomes}
    assert len(found) == len(outcomes), "several outcomes of one submission"
    if found != predicted:
        differing = [s for s in {**predicted, **found} if predicted.get(s) != found.get(s)]
        shown = [f"{predicted.get(s)} became {found.get(s)}" for s in differing[:DIFFERING_SHOWN]]
        raise AssertionError(f"{len(differing)} outcomes differ\n" + "\n".join(shown))
    submissions = {str(message.message_id): message for message in submitted}
    for submission, messages in accepted.items():
        _check_accepted(submissions[submission], messages)
    for message in rejected:
        if message.properties["reason"] not in ("too_large", "chunked"):
            check_kept(submissions[message.properties["submission"]], message, REJECTED_PROPERTIES)


def _by_submission(events: Iterable[Message]) -> dict[str, list[Message]]:
    """The events of a list belong together."""
    found: dict[str, list[Message]] = {}
    for event in events:
        found.setdefault(event.properties["submission"], []).append(event)
    return found


def _accepted_outcome(events: Sequence[Message]) -> Outcome:
    properties = events[0].properties
    version, sequence = number(properties, "version"), number(properties, "sequence")
    places = [(number(event.properties, "version"), number(event.properties, "sequence")) for event in events]
    assert places == [(version + n, sequence + n) for n in range(len(events))], f"torn apart: {places}"
    return Outcome(properties["submission"], "", version, sequence, messages=len(events))


def rejected_outcome(message: Message) -> Outcome:
    """What a message of rejected_events says."""
    properties = message.properties
    return Outcome(
        properties["submission"],
        properties["reason"],
        expected_version=_number_if_given(properties, "expected_version"),
        current_version=_number_if_given(properties, "current_version"),
        accepted_version=_number_if_given(properties, "accepted_version"),
    )


def _check_accepted(submitted: Message, events: Sequence[Message]) -> None:
    """A single event as it was submitted, or each event of a list as it was submitted there."""
    asked = envelope(submitted)
    for event_id, event in zip(asked.event_ids, events, strict=True):
        assert UUID(event.properties["id"]) == event_id
    if not asked.members:
        check_kept(submitted, events[0], ACCEPTED_PROPERTIES)
    for member, event in zip(asked.members, events, strict=False):
        assert json.loads(event.payload) == member.content
        assert event.payload in submitted.payload, "its own bytes"
        alone = submitted._replace(payload=event.payload, properties=submitted.properties | member.attributes)
        check_kept(alone, event, ACCEPTED_PROPERTIES)


def check_kept(submitted: Message, outcome: Message, replaced: set[str]) -> None:
    """Payload, key and what else is the application's come out as they went in."""
    assert outcome.payload == submitted.payload
    assert outcome.key == submitted.key
    assert outcome.null_value == submitted.null_value
    assert outcome.event_time_ms == submitted.event_time_ms
    assert outcome.ordering_key == submitted.ordering_key
    kept = {name: value for name, value in submitted.properties.items() if name not in replaced}
    assert {name: value for name, value in outcome.properties.items() if name not in replaced} == kept


def number(properties: Mapping[str, str], name: str) -> int:
    """UNREADABLE where it is missing or none."""
    try:
        return int(properties[name])
    except (KeyError, ValueError):
        return UNREADABLE


def _number_if_given(properties: Mapping[str, str], name: str) -> int | None:
    return number(properties, name) if name in properties else None
