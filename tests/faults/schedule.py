"""What goes wrong, and when: everything follows from a seed.

A schedule is data. It is made before anything runs, can be printed and read again, and names its targets so that the
same words make sense in every run: "owner 1" is whoever owns partition 1 when the time comes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

MEAN_GAP_S = 0.8
QUIET_START_S = 0.5
BROKER_GAP_S = 14.0
"""At least so much between two restarts of the broker, which takes some 6 s."""

ANSWERS = ("END_TXN_RESPONSE", "END_TXN_RESPONSE", "SEND_RECEIPT", "ACK_RESPONSE")
OTHER_ANSWERS = (
    "NEW_TXN_RESPONSE",
    "ADD_PARTITION_TO_TXN_RESPONSE",
    "ADD_SUBSCRIPTION_TO_TXN_RESPONSE",
    "PRODUCER_SUCCESS",
    "SUCCESS",
    "GET_LAST_MESSAGE_ID_RESPONSE",
    "TC_CLIENT_CONNECT_RESPONSE",
    "LOOKUP_RESPONSE",
)
REQUESTS = ("END_TXN", "ACK", "SEND", "NEW_TXN", "PRODUCER", "SUBSCRIBE", "FLOW")
TOPICS = ("submitted_events", "events", "rejected_events", "sequencer_owners")
INDEX_DAMAGES = ("removed", "truncated", "flipped")


class Fault(NamedTuple):
    """One thing that goes wrong.

    Attributes:
        at_s: after the start of the run.
        kind: see `KINDS`.
        target: "owner N" of a partition, "process N", or "broker".
        for_s: how long it lasts, where it lasts.
        detail: what exactly, in the kind's own terms.
    """

    at_s: float
    kind: str
    target: str
    for_s: float = 0.0
    detail: str = ""

    def __str__(self) -> str:
        lasts = f" for {self.for_s} s" if self.for_s else ""
        return f"{self.at_s:7.2f} s  {self.kind} {self.detail}{' ' if self.detail else ''}of {self.target}{lasts}"


class Plan(NamedTuple):
    """Everything that a run is made from.

    Attributes:
        partitions: of every topic.
        processes: sequencers that all run all partitions.
        shared_index: they use one index directory, as several on one host would.
        hurry: failures are paced as under test, not as shipped.
        ttl_s: of transactions; 0 = as shipped.
    """

    seed: int
    seconds: float
    partitions: int
    processes: int
    shared_index: bool
    hurry: bool
    ttl_s: float
    faults: tuple[Fault, ...]

    def to_json(self) -> str:
        """One line, from which `from_json` makes the same plan."""
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, line: str) -> Plan:
        """Raises: ValueError, TypeError, KeyError: no plan."""
        read = json.loads(line)
        return cls(**{**read, "faults": tuple(Fault(*fault) for fault in read["faults"])})

    def __str__(self) -> str:
        ttl = f"{self.ttl_s} s" if self.ttl_s else "as shipped"
        head = (
            f"seed {self.seed}: {self.seconds} s, {self.partitions} partitions, {self.processes} processes with "
            f"{'one index directory' if self.shared_index else 'a directory each'}, "
            f"pace {'of tests' if self.hurry else 'as shipped'}, transactions live {ttl}"
        )
        return "\n".join([head, *map(str, self.faults)])


def plan(seed: int, seconds: float, *, broker: bool = True) -> Plan:
    """The plan of a seed. `broker`: whether it may be killed."""
    random = Random(f"{seed}/{seconds}")
    partitions = random.choice([1, 2, 2, 3])
    ttl_s = random.choice([0.0, 0.0, 0.0, 6.0])
    faults: list[Fault] = []
    at_s = QUIET_START_S
    broker_at_s = 0.0 if broker else seconds + BROKER_GAP_S
    while at_s < seconds:
        kind = random.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
        if kind == "broker" and at_s < broker_at_s:
            continue
        if kind == "broker":
            broker_at_s = at_s + BROKER_GAP_S
        fault = KINDS[kind][1](random, partitions)
        faults.append(fault._replace(at_s=round(at_s, 2), for_s=round(fault.for_s, 2)))
        at_s += random.expovariate(1 / MEAN_GAP_S)
    return Plan(
        seed,
        seconds,
        partitions,
        processes=random.choice([2, 3, 3]),
        shared_index=random.random() < 0.3,
        hurry=random.random() < 0.85,
        ttl_s=ttl_s,
        faults=tuple(faults),
    )


def _someone(random: Random, partitions: int) -> str:
    """Mostly an owner: faults of standbys are less telling."""
    if random.random() < 0.75:
        return f"owner {random.randrange(partitions)}"
    return f"process {random.randrange(3)}"


def _kill(random: Random, partitions: int) -> Fault:
    return Fault(0, "kill", _someone(random, partitions), random.choice([0.0, 0.3, 2.0]))


def _stop(random: Random, partitions: int) -> Fault:
    """SIGSTOP; the longer ones wake up as zombies."""
    return Fault(0, "stop", _someone(random, partitions), random.choice([0.3, 1.5, 4.0, 6.5, 9.0]))


def _usurp(random: Random, partitions: int) -> Fault:
    """Stopped, or held back by the network, while the owner topic is unloaded: meanwhile another is elected."""
    how = random.choice(["stopped", "its bytes held", "answers held"])
    return Fault(
        0, "usurp", f"owner {random.randrange(partitions)}", random.choice([0.5, 1.0, 1.7, 3.0, 6.0, 8.0]), how
    )


def _unload(random: Random, partitions: int) -> Fault:
    return Fault(0, "unload", f"owner {random.randrange(partitions)}", 0, random.choice(TOPICS))


def _unload_coordinator(random: Random, partitions: int) -> Fault:
    return Fault(0, "unload", "broker", 0, "transaction coordinator")


def _broker(random: Random, partitions: int) -> Fault:
    return Fault(0, "broker", "broker", random.choice([0.0, 0.5, 2.0]), "killed")


def _network(random: Random, partitions: int) -> Fault:
    kind, for_s = random.choice(
        [
            ("cut", 0.0),
            ("refuse", random.choice([1.0, 3.0])),
            ("half open", 3.0),
            ("hold", random.choice([0.2, 1.0, 1.8, 4.0, 6.0])),
            ("delay", random.choice([1.0, 3.0])),
        ]
    )
    detail = ""
    if kind in ("hold", "half open"):
        detail = random.choice(["to the broker", "to the client"])
    elif kind == "delay":
        detail = random.choice(["5 ms", "25 ms"])
    return Fault(0, kind, _someone(random, partitions), for_s, detail)


def _lose(random: Random, partitions: int) -> Fault:
    chance = random.random()
    frames: Sequence[str] = ANSWERS if chance < 0.6 else REQUESTS if chance < 0.8 else OTHER_ANSWERS
    count = random.choice([1, 1, 1, 3])
    after = random.choice(["then cut", "then cut", "then nothing"])
    return Fault(0, "lose", f"owner {random.randrange(partitions)}", 0, f"{count} {random.choice(frames)} {after}")


def _index(random: Random, partitions: int) -> Fault:
    """Damaged while its process is dead."""
    damage = f"{random.choice(INDEX_DAMAGES)} {random.randrange(10**6)}"
    return Fault(0, "index", _someone(random, partitions), 0, damage)


def _read_only(random: Random, partitions: int) -> Fault:
    return Fault(0, "read-only", _someone(random, partitions), random.choice([1.5, 4.0]), "index")


def _disk_full(random: Random, partitions: int) -> Fault:
    return Fault(0, "disk full", _someone(random, partitions), random.choice([1.0, 3.0]))


def _clock(random: Random, partitions: int) -> Fault:
    # Less than the id window altogether: a longer jump forgets ids, as the contract says.
    return Fault(0, "clock", _someone(random, partitions), 0, f"{random.choice([-300, -60, -2, 2, 60, 300])} s off")


def _compact(random: Random, partitions: int) -> Fault:
    """No fault, but the index that is rebuilt afterwards comes from another view."""
    return Fault(0, "compact", f"owner {random.randrange(partitions)}", 0, "events")


KINDS: dict[str, tuple[float, Callable[[Random, int], Fault]]] = {
    "kill": (4.0, _kill),
    "stop": (3.0, _stop),
    "usurp": (2.0, _usurp),
    "unload": (2.5, _unload),
    "coordinator": (0.5, _unload_coordinator),
    "broker": (1.2, _broker),
    "network": (3.0, _network),
    "lose": (5.0, _lose),
    "index": (1.5, _index),
    "read-only": (0.5, _read_only),
    "disk full": (0.7, _disk_full),
    "clock": (0.7, _clock),
    "compact": (0.5, _compact),
}
