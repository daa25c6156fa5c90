"""An open loop's arithmetic: when events are due, what became of them, and what is reported of it."""

from __future__ import annotations

import pytest
from hdrh.histogram import HdrHistogram

from bench.latency import AtRate, Plan, Run, merged, percentiles_ms, series
from bench.numbered import Numbered
from bench.onlooker import NUMBER, empty_histogram, latencies
from bench.schedule import NS_PER_S, Schedule, entry_events
from sequencer.pulsar.batches import split_batch

SCHEDULE = Schedule(first=1_000, events=3, rate=500, began_ns=7_000_000_000)


def histogram(*latencies_us: int) -> HdrHistogram:
    found = empty_histogram()
    for latency_us in latencies_us:
        found.record_value(latency_us)
    return found


def test_every_event_has_its_own_time() -> None:
    assert [SCHEDULE.due_ns(number) - SCHEDULE.began_ns for number in (1_000, 1_001, 1_500)] == [0, 2_000_000, NS_PER_S]


def test_a_schedule_survives_the_way_to_another_process() -> None:
    line = SCHEDULE.to_json()
    assert "\n" not in line
    assert Schedule.from_json(line + "\n") == SCHEDULE


@pytest.mark.parametrize(("rate", "events"), [(1, 1), (1_000, 1), (1_001, 2), (10_000, 10), (30_000, 30)])
def test_entries_hold_as_many_events_as_their_rate_needs(rate: int, events: int) -> None:
    assert entry_events(rate) == events


def test_latency_counts_from_when_an_event_was_due() -> None:
    arrivals = [SCHEDULE.due_ns(number) + 5_000_000 for number in (1_000, 1_001, 1_002)]
    # The publisher stood still: the last one was late before it was sent, and that counts.
    arrivals[2] += 100_000_000
    found = latencies(SCHEDULE, arrivals, [1_000, 1_001, 1_002])
    assert percentiles_ms(found)["p50"] == pytest.approx(5, rel=0.001)
    assert percentiles_ms(found)["max"] == pytest.approx(105, rel=0.001)


@pytest.mark.parametrize("numbers", [[1_000, 1_002, 1_003], [1_000, 1_000, 1_001], [999, 1_000, 1_001]])
def test_an_event_that_is_missing_or_doubled_fails_the_run(numbers: list[int]) -> None:
    with pytest.raises(RuntimeError, match="in place of"):
        latencies(SCHEDULE, [SCHEDULE.began_ns] * 3, numbers)


def test_an_event_that_took_for_ever_fails_the_run() -> None:
    with pytest.raises(RuntimeError, match="longer than"):
        latencies(SCHEDULE, [SCHEDULE.began_ns + 3_600 * NS_PER_S] * 3, [1_000, 1_001, 1_002])


def test_the_onlooker_finds_the_number_in_a_payload() -> None:
    output = Numbered(aggregates=10, event_bytes=160, batch_events=2).output(600_000)
    payloads = [payload for _, _, payload in split_batch(output.payload, 2)]
    assert [int(payload[NUMBER], 16) for payload in payloads] == [1_200_000, 1_200_001]


def test_a_plan_sends_whole_entries_and_enough_events() -> None:
    plan = Plan(rates=(10, 100, 2_500), seconds=0.5, events_min=30, warm_up_seconds=1.0, runs=1)
    assert [plan.events(rate) for rate in plan.rates] == [30, 50, 1_251]
    assert [plan.warm_up_events(rate) for rate in plan.rates] == [1_000, 1_000, 2_499]


def test_runs_are_merged_and_compared() -> None:
    def run(*latencies_us: int) -> Run:
        return Run(histogram(*latencies_us), seconds=2.0, sent_late_ms=0.1, cpu_s={"broker": 0.5})

    plain, sequenced = [run(1_000), run(2_000)], [run(4_000), run(6_000)]
    assert merged(plain)["max"] == pytest.approx(2, rel=0.001)
    points = series([AtRate(100, plain, sequenced, peak_memory_mib=80.04)])
    assert [point.at for point in points] == [{"rate": 100, "path": path} for path in ("plain", "sequenced", "ratio")]
    assert points[1].figures["p50_ms"]["median"] == pytest.approx(5, rel=0.001)
    assert points[1].figures["broker_cpu_percent"]["median"] == 25
    assert points[1].figures["peak_memory_mib"]["median"] == 80
    assert points[2].figures["p50_ratio"]["values"] == [4, 3]
    assert points[2].figures["merged_max_ratio"]["median"] == 3
