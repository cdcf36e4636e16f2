"""``echo``: real peers, signals, and sockets that were there before."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys

import pytest
import trio

from sockscope import Address, supports
from sockscope._cli import echo
from sockscope._cli.main import main
from tests._cli.processes import COMMAND, TIMEOUT, echoing, end_of, read_line, started


def connected(text):
    """A socket of the standard library's that is connected to what was printed."""
    address = Address.parse(text)
    sock = socket.socket(address.family)
    sock.settimeout(TIMEOUT)
    try:
        sock.connect(address.sockaddr)
    except OSError:
        sock.close()
        raise
    return sock


def answer_to(sock, data):
    sock.sendall(data)
    got = b""
    while len(got) < len(data):
        got += sock.recv(65536)
    return got


def statistics_in(out):
    """The figures at the end, by name."""
    lines = out.split("statistics\n")[1].splitlines()
    return {line.rsplit("  ", 1)[0].strip(): line.rsplit("  ", 1)[1] for line in lines}


def socat(address):
    text = address.removeprefix("unix:")
    return ["socat", "-t5", "-", f"UNIX-CONNECT:{text}" if text != address else f"TCP:{address}"]


def curl(address):
    return ["curl", "-sN", f"telnet://{address}"]


@pytest.mark.skipif(not supports("local"), reason="this system has no local sockets")
def test_outside_peers(tmp_path):
    path = tmp_path / "echo.sock"
    with echoing("127.0.0.1:0", f"unix:{path}") as (process, addresses):
        assert addresses[1] == f"unix:{path}"
        commands = [socat(addresses[0]), socat(addresses[1]), curl(addresses[0])]
        commands = [command for command in commands if shutil.which(command[0])]
        for command in commands:
            with started(command=command) as peer:
                peer.stdin.write(b"h\0i\r\n")
                assert peer.stdout.read(5) == b"h\0i\r\n"
        process.send_signal(signal.SIGTERM)
        code, out, err = end_of(process)
    assert (code, err) == (0, "")
    figures = statistics_in(out)
    assert figures["accepted"] == str(len(commands))
    assert figures["bytes sent"] == str(5 * len(commands))
    assert not path.exists()


def test_the_first_signal_drains():
    with echoing("127.0.0.1:0") as (process, [address]):
        with connected(address) as sock:
            assert answer_to(sock, b"before") == b"before"
            process.send_signal(signal.SIGINT)
            assert "1 connections" in read_line(process.stderr)
            with pytest.raises(ConnectionRefusedError):
                connected(address)
            assert answer_to(sock, b"after") == b"after"
        code, out, _ = end_of(process)
    assert code == 0
    figures = statistics_in(out)
    assert (figures["finished"], figures["drained"]) == ("1", "1")


def test_the_second_signal_ends():
    with echoing("127.0.0.1:0") as (process, [address]), connected(address) as sock:
        assert answer_to(sock, b"before") == b"before"
        process.send_signal(signal.SIGTERM)
        read_line(process.stderr)
        process.send_signal(signal.SIGTERM)
        code, out, err = end_of(process)
        assert sock.recv(1) == b""
    assert code == 143
    assert statistics_in(out)["bytes received"] == "6"
    assert err == ""


async def test_a_signal_before_it_listens(hanging_lookup, capsys):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hanging_lookup.then_raise, signal.SIGINT)
        assert await echo._echo(["somewhere:1"]) == 0
    assert capsys.readouterr() == ("", "")


def test_an_address_in_use(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["echo", "127.0.0.1:0", address]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert address in err
    assert "in use" in err


def test_a_name_that_the_output_cannot_show():
    if not supports("abstract"):
        pytest.skip("this system has no abstract names")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    name = f"unix:@sockscope-gr\u00fcn-{os.getpid()}"
    with echoing(name, env=environment) as (process, [printed]):
        assert "gr" in printed
        process.send_signal(signal.SIGINT)
        assert end_of(process)[0] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are not inherited by number")
def test_a_descriptor():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.fileno()
        with echoing(f"fd:{number}", pass_fds=[number]) as (process, [printed]):
            assert printed == f"127.0.0.1:{listening.getsockname()[1]}"
            with connected(printed) as sock:
                assert answer_to(sock, b"hi") == b"hi"
            process.send_signal(signal.SIGINT)
            assert end_of(process)[0] == 0


def test_a_descriptor_that_is_none(capsys):
    assert main(["echo", "fd:999999"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "999999" in err


@pytest.mark.skipif(
    not shutil.which("systemd-socket-activate"), reason="needs systemd-socket-activate"
)
def test_activated(tmp_path):
    path = tmp_path / "activated.sock"
    # The environment is not passed on by itself.
    where = f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}"
    activate = ["systemd-socket-activate", "-l", str(path), "--fdname=web", "-E", where, *COMMAND]
    with started("echo", "activated:web", command=activate) as process:
        # It says so, and starts the command at the first connection.
        assert "Listening" in read_line(process.stderr)
        with connected(f"unix:{path}") as sock:
            assert answer_to(sock, b"hi") == b"hi"
        process.send_signal(signal.SIGTERM)
        code, out, _ = end_of(process)
    assert code == 0
    assert f"listening on unix:{path}\n" in out


async def test_a_failing_connection_is_one_line(loopback_pair, capsys):
    echo._tell(ValueError("odd"), loopback_pair[1])
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "ValueError('odd')" in err
