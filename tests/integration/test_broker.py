"""The embedded broker as a process: its data, ports and end; and the parts of Pulsar that nothing else here uses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pulsar
import pytest
import yaml

from sequencer.admin import Admin
from sequencer.broker import EmbeddedBroker
from sequencer.broker_jars import ensure_jars, jar_directory, read_lock
from sequencer.pulsar.client import PulsarClient
from sequencer.pulsar.frames import Entry

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
READY_LIMIT_S = 60.0
ENDED_LIMIT_S = 30.0
TTL_MS = 60_000
RECEIVE_LIMIT_MS = 20_000
COMPRESSIONS = ("NONE", "LZ4", "ZLib", "ZSTD", "SNAPPY")


# --- As a library ---


@pytest.mark.long
@pytest.mark.timeout(180)
def test_data_and_ports_survive_a_crash_and_a_clean_stop(tmp_path: Path) -> None:
    # Snapshots of aborted transactions at every chance, so that the restarts read them back.
    snapshots = {"transactionBufferSnapshotMaxTransactionCount": "1", "transactionBufferSnapshotSegmentSize": "512"}
    broker = EmbeddedBroker(tmp_path, extra_settings=snapshots)
    urls = (broker.service_url, broker.admin_url)
    topic = "persistent://public/default/kept"
    try:
        broker.start()
        with Admin(broker.admin_url) as admin:
            admin.put("v2/persistent/public/default/kept")
        asyncio.run(transactions(broker, topic, first=0))
        broker.kill()
        broker.start()
        assert (broker.service_url, broker.admin_url) == urls
        asyncio.run(transactions(broker, topic, first=3))
        broker.stop()
        broker.start()
        assert asyncio.run(payloads(broker, topic)) == [b"committed %d" % n for n in range(6)]
    finally:
        broker.kill()


async def transactions(broker: EmbeddedBroker, topic: str, first: int) -> None:
    """Commit three messages, each in a transaction of its own, and abort one more after each."""
    async with PulsarClient(broker.service_url) as client:
        subscription = await client.subscribe(topic, "keeps")
        producer = await client.producer(topic)
        coordinator = await client.coordinator(0)
        for number in range(first, first + 3):
            for commit in (True, False):
                txn = await coordinator.new_txn(ttl_ms=TTL_MS)
                await coordinator.add_partitions(txn, [topic])
                payload = b"committed %d" % number if commit else b"aborted"
                await producer.send(b"", payload, num_messages=1, txn=txn)
                await coordinator.end(txn, commit=commit)
        await subscription.close()


async def payloads(broker: EmbeddedBroker, topic: str) -> list[bytes]:
    """Everything readable on the topic."""
    async with PulsarClient(broker.service_url) as client:
        reader = await client.reader(topic)
        last = await reader.last_message_id()
        entries: list[Entry] = []
        while not entries or entries[-1].message_id[:2] < last[:2]:
            entries += await reader.take(max_messages=100, max_bytes=1 << 20)
        return [entry.payload for entry in entries]


def test_everything_listens_on_loopback_only(broker: EmbeddedBroker) -> None:
    assert broker.service_url == f"pulsar://127.0.0.1:{broker.port}"
    assert broker._child is not None
    if not Path("/proc/net/tcp").exists():
        return
    sockets = {
        os.readlink(link) for link in Path(f"/proc/{broker._child.process.pid}/fd").iterdir() if link.is_symlink()
    }
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                listening.add(fields[1])
    assert {address.split(":")[0] for address in listening} == {"0100007F"}
    ports = {int(address.split(":")[1], 16) for address in listening}
    assert ports == {broker.port, broker.http_port, broker._bookie_port}


def test_locked_jar_is_fetched_and_verified(tmp_path: Path) -> None:
    smallest = min(read_lock(), key=lambda jar: jar.size_bytes)
    fetched: list[tuple[int, int]] = []
    (path,) = ensure_jars([smallest], tmp_path, lambda count, total: fetched.append((count, total)))
    assert path.stat().st_size == smallest.size_bytes == sum(count for count, _ in fetched)
    assert list(tmp_path.iterdir()) == [path], "nothing is left of the download"


# --- As a command ---


@contextmanager
def foreground(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """`sequencer broker` as a process, killed at the end where it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sequencer", "broker", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def refusal(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """The one line with which the command gives up."""
    with foreground(*arguments, environment=environment) as process:
        output, errors = process.communicate(timeout=READY_LIMIT_S)
    assert process.returncode == 1
    assert output == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1, errors
    return errors


@pytest.mark.parametrize("signal_number", [pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGINT])
def test_foreground_says_when_it_is_ready_and_stops_cleanly(tmp_path: Path, signal_number: signal.Signals) -> None:
    options = ("--data-dir", str(tmp_path / "data"), "--port", "0", "--http-port", "0")
    with foreground(*options) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = re.fullmatch(r"ready: (pulsar://127\.0\.0\.1:\d+) (http://127\.0\.0\.1:\d+) \(log: (\S+)\)\n", line)
        assert ready is not None, line
        assert httpx.get(f"{ready[2]}/admin/v2/brokers/health", trust_env=False).text == "ok"
        if signal_number == signal.SIGTERM:
            same = refusal("--data-dir", str(tmp_path / "data"), "--port", "0", "--http-port", "0")
            assert "another broker uses this data directory" in same
        process.send_signal(signal_number)
        output, errors = process.communicate(timeout=ENDED_LIMIT_S)
    assert (process.returncode, output, errors) == (0, "", "")
    log = Path(ready[3]).read_text()
    assert re.search(r"^\d{4}-\d\d-\d\dT\S+ INFO ", log, re.MULTILINE)
    assert httpx_refused(ready[2])


def httpx_refused(url: str) -> bool:
    try:
        httpx.get(url, trust_env=False)
    except httpx.ConnectError:
        return True
    return False


def test_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refusal("--data-dir", str(tmp_path), "--port", port, "--http-port", "0")
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in line


def test_corrupted_jar_is_one_line(tmp_path: Path) -> None:
    ensure_jars(read_lock(), jar_directory(), lambda count, total: None)
    cache = tmp_path / jar_directory().name
    cache.mkdir()
    for jar in jar_directory().glob("*.jar"):
        (cache / jar.name).symlink_to(jar)
    spoiled = cache / read_lock()[0].file_name
    content = bytearray(spoiled.read_bytes())
    spoiled.unlink()
    content[len(content) // 2] ^= 1
    spoiled.write_bytes(content)
    options = ("--data-dir", str(tmp_path / "data"), "--port", "0", "--http-port", "0")
    assert f"corrupted jar {spoiled}" in refusal(*options, environment={"SEQUENCER_CACHE_DIR": str(tmp_path)})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a process with its parent")
def test_no_orphan_after_kill_9(tmp_path: Path) -> None:
    with foreground("--data-dir", str(tmp_path), "--port", "0", "--http-port", "0") as process:
        deadline_s = time.monotonic() + READY_LIMIT_S
        java: list[int] = []
        while not java and time.monotonic() < deadline_s:
            java = [pid for pid in children_of(process.pid) if "PulsarStandaloneStarter" in command_line(pid)]
        assert java
        process.kill()
        process.wait()
        wait_for(lambda: not Path(f"/proc/{java[0]}").exists())


def children_of(pid: int) -> list[int]:
    """The processes that any thread of a process has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def command_line(pid: int) -> str:
    """Empty where the process is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


# --- Pulsar's parts that nothing else here uses: the jar lock is trimmed to what the integration tests load ---


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compaction_unloading_policies_and_statistics(
    broker: EmbeddedBroker, namespace: str, client: Any, compression: str
) -> None:
    """Compaction opens the batches, so in the broker too every compression has a library."""
    topic = f"persistent://{namespace}/odds"
    path = f"v2/persistent/{namespace}/odds"
    with Admin(broker.admin_url) as admin:
        admin.put(path)
        admin.post(f"{path}/retention", {"retentionTimeInMinutes": -1, "retentionSizeInMB": -1})
        admin.post(f"{path}/compactionThreshold", 1 << 20)
        subscription = client.subscribe(topic, "s", batch_index_ack_enabled=True)
        kind = getattr(pulsar.CompressionType, compression)
        producer = client.create_producer(topic, schema=pulsar.schema.StringSchema(), compression_type=kind)
        for number in range(100):
            producer.send_async(f"value {number}", lambda _result, _id: None, partition_key=str(number % 7))
        producer.flush()
        for message in [subscription.receive(RECEIVE_LIMIT_MS) for _ in range(50)]:
            subscription.acknowledge(message)
        admin.put(f"{path}/compaction")
        wait_for(lambda: admin.get(f"{path}/compaction")["status"] == "SUCCESS")
        admin.put(f"{path}/unload")
        reader = client.create_reader(topic, pulsar.MessageId.earliest, is_read_compacted=True)
        expected = {str(number % 7): b"value %d" % number for number in range(93, 100)}
        found: dict[str, bytes] = {}
        while len(found) < len(expected):
            message = reader.read_next(RECEIVE_LIMIT_MS)
            # The official client delivers what compaction left of the others in a batch: no key, no payload.
            if message.partition_key():
                found[message.partition_key()] = message.data()
        assert found == expected
        assert admin.get(f"{path}/stats")["msgInCounter"] >= 0
        assert admin.get(f"{path}/internalStats")["state"] == "LedgerOpened"
        admin.delete(f"{path}/subscription/s", {"force": "true"})
        admin.delete(path, {"force": "true"})
    assert "pulsar_topics_count" in httpx.get(f"{broker.admin_url}/metrics/", follow_redirects=True).text


def wait_for(condition: Any) -> None:
    deadline_s = time.monotonic() + READY_LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_health_check_of_the_containers(broker: EmbeddedBroker, namespace: str, client: Any) -> None:
    """The sequencers' health check in docker-compose.yml: unhealthy until the partition has an owner."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    _, _, *arguments = services["sequencer-0"]["healthcheck"]["test"]
    environment = {"SEQUENCER_ADMIN_URL": broker.admin_url, "SEQUENCER_NAMESPACE": namespace, "PARTITION": "0"}

    def healthy() -> bool:
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=os.environ | environment, stderr=subprocess.DEVNULL).returncode == 0

    assert not healthy(), "no such topic"
    with Admin(broker.admin_url) as admin:
        admin.put(f"v2/persistent/{namespace}/sequencer_owners/partitions", 1)
    assert not healthy(), "no owner"
    producer = client.create_producer(f"persistent://{namespace}/sequencer_owners-partition-0")
    assert healthy()
    producer.close()
    assert not healthy()


# --- The rule of tests/conftest.py ---


@pytest.mark.parametrize(("in_ci", "code"), [(True, 1), (False, 0)])
def test_skipped_test_fails_in_ci(tmp_path: Path, in_ci: bool, code: int) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text("import pytest\n\n\ndef test_it():\n    pytest.skip('no broker')\n")
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | (
        {"CI": "true"} if in_ci else {}
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout
    assert ("skipped tests are failures" in done.stdout) == in_ci
