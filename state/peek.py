"""A look at an index that somebody else may have open: what it says of itself, without a lock and without a trace."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rocksdict import AccessType, Options, Rdict

from state.errors import IndexDamaged, IndexFailure, failure_of
from state.index import stored_checkpoint

ATTEMPTS = 3
"""An owner replaces files while they are being looked at: then another look is all that helps."""

_NOT_LINKED = ("LOCK", "LOG", "rocksdict-config.json")


def peek_checkpoint(directory: Path, *, identity: str) -> bytes | None:
    """The checkpoint of the index in `directory` as it is on disk; None where there is none, or no index at all.

    Raises:
        IndexMismatch: another partition's index, or another format.
        IndexDamaged, IndexUnavailable: it cannot be read.
    """
    for attempt in range(1, ATTEMPTS + 1):
        if not (directory / "CURRENT").exists():
            return None
        try:
            return _peek(directory, identity)
        except IndexDamaged:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _peek(directory: Path, identity: str) -> bytes | None:
    # Through links: even a read-only open writes rocksdict's own file, and with it into the owner's directory.
    with tempfile.TemporaryDirectory(prefix="sequencer-peek-") as temporary:
        view = Path(temporary)
        try:
            for path in directory.iterdir():
                if not path.name.startswith(_NOT_LINKED):
                    (view / path.name).symlink_to(path.absolute())
            families = {name: Options(raw_mode=True) for name in Rdict.list_cf(str(view)) if name != "default"}
            database = Rdict(str(view), Options(raw_mode=True), families, access_type=AccessType.read_only())
            try:
                return stored_checkpoint(directory, identity, database.get)
            finally:
                database.close()
        except IndexFailure:
            raise
        except Exception as error:
            raise failure_of(directory, "cannot look into it", error) from error
