"""Service URLs and credentials."""

from __future__ import annotations

import pytest

from sequencer.pulsar.settings import NO_AUTH, Address, parse_service_url, token_auth


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("pulsar://localhost", [Address("localhost", 6650, False)]),
        ("pulsar://localhost:1234/", [Address("localhost", 1234, False)]),
        ("pulsar+ssl://broker.example", [Address("broker.example", 6651, True)]),
        ("pulsar://a:1,b:2", [Address("a", 1, False), Address("b", 2, False)]),
        ("pulsar://[::1]:6650", [Address("::1", 6650, False)]),
    ],
)
def test_service_urls(url: str, addresses: list[Address]) -> None:
    assert parse_service_url(url) == addresses


@pytest.mark.parametrize(
    "url",
    ["", "localhost", "http://a", "pulsar://", "pulsar://a,", "pulsar://a:99999", "pulsar://u@a", "pulsar://a/path"],
)
def test_what_is_no_service_url(url: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        parse_service_url(url)


def test_addresses_print_as_in_a_url() -> None:
    assert str(Address("::1", 1, False)) == "[::1]:1"
    assert str(Address("a", 1, True)) == "a:1"


def test_tokens_are_fixed_or_fetched_each_time() -> None:
    assert token_auth("abc").data() == b"abc"
    tokens = iter(["one", "two"])
    fresh = token_auth(lambda: next(tokens))
    assert [fresh.data(), fresh.data()] == [b"one", b"two"]
    assert fresh.method == "token"
    assert (NO_AUTH.method, NO_AUTH.data()) == ("none", b"")
