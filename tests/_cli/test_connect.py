"""``connect``: every kind of standard input, both directions to their ends, signals."""

from __future__ import annotations

import functools
import math
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import trio
import trio.testing

from sockscope import supports
from sockscope._cli import connect
from sockscope._cli.main import main
from sockscope._cli.signals import Stop
from sockscope.testing import open_loopback_pair, serving
from tests._cli.processes import COMMAND, TIMEOUT, end_of, read_terminal, started

BYTES = bytes(range(256)) * 4096


async def run_connect(server, *arguments, **details):
    """Run the command beside the test's server."""
    with trio.fail_after(TIMEOUT):
        return await trio.run_process(
            [*COMMAND, "connect", str(server.addresses[0]), *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            **details,
        )


async def send_back(stream):
    async for data in stream:
        await stream.send_all(data)


async def test_binary_both_ways_out_of_a_pipe():
    async with serving(send_back) as server:
        ended = await run_connect(server, stdin=BYTES)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout == BYTES


@pytest.mark.skipif(not supports("local"), reason="this system has no local sockets")
async def test_binary_both_ways_out_of_a_file(tmp_path):
    file = tmp_path / "input"
    file.write_bytes(BYTES)
    async with serving(send_back, tmp_path / "socket") as server:
        with file.open("rb") as source:
            ended = await run_connect(server, stdin=source)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout == BYTES


async def test_the_peer_ends_while_the_input_waits():
    async def say_and_leave(stream):
        await stream.send_all(b"bye")

    end, other = os.pipe()  # nobody writes into it
    try:
        async with serving(say_and_leave) as server:
            ended = await run_connect(server, stdin=end)
    finally:
        os.close(end)
        os.close(other)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"bye", b"")


async def test_the_peer_ends_its_sending_only():
    """What it still wants to read is not cut short."""
    got = bytearray()

    async def only_read(stream):
        await stream.send_eof()
        async for data in stream:
            got.extend(data)

    async with serving(only_read) as server:
        ended = await run_connect(server, stdin=BYTES)
    assert ended.returncode == 0
    assert got == BYTES


async def test_the_peer_resets():
    async def reset(stream):
        await stream.receive_some()
        stream.abort()

    async with serving(reset) as server:
        ended = await run_connect(server, stdin=BYTES)
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"sockscope: ")
    assert ended.stderr.count(b"\n") == 1
    assert b"reset" in ended.stderr.lower()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
async def test_closed_standard_descriptors():
    """What is opened next has another number: no socket is taken for the input."""
    got = []

    async def receive(stream):
        got.append(b"".join([bytes(data) async for data in stream]))
        await stream.send_all(b"thanks")

    async with serving(receive) as server:
        command = [*COMMAND, "connect", str(server.addresses[0])]
        script = 'exec "$@" <&- >&- 2>&-'
        ended = await trio.run_process(["sh", "-c", script, "-", *command], check=False)
    assert (ended.returncode, got) == (0, [b""])


async def test_the_reader_of_the_output_goes():
    end, other = os.pipe()
    os.close(end)
    async with serving(send_back) as server:
        with trio.fail_after(TIMEOUT):
            ended = await trio.run_process(
                [*COMMAND, "connect", str(server.addresses[0])],
                stdin=b"hello",
                stdout=other,
                capture_stderr=True,
                check=False,
            )
    os.close(other)
    assert (ended.returncode, ended.stderr) == (141, b"")


# Opening


def test_refused(capsys):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"127.0.0.1:{gone.getsockname()[1]}"
    assert main(["connect", address]) == 1
    error = f"sockscope: cannot connect to {address}: Connection refused\n"
    assert capsys.readouterr() == ("", error)


