"""Plain text, and what rich makes of it on a terminal."""

from __future__ import annotations

import contextlib
import os
import sys

import pytest

from sockscope._cli import output
from sockscope._serve.statistics import ServerStatistics

pty = pytest.importorskip("pty", reason="this system has no terminals of its own")

HEADERS = ("name", "supported")
ROWS = [("[::1]:80", True), ("longer :smile:", None)]
PLAIN = "name            supported\n[::1]:80        yes\nlonger :smile:  -\n"


@pytest.fixture
def terminal(monkeypatch):
    """Stands in for the standard streams named; gives what is on it since."""
    master, slave = pty.openpty()
    files = []

    def take(*names):
        for name in names:
            files.append(stack.enter_context(os.fdopen(slave, "w", closefd=False)))
            monkeypatch.setattr(sys, name, files[-1])

    def screen():
        for file in files:
            file.flush()
        os.set_blocking(master, False)
        seen = b""
        with contextlib.suppress(BlockingIOError):
            while True:
                seen += os.read(master, 65536)
        return seen.decode().replace("\r\n", "\n")

    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    take.screen = screen
    with contextlib.ExitStack() as stack:
        yield take
        monkeypatch.undo()
    os.close(master)
    os.close(slave)


@pytest.fixture
def rich():
    return pytest.importorskip("rich", reason="needs the extra 'cli'")


def test_plain_where_it_is_no_terminal(capsys):
    output.say("a heading", style="bold")
    output.table(HEADERS, ROWS)
    assert capsys.readouterr().out == "a heading\n" + PLAIN


def test_plain_without_rich(terminal, monkeypatch):
    terminal("stdout", "stderr")
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.delitem(sys.modules, "rich.console", raising=False)
    output.table(HEADERS, ROWS)
    with output.waiting("for it"), output.progress("sending", 100) as advance:
        advance(50)
    assert terminal.screen() == PLAIN


@pytest.mark.usefixtures("rich")
def test_tables_and_colour(terminal):
    terminal("stdout")
    output.say("a heading", style="bold")
    output.table(HEADERS, ROWS)
    screen = terminal.screen()
    assert "\x1b[1ma heading\x1b[0m" in screen
    assert "\x1b[32myes" in screen
    assert "[::1]:80" in screen
    assert ":smile:" in screen


@pytest.mark.usefixtures("rich")
def test_no_color(terminal, monkeypatch):
    terminal("stdout")
    monkeypatch.setenv("NO_COLOR", "1")
    with output.waiting("for it"):
        output.say("a heading", style="bold")
        output.table(HEADERS, ROWS)
    screen = terminal.screen()
    assert "\x1b" not in screen
    assert "─" in screen


@pytest.mark.usefixtures("rich")
def test_waiting(terminal):
    terminal("stdout")
    with output.waiting("for something"):
        pass
    assert "for something" in terminal.screen()


@pytest.mark.usefixtures("rich")
def test_progress(terminal, capsys):
    terminal("stderr")
    with output.progress("sending", 1000) as advance:
        advance(1000)
    screen = terminal.screen()
    assert "sending" in screen
    assert "100%" in screen


@pytest.mark.usefixtures("rich")
@pytest.mark.parametrize(("names", "total"), [(("stdout", "stderr"), 1000), (("stderr",), 0)])
def test_no_progress(terminal, names, total):
    """In between what the peer sends, or of nobody knows how much."""
    terminal(*names)
    with output.progress("sending", total) as advance:
        advance(1000)
    assert terminal.screen() == ""


def test_nothing_to_print_to(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    output.say("lost")
    output.table(HEADERS, ROWS)
    output.finish()
    with output.progress("sending", 0):
        pass


STATISTICS = ServerStatistics(
    accepted=3,
    active=0,
    finished=0,
    handler_errors=0,
    timed_out=0,
    resets=1,
    refused={"deny": 2},
    option_failures=0,
    upgrade_failures={},
    bytes_received=10,
    bytes_sent=20,
    shortages=0,
    close_errors=0,
    drained=0,
    cut=0,
    lingering=0,
    possibly_lost=0,
    listeners=(),
)


def test_statistics(capsys):
    output.show_statistics(STATISTICS)
    assert capsys.readouterr().out.splitlines() == [
        "statistics",
        "accepted        3",
        "finished        0",
        "resets          1",
        "refused         deny: 2",
        "bytes received  10",
        "bytes sent      20",
    ]
