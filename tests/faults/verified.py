"""The judgement of the command that users have: `sequencer verify`, as a process, must find nothing."""

from __future__ import annotations

import json
from pathlib import Path

from sequencer.broker import EmbeddedBroker
from tests.sequencer_process import sequencer


def check_verified(broker: EmbeddedBroker, namespace: str, index_dir: Path, submissions: int) -> None:
    """Run it on topics that are quiet and an index that nobody holds.

    Args:
        submissions: how many messages the namespace holds; it must have seen each of them.
    """
    done = sequencer(broker, namespace, "verify", "--json", "--index-dir", str(index_dir))
    assert done.returncode == 0, f"sequencer verify: {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
    found = json.loads(done.stdout)
    checked = {line["name"]: line["checked"] for line in found["invariants"]}
    assert (found["ok"], found["pending"], found["before_retention"], found["notes"]) == (True, 0, 0, []), found
    assert checked["I3"] >= submissions, f"I3 was checked {checked['I3']} times for {submissions} submissions"
