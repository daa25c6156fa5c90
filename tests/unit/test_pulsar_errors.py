"""Every failure says what helps against it."""

from __future__ import annotations

import pytest

from sequencer.pulsar import errors
from sequencer.pulsar.errors import REMEDIES, PulsarError, Remedy, ServerError, error_name, refusal, remedy


def test_every_server_error_has_a_remedy() -> None:
    assert set(REMEDIES) == set(ServerError)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ServerError.SERVICE_NOT_READY, Remedy.RELOOKUP),
        (ServerError.TRANSACTION_COORDINATOR_NOT_FOUND, Remedy.RELOOKUP),
        (ServerError.CONSUMER_BUSY, Remedy.RETRY),
        (ServerError.PRODUCER_FENCED, Remedy.REACQUIRE),
        (ServerError.TRANSACTION_CONFLICT, Remedy.REACQUIRE),
        (ServerError.AUTHORIZATION_ERROR, Remedy.FATAL),
    ],
)
def test_remedies(error: ServerError, expected: Remedy) -> None:
    assert remedy(error) is expected


@pytest.mark.parametrize("unknown", [26, 99, -1, 2**31 - 1])
def test_unknown_numbers_are_met_with_caution(unknown: int) -> None:
    assert remedy(unknown) is Remedy.REACQUIRE
    assert error_name(unknown) == f"error {unknown}"
    assert refusal("X", unknown, "text").error == unknown


def test_a_refusal_carries_what_the_broker_said() -> None:
    refused = refusal("NEW_TXN", 24, "not found")
    assert type(refused) is errors.ServerRefused
    assert (refused.error, refused.message) == (ServerError.TRANSACTION_NOT_FOUND, "not found")
    assert str(refused) == "NEW_TXN: TRANSACTION_NOT_FOUND: not found"


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ServerError.PRODUCER_FENCED, errors.ProducerFenced), (ServerError.CONSUMER_BUSY, errors.ConsumerBusy)],
)
def test_telling_refusals(error: ServerError, kind: type[PulsarError]) -> None:
    assert isinstance(refusal("X", error, ""), kind)


def test_a_refused_send_always_means_starting_anew() -> None:
    assert errors.SendFailed("SEND", ServerError.NOT_ALLOWED_ERROR, "").remedy is Remedy.REACQUIRE


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    assert errors.__doc__ is not None
    drawn = {
        line.split("-- ")[1].split()[0]: line.index("+--") // 4 for line in errors.__doc__.splitlines() if "+--" in line
    }
    real = {
        name: len(kind.__mro__) - len(PulsarError.__mro__)
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, PulsarError) and kind is not PulsarError
    }
    assert {name: depth - min(drawn.values()) + 1 for name, depth in drawn.items()} == real
