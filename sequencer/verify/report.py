"""What a verification finds: one line per invariant, with the message ids that show each violation."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

MAX_EXAMPLES: Final = 100  # violations described per invariant; all are counted


class Invariant(StrEnum):
    """What is promised, in the order of the design."""

    I1 = "versions of an aggregate are 0, 1, 2, ... without gap or repeat, in one partition"
    I2 = "sequence of a partition is 0, 1, 2, ... without gap or repeat"
    I3 = "every submission has exactly one outcome, a list one as a whole, and is acknowledged if and only if it has it"
    I4 = "an expected version was the aggregate's version where accepted, and was not where rejected for it"
    I5 = "the index holds the version of each aggregate's last event"
    I6 = "no event is accepted twice, and what a rejection says of ids is true"
    I7 = "outcomes of an aggregate keep the order of submission"


class Violation(NamedTuple):
    """One broken promise: what is wrong, and the message ids that show it."""

    what: str
    message_ids: tuple[str, ...]


class Line(NamedTuple):
    """One invariant's result; `examples` holds the first MAX_EXAMPLES violations."""

    invariant: Invariant
    checked: int
    violations: int
    examples: tuple[Violation, ...]

    def __str__(self) -> str:
        if not self.checked and not self.violations:
            return f"{self.invariant.name} nothing to check: {self.invariant}"
        verdict = f"{self.violations} violations" if self.violations else "ok"
        shown = "".join(f"\n    {example.what} [{', '.join(example.message_ids)}]" for example in self.examples)
        if (more := self.violations - len(self.examples)) > 0:
            shown += f"\n    and {more} more"
        return f"{self.invariant.name} {verdict}, {self.checked} checked: {self.invariant}{shown}"


class Report(NamedTuple):
    """What a verification found."""

    lines: tuple[Line, ...]
    pending: int  # submissions that wait for their outcome, which includes those after a position in `unsettled`
    before_retention: int  # outcomes whose submission lies before the first that the input still holds: not checked
    unsettled: Mapping[int, bytes] = MappingProxyType(
        {}
    )  # partition -> where it was under way, and the judgement ended

    @property
    def ok(self) -> bool:
        """No promise was broken."""
        return not any(line.violations for line in self.lines)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "ok": self.ok,
            "invariants": [
                {
                    "name": line.invariant.name,
                    "promise": line.invariant.value,
                    "checked": line.checked,
                    "violations": line.violations,
                    "examples": [example._asdict() for example in line.examples],
                }
                for line in self.lines
            ],
            "pending": self.pending,
            "before_retention": self.before_retention,
        }

    def violated(self) -> dict[str, int]:
        """The broken invariants by name, with how often."""
        return {line.invariant.name: line.violations for line in self.lines if line.violations}

    def __str__(self) -> str:
        return "\n".join(str(line) for line in self.lines)


class Findings:
    """Counts checks and violations per invariant."""

    def __init__(self) -> None:
        self.checked = dict.fromkeys(Invariant, 0)
        self.violations = dict.fromkeys(Invariant, 0)
        self.examples: dict[Invariant, list[Violation]] = {invariant: [] for invariant in Invariant}

    def violated(self, invariant: Invariant, what: str, *message_ids: object) -> None:
        self.violations[invariant] += 1
        if len(self.examples[invariant]) < MAX_EXAMPLES:
            self.examples[invariant].append(Violation(what, tuple(str(message_id) for message_id in message_ids)))

    def plus(self, other: "Findings") -> "Findings":
        """Both together."""
        total = Findings()
        for invariant in Invariant:
            total.checked[invariant] = self.checked[invariant] + other.checked[invariant]
            total.violations[invariant] = self.violations[invariant] + other.violations[invariant]
            examples = self.examples[invariant] + other.examples[invariant]
            total.examples[invariant] = examples[:MAX_EXAMPLES]
        return total

    def lines(self) -> tuple[Line, ...]:
        return tuple(
            Line(invariant, self.checked[invariant], self.violations[invariant], tuple(self.examples[invariant]))
            for invariant in Invariant
        )
