"""`sequencer` under test conditions: python -m tests.faults.launcher run ...

Nothing of this exists in production code. The environment says what to change before the command runs:

    FAULTS_CLOCK   a file of 8 bytes: nanoseconds that this host's clock is off, little-endian, read at every look at it
    FAULTS_TTL_S   how long transactions live
    FAULTS_HURRY   1: the waits that pace failures are short, so that a run of seconds holds many of them
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import struct
import time
from pathlib import Path

import sequencer.partition
import sequencer.pool
import sequencer.pulsar.client
import sequencer.service
from sequencer.cli import main
from sequencer.pulsar.settings import ClientSettings

REQUEST_TIMEOUT_S = 4.0
KEEP_ALIVE_S = 1.0
SILENT_LIMIT_S = 3.0
BACKOFF_MAX_S = 1.0
CLOCK_BYTES = 8

PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
LINUX_CAPABILITY_VERSION_3 = 0x20080522


def set_clock(file: Path, offset_s: float) -> None:
    """Set how far the clock of whoever uses `file` is off."""
    with file.open("r+b" if file.exists() else "w+b") as clock:
        clock.write(struct.pack("<q", int(offset_s * 1e9)))


def prepare() -> None:
    """Change this process as the environment says."""
    if path := os.environ.get("FAULTS_CLOCK"):
        _fake_clock(Path(path))
    if ttl_s := os.environ.get("FAULTS_TTL_S"):
        # The pool's default argument was bound when it was defined.
        defaults = sequencer.pool.TransactionPool.__init__.__kwdefaults__
        assert defaults is not None
        defaults["ttl_s"] = sequencer.pool.TRANSACTION_TTL_S = float(ttl_s)
    if os.environ.get("FAULTS_HURRY"):
        hurry()
    if os.geteuid() == 0:
        obey_permissions()


def hurry() -> None:
    """Shorten what paces failures. Nothing of it may decide between right and wrong."""
    sequencer.pulsar.client.ClientSettings = functools.partial(  # type: ignore[misc, assignment]
        ClientSettings,
        request_timeout_s=REQUEST_TIMEOUT_S,
        connect_timeout_s=REQUEST_TIMEOUT_S,
        keep_alive_s=KEEP_ALIVE_S,
        silent_limit_s=SILENT_LIMIT_S,
    )
    sequencer.service.BACKOFF_MAX_S = BACKOFF_MAX_S


def _fake_clock(file: Path) -> None:
    with file.open("r+b") as clock:
        offset = mmap.mmap(clock.fileno(), CLOCK_BYTES, access=mmap.ACCESS_READ)
    real = time.time_ns
    time.time_ns = lambda: real() + int.from_bytes(offset[:CLOCK_BYTES], "little", signed=True)


def obey_permissions() -> None:
    """Give up root's right to ignore a file's mode, so that a read-only directory is one."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("<Ii", LINUX_CAPABILITY_VERSION_3, 0)
    state = ctypes.create_string_buffer(24)
    if libc.capget(header, state) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    words = list(struct.unpack("<6I", state.raw))
    for word in range(3):
        words[word] &= ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    if libc.capset(header, struct.pack("<6I", *words)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    prepare()
    main()
