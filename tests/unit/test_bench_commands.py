"""`python -m bench`: its overview, how its commands fail, and progress where there is no terminal."""

from __future__ import annotations

import io
import re
import sys
import threading
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from rich.progress import Progress

from bench import stage
from bench.__main__ import SECTIONS, bench, failing_in_one_line
from sequencer.pulsar.errors import ConnectionLost

LINE_WITHIN_S = 30.0

COMMANDS = [name for names in SECTIONS.values() for name in names]
ROOT = Path(__file__).parents[2]


def test_the_overview_names_every_command_and_says_what_it_does() -> None:
    shown = CliRunner().invoke(bench, ["--help"])
    assert shown.exit_code == 0
    for name in COMMANDS:
        (line,) = [line for line in shown.stdout.splitlines() if line.startswith(f"  {name} ")]
        assert len(line.split()) > 3
        assert " needs the package " not in line


def test_make_bench_runs_every_benchmark_and_the_document_tells_of_each() -> None:
    benchmarks = [name for name in COMMANDS if name not in SECTIONS["Results"]]
    named = re.search(r"^NAME = (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named is not None
    assert sorted(named[1].split()) == sorted(benchmarks)
    document = (ROOT / "docs" / "benchmarks.md").read_text()
    sections = set(re.findall(r"^## (\S+)$", document, re.MULTILINE))
    assert set(benchmarks) - sections == {"verify"}, "verify has its place in docs/verification.md"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_with_an_example(name: str) -> None:
    shown = CliRunner().invoke(bench, [name, "--help"])
    assert shown.exit_code == 0
    assert f"python -m bench {name}" in shown.stdout
    assert "--verbose" in shown.stdout


def test_a_command_that_is_none() -> None:
    shown = CliRunner().invoke(bench, ["nothing"])
    assert shown.exit_code == 2
    assert "No such command 'nothing'" in shown.stderr


def test_a_package_that_is_not_there_stops_none_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "bench.micro", raising=False)
    monkeypatch.setitem(sys.modules, "pyperf", None)
    shown = CliRunner().invoke(bench, ["micro"])
    assert shown.exit_code == 1
    assert shown.stderr == "error: micro needs the package pyperf: pip install -e '.[bench]'\n"
    assert "micro needs the package pyperf" in CliRunner().invoke(bench, ["--help"]).stdout
    assert CliRunner().invoke(bench, ["verify", "--help"]).exit_code == 0


def failing(error: BaseException, *arguments: str) -> Result:
    @click.command("failing")
    def command() -> None:
        raise error

    return CliRunner().invoke(failing_in_one_line(command), arguments)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("3 were submitted,\n2 accepted"), "error: 3 were submitted, 2 accepted\n"),
        (ExceptionGroup("tasks", [ExceptionGroup("", [RuntimeError("gone")]), OSError()]), "error: gone\n"),
        (ExceptionGroup("tasks", [ConnectionLost("no broker")]), "error: no broker\n"),
        (ConnectionLost("no broker"), "error: Pulsar: no broker\n"),
        (FileNotFoundError(2, "No such file", "x"), "error: [Errno 2] No such file: 'x'\n"),
    ],
)
def test_failures_are_one_line(error: Exception, line: str) -> None:
    done = failing(error)
    assert (done.exit_code, done.stderr) == (1, line)


def test_verbose_shows_the_traceback(caplog: pytest.LogCaptureFixture) -> None:
    done = failing(RuntimeError("gone"), "--verbose")
    assert done.exit_code == 1
    assert "RuntimeError: gone" in caplog.text


def test_a_bug_is_not_hidden() -> None:
    assert isinstance(failing(ZeroDivisionError()).exception, ZeroDivisionError)
    group = ExceptionGroup("tasks", [ZeroDivisionError()])
    assert failing(group).exception is group


def test_ctrl_c() -> None:
    done = failing(KeyboardInterrupt())
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")


class Written(io.StringIO):
    """A standard error that is no terminal, and tells when something has been written to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed = threading.Event()

    def flush(self) -> None:
        super().flush()
        if self.getvalue().endswith("\n"):
            self.flushed.set()


def test_progress_without_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage, "LINE_EVERY_S", 0.01)
    written = Written()
    monkeypatch.setattr("sys.stderr", written)
    with stage.progress_bar() as progress:
        assert isinstance(progress, Progress)
        progress.add_task("finished", total=1, completed=1)
        progress.add_task("throughput", total=4, completed=1)
        assert written.flushed.wait(LINE_WITHIN_S)
    shown = written.getvalue()
    assert shown.splitlines()[0] == "throughput: 25 % after 0 s"
    assert "finished" not in shown
    assert capsys.readouterr().out == ""
