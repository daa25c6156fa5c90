#!/usr/bin/env python3
"""Regenerate sequencer/broker_files/jars.lock: the jars of the embedded broker, their sizes and SHA-256.

How the lock comes about:

1. Maven (`mvn` on the PATH; only this script needs it) resolves org.apache.pulsar:pulsar-broker with the managed
   versions of org.apache.pulsar:pulsar imported. Without that import it picks versions that do not fit together.
2. The lock is written with all of those jars, and the tests in tests/integration run on it: publishing, transactions,
   compaction, topic policies, unloading, restarts. The JVM logs from which jar every class comes.
3. Jars from which no class came are dropped, except those that match KEEP, and the lock is written again.

    .venv/bin/python scripts/lock_broker.py             # all three steps
    .venv/bin/python scripts/lock_broker.py --all       # steps 1 and 2's lock only: every jar of the resolution
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sequencer.broker_jars import LOCK_FILE, PULSAR_VERSION, Jar, jar_directory, read_lock

ROOT = Path(__file__).resolve().parent.parent

# Native libraries, which no class load shows, and small jars that only another platform or a rare situation needs.
KEEP = re.compile(
    r"org\.apache\.pulsar-pulsar-|org\.apache\.bookkeeper-(?!stream-storage)"
    r"|netty-transport-native-(epoll|unix)|log4j|jackson|snappy|lz4|zstd|aircompressor"
)

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>lock</groupId><artifactId>lock</artifactId><version>1</version><packaging>pom</packaging>
  <dependencyManagement><dependencies><dependency>
    <groupId>org.apache.pulsar</groupId><artifactId>pulsar</artifactId><version>{PULSAR_VERSION}</version>
    <type>pom</type><scope>import</scope>
  </dependency></dependencies></dependencyManagement>
  <dependencies><dependency>
    <groupId>org.apache.pulsar</groupId><artifactId>pulsar-broker</artifactId><version>{PULSAR_VERSION}</version>
  </dependency></dependencies>
</project>
"""

HEADER = f"""# The jars of the embedded broker, Apache Pulsar {PULSAR_VERSION}, in class path order.
# Written by scripts/lock_broker.py, which tells how.
# SHA-256, size in bytes, group:artifact:version[:classifier]
"""


def resolve() -> list[Jar]:
    """Every jar of the broker's run-time class path, in Maven's order."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "pom.xml").write_text(POM)
        goal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:build-classpath"
        repository = directory / "repository"
        command = ["mvn", "-q", "-B", goal, "-DincludeScope=runtime", "-Dmdep.outputFile=classpath"]
        # A repository of its own makes a path tell its coordinates, and nothing stale from ~/.m2 gets into the lock.
        subprocess.run([*command, f"-Dmaven.repo.local={repository}"], cwd=directory, check=True)
        paths = (directory / "classpath").read_text().strip().split(os.pathsep)
        return [describe(Path(path), repository) for path in paths]


def describe(path: Path, repository: Path) -> Jar:
    """The lock's line for a jar at group/with/slashes/artifact/version/artifact-version[-classifier].jar."""
    *group, artifact, version, file_name = path.relative_to(repository).parts
    classifier = file_name.removeprefix(f"{artifact}-{version}").removesuffix(".jar").removeprefix("-")
    data = path.read_bytes()
    return Jar(".".join(group), artifact, version, classifier, hashlib.sha256(data).hexdigest(), len(data))


def write_lock(jars: list[Jar]) -> None:
    """Write the lock file and say what is in it."""
    lines = [f"{jar.sha256} {jar.size_bytes} {jar.coordinates}\n" for jar in jars]
    LOCK_FILE.write_text(HEADER + "".join(lines))
    size_mb = sum(jar.size_bytes for jar in jars) / 1e6
    print(f"{LOCK_FILE.relative_to(ROOT)}: {len(jars)} jars, {size_mb:.0f} MB", flush=True)


def loaded_jars() -> set[str]:
    """Run the integration tests; the file names of the jars from which any broker of theirs loaded a class."""
    with tempfile.TemporaryDirectory() as name:
        logs = Path(name)
        # The java launcher itself reads JDK_JAVA_OPTIONS, so the broker's code needs no hook for this.
        options = f"-Xlog:class+load:file={logs}/%p.log"
        command = [sys.executable, "-m", "pytest", "-q", "tests/integration"]
        subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "JDK_JAVA_OPTIONS": options})
        source = re.compile(r"source: \S*?([^/\\]+\.jar)$", re.MULTILINE)
        return {found for log in logs.iterdir() for found in source.findall(log.read_text(errors="replace"))}


def main() -> None:
    """Resolve, run, trim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="keep every jar of the resolution")
    arguments = parser.parse_args()
    if shutil.which("mvn") is None:
        sys.exit("mvn is not on the PATH")
    write_lock(resolve())
    if not arguments.all:
        loaded = loaded_jars()
        write_lock([jar for jar in read_lock() if jar.file_name in loaded or KEEP.search(jar.file_name)])
        print(f"jars are cached in {jar_directory()}")


if __name__ == "__main__":
    main()
