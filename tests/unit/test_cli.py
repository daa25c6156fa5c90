"""The command line: options, usage errors, failures in one line, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from sequencer import SequencerError, __version__
from sequencer.cli import cli, default_index_dir, parse_partitions
from sequencer.pulsar.errors import ConnectionLost
from sequencer.service import ServiceSettings

COMMANDS = ["init", "run", "status", "publish", "tail", "demo", "broker"]
CONNECTED = ["init", "run", "status", "publish", "tail"]


def invoke(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(cli, arguments, **options)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[ServiceSettings]:
    """What `run` handed to the service, which does nothing here."""
    calls: list[ServiceSettings] = []

    def remember(settings: ServiceSettings) -> int:
        calls.append(settings)
        return 0

    monkeypatch.setattr("sequencer.service.run", remember)
    return calls


def service_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(settings: ServiceSettings) -> int:
        raise error

    monkeypatch.setattr("sequencer.service.run", fail)


# --- Help ---


def test_version() -> None:
    assert __version__ in invoke("--version").stdout


def test_all_commands_are_listed() -> None:
    listed = invoke("--help").stdout
    assert all(f"\n  {name} " in listed for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"sequencer {command}" in result.stdout.split("Example:")[1]


@pytest.mark.parametrize("command", CONNECTED)
def test_every_command_that_needs_pulsar_can_be_told_where_it_is(command: str) -> None:
    text = invoke(command, "--help").stdout
    for option in ("--service-url", "--admin-url", "--namespace", "--token", "SEQUENCER_SERVICE_URL"):
        assert option in text


# --- run ---


def test_run_with_defaults(ran: list[ServiceSettings]) -> None:
    assert invoke("run").exit_code == 0
    expected = ServiceSettings(
        service_url="pulsar://127.0.0.1:6650",
        namespace="public/default",
        partitions=None,
        index_dir=default_index_dir("pulsar://127.0.0.1:6650"),
        workers=1,
    )
    assert ran == [expected]


def test_run_with_everything(ran: list[ServiceSettings], tmp_path: Path) -> None:
    options = ["--service-url", "pulsar://p:1", "--namespace", "a/b", "--token", "t", "--partitions", "0-2,7"]
    assert invoke("run", *options, "--index-dir", str(tmp_path), "--workers", "3").exit_code == 0
    assert ran == [ServiceSettings("pulsar://p:1", "a/b", (0, 1, 2, 7), tmp_path, 3, "t")]


def test_the_environment_says_where_pulsar_is(ran: list[ServiceSettings]) -> None:
    environment = {"SEQUENCER_SERVICE_URL": "pulsar://p:1", "SEQUENCER_NAMESPACE": "a/b", "SEQUENCER_TOKEN": "t"}
    assert invoke("run", env=environment).exit_code == 0
    assert (ran[0].service_url, ran[0].namespace, ran[0].token) == ("pulsar://p:1", "a/b", "t")


@pytest.mark.parametrize(
    ("text", "partitions"),
    [("0", (0,)), ("0-3,7", (0, 1, 2, 3, 7)), ("7, 0-1", (0, 1, 7)), ("1-3,2-4,3", (1, 2, 3, 4)), ("5-5", (5,))],
)
def test_partition_lists(text: str, partitions: tuple[int, ...]) -> None:
    assert parse_partitions(text) == partitions


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is neither a number nor a range"),
        ("a", "'a' is neither a number nor a range"),
        ("0,", "'' is neither a number nor a range"),
        ("-1", "'-1' is neither a number nor a range"),
        ("1-", "'1-' is neither"),
        ("0-1-2", "'0-1-2' is neither"),
        ("٣", "is neither"),
        ("3-1", "the range 3-1 runs backwards"),
        ("0-1024", "1024 is beyond the last possible partition"),
        ("99999999999", "is neither"),
    ],
)
def test_bad_partition_lists(text: str, told: str) -> None:
    with pytest.raises(click.UsageError, match="--partitions") as wrong:
        parse_partitions(text)
    assert told in str(wrong.value)


def test_every_cluster_has_its_own_indexes() -> None:
    here, there = default_index_dir("pulsar://a:6650"), default_index_dir("pulsar://b:6650")
    assert here != there
    assert here.parent == there.parent
    assert here.name == "pulsar_a_6650"


# --- Usage ---


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["init"],
        ["init", "--partitions", "0"],
        ["init", "--partitions", "2", "--rejected-retention-days", "0"],
        ["init", "--partitions", "2", "--namespace", "nope"],
        ["run", "--workers", "0"],
        ["run", "--partitions", "x"],
        ["run", "--namespace", "a/b/c"],
        ["publish", "/no/such/file"],
        ["publish", "--service-url", "nope"],
        ["tail", "nothing"],
        ["tail", "events", "--from", "latest"],
        ["broker", "--port", "70000"],
    ],
)
def test_wrong_usage(arguments: list[str], ran: list[ServiceSettings]) -> None:
    result = invoke(*arguments, input="")
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert ran == []


# --- Failures ---


@pytest.mark.parametrize(
    "arguments",
    [
        ["init", "--partitions", "1", "--admin-url", "http://127.0.0.1:1"],
        ["init", "--partitions", "1", "--admin-url", "127.0.0.1:1"],
        ["run", "--service-url", "pulsar://127.0.0.1:1"],
        ["publish", "--service-url", "pulsar://127.0.0.1:1"],
        ["tail", "events", "--service-url", "pulsar://127.0.0.1:1"],
    ],
)
def test_no_pulsar_is_one_line(arguments: list[str]) -> None:
    result = invoke(*arguments, input="")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert "127.0.0.1:1" in result.stderr


@pytest.mark.parametrize("kind", [SequencerError, ConnectionLost, OSError])
def test_a_failure_is_one_line(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    service_raises(monkeypatch, kind("went\nwrong"))
    result = invoke("run")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith("went wrong\n")


def test_verbose_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    service_raises(monkeypatch, SequencerError("went wrong"))
    result = invoke("run", "--verbose")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: went wrong\n")


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    service_raises(monkeypatch, AssertionError("a bug"))
    assert isinstance(invoke("run").exception, AssertionError)


def test_the_exit_code_of_the_service_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sequencer.service.run", lambda settings: 1)
    assert invoke("run").exit_code == 1


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    service_raises(monkeypatch, KeyboardInterrupt())
    result = invoke("run")
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


def test_a_help_text_does_not_load_the_official_client() -> None:
    command = [sys.executable, "-c", "import sys, sequencer.cli; sys.exit('pulsar' in sys.modules)"]
    assert subprocess.run(command, check=False).returncode == 0
