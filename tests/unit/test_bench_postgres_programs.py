"""Where PostgreSQL's programs are looked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench import postgres_programs
from bench.postgres_programs import Account, PostgresFailure, find_programs, installed


def program(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_newest_version_of_debian_first(tmp_path: Path) -> None:
    for version in ("9.6", "15", "16", "common"):
        (tmp_path / version / "bin").mkdir(parents=True)
    found = [path.parent.name for path in installed("", debian=tmp_path)]
    assert found == ["16", "15", "9.6"]


def test_what_is_on_path_comes_first_and_then_what_pg_config_says(tmp_path: Path) -> None:
    real = program(tmp_path / "real" / "postgres")
    config = program(tmp_path / "path" / "pg_config", "echo /somewhere/bin")
    (config.parent / "postgres").symlink_to(real)
    (tmp_path / "15" / "bin").mkdir(parents=True)
    found = list(installed(os.pathsep.join([str(config.parent), os.defpath]), debian=tmp_path))
    assert found == [real.parent, Path("/somewhere/bin"), tmp_path / "15" / "bin"]


def test_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_programs, "installed", lambda _: [tmp_path])
    monkeypatch.setattr(postgres_programs, "_packaged", lambda *_: [])
    with pytest.raises(PostgresFailure, match="pgserver"):
        find_programs(Account(), tmp_path)
