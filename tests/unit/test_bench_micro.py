"""The steps that are timed do what they are named after; the command hands over what pyperf found."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.progress import Progress

from bench import micro
from bench.micro_steps import STEPS, Material
from sequencer.plain import AcceptedRun


@pytest.mark.parametrize("events", [1, 20])
@pytest.mark.parametrize("step", STEPS)
def test_a_step_can_be_repeated(step: str, events: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.micro_steps.AGGREGATES", 100)
    with ExitStack() as opened:
        timer = STEPS[step](Material(events, 160, tmp_path, opened))
        assert timer(1) > 0
        assert timer(2) > 0


@pytest.mark.parametrize("events", [1, 20])
def test_every_submission_is_accepted(events: int, tmp_path: Path) -> None:
    """Rejections would take another way than the one that is timed."""
    material = Material(events, 160, tmp_path, ExitStack())
    (accepted,) = material.accepted()
    assert material.decided().messages == len(material.decided().ids.keys) == events
    assert isinstance(accepted, AcceptedRun)
    assert len(material.one_by_one(material.binary)) == events


def test_figures_come_back_in_the_order_of_the_plan() -> None:
    plan = micro.Plan(("checksum", "batch_parse"), event_bytes=160, batches=(20, 1), processes=1, value_s=0.001)
    points = micro.measure(plan, Progress(disable=True))
    assert [point.at["events_per_entry"] for point in points] == [20, 1]
    for point in points:
        assert list(point.figures) == ["checksum_ns", "batch_parse_ns"]
        assert all(figure["min"] > 0 for figure in point.figures.values())
