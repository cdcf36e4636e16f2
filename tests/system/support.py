"""What the checks have in common."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import trio

ROOT = Path(__file__).parents[2]


class Skip(Exception):
    """A check cannot be run here; the message is the reason."""


class Checks(dict):
    """The checks of a file by name, in their order; a decorator adds one."""

    def __call__(self, check):
        self[check.__name__] = check
        return check


def need(*tools):
    """Skip where a program is not installed."""
    for tool in tools:
        if shutil.which(tool) is None:
            raise Skip(f"{tool} is not installed")


def call(*command, data=b"", timeout=20):
    """Run a program to its end; what it printed."""
    ended = subprocess.run(
        [str(word) for word in command],
        input=data,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    if ended.returncode:
        said = ended.stderr.decode(errors="replace").strip()
        raise AssertionError(f"{command[0]} ended with {ended.returncode}: {said[-300:]}")
    return ended.stdout


async def acall(*command, data=b"", timeout=20):
    """`call`, while a server of this process goes on."""
    return await trio.to_thread.run_sync(lambda: call(*command, data=data, timeout=timeout))


def try_to(line):
    """Run a command line without quotes; skip if this system cannot do that."""
    try:
        return call(*line.split())
    except AssertionError as exc:
        raise Skip(str(exc)) from None


@contextmanager
def program(*command, **arguments):
    """A process that is ended with the block, whatever happens."""
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        **arguments,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


@contextmanager
def python(text, *arguments):
    """A Python program as a process."""
    with program(sys.executable, "-c", text, *arguments) as process:
        yield process


@contextmanager
def folder():
    """A folder for the block."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


async def until(condition, what, seconds=10.0):
    """Wait until *condition* is true: *what* is then so."""
    with trio.move_on_after(seconds):
        while not condition():  # noqa: ASYNC110  # another process tells no events
            await trio.sleep(0.01)
        return
    raise AssertionError(f"not within {seconds:g} s: {what}")


def may_make_networks():
    """The words that run a program in a network of its own; None where that is not allowed."""
    words = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-r", "-n"]
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return None
    worked = subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
    return words if worked else None


def end_group(process):
    """End a process and all that it has started and not ended itself."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.communicate()


async def echo(stream):
    async for data in stream:
        await stream.send_all(data)
