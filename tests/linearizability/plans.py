"""What clients do and what happens to everything meanwhile: all of it follows from a seed.

The faults are those of tests/faults, with such added as happen to clients: kill -9, SIGSTOP, and their connections.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from tests.faults import schedule
from tests.faults.schedule import Fault

MEAN_GAP_S = 1.6
QUIET_START_S = 1.0
KILL_WEIGHT = 5
"""How much likelier than any other fault of a client its kill is."""

CLIENTS = 3
TASKS = 8
PAUSE_S = 0.3
OPERATIONS = 1_000
"""At least, in each history."""


class Plan(NamedTuple):
    """Everything that a run is made from.

    Attributes:
        faults: of sequencers, broker and clients.
        histories: how many go on at once, each with aggregates of its own.
        aggregates: how many each of them has.
        operations: how many at least there are to be in each, however long that takes.
        tasks: in each client, that append to each history at once.
        pause_s: mean, between two appends of a task.
    """

    faults: schedule.Plan
    histories: int
    aggregates: tuple[int, ...]
    operations: int = OPERATIONS
    clients: int = CLIENTS
    tasks: int = TASKS
    pause_s: float = PAUSE_S

    @property
    def names(self) -> list[str]:
        """Of the histories: what the names of their aggregates begin with."""
        return [f"history-{number}-" for number in range(self.histories)]

    @property
    def keys(self) -> list[list[str]]:
        """The aggregates of each history."""
        pairs = zip(self.names, self.aggregates, strict=True)
        return [[name + letter for letter in "abcdef"[:count]] for name, count in pairs]

    def __str__(self) -> str:
        clients = (
            f"{self.histories} histories of {self.operations} operations or more, {self.clients} clients with "
            f"{self.tasks} tasks for each, aggregates {' '.join(map(str, self.aggregates))}"
        )
        return f"{clients}\n{self.faults}"


def plan(seed: int, seconds: float, histories: int, *, broker: bool = True) -> Plan:
    """The plan of a seed. `broker`: whether it may be killed."""
    random = Random(f"{seed}/{seconds}/clients")
    base = schedule.plan(seed, seconds, broker=broker)
    added: list[Fault] = []
    at_s = QUIET_START_S
    while (at_s := at_s + random.expovariate(1 / MEAN_GAP_S)) < seconds:
        added.append(_client_fault(random)._replace(at_s=round(at_s, 2)))
    faults = tuple(sorted((*base.faults, *added), key=lambda fault: fault.at_s))
    return Plan(base._replace(faults=faults), histories, tuple(random.choice([1, 2, 3, 5]) for _ in range(histories)))


def _client_fault(random: Random) -> Fault:
    target = f"client {random.randrange(CLIENTS)}"
    kind, for_s, detail = random.choice(
        [
            *[("kill", random.choice([0.0, 0.5, 1.5]), "")] * KILL_WEIGHT,
            ("stop", random.choice([0.5, 2.0, 5.0]), ""),
            ("cut", 0.0, ""),
            ("refuse", random.choice([0.5, 2.0]), ""),
            ("half open", 3.0, random.choice(["to the broker", "to the client"])),
            ("hold", random.choice([0.3, 1.5, 4.0]), random.choice(["to the broker", "to the client"])),
            ("delay", random.choice([1.0, 3.0]), random.choice(["5 ms", "25 ms"])),
            ("lose", 0.0, f"{random.choice([1, 3])} {random.choice(['MESSAGE', 'SEND_RECEIPT', 'SEND'])} then nothing"),
            ("lose", 0.0, f"1 {random.choice(['MESSAGE', 'SEND_RECEIPT', 'SEND'])} then cut"),
        ]
    )
    return Fault(0, kind, target, for_s, detail)
