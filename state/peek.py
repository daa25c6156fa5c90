"""A look at an index that somebody else may have open: what it says of itself, without a lock and without a trace."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rocksdict import AccessType, Options, Rdict

from state.errors import IndexDamaged, IndexFailure, failure_of
from state.index import stored_checkpoint, stored_tail
from state.store import TAILS

ATTEMPTS = 3
"""An owner replaces files while they are being looked at: then another look is all that helps."""

_NOT_LINKED = ("LOCK", "LOG", "rocksdict-config.json")


class PeekedIndex(NamedTuple):
    """What an index holds at one moment: both parts go together."""

    checkpoint: bytes | None
    tails: Iterator[tuple[str, int]]
    """All aggregates with their versions. Raises: IndexDamaged, IndexUnavailable."""


def peek_checkpoint(directory: Path, *, identity: str) -> bytes | None:
    """The checkpoint of the index in `directory` as it is on disk; None where there is none, or no index at all.

    Raises:
        IndexMismatch: another partition's index, or another format.
        IndexDamaged, IndexUnavailable: it cannot be read.
    """
    with peek_index(directory, identity=identity) as index:
        return None if index is None else index.checkpoint


@contextmanager
def peek_index(directory: Path, *, identity: str) -> Iterator[PeekedIndex | None]:
    """The index in `directory` as it is on disk; None where there is none.

    Raises: as `peek_checkpoint`.
    """
    with ExitStack() as stack:
        for attempt in range(1, ATTEMPTS + 1):
            if not (directory / "CURRENT").exists():
                yield None
                return
            try:
                database = stack.enter_context(_opened(directory))
                index = PeekedIndex(_checkpoint(directory, identity, database), _tails(directory, database))
                break
            except IndexDamaged:
                stack.close()
                if attempt == ATTEMPTS:
                    raise
        yield index


@contextmanager
def _opened(directory: Path) -> Iterator[Rdict]:
    # Through links: even a read-only open writes rocksdict's own file, and with it into the owner's directory.
    with tempfile.TemporaryDirectory(prefix="sequencer-peek-") as temporary:
        view = Path(temporary)
        try:
            for path in directory.iterdir():
                if not path.name.startswith(_NOT_LINKED):
                    (view / path.name).symlink_to(path.absolute())
            families = {name: Options(raw_mode=True) for name in Rdict.list_cf(str(view)) if name != "default"}
            database = Rdict(str(view), Options(raw_mode=True), families, access_type=AccessType.read_only())
        except Exception as error:
            raise failure_of(directory, "cannot look into it", error) from error
        try:
            yield database
        finally:
            database.close()


def _checkpoint(directory: Path, identity: str, database: Rdict) -> bytes | None:
    try:
        return stored_checkpoint(directory, identity, database.get)
    except IndexFailure:
        raise
    except Exception as error:
        raise failure_of(directory, "cannot look into it", error) from error


def _tails(directory: Path, database: Rdict) -> Iterator[tuple[str, int]]:
    cursor: Any = None
    try:
        cursor = database.get_column_family(TAILS).iter()
        cursor.seek_to_first()
        while cursor.valid():
            yield stored_tail(directory, cursor.key(), cursor.value())
            cursor.next()
        cursor.status()
    except IndexFailure:
        raise
    except Exception as error:
        raise failure_of(directory, f"cannot read {TAILS}", error) from error
    finally:
        cursor = None  # it would keep the database open
