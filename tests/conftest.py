"""What every test may use: one real broker per session, a namespace of its own per test, and no silent skips in CI."""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Iterator

import httpx
import pytest

from sequencer.broker import EmbeddedBroker

ADMIN_LIMIT_S = 30.0
_numbers = itertools.count(1)

# A shell ignores SIGINT for what it starts in the background, and so would every process that a test starts and means
# to interrupt. With a handler here they begin with the signal's default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """A real broker on free ports, started when the first test asks for it. To stop or kill one, start another."""
    embedded = EmbeddedBroker(tmp_path_factory.mktemp("broker"))
    embedded.start()
    yield embedded
    embedded.kill()
    missing = re.findall(r".*(?:NoClassDefFoundError|ClassNotFoundException).*", embedded.log_file.read_text())
    assert missing == [], "the lock lacks a jar: see CONTRIBUTING.md"


@pytest.fixture
def namespace(broker: EmbeddedBroker) -> str:
    """A fresh namespace, such as "public/test-3", with infinite retention.

    Create its topics one after another, awaiting each: the broker may stall for 30 s when several topics of a
    namespace are loaded for the first time within milliseconds of each other.
    """
    return make_namespace(broker)


def make_namespace(broker: EmbeddedBroker) -> str:
    """What the fixture does, for fixtures that live longer."""
    name = f"public/test-{next(_numbers)}"
    policies = {"retention_policies": {"retentionTimeInMinutes": -1, "retentionSizeInMB": -1}}
    url = f"{broker.admin_url}/admin/v2/namespaces/{name}"
    httpx.put(url, json=policies, timeout=ADMIN_LIMIT_S, trust_env=False).raise_for_status()
    return name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses the broker is an integration test, marked or not."""
    for item in items:
        if "broker" in getattr(item, "fixturenames", ()):
            item.add_marker("integration")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a skipped test is a failure: what was not run was not tested."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if (
        os.environ.get("CI")
        and exitstatus == pytest.ExitCode.OK
        and reporter is not None
        and reporter.stats.get("skipped")
    ):
        reporter.write_line("skipped tests are failures in CI", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
