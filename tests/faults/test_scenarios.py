"""Schedules of faults written by hand: one scenario each, several times over, because no time is met exactly.

A seed that ever failed is here under a name too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.brokers import Brokers
from tests.faults.schedule import Fault, Plan
from tests.faults.world import run_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ZOMBIES = "zombie woke up after its partition was taken over"


def scenario(number: int, seconds: float, processes: int, *faults: Fault) -> Plan:
    """One partition, paced for tests. The number, unlike any other, is the seed of what is published."""
    return Plan(number, seconds, 1, processes, shared_index=False, hurry=True, ttl_s=0.0, faults=faults)


def test_the_input_is_unloaded_twice_at_a_time(brokers: Brokers, tmp_path: Path) -> None:
    """Twice within a moment: the broker (4.2.4) may answer no more (apache/pulsar#26368) until it is restarted.

    Found with seeds 72005353 and 115826374. Whether it comes to that or not, nothing is lost.
    """
    unloads = [Fault(at_s, "unload", "owner 0", 0.0, "submitted_events") for at_s in (1.5, 1.6, 3.0, 3.1, 4.5, 4.6)]
    run_on(brokers, scenario(115826374, 6.0, 2, *unloads), tmp_path)


def test_the_owner_is_killed_while_its_topic_is_unloaded(brokers: Brokers, tmp_path: Path) -> None:
    """Two standbys are parked there. The broker forgets their requests, and the one that it would grant one to dies."""
    rounds = [
        (Fault(1.5, "unload", "owner 0", 0.0, "sequencer_owners"), Fault(1.51, "kill", "owner 0", 0.3)),
        (Fault(4.0, "unload", "owner 0", 0.0, "sequencer_owners"), Fault(4.05, "kill", "owner 0", 0.3)),
        (Fault(6.5, "kill", "owner 0", 0.3), Fault(6.52, "unload", "owner 0", 0.0, "sequencer_owners")),
        (Fault(9.0, "kill", "owner 0", 0.3), Fault(9.1, "unload", "owner 0", 0.0, "sequencer_owners")),
    ]
    figures = run_on(brokers, scenario(1001, 9.5, 3, *(fault for one in rounds for fault in one)), tmp_path)
    assert figures.faults["kill -9 of a sequencer"] == len(rounds)
    assert figures.faults["unload of sequencer_owners"] > 0


@pytest.mark.long
def test_the_broker_is_killed_after_a_commit_of_which_nobody_heard(brokers: Brokers, tmp_path: Path) -> None:
    """Its END_TXN is carried out and the answer lost; while the owner waits for it, the broker dies."""
    lost = Fault(1.0, "lose", "owner 0", 0.0, "1 END_TXN_RESPONSE then nothing")
    killed = Fault(3.0, "broker", "broker", 0.0, "killed")
    figures = run_on(brokers, scenario(1002, 3.5, 2, lost, killed), tmp_path)
    assert figures.faults["END_TXN_RESPONSE lost"] == 1
    assert figures.faults["kill -9 and restart of the broker"] == 1


@pytest.mark.long
def test_what_a_zombie_had_sent_arrives_after_the_takeover(brokers: Brokers, tmp_path: Path) -> None:
    """The owner's SENDs, ACKs and END are held back, then it freezes, and another is elected.

    First they arrive, and the zombie wakes up, while the successor waits for the zombie's consumer to go; later, when
    the successor is at work.
    """
    faults = []
    for at_s, frozen_s in ((1.5, 1.0), (5.0, 1.6), (9.0, 5.0)):
        faults.append(Fault(at_s, "hold", "owner 0", frozen_s + 0.1, "to the broker"))
        faults.append(Fault(at_s + 0.15, "usurp", "owner 0", frozen_s, "stopped"))
    figures = run_on(brokers, scenario(1003, 14.5, 2, *faults), tmp_path)
    assert figures.faults["connections held"] == 3
    assert figures.faults["SIGSTOP of a sequencer"] == 3
    assert figures.faults[ZOMBIES] > 0
