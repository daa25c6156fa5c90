"""A single-writer event sequencer on Apache Pulsar."""

__version__ = "0.1.0"


class SequencerError(Exception):
    """The root of every failure that the command line reports in one line, without a traceback."""


class NeedsOperator(SequencerError):
    """A partition cannot go on, and no restart will change that: somebody has to look."""
