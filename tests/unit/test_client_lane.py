"""What is sent next, in which entry, and what is sent again."""

from __future__ import annotations

from sequencer.client.lane import BATCH_BYTES, BATCH_EVENTS, REPLY_TIMEOUTS_S, Lane


class Item:
    def __init__(self, size_bytes: int = 1, events: int = 1) -> None:
        self.size_bytes = size_bytes
        self.events = events
        self.due_at_s = 0.0
        self.sent = 0


def lane_of(*items: Item) -> Lane[Item]:
    lane: Lane[Item] = Lane()
    for item in items:
        lane.add(item)
    return lane


def test_an_empty_lane_has_nothing_to_send() -> None:
    lane = lane_of()
    assert not lane.has_work
    assert lane.next_batch(0.0) == []
    assert len(lane) == 0


def test_all_that_waits_goes_out_together_in_order() -> None:
    items = [Item() for _ in range(5)]
    lane = lane_of(*items)
    assert lane.next_batch(0.0) == items
    assert not lane.has_work
    assert len(lane) == 5


def test_an_entry_is_closed_by_bytes_and_by_events() -> None:
    items = [Item(BATCH_BYTES // 2), Item(BATCH_BYTES // 2), Item(1), Item(1, BATCH_EVENTS - 1), Item(1, 2)]
    lane = lane_of(*items)
    batches = []
    while lane.has_work:
        batches.append(lane.next_batch(0.0))
    assert batches == [items[:2], items[2:4], items[4:]]


def test_an_entry_is_no_larger_than_the_broker_takes() -> None:
    lane = lane_of(*(Item(40) for _ in range(5)))
    assert [len(lane.next_batch(0.0, 100)) for _ in range(3)] == [2, 2, 1]


def test_a_large_item_goes_alone() -> None:
    large = Item(10 * BATCH_BYTES)
    lane = lane_of(Item(), large, Item())
    assert len(lane.next_batch(0.0)) == 1
    assert lane.next_batch(0.0) == [large]
    assert len(lane.next_batch(0.0)) == 1


def test_what_is_discarded_is_not_sent() -> None:
    waiting, sent, overdue = Item(), Item(), Item()
    lane = lane_of(sent, overdue)
    lane.next_batch(0.0)
    lane.collect_overdue(1.0)
    lane.add(waiting)
    for item in (waiting, sent, overdue):
        lane.discard(item)
        lane.discard(item)
    assert not lane.has_work
    assert len(lane) == 0


def test_it_is_sent_again_when_the_reply_is_overdue_after_ever_longer_times() -> None:
    item = Item()
    lane = lane_of(item)
    now_s = 100.0
    for timeout_s in (*REPLY_TIMEOUTS_S, REPLY_TIMEOUTS_S[-1]):
        assert lane.next_batch(now_s) == [item]
        assert not lane.collect_overdue(now_s + timeout_s - 0.01)
        assert not lane.has_work
        now_s += timeout_s
        assert lane.collect_overdue(now_s)
    assert item.sent == len(REPLY_TIMEOUTS_S) + 1


def test_what_is_overdue_already_is_not_sent_twice() -> None:
    item = Item()
    lane = lane_of(item)
    lane.next_batch(0.0)
    lane.collect_overdue(5.0)
    lane.collect_overdue(6.0)
    assert lane.next_batch(6.0) == [item]
    assert not lane.has_work


def test_a_new_life_sends_everything_unanswered_first_in_the_order_of_the_calls() -> None:
    first, second, third, fourth = (Item() for _ in range(4))
    lane = lane_of(first, second)
    lane.next_batch(0.0)
    second.due_at_s = 0.5
    lane.collect_overdue(0.5)
    lane.next_batch(0.5)
    lane.add(third)
    lane.next_batch(0.5)
    lane.add(fourth)
    lane.begin_anew()
    assert lane.next_batch(1.0) == [first, second, third, fourth]
    assert not lane.has_work
