"""Plans follow from their seed, and clients get their share of what happens."""

from __future__ import annotations

from collections import Counter

from tests.faults import schedule
from tests.linearizability.plans import CLIENTS, plan

SECONDS = 25.0


def test_a_plan_follows_from_its_seed() -> None:
    assert plan(7, SECONDS, 3) == plan(7, SECONDS, 3)
    assert plan(7, SECONDS, 3) != plan(8, SECONDS, 3)


def test_what_happens_to_the_others_stays_as_it_is() -> None:
    faults = plan(7, SECONDS, 3).faults.faults
    others = tuple(fault for fault in faults if not fault.target.startswith("client"))
    assert others == schedule.plan(7, SECONDS).faults
    assert list(faults) == sorted(faults, key=lambda fault: fault.at_s)


def test_every_client_is_killed_frozen_and_cut_off() -> None:
    faults = [fault for seed in range(40) for fault in plan(seed, SECONDS, 3).faults.faults]
    met = Counter((fault.target, fault.kind) for fault in faults if fault.target.startswith("client"))
    kinds = {"kill", "stop", "cut", "refuse", "half open", "hold", "delay", "lose"}
    assert set(met) == {(f"client {number}", kind) for number in range(CLIENTS) for kind in kinds}


def test_histories_share_no_aggregate() -> None:
    one = plan(7, SECONDS, 12)
    keys = [key for keys in one.keys for key in keys]
    assert len(one.keys) == 12
    assert len(set(keys)) == len(keys) == sum(one.aggregates)
    # Names tell histories apart by how they begin.
    for name, own in zip(one.names, one.keys, strict=True):
        assert [key for key in keys if key.startswith(name)] == own
