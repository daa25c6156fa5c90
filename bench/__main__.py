"""`python -m bench NAME`: the benchmarks' command line. Every benchmark is a module that brings its own `command`."""

from __future__ import annotations

import signal

import click

from bench import append, ceiling, recovery, restart, takeover, throughput, verify


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def bench() -> None:
    """Measure the sequencer on a real broker that the benchmark starts itself.

    \b
    Example:  python -m bench throughput --events 1000000
    """


for benchmark in (throughput, ceiling, append, takeover, restart, recovery, verify):
    bench.add_command(benchmark.command)


if __name__ == "__main__":
    # Whatever ends it, nothing that it started may go on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    bench()
