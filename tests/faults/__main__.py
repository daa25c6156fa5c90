"""python -m tests.faults: run plans of faults and say what happened.

--seed 7 --seconds 30         one plan, printed and run
--minutes 30                  fresh seeds until the time is up
--print                       only print the plan, as one line of JSON too
--replay FILE                 run a plan that was printed (its line of JSON)
--record FILE                 append one line of JSON for each run
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

from sequencer.broker import EmbeddedBroker
from tests.faults.brokers import BROKER_SETTINGS
from tests.faults.schedule import Plan, plan
from tests.faults.world import BrokerDefect, Figures, run

SEED_LIMIT = 10**9
DEFAULT_SECONDS = 30.0
DEFECT = "came to nothing"


def main() -> int:
    """Returns the number of failed runs, 100 at most."""
    options = _options()
    plans = _plans(options)
    if options.print:
        for one in plans:
            print(one, one.to_json(), sep="\n")
        return 0
    directory = options.directory or Path(tempfile.mkdtemp(prefix="faults-"))
    totals: Counter[str] = Counter()
    failed: list[int] = []
    broker = _fresh_broker(directory, 0)
    try:
        for number, one in enumerate(plans):
            print(one, flush=True)
            began_s = time.time()
            figures, failure = _run(one, broker, f"public/faults-{number}-{one.seed}", directory / f"run-{number}")
            totals += _counted(figures, failure)
            failed += [one.seed] if failure and DEFECT not in failure else []
            print(failure or f"seed {one.seed}: well, {figures}", flush=True)
            if options.record:
                _record(options.record, one, began_s, figures, failure)
            if failure:
                # What is wrong may be the broker, and must not be blamed on the next plan.
                broker.kill()
                broker = _fresh_broker(directory, number + 1)
    finally:
        broker.kill()
    for name, count in sorted(totals.items()):
        print(f"{count:8}  {name}")
    print(f"{len(failed)} failed: {failed}" if failed else "none failed", f"(everything is in {directory})")
    return min(len(failed), 100)


def _fresh_broker(directory: Path, number: int) -> EmbeddedBroker:
    broker = EmbeddedBroker(directory / f"broker-{number}", extra_settings=BROKER_SETTINGS)
    broker.start()
    return broker


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, help="of one plan")
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS, help="that faults go on in each run")
    parser.add_argument("--minutes", type=float, help="run fresh seeds for so long")
    parser.add_argument("--replay", type=Path, help="a file with a plan as a line of JSON")
    parser.add_argument("--print", action="store_true", help="print the plan only")
    parser.add_argument("--record", type=Path, help="append a line of JSON per run")
    parser.add_argument("--directory", type=Path, help="where everything is kept; default: a new one in /tmp")
    options = parser.parse_args()
    if (options.seed is None) + (options.minutes is None) + (options.replay is None) != 2:
        parser.error("one of --seed, --minutes and --replay")
    return options


def _plans(options: argparse.Namespace) -> Iterator[Plan]:
    if options.replay is not None:
        lines = [line for line in options.replay.read_text().splitlines() if line.startswith("{")]
        yield from map(Plan.from_json, lines)
    elif options.seed is not None:
        yield plan(options.seed, options.seconds)
    else:
        end_s = time.monotonic() + options.minutes * 60
        while time.monotonic() < end_s:
            yield plan(SystemRandom().randrange(SEED_LIMIT), options.seconds)


def _run(one: Plan, broker: EmbeddedBroker, namespace: str, directory: Path) -> tuple[Figures | None, str]:
    try:
        return run(one, broker, namespace, directory), ""
    except BrokerDefect as defect:
        return None, f"seed {one.seed} {DEFECT}: {defect}"
    except Exception:
        return None, f"seed {one.seed} FAILED\n{traceback.format_exc()}"


def _counted(figures: Figures | None, failure: str) -> Counter[str]:
    if figures is None:
        return Counter(
            {"runs": 1, "runs that came to nothing in the broker" if DEFECT in failure else "failed runs": 1}
        )
    events = {"runs": 1, "submissions": figures.submissions, "accepted": figures.accepted, "rejected": figures.rejected}
    return Counter({**events, "submitted again after a time-out": figures.resubmitted}) + figures.faults


def _record(file: Path, one: Plan, began_s: float, figures: Figures | None, failure: str) -> None:
    line = {
        "seed": one.seed,
        "seconds": one.seconds,
        "began_s": int(began_s),
        "took_s": round(time.time() - began_s, 1),
        "counts": dict(_counted(figures, failure)),
        "failure": failure,
        "plan": json.loads(one.to_json()),
    }
    with file.open("a") as lines:
        lines.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