@pytest.mark.skipif(sys.platform != "linux", reason="a full queue is silent on Linux only")
def test_timeout(capsys):
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        address = f"127.0.0.1:{full.getsockname()[1]}"
        assert main(["connect", address, "--timeout", "0.1"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert address in err
    assert "0.1 s" in err


async def test_a_signal_before_it_is_connected(hanging_lookup):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hanging_lookup.then_raise, signal.SIGTERM)
        assert await connect._connect("somewhere:1", math.inf) == 0


# Signals


async def signalled(handler, *numbers):
    """Exit code and output of a command with an idle input that gets signals."""
    there, again = trio.Event(), trio.Event()
    async with serving(functools.partial(handler, there, again), drain_timeout=0) as server:
        command = [*COMMAND, "connect", str(server.addresses[0])]
        with started(*command[3:]) as process, trio.fail_after(TIMEOUT):
            await there.wait()
            process.send_signal(numbers[0])
            for number in numbers[1:]:
                await again.wait()
                process.send_signal(number)
            code, out, err = await trio.to_thread.run_sync(_end_without_input, process)
    assert err == ""
    return code, out


def _end_without_input(process):
    """The input stays open: `end_of` would close it."""
    out = process.stdout.read()
    err = process.stderr.read()
    return process.wait(TIMEOUT), out.decode(), err.decode()


async def test_the_first_signal_drains():
    """The peer is told, and what it says then is still printed."""

    async def farewell(there, again, stream):
        await stream.send_all(b"hello, ")
        there.set()
        assert await stream.receive_some() == b""
        await stream.send_all(b"bye")

    assert await signalled(farewell, signal.SIGINT) == (0, "hello, bye")


async def test_the_second_signal_ends():
    async def stay(there, again, stream):
        there.set()
        assert await stream.receive_some() == b""
        again.set()
        await trio.sleep_forever()

    code, _ = await signalled(stay, signal.SIGTERM, signal.SIGINT)
    assert code == 130


@pytest.fixture
def no_input(monkeypatch):
    """The null device in the place of the input."""
    with open(os.devnull, "rb") as nothing:
        monkeypatch.setattr(connect, "_INPUT", nothing.fileno())
        yield


@pytest.mark.usefixtures("no_input")
async def test_a_peer_that_does_not_end_gets_little_time(autojump_clock):
    stop = Stop()
    async with open_loopback_pair() as (stream, peer), trio.open_nursery() as nursery:
        source = connect.Input(lambda count: None)
        nursery.start_soon(connect._exchange, stream, stop, source)
        assert await peer.receive_some() == b""
        began = trio.current_time()
        stop._ask(signal.SIGINT)
    assert trio.current_time() - began == pytest.approx(connect._FAREWELL)


# The input and the output themselves


@pytest.fixture
def pipe(monkeypatch):
    """A pipe in the place of the input and of the output, which is not to be waited for."""
    end, other = os.pipe()
    for number in (end, other):
        os.set_blocking(number, False)
    monkeypatch.setattr(connect, "_INPUT", end)
    monkeypatch.setattr(connect, "_OUTPUT", other)
    yield end, other
    for number in (end, other):
        os.close(number)


async def test_a_break_after_the_peer_has_ended_its_sending(pipe, mock_clock):
    """What it did not take is an error, although it had ended well itself."""
    async with open_loopback_pair() as (stream, peer):

        async def break_it_later():
            await trio.testing.wait_all_tasks_blocked()
            peer.abort()
            os.write(pipe[1], b"too late")

        await peer.send_eof()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(break_it_later)
            with pytest.raises(trio.BrokenResourceError):
                await connect._exchange(stream, Stop(), connect.Input(lambda count: None))


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are always blocking there")
async def test_somebody_made_them_non_blocking(pipe):
    got = bytearray()

    async def read():
        while len(got) < len(BYTES):
            got.extend(await trio.to_thread.run_sync(connect._read))

    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(trio.to_thread.run_sync, connect._write, BYTES)
    assert got == BYTES


def test_an_input_that_cannot_be_read(pipe, monkeypatch):
    monkeypatch.setattr(connect, "_INPUT", pipe[1])
    with pytest.raises(OSError, match="standard input"):
        connect._read()


def test_the_size_of_the_input(tmp_path, monkeypatch):
    file = tmp_path / "input"
    file.write_bytes(b"12345")
    with file.open("rb", buffering=0) as source:
        monkeypatch.setattr(connect, "_INPUT", source.fileno())
        source.read(2)
        assert connect._input_size() == 3
        source.seek(10)
        assert connect._input_size() == 0


# Terminals


@pytest.fixture
def terminal():
    pty = pytest.importorskip("pty", reason="this system has no terminals of its own")
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)


@pytest.fixture
def conversing(terminal):
    """``connect`` at a terminal of its own, in a conversation with socat-like echo."""
    setsid = shutil.which("setsid")
    if not setsid:
        pytest.skip("needs setsid to make it the controlling terminal")
    master, slave = terminal
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TIMEOUT)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        command = [setsid, "--ctty", *COMMAND]
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        with started("connect", address, command=command, **streams) as process:
            os.close(slave)
            with server.accept()[0] as peer:
                peer.settimeout(TIMEOUT)
                peer.sendall(b"hello\n")
                read_terminal(master, b"hello")
                yield process, peer, master


def test_a_terminal(conversing):
    process, peer, master = conversing
    os.write(master, b"typed\n")
    assert peer.recv(100) == b"typed\n"
    peer.sendall(b"answer\n")
    read_terminal(master, b"answer")
    os.write(master, b"\x04")  # Ctrl-D: the end of the input
    assert peer.recv(100) == b""
    peer.close()
    assert end_of(process)[0] == 0


def test_ctrl_c_at_a_terminal(conversing):
    process, peer, master = conversing
    os.write(master, b"\x03")
    assert peer.recv(100) == b""
    peer.close()
    assert end_of(process)[0] == 0
    assert b"Traceback" not in read_terminal(master)


def test_progress_at_a_terminal(terminal, tmp_path):
    pytest.importorskip("rich", reason="needs the extra 'cli'")
    master, slave = terminal
    file = tmp_path / "input"
    file.write_bytes(BYTES)
    with socket.create_server(("127.0.0.1", 0)) as server, file.open("rb") as source:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        streams = {"stdin": source, "stdout": subprocess.DEVNULL, "stderr": slave}
        environment = {**os.environ, "TERM": "xterm"}
        with started("connect", address, env=environment, **streams) as process:
            os.close(slave)
            with server.accept()[0] as peer:
                while peer.recv(65536):
                    pass
            seen = read_terminal(master)
            assert process.wait(TIMEOUT) == 0
    assert b"100%" in seen
