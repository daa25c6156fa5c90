"""What can happen to an index directory."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from random import Random

from sequencer.names import Topics, index_directory
from state.errors import IndexDamaged
from state.peek import peek_index


def damage_index(directory: Path, how: str) -> bool:
    """Damage an index whose process is dead: "removed N", "truncated N" or "flipped N". False: there is none yet."""
    while True:
        # Another process, whose index lies there too, may take files away meanwhile.
        with contextlib.suppress(FileNotFoundError):
            return _damage(directory, how)


def _damage(directory: Path, how: str) -> bool:
    damage, _, seed = how.partition(" ")
    files = sorted(file for file in _walk(directory) if file.is_file() and file.stat().st_size)
    if not files:
        return False
    random = Random(seed)
    file = random.choice(files)
    if damage == "removed":
        # Another process, whose index lies there too, may put files there meanwhile.
        shutil.rmtree(next(directory.iterdir()), ignore_errors=True)
    elif damage == "truncated":
        os.truncate(file, random.randrange(file.stat().st_size))
    else:
        content = bytearray(file.read_bytes())
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        file.write_bytes(content)
    return True


def discard_damaged(index_dir: Path, topics: Topics, partitions: int) -> None:
    """Remove the indexes that cannot be read as a whole, as their owner would once it met the damage."""
    for number in range(partitions):
        directory = index_directory(index_dir, topics.namespace, number)
        try:
            with peek_index(directory, identity=topics.events_partition(number)) as index:
                if index is not None:
                    deque(index.tails, maxlen=0)
        except IndexDamaged:
            shutil.rmtree(directory)


def set_writable(directory: Path, writable: bool) -> None:
    """Change the mode of everything in an index directory, while it is in use."""
    for path in (directory, *_walk(directory)):
        # Files come and go.
        with contextlib.suppress(FileNotFoundError):
            mode = path.stat().st_mode
            path.chmod(mode | 0o200 if writable else mode & ~0o222)


def _walk(directory: Path) -> Iterator[Path]:
    for root, names, files in os.walk(directory):
        for name in (*names, *files):
            yield Path(root) / name
