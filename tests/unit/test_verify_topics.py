"""What the broker's internal statistics say."""

from __future__ import annotations

from typing import Any

import pytest

from sequencer.pulsar.frames import EARLIEST, MessageId
from sequencer.verify.topics import Extent, SubscriptionMissing, acknowledged_of
from sequencer.verify.verifier import Acknowledged


def stats(mark_delete: str, ranges: str) -> dict[str, Any]:
    cursor = {"markDeletePosition": mark_delete, "individuallyDeletedMessages": ranges}
    return {"cursors": {"sequencer": cursor, "other": {}}}


def test_acknowledgements_are_a_position_and_ranges() -> None:
    assert acknowledged_of(stats("5:7", "[]"), "topic") == Acknowledged(MessageId(5, 7), [])
    expected = Acknowledged(MessageId(5, -1), [(MessageId(5, 1), MessageId(5, 3)), (MessageId(5, 7), MessageId(12, 0))])
    for text in ("[(5:1..5:3],(5:7..12:0]]", "[(5:1..5:3], (5:7..12:0]]"):
        assert acknowledged_of(stats("5:-1", text), "topic") == expected


def test_a_missing_subscription_is_said() -> None:
    with pytest.raises(SubscriptionMissing, match="some topic has no subscription 'sequencer'"):
        acknowledged_of({"cursors": {}}, "some topic")


def test_entries_are_counted_over_ledgers() -> None:
    extent = Extent(
        {
            "numberOfEntries": 30,
            "ledgers": [{"ledgerId": 4, "entries": 10}, {"ledgerId": 9, "entries": 15}, {"ledgerId": 11, "entries": 0}],
        }
    )
    assert extent.after(EARLIEST) == 30
    assert extent.after(MessageId(4, 0)) == 29
    assert extent.after(MessageId(9, 14)) == 5
    assert extent.between(MessageId(4, 9), MessageId(9, 0)) == 1
    assert extent.between(EARLIEST, MessageId(11, 4)) == 30
    assert extent.after(MessageId(11, 9)) == 0, "it has grown meanwhile"
    assert extent.after(MessageId(2, 9)) == 30, "a ledger that was removed"
