"""Help, usage errors, exit codes, and errors in one line."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys

import pytest
import trio

from sockscope import SocketError
from sockscope._cli import main as module
from sockscope._cli.command import Command
from sockscope._cli.main import COMMANDS, describe, main
from tests._cli.processes import COMMAND, TIMEOUT, run

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


def test_help_explains_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert [c.name for c in COMMANDS] == ["demo", "echo", "connect", "options", "interfaces"]
    for command in COMMANDS:
        assert command.summary in text
        assert command.example in text
    for code in ("0", "1", "2", "130", "143"):
        assert f"\n  {code} " in text


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_of_a_command(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command.name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert command.description in text
    assert command.example in text


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "COMMAND"),
        (["listen"], "'listen'"),
        (["echo"], "ADDRESS"),
        (["echo", "localhost"], "'localhost'"),
        (["echo", "127.0.0.1:0", "fd:x"], "fd:"),
        (["connect", "127.0.0.1:65536"], "65535"),
        (["connect", "unix:"], "name"),
        (["connect", "127.0.0.1:1", "127.0.0.1:2"], "127.0.0.1:2"),
        (["connect", "127.0.0.1:1", "--timeout", "-1"], "timeout"),
        (["connect", "127.0.0.1:1", "--timeout", "nan"], "nan"),
        (["connect", "127.0.0.1:1", "--timeout", "soon"], "soon"),
        (["options", "nodelya"], "did you mean 'nodelay'?"),
        (["interfaces", "lo"], "lo"),
    ],
)
def test_usage_errors(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err.splitlines()[-1]


def test_importing_it_runs_nothing():
    assert importlib.import_module("sockscope.__main__").main is main


def test_as_a_process():
    ended = run("options", "nodelya")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "nodelay" in ended.stderr
    assert "Traceback" not in ended.stderr


# Errors


def caused(exc, cause):
    exc.__cause__ = cause
    return exc


@pytest.mark.parametrize(
    ("exc", "line"),
    [
        (
            SocketError(111, "cannot connect to [::1]:1: refused"),
            "cannot connect to [::1]:1: refused",
        ),
        (FileNotFoundError(2, "No such file", "/x"), "[Errno 2] No such file: '/x'"),
        (ValueError("one\n  two"), "one two"),
        (trio.BrokenResourceError(), "BrokenResourceError"),
        (caused(trio.BrokenResourceError(), SocketError(104, "reset")), "reset"),
    ],
)
def test_describe(exc, line):
    assert describe(exc) == line


def command_that(run):
    return Command("try", "", "", "", lambda parser: None, run)


def failing(exc):
    def run(arguments: argparse.Namespace) -> int:
        raise exc

    return command_that(run)


def test_a_group_is_told_once_for_each_error(monkeypatch, capsys):
    group = ExceptionGroup("", [OSError("a"), ExceptionGroup("", [OSError("b"), OSError("a")])])
    monkeypatch.setattr(module, "COMMANDS", (failing(group),))
    assert main(["try"]) == 1
    assert capsys.readouterr() == ("", "sockscope: a; b\n")


def test_ctrl_c_outside_of_trio(monkeypatch, capsys):
    monkeypatch.setattr(module, "COMMANDS", (failing(KeyboardInterrupt()),))
    assert main(["try"]) == 130
    assert capsys.readouterr() == ("", "")


def test_errors_without_a_standard_error(monkeypatch):
    monkeypatch.setattr(module, "COMMANDS", (failing(OSError("lost")),))
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["try"]) == 1


FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")


@FULL
def test_errors_on_a_full_standard_error():
    with open("/dev/full", "w") as full:
        ended = subprocess.run([*COMMAND, "connect", "fd:99"], stderr=full, timeout=TIMEOUT)
    assert ended.returncode == 1


# The standard output


@FULL
def test_a_full_disk():
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*COMMAND, "options"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT
        )
    assert ended.returncode == 1
    assert ended.stderr == (
        "sockscope: cannot write to the standard output: No space left on device\n"
    )


def test_a_reader_that_goes():
    end, other = os.pipe()
    os.close(end)
    with open(other, "wb") as output:
        ended = subprocess.run(
            [*COMMAND, "options"], stdout=output, stderr=subprocess.PIPE, timeout=TIMEOUT
        )
    assert (ended.returncode, ended.stderr) == (141, b"")
