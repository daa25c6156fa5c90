"""What the command line of `sequencer append` means."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from sequencer.cli import MAX_APPEND_TIMEOUT_S
from sequencer.client import ANY, NO_AGGREGATE
from sequencer.client.command import order_of, parse_expected
from sequencer.client.store import MAX_TIMEOUT_S

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def test_expected_versions() -> None:
    assert [parse_expected(text) for text in ("any", "none", "0", "17")] == [ANY, NO_AGGREGATE, 0, 17]


@pytest.mark.parametrize("text", ["", "-1", "1.0", "None", "99999999999999999", "٣", " 1"])
def test_what_is_no_expected_version(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_expected(text)


def test_data_is_taken_as_it_was_written_or_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b' {"n": 1e2}\n')
    order = order_of("a", "3", ["1.0", f"@{tmp_path / 'data'}"], [], "opened", 5.0)
    assert [event.data for event in order.events] == [b"1.0", b'{"n": 1e2}']
    assert [event.type for event in order.events] == ["opened"] * 2
    assert len(set(order.ids)) == 2
    assert (order.key, order.expected, order.timeout_s) == ("a", 3, 5.0)


def test_ids_are_kept_and_must_fit() -> None:
    order = order_of("a", "any", ["1"], [ID], None, 5.0)
    assert (order.ids, order.repeated) == ([ID], True)
    assert not order_of("a", "any", ["1"], [], None, 5.0).repeated
    with pytest.raises(click.UsageError, match="2 times --data, but 1 times --id"):
        order_of("a", "any", ["1", "2"], [ID], None, 5.0)
    with pytest.raises(click.UsageError, match="UUID"):
        order_of("a", "any", ["1"], ["x"], None, 5.0)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(click.BadParameter, match="No such file"):
        order_of("a", "any", ["@/nowhere/at/all"], [], None, 5.0)


def test_the_time_out_is_the_clients() -> None:
    assert MAX_APPEND_TIMEOUT_S == MAX_TIMEOUT_S
