"""The embedded broker and docker-compose.yml run the same Pulsar with the same settings, and the containers fit."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sequencer.broker import EmbeddedBroker, read_settings
from sequencer.broker_jars import PULSAR_VERSION
from sequencer.cli import cli

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BROKER = SERVICES["broker"]

# Where each of the two listens, and what it tells clients about that: the only settings in which they may differ.
ADDRESS_SETTINGS = {
    "advertisedAddress",
    "advertisedListeners",
    "bindAddress",
    "bindAddresses",
    "brokerServicePort",
    "internalListenerName",
    "webServicePort",
}


def container_settings() -> dict[str, str]:
    """The shared file as mounted, then what the image's script takes from the environment."""
    (source,) = [Path(v.split(":")[0]) for v in BROKER["volumes"] if v.endswith(":/etc/sequencer/standalone.conf:ro")]
    prefix = "PULSAR_PREFIX_"
    environment: dict[str, str] = BROKER["environment"]
    overrides = {name.removeprefix(prefix): value for name, value in environment.items() if name.startswith(prefix)}
    return read_settings(ROOT / source) | overrides


def without_addresses(settings: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in settings.items() if name not in ADDRESS_SETTINGS}


def test_both_brokers_have_the_same_settings(tmp_path: Path) -> None:
    embedded = EmbeddedBroker(tmp_path).settings
    assert without_addresses(container_settings()) == without_addresses(embedded)
    assert not ADDRESS_SETTINGS & read_settings().keys(), "the shared file names an address"


def test_settings_that_the_sequencer_relies_on() -> None:
    settings = read_settings()
    expected = {
        "transactionCoordinatorEnabled": "true",
        "transactionBufferSegmentedSnapshotEnabled": "true",
        "topicLevelPoliciesEnabled": "true",
        "allowAutoTopicCreation": "false",
        "brokerDeduplicationEnabled": "false",
        "brokerDeleteInactiveTopicsEnabled": "false",
        "journalFlushWhenQueueEmpty": "true",
        "managedLedgerNewEntriesCheckDelayInMillis": "1",
        "flushEntrylogBytes": str(1024 * 1024),
        "dispatcherMaxReadBatchSize": "1000",
    }
    assert {name: settings.get(name) for name in expected} == expected
    assert "journalSyncData" not in settings, "what is acknowledged must be on the disk"


def test_both_brokers_are_the_same_version_with_the_same_memory() -> None:
    assert BROKER["image"] == f"apachepulsar/pulsar:{PULSAR_VERSION}"
    memory = inspect.signature(EmbeddedBroker).parameters["memory"].default
    assert BROKER["environment"]["PULSAR_MEM"].split()[1:] == [f"-Xmx{memory}", f"-XX:MaxDirectMemorySize={memory}"]


def test_container_starts_what_the_embedded_broker_starts(tmp_path: Path) -> None:
    script = BROKER["command"][-1]
    assert "cp /etc/sequencer/standalone.conf conf/standalone.conf" in script
    assert "bin/apply-config-from-env.py conf/standalone.conf" in script
    embedded = EmbeddedBroker(tmp_path)._command(Path("java"), [])
    ours = {"--no-functions-worker", "--no-stream-storage"}
    assert ours <= set(script.split())
    assert ours <= set(embedded)


def test_every_published_port_is_on_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 2
    assert all(port.startswith("127.0.0.1:") for port in published)
    # Clients outside are told to come back to where the broker is published.
    assert "external:pulsar://127.0.0.1:6650" in BROKER["environment"]["PULSAR_PREFIX_advertisedListeners"].split(",")
    assert "127.0.0.1:6650:6650" in published


def test_one_sequencer_per_partition_each_with_an_index_of_its_own() -> None:
    default = re.fullmatch(r"\$\{PARTITIONS:-(\d+)\}", SERVICES["init"]["command"][-1])
    assert default is not None
    workers = {name: service for name, service in SERVICES.items() if name.startswith("sequencer-")}
    assert [service["command"] for service in workers.values()] == [
        ["run", "--partitions", str(number)] for number in range(int(default[1]))
    ]
    assert [service["environment"]["PARTITION"] for service in workers.values()] == [
        service["command"][-1] for service in workers.values()
    ]
    volumes = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    named = [volume for volume in volumes if not volume.startswith(".")]
    assert len(set(named)) == len(named), "two services share a volume"
    assert set(named) == set(COMPOSE["volumes"])


def test_start_order_and_health_checks() -> None:
    assert SERVICES["init"]["depends_on"] == {"broker": {"condition": "service_healthy"}}
    for name, service in SERVICES.items():
        if name not in ("broker", "init"):
            assert service["depends_on"] == {"init": {"condition": "service_completed_successfully"}}
            compile(service["healthcheck"]["test"][-1], name, "exec")
    assert BROKER["healthcheck"]["test"][-1].endswith("/admin/v2/brokers/health")


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "broker"])
def test_commands_in_the_containers_are_ours(name: str) -> None:
    command, *arguments = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in SERVICES[name]["command"]]
    cli.commands[command].make_context(command, arguments)


def test_dockerfile_copies_what_exists_and_the_context_has() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    ]
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    assert copied
    assert set(copied) == allowed
    assert [name for name in copied if not (ROOT / name).exists()] == []
    versions = [tuple(map(int, found)) for found in re.findall(r"FROM python:(\d+)\.(\d+)", "\n".join(lines))]
    assert len(versions) == 2
    assert min(versions) >= (3, 11)
