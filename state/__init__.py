"""Local, rebuildable state of one partition: a RocksDB index of versions. It knows nothing of Pulsar."""

from state.errors import (
    IndexDamaged,
    IndexFailure,
    IndexHeld,
    IndexMismatch,
    IndexUnavailable,
    IndexWriteFailed,
)
from state.index import IndexLimits, VersionIndex

__all__ = [
    "IndexDamaged",
    "IndexFailure",
    "IndexHeld",
    "IndexLimits",
    "IndexMismatch",
    "IndexUnavailable",
    "IndexWriteFailed",
    "VersionIndex",
]
