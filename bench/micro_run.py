"""What `bench.micro` runs under pyperf: every step in several processes, each of which starts this module anew.

pyperf owns the command line: it reads its own options beside ours, and starts its workers with both.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pyperf

from bench.micro_steps import STEPS, Material, Timer


def name_of(step: str, events: int) -> str:
    """What a benchmark is called in pyperf's file."""
    return f"{step} / {events}"


def _hand_down(command: list[str], options: argparse.Namespace) -> None:
    command += ["--event-bytes", str(options.event_bytes), "--events", *map(str, options.events)]
    command += ["--steps", *options.steps]


def _timed(prepared: dict[str, Timer], step: str, material: Material, loops: int) -> float:
    """Prepared by the worker that runs it, and only once."""
    if step not in prepared:
        prepared[step] = STEPS[step](material)
    return prepared[step](loops)


def run() -> None:
    """Every step with every number of events per entry, in seconds per event."""
    runner = pyperf.Runner(add_cmdline_args=_hand_down, program_args=("-m", "bench.micro_run"))
    runner.argparser.add_argument("--event-bytes", type=int, required=True)
    runner.argparser.add_argument("--events", type=int, nargs="+", required=True)
    runner.argparser.add_argument("--steps", nargs="+", required=True)
    options = runner.parse_args()
    with tempfile.TemporaryDirectory(prefix="sequencer-bench-micro-") as directory, ExitStack() as opened:
        for events in options.events:
            material, prepared = Material(events, options.event_bytes, Path(directory), opened), dict[str, Timer]()
            for step in options.steps:
                runner.bench_time_func(
                    name_of(step, events), partial(_timed, prepared, step, material), inner_loops=events
                )


if __name__ == "__main__":
    run()
