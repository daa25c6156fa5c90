"""PostgreSQL's programs: those of this machine where there are any, else those that the package pgserver carries.

PostgreSQL refuses to run as root. Then it runs as the user `postgres` or `nobody`, and so does every program here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sequencer import SequencerError

USERS = ("postgres", "nobody")
"""Who runs it in root's place: the first one that this machine has."""

DEBIAN_VERSIONS = Path("/usr/lib/postgresql")
PROGRAM_WITHIN_S = 60.0


class PostgresFailure(SequencerError):
    """There is no PostgreSQL here, or it does not run."""


class Programs(NamedTuple):
    """Where initdb and postgres are, and their version, such as "16.2"."""

    directory: Path
    version: str


class Account:
    """Who runs PostgreSQL: whoever we are, unless that is root."""

    def __init__(self) -> None:
        """Raises PostgresFailure where root finds nobody to run it."""
        self._user: pwd.struct_passwd | None = None
        if os.geteuid() == 0:
            known = [user for user in pwd.getpwall() if user.pw_name in USERS]
            if not known:
                raise PostgresFailure(f"root may not run PostgreSQL, and there is no user {' or '.join(USERS)}")
            self._user = min(known, key=lambda user: USERS.index(user.pw_name))

    @property
    def is_another(self) -> bool:
        """Whether it is not the user that we are."""
        return self._user is not None

    def own(self, path: Path) -> None:
        """Hand a file or directory over."""
        if self._user:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def options(self, directory: Path) -> dict[str, Any]:
        """For subprocess: run as this user, in a directory that it may enter, with nothing of our environment."""
        options: dict[str, Any] = {"cwd": directory, "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}}
        if self._user:
            options |= {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        return options

    def run(self, directory: Path, *command: Path | str) -> str:
        """What a program says. Raises OSError or subprocess.SubprocessError."""
        limits: dict[str, Any] = {"check": True, "timeout": PROGRAM_WITHIN_S}
        done = subprocess.run(command, capture_output=True, text=True, **limits, **self.options(directory))
        return str(done.stdout)


def find_programs(account: Account, scratch: Path) -> Programs:
    """The first ones that this user can run. `scratch` is a directory of that user.

    Raises:
        PostgresFailure: there are none.
    """
    for directory in (*installed(os.defpath + os.pathsep + os.environ.get("PATH", "")), *_packaged(account, scratch)):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            account.run(scratch, directory / "initdb", "--version")
            return Programs(directory, _version(account.run(scratch, directory / "postgres", "--version")))
    raise PostgresFailure("no PostgreSQL that can run here: install one, or the Python package pgserver")


def installed(path: str, debian: Path = DEBIAN_VERSIONS) -> Iterator[Path]:
    """Directories with PostgreSQL's programs: on `path`, where pg_config says, and Debian's, the newest version first.

    Debian keeps them off everybody's PATH.
    """
    if found := shutil.which("postgres", path=path):
        yield Path(found).resolve().parent
    if config := shutil.which("pg_config", path=path):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            asked = [config, "--bindir"]
            shown = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=PROGRAM_WITHIN_S)
            yield Path(shown.stdout.strip())
    versions = [path for path in debian.glob("*/bin") if re.fullmatch(r"[\d.]+", path.parent.name)]
    yield from sorted(versions, key=lambda path: [int(part) for part in path.parent.name.split(".")], reverse=True)


def _packaged(account: Account, scratch: Path) -> Iterator[Path]:
    """Those of pgserver, which is not imported: it would start looking for a server."""
    spec = importlib.util.find_spec("pgserver")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        package = Path(place)
        if account.is_another:
            # It may not be able to enter the directory that the packages are in. The libraries lie beside the package.
            shutil.copytree(package / "pginstall", scratch / "pgserver" / "pginstall", symlinks=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.copytree(package.with_name("pgserver.libs"), scratch / "pgserver.libs")
            package = scratch / "pgserver"
        yield package / "pginstall" / "bin"


def _version(said: str) -> str:
    """Of "postgres (PostgreSQL) 16.2"."""
    found = re.search(r"\d+(\.\d+)*", said)
    return found[0] if found else said.strip()
