"""Runs sequencers that crash: python -m tests.faults.crash_server

It imports everything once, then forks a sequencer for each request, a line of JSON on standard input, and answers with
a line of JSON: whether it has come to its point, and crashed there, or stood still.

    ["run", REQUEST]        one alone, from its start to its end
    ["stand by", REQUEST]   one beside another that owns the partition, until it has followed all that there is, or
                            crashed; where nobody owns the partition, an owner is started first
    ["take over"]           what is new is followed, the owner is killed, and the standby takes over, to its end
    ["freeze", REQUEST]     one alone, until it stands still at its point
    ["wake"]                another one takes over, then the frozen one goes on: whether both find their places, one as
                            the owner, the other as the owner or a standby
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults.crash_at import FROZEN, LEVEL, SEQUENCING, Request, become_sequencer

WITHIN_S = 30.0


class Fork:
    """One sequencer, and the pipe on which it says how far it is."""

    def __init__(self, request: Request) -> None:
        self._hears, voice = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._hears)
            become_sequencer(request, voice)
        os.close(voice)

    def says(self, *words: bytes) -> bool:
        """Wait until it says one of them. False: it has ended, or it does not say it in time."""
        return self._hear(words) in words

    def crashes(self) -> bool:
        """Wait for its end. False: it did not end by its own kill -9 in time."""
        in_time = self._hear(()) == b""
        return self.kill() == -signal.SIGKILL and in_time

    def kill(self) -> int:
        """kill -9 where it is still there. Returns how it ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        os.close(self._hears)
        return os.waitstatus_to_exitcode(status)

    def wake(self) -> None:
        """SIGCONT."""
        os.kill(self._pid, signal.SIGCONT)

    def _hear(self, awaited: Sequence[bytes]) -> bytes | None:
        """What it says, up to an awaited word or its end, which is b""; None: neither came in time."""
        deadline_s = time.monotonic() + WITHIN_S
        while (left_s := deadline_s - time.monotonic()) > 0 and select.select([self._hears], [], [], left_s)[0]:
            said = os.read(self._hears, 1)
            if said in (*awaited, b""):
                return said
        return None


class Server:
    """Keeps the owner and the standby from one request to the next."""

    def __init__(self) -> None:
        self._owner: Fork | None = None
        self._standby: Fork | None = None
        self._other: Request | None = None

    def run(self, request: Request) -> bool:
        self.close()
        return Fork(request).crashes()

    def stand_by(self, request: Request) -> bool:
        if self._owner is None:
            owner = Fork(_other(request))
            assert owner.says(SEQUENCING), f"no owner within {WITHIN_S} s, see {_other(request).log}"
            self._owner = owner
        self._standby = Fork(request._replace(stands_by=True))
        if self._standby.says(LEVEL):
            return False
        standby, self._standby = self._standby, None
        return standby.crashes()

    def take_over(self) -> bool:
        assert self._owner is not None
        assert self._standby is not None
        if self._standby.says(LEVEL):
            self._owner.kill()
            self._owner = None
        standby, self._standby = self._standby, None
        return standby.crashes()

    def freeze(self, request: Request) -> bool:
        self.close()
        self._other = _other(request)
        self._standby = Fork(request._replace(stays=True, freezes=True))
        return self._standby.says(FROZEN)

    def wake(self) -> bool:
        assert self._other is not None
        assert self._standby is not None
        self._owner = Fork(self._other)
        took_over = self._owner.says(SEQUENCING)
        self._standby.wake()
        return self._standby.says(LEVEL, SEQUENCING) and took_over

    def close(self) -> None:
        for fork in (self._owner, self._standby):
            if fork is not None:
                fork.kill()
        self._owner = self._standby = None


def _other(request: Request) -> Request:
    """An owner beside the one that is wanted, on the same partition."""
    index_dir = str(Path(request.index_dir).with_name("index-of-others"))
    return request._replace(index_dir=index_dir, log=f"{request.log}.other", point="", record="", stays=True)


def serve() -> None:
    """Answer requests until standard input ends."""
    server = Server()
    try:
        for line in sys.stdin:
            match json.loads(line):
                case ["run", request]:
                    answer = server.run(Request(*request))
                case ["stand by", request]:
                    answer = server.stand_by(Request(*request))
                case ["take over"]:
                    answer = server.take_over()
                case ["freeze", request]:
                    answer = server.freeze(Request(*request))
                case ["wake"]:
                    answer = server.wake()
                case other:
                    raise ValueError(other)
            print(json.dumps(answer), flush=True)
    finally:
        server.close()


if __name__ == "__main__":
    serve()
