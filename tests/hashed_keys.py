"""1,000 keys with what the Java and the Go client make of them, recorded from those clients: nothing of ours is in it.

hashed_keys.json says what gave the values. The keys are of the kinds that applications have, then others: text in many
scripts, with the same text composed and decomposed, and characters that Java hashes as two units each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple


class HashedKey(NamedTuple):
    """A key and its hashes."""

    key: str
    java: int
    """JavaStringHash of the Java client, not negative."""
    go: int
    """JavaStringHash of the Go client, unsigned 32 bits: it hashes UTF-8 bytes and keeps the sign bit."""

    def java_partition(self, partitions: int) -> int:
        return self.java % partitions

    def go_partition(self, partitions: int) -> int:
        return self.go % partitions


HASHED_KEYS = [HashedKey(*row) for row in json.loads(Path(__file__).with_name("hashed_keys.json").read_text())["keys"]]
