"""Topics of a benchmark that their broker does not let go of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, cast

import pytest

from bench import setting
from sequencer.admin import AdminFailed
from sequencer.broker import EmbeddedBroker
from sequencer.names import Topics

BROKER = cast(EmbeddedBroker, type("StandIn", (), {"admin_url": "http://127.0.0.1:1"}))
TOPICS = Topics("public/bench")
USED = AdminFailed("DELETE: 409 the topic is used", 409)


class StandIn:
    """An admin interface that refuses to delete `events` so many times."""

    refusals: list[AdminFailed]
    asked: list[str]

    def __init__(self, admin_url: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def delete(self, path: str, query: Mapping[str, str]) -> None:
        self.asked.append(path)
        assert query == {"force": "true"}
        if path.endswith("/events/partitions") and self.refusals:
            raise self.refusals.pop(0)


def delete(monkeypatch: pytest.MonkeyPatch, *refusals: AdminFailed) -> tuple[list[str], int]:
    """Why topics stay, and how often it was asked for."""
    StandIn.refusals, StandIn.asked = list(refusals), []
    monkeypatch.setattr(setting, "Admin", StandIn)
    monkeypatch.setattr(setting, "DELETE_RETRY_S", 0.0)
    left = setting.delete_topics(BROKER, TOPICS)
    assert len(set(StandIn.asked)) == 4
    return left, len(StandIn.asked)


def test_a_refusal_for_a_while_is_outlasted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert delete(monkeypatch) == ([], 4)
    assert delete(monkeypatch, USED, USED) == ([], 6)


def test_what_is_gone_already_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert delete(monkeypatch, USED, AdminFailed("DELETE: 404 not found", 404)) == ([], 5)


def test_what_is_refused_for_good_is_told_and_the_others_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setting, "DELETED_WITHIN_S", 0.0)
    assert delete(monkeypatch, *[USED] * 9) == ([str(USED)], 4)


def test_any_other_failure_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AdminFailed, match="500"):
        delete(monkeypatch, AdminFailed("DELETE: 500 no", 500))
