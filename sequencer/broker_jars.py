"""The embedded broker's jars: the lock file and the cache on this machine.

The lock names every jar with its size and SHA-256: what runs is byte for byte what was locked, wherever it came from.
Jars are fetched one by one (jgo's own transitive resolution trips over Pulsar's POMs) and land in the cache atomically:
a jar is there complete and verified, or not at all, however many processes fetch at once or are killed meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from sequencer import SequencerError

PULSAR_VERSION = "4.2.4"
LOCK_FILE = Path(__file__).parent / "broker_files" / "jars.lock"

DOWNLOAD_THREADS = 8
DOWNLOAD_ATTEMPTS = 3
DOWNLOAD_TIMEOUT_S = 60

Progress = Callable[[int, int], None]
"""Called with (bytes fetched since the last call, bytes to fetch altogether), from several threads."""


class BrokerFailure(SequencerError):
    """The embedded broker cannot be fetched or started, or has died: one clear line, perhaps with log lines below."""


class Jar(NamedTuple):
    """One line of the lock."""

    group: str
    artifact: str
    version: str
    classifier: str
    sha256: str
    size_bytes: int

    @property
    def coordinates(self) -> str:
        """group:artifact:version[:classifier]"""
        return ":".join(part for part in self[:4] if part)

    @property
    def file_name(self) -> str:
        """The jar's name in the cache: group and all, since artifact names repeat among groups."""
        return "-".join(part for part in self[:4] if part) + ".jar"


def read_lock(path: Path = LOCK_FILE) -> list[Jar]:
    """The locked jars in class path order."""
    jars = []
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            sha256, size, coordinates = line.split()
            group, artifact, version, *classifier = coordinates.split(":")
            jars.append(Jar(group, artifact, version, "".join(classifier), sha256, int(size)))
    return jars


def cache_directory() -> Path:
    """Where downloads are kept: $SEQUENCER_CACHE_DIR, or the platform's place for a user's caches."""
    if chosen := os.environ.get("SEQUENCER_CACHE_DIR"):
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "pulsar-sequencer"


def jar_directory() -> Path:
    """The folder of the cache that holds this version's jars."""
    return cache_directory() / f"pulsar-broker-{PULSAR_VERSION}"


def ensure_jars(jars: Sequence[Jar], directory: Path, progress: Progress) -> list[Path]:
    """Bring every jar into the directory and verify those already there; their paths, in the order given.

    Raises:
        BrokerFailure: a jar cannot be fetched, does not have the locked hash, or the disk is full.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(DOWNLOAD_THREADS, "jars") as pool:
            present = pool.map(lambda jar: _verify_cached(jar, directory), jars)
            missing = [jar for jar, there in zip(jars, present, strict=True) if not there]
            if missing:
                _download(missing, directory, progress, pool)
    except OSError as error:
        raise BrokerFailure(f"cannot keep the broker's jars in {directory}: {error.strerror or error}") from error
    return [directory / jar.file_name for jar in jars]


def _verify_cached(jar: Jar, directory: Path) -> bool:
    """Whether the jar is in the cache; raises where it is but is not what was locked."""
    path = directory / jar.file_name
    if not path.exists():
        return False
    if path.stat().st_size != jar.size_bytes or _sha256(path) != jar.sha256:
        raise BrokerFailure(
            f"corrupted jar {path}: its SHA-256 is not the locked one; delete the file to fetch it again"
        )
    return True


def _download(jars: Sequence[Jar], directory: Path, progress: Progress, pool: ThreadPoolExecutor) -> None:
    """Fetch the jars in parallel. The first failure ends the rest."""
    total_bytes = sum(jar.size_bytes for jar in jars)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=directory) as staging:
        jobs = [
            pool.submit(_fetch, jar, Path(staging) / str(number), directory, lambda count: progress(count, total_bytes))
            for number, jar in enumerate(jars)
        ]
        try:
            for job in jobs:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
            # The staging folder must not vanish under a download that is still running.
            for job in jobs:
                if not job.cancelled():
                    job.exception()


def _fetch(jar: Jar, staging: Path, directory: Path, advance: Callable[[int], None]) -> None:
    """Fetch one jar into the staging folder, verify it, and move it to its place."""
    for attempt in range(1, DOWNLOAD_ATTEMPTS + 1):
        try:
            path = _resolve(jar, staging / str(attempt), advance)
            break
        except (OSError, RuntimeError) as error:
            # The network's errors (requests', jgo's) carry no errno and deserve another try; the disk's do, and do not.
            if getattr(error, "errno", None) is not None or attempt == DOWNLOAD_ATTEMPTS:
                raise BrokerFailure(f"cannot fetch {jar.coordinates}: {error}") from error
    if path.stat().st_size != jar.size_bytes or _sha256(path) != jar.sha256:
        raise BrokerFailure(f"{jar.coordinates} as downloaded is not the locked jar: its SHA-256 differs")
    os.replace(path, directory / jar.file_name)


def _resolve(jar: Jar, repository: Path, advance: Callable[[int], None]) -> Path:
    """Download one jar into a Maven repository of its own; the path there."""
    try:
        from jgo.maven import MavenContext, PythonResolver
    except ImportError as error:
        raise BrokerFailure("the embedded broker needs the extra: pip install 'pulsar-sequencer[broker]'") from error

    @contextlib.contextmanager
    def report(_name: str, _size: int) -> Iterator[Callable[[int], None]]:
        yield advance

    resolver: Any = PythonResolver(progress_callback=report)
    context = MavenContext(resolver=resolver, repo_cache=repository, timeout=DOWNLOAD_TIMEOUT_S)
    component = context.project(jar.group, jar.artifact).at_version(jar.version)
    return Path(component.artifact(jar.classifier, "jar").resolve())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
