"""The command line as a process of its own: started, fed, signalled, and awaited."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

COMMAND = (sys.executable, "-m", "sockscope")
TIMEOUT = 20


def run(*arguments, **details):
    """Run a command to its end; its output is text."""
    details = {"stdin": subprocess.DEVNULL, "text": True, **details}
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, timeout=TIMEOUT, check=False, **details
    )


@contextmanager
def started(*arguments, command=COMMAND, **details) -> Iterator[subprocess.Popen]:
    """A command that runs beside the body, with pipes that are not buffered."""
    details = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "bufsize": 0,
        **details,
    }
    with subprocess.Popen([*command, *arguments], **details) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def echoing(*addresses, **details) -> Iterator[tuple[subprocess.Popen, list[str]]]:
    """``echo`` on *addresses*, listening, with the addresses that it has printed."""
    with started("echo", *addresses, stdin=subprocess.DEVNULL, **details) as process:
        yield process, [_listening(process) for _ in addresses]


def _listening(process) -> str:
    line = read_line(process.stdout)
    match = re.fullmatch(r"listening on (\S+)\n", line)
    assert match, line or process.stderr.read().decode()
    return match[1]


def read_line(file) -> str:
    """One line from an unbuffered pipe."""
    line = b""
    while not line.endswith(b"\n"):
        data = file.read(1)
        if not data:
            break
        line += data
    return line.decode()


def read_terminal(master: int, until: bytes | None = None) -> bytes:
    """What came to a terminal: up to *until*, or all of it once nobody has it open."""
    seen = b""
    while until is None or until not in seen:
        assert select.select([master], [], [], TIMEOUT)[0], seen
        try:
            data = os.read(master, 65536)
        except OSError:  # EIO: the other side is closed
            break
        seen += data
    return seen


def end_of(process) -> tuple[int, str, str]:
    """Wait for the end: exit code, output, errors."""
    out, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, (out or b"").decode(), (err or b"").decode()
