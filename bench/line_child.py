"""A Python module as a process of its own that is spoken to in lines: one is told, one is heard."""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

ENDED_WITHIN_S = 10.0


class LineChild:
    """`python -m MODULE ARGUMENTS`, from `with` to the end of it. It ends with its standard input."""

    def __init__(self, module: str, *arguments: object) -> None:
        self._name = module
        command = [sys.executable, "-m", module, *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def tell(self, line: str) -> None:
        """Write a line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """The next line that it writes. Raises RuntimeError where it has ended instead; standard error says why."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with {self._process.wait()}")
        return line.strip()

    def await_ready(self) -> None:
        """Hear that it is ready."""
        heard = self.hear()
        if heard != "ready":
            raise RuntimeError(f"{self._name} is out of step: {heard!r}")

    def hear_report(self) -> Any:
        """Hear what came of it, in JSON."""
        return json.loads(self.hear())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Let it end with its input; kill it where it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdout.close()
        try:
            self._process.stdin.close()
            self._process.wait(ENDED_WITHIN_S)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
