"""The index that grows: its figures, from a process of its own as in earnest, but tiny."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.__main__ import bench
from bench.growth_run import ACCESS, key_of, zipf


def test_keys_are_uuids_of_their_own() -> None:
    keys = {key_of(number) for number in range(1000)}
    assert len(keys) == 1000
    assert all([len(part) for part in key.split("-")] == [8, 4, 4, 4, 12] for key in keys)


@pytest.mark.parametrize("access", ACCESS)
def test_access_stays_within_the_aggregates(access: str) -> None:
    drawn = [ACCESS[access](7) for _ in range(1000)]
    assert set(drawn) == set(range(7))


def test_the_first_ones_get_as_much_as_zipf_says() -> None:
    """Ranks up to r get log(r + 1) of log(n), and so the first ten of a million get a sixth."""
    share = sum(zipf(1_000_000) < 10 for _ in range(20_000)) / 20_000
    assert share == pytest.approx(math.log(11) / math.log(1_000_000), abs=0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_growth(tmp_path: Path) -> None:
    file = tmp_path / "growth.json"
    short = ("--most", "8000", "--events", "4000", "--runs", "2")
    done = CliRunner().invoke(bench, ["growth", *short, "--json", str(file)])
    assert done.exit_code == 0, done.stderr
    series = json.loads(file.read_text())["series"]
    assert [point["at"] for point in series] == [{"access": access, "aggregates": 8000} for access in ACCESS]
    for point in series:
        figures = {name: spread["median"] for name, spread in point["figures"].items()}
        assert figures["events_per_s"] > 0
        assert figures["disk_mib"] > 0
        assert 10 < figures["memory_mib"] < figures["limit_mib"]
        assert 0 < figures["looked_up_percent"] < 100
