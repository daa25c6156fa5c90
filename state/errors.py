"""What can go wrong with an index, by what the caller can do about it.

::

    IndexFailure
    +-- IndexUnavailable    the place cannot be used: no permission, disk full, closed; rebuilding would not help
    +-- IndexHeld           another process, or another handle in this one, has it open
    +-- IndexMismatch       the index of another partition or of another format, or something else altogether
    +-- IndexDamaged        its files cannot be trusted: destroy it and rebuild
    +-- IndexWriteFailed    a batch was not written; close the index, the log still has the batch
"""

from __future__ import annotations

from pathlib import Path

# How RocksDB says that a lock is taken: by a process (POSIX, Windows), by a handle of this process.
_HELD = ("While lock file", "Failed to create lock file", "lock hold by current process")
# strerror texts, as RocksDB quotes them, for a condition of the machine: the files themselves may be perfectly good.
_MACHINE = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "Permission denied",
    "Operation not permitted",
    "Read-only file system",
    "Too many open files",
    "Cannot allocate memory",
    "Not a directory",
    "File name too long",
    "NUL byte",
    "already closed",
)


class IndexFailure(Exception):
    """The index cannot do what was asked. ``directory`` says which index."""

    def __init__(self, directory: Path, message: str) -> None:
        super().__init__(f"index {directory}: {message}")
        self.directory = directory


class IndexUnavailable(IndexFailure):
    """The directory cannot be used; a rebuild in the same place would fail as well."""


class IndexHeld(IndexFailure):
    """Somebody else has the index open."""


class IndexMismatch(IndexFailure):
    """The directory holds something else. ``found`` and ``expected`` say what."""

    def __init__(self, directory: Path, *, found: str, expected: str) -> None:
        super().__init__(directory, f"found {found}, expected {expected}")
        self.found = found
        self.expected = expected


class IndexDamaged(IndexFailure):
    """The stored data cannot be trusted: destroy it and rebuild."""


class IndexWriteFailed(IndexFailure):
    """A batch was not written. What is stored is a prefix of what was applied."""


def failure_of(directory: Path, doing: str, error: Exception) -> IndexFailure:
    """The member of the tree for what RocksDB or the operating system said while reading or opening.

    rocksdict raises bare ``Exception`` with the text of RocksDB's status; there is nothing but the text to go by.
    """
    text = str(error)
    message = f"{doing}: {text}"
    if any(sign in text for sign in _HELD):
        return IndexHeld(directory, f"open elsewhere ({text})")
    if any(sign in text for sign in _MACHINE) or isinstance(error, (OSError, UnicodeError)):
        return IndexUnavailable(directory, message)
    return IndexDamaged(directory, message)


def write_failure_of(directory: Path, doing: str, error: Exception) -> IndexFailure:
    """The same for a write: only what RocksDB itself calls corruption is damage."""
    if str(error).startswith("Corruption"):
        return failure_of(directory, doing, error)
    return IndexWriteFailed(directory, f"{doing}: {error}")
