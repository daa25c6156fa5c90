"""The examples, run as a reader would: each checks its own promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sequencer.broker import EmbeddedBroker
from tests.sequencer_process import SequencerProcess, environment_of, init

EXAMPLES = Path(__file__).parents[2] / "examples"
PARTITIONS = 2
WITHIN_S = 60.0
SAYS = {
    "bank_account.py": r"33 of 50 withdrawals of 30 accepted, \d+ times somebody else .*\nbalance 10 at version 33",
    "requests.py": r"60 requests, 60 answers, the reactor killed once; balance 0",
    "projection.py": r"400 deposits to 5 accounts, the projection killed once; balances \[\d+(, \d+){4}\]",
}


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_example(broker: EmbeddedBroker, namespace: str, tmp_path: Path, name: str) -> None:
    init(broker, namespace, PARTITIONS)
    with SequencerProcess(broker, namespace, tmp_path / "index") as process:
        process.await_sequencing(PARTITIONS)
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / name)],
            env=environment_of(broker, namespace),
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
        process.check_running()
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(SAYS[name], done.stdout.strip())
    assert not done.stderr
