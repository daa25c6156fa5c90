"""Where figures come from: the moment, the commit, the versions of all that takes part, and the machine."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from sequencer.broker_jars import PULSAR_VERSION, BrokerFailure
from sequencer.broker_java import find_java

ROOT = Path(__file__).parents[1]
PACKAGES = ("pulsar-sequencer", "protobuf", "msgspec", "rocksdict", "uvloop", "pulsar-client")
GIT_LIMIT_S = 10.0
UNKNOWN = "unknown"
# Results and plots of an earlier benchmark change nothing about the code that is measured.
NOT_MEASURED = (":(exclude)bench/results", ":(exclude)docs")


@functools.cache
def beginning() -> tuple[str, str]:
    """When it was asked first (UTC, ISO 8601), and the commit then: every process that is measured runs what is there
    when it starts, not what is there at the end."""
    return datetime.now(UTC).isoformat(timespec="seconds"), commit(ROOT)


def origin(versions: Mapping[str, str]) -> dict[str, Any]:
    """`when` it began, `commit`, `versions` (with those given here besides) and `machine`."""
    when, begun_at = beginning()
    return {
        "when": when,
        "commit": _both(begun_at, commit(ROOT)),
        "versions": _versions() | dict(versions),
        "machine": machine(),
    }


def commit(checkout: Path) -> str:
    """As `git describe` names it, with "-dirty" where tracked code was changed since; "unknown" outside a checkout."""
    if not (checkout / ".git").exists():
        return UNKNOWN
    try:
        name = _git(checkout, "describe", "--always", "--abbrev=12")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no", "--", ".", *NOT_MEASURED)
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return f"{name}-dirty" if changed else name


def _both(begun_at: str, ended_at: str) -> str:
    """What was measured between two commits is neither's."""
    return begun_at if begun_at == ended_at else begun_at.removesuffix("-dirty") + "-dirty"


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=GIT_LIMIT_S, check=True).stdout.strip()


def _versions() -> dict[str, str]:
    packages = {name: _package_version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "pulsar": PULSAR_VERSION, "java": _java_version()} | packages


def _package_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return UNKNOWN


def _java_version() -> str:
    """Every Java says it in a file beside its directory of programs."""
    try:
        text = (find_java().resolve().parents[1] / "release").read_text()
    except (BrokerFailure, OSError):
        return UNKNOWN
    found = re.search(r'^JAVA_VERSION="(.*)"$', text, re.MULTILINE)
    return found[1] if found else UNKNOWN


def machine() -> dict[str, Any]:
    """Processor, cores, memory and system."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": platform.platform(),
    }


def _processor() -> str:
    """The model's name where the system tells it, else the architecture."""
    try:
        if platform.system() == "Linux":
            found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
            return f"{found[1]} ({platform.machine()})" if found else platform.machine()
        if platform.system() == "Darwin":
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # not every system has them
        return None
