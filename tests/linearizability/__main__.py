"""python -m tests.linearizability: histories of concurrent appends while everything fails, each checked.

--seed 7 --histories 10       the histories of one seed, which go on at the same time in one world
--count 100                   fresh seeds until so many histories are checked
--print                       only print the plan
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import SystemRandom

from tests.faults.brokers import Brokers
from tests.faults.world import BrokerDefect
from tests.linearizability.plans import Plan, plan
from tests.linearizability.run import Figures, run

SEED_LIMIT = 10**9
DEFAULT_SECONDS = 30.0
DEFAULT_HISTORIES = 10
DEFECTS_LIMIT = 10


def main() -> int:
    """Returns the number of failed runs, 100 at most."""
    options = _options()
    if options.print:
        print(*_plans(options), sep="\n")
        return 0
    directory = options.directory or Path(tempfile.mkdtemp(prefix="linearizability-"))
    totals: Counter[str] = Counter()
    failed: list[int] = []
    brokers = Brokers(directory)
    try:
        for number, one in enumerate(_plans(options, totals)):
            print(one, flush=True)
            began_s = time.time()
            figures, failure = _run(one, brokers, f"public/histories-{number}", directory / f"run-{number}")
            totals += Counter({"runs": 1}) if figures is None else figures.counts + figures.faults + Counter(runs=1)
            if failure:
                # What is wrong may be the broker, and must not be blamed on the next plan.
                failed.append(one.faults.seed)
                brokers.renew()
            _report(options, one, began_s, figures, failure)
    finally:
        brokers.close()
    print(*(f"{count:8}  {name}" for name, count in sorted(totals.items())), sep="\n")
    print(f"{len(failed)} failed: {failed}" if failed else "none failed", f"(everything is in {directory})")
    return min(len(failed), 100)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.linearizability", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, help="of one run")
    parser.add_argument("--count", type=int, help="fresh seeds until so many histories are checked")
    parser.add_argument("--histories", type=int, default=DEFAULT_HISTORIES, help="that go on at the same time")
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS, help="that faults go on in each run")
    parser.add_argument("--print", action="store_true", help="print the plan only")
    parser.add_argument("--record", type=Path, help="append a line of JSON per run")
    parser.add_argument("--directory", type=Path, help="where everything is kept; default: a new one in /tmp")
    options = parser.parse_args()
    if (options.seed is None) == (options.count is None) or (options.print and options.seed is None):
        parser.error("either --seed or --count; --print with --seed")
    return options


def _plans(options: argparse.Namespace, totals: Counter[str] | None = None) -> Iterator[Plan]:
    if options.seed is not None:
        yield plan(options.seed, options.seconds, options.histories)
        return
    assert totals is not None
    attempts = 0
    while totals["histories"] < options.count and attempts < DEFECTS_LIMIT + options.count // options.histories:
        attempts += 1
        yield plan(SystemRandom().randrange(SEED_LIMIT), options.seconds, options.histories)


def _run(one: Plan, brokers: Brokers, namespace: str, directory: Path) -> tuple[Figures | None, str]:
    """On a fresh broker where a known defect has stopped this one; a seed that meets it says nothing."""
    try:
        return run(one, brokers.current, namespace, directory), ""
    except BrokerDefect as defect:
        print(f"seed {one.faults.seed} came to nothing: {defect}", flush=True)
        brokers.renew()
        return None, ""
    except Exception:
        return None, traceback.format_exc()


def _report(options: argparse.Namespace, one: Plan, began_s: float, figures: Figures | None, failure: str) -> None:
    if figures is not None:
        print(f"seed {one.faults.seed}: well, in {figures.took_s:.0f} s: {dict(figures.counts)}", flush=True)
    elif failure:
        print(f"seed {one.faults.seed} FAILED\n{failure}", flush=True)
    if options.record:
        counts = {} if figures is None else dict(figures.counts + figures.faults)
        took_s = round(time.time() - began_s, 1)
        line = {"seed": one.faults.seed, "seconds": one.faults.seconds, "took_s": took_s, "counts": counts}
        with options.record.open("a") as lines:
            lines.write(json.dumps({**line, "failure": failure}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
