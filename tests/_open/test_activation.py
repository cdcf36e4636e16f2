"""Sockets that the service manager has passed: by the variables, and by the real program."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest

from sockscope._core.errors import SocketError, WrongSocketError
from sockscope._open import activation
from sockscope._open.activation import activated_sockets, take_activated
from sockscope._open.open import make_socket
from sockscope._options.values import SocketOptions
from sockscope._serve.serve import serve_passive
from sockscope._sockets.datagram import DatagramSocket
from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.stream import StreamSocket
from sockscope.testing import open_descriptors

VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@pytest.fixture
def passed(monkeypatch):
    """Passes sockets to this very process, from whatever number on they are."""
    opened = []

    def listening():
        sock = socket.create_server(("127.0.0.1", 0))
        return sock

    def datagram():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        return sock

    def connection():
        near, far = socket.socketpair()
        opened.append(far)
        return near

    def file():
        return open(os.devnull)

    makers = {"listening": listening, "datagram": datagram, "connection": connection, "file": file}

    def pass_(*kinds, names=None):
        made = [makers[kind]() for kind in kinds]
        opened.extend(made)
        # In a row, above whatever this process has open.
        first = 500
        for index, each in enumerate(made):
            os.dup2(each.fileno(), first + index, inheritable=True)
        monkeypatch.setattr(activation, "FIRST_DESCRIPTOR", first)
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", str(len(kinds)))
        if names is None:
            monkeypatch.delenv("LISTEN_FDNAMES", raising=False)
        else:
            monkeypatch.setenv("LISTEN_FDNAMES", names)
        return made

    yield pass_
    for each in opened:
        each.close()
    for number in open_descriptors():
        if 500 <= number < 510:
            os.close(number)


def close_all(sockets):
    for group in sockets.values():
        for each in group:
            each._close()


class TestActivatedSockets:
    def test_by_name_in_order_and_each_of_its_kind(self, passed):
        passed("listening", "datagram", "listening", "connection", names="web:log:web:peer")
        sockets = activated_sockets()
        assert {name: [type(each) for each in group] for name, group in sockets.items()} == {
            "web": [PassiveSocket, PassiveSocket],
            "log": [DatagramSocket],
            "peer": [StreamSocket],
        }
        assert [each.fileno() for each in sockets["web"]] == [500, 502]
        assert not any(os.get_inheritable(number) for number in range(500, 504))
        close_all(sockets)

    def test_the_variables_are_gone_and_nothing_is_taken_twice(self, passed):
        passed("listening")
        close_all(activated_sockets())
        assert not any(name in os.environ for name in VARIABLES)
        assert activated_sockets() == {}

    def test_without_names_it_is_unknown(self, passed):
        passed("listening")
        sockets = activated_sockets()
        assert list(sockets) == ["unknown"]
        close_all(sockets)

    def test_nothing_for_another_process(self, passed, monkeypatch):
        passed("listening")
        monkeypatch.setenv("LISTEN_PID", "1")
        assert activated_sockets() == {}
        assert "LISTEN_FDS" in os.environ

    def test_nothing_at_all(self, monkeypatch):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        assert activated_sockets() == {}

    def test_no_sockets(self, passed):
        passed(names="")
        assert activated_sockets() == {}

    def test_a_file_is_left_alone(self, passed):
        passed("file", "listening", names="log:web")
        sockets = activated_sockets()
        assert list(sockets) == ["web"]
        assert 500 in open_descriptors()
        assert not os.get_inheritable(500)
        close_all(sockets)

    def test_one_that_is_not_open_is_an_error_and_none_is_taken(self, passed):
        passed("listening", "listening", names="a:b")
        os.close(501)
        with pytest.raises(SocketError, match="descriptor 501"):
            activated_sockets()
        assert 500 in open_descriptors()
        assert os.environ["LISTEN_FDS"] == "2"

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("LISTEN_FDS", "many"),
            ("LISTEN_FDS", "-1"),
            ("LISTEN_FDS", ""),
            ("LISTEN_FDS", "9" * 5000),
            ("LISTEN_FDNAMES", "one:too:many"),
        ],
    )
    def test_malformed_variables_are_told(self, passed, monkeypatch, variable, value):
        passed("listening", names="web")
        monkeypatch.setenv(variable, value)
        with pytest.raises(ValueError, match=variable):
            activated_sockets()


class TestDesignators:
    async def test_make_socket_takes_the_first_and_leaves_the_others(self, passed):
        passed("listening", "listening", names="web:web")
        for number in (500, 501):
            async with await make_socket(connect="passive", local="activated:web") as passive:
                assert passive.fileno() == number
        with pytest.raises(FileNotFoundError, match="activated:web: no socket of that name"):
            await make_socket(connect="passive", local="activated:web")

    async def test_serve_passive_takes_all_and_leaves_other_names(self, passed):
        passed("listening", "datagram", "listening", names="web:log:web")
        async with serve_passive("activated:web", lambda stream: stream.aclose()) as server:
            assert len(server.sockets) == 2
            sockets = activated_sockets()
            assert list(sockets) == ["log"]
            close_all(sockets)

    async def test_a_wrong_kind_is_an_error_and_stays(self, passed):
        passed("listening", "datagram", names="web:web")
        with pytest.raises(WrongSocketError, match="takes no connections"):
            async with serve_passive("activated:web", lambda stream: stream.aclose()):
                pass  # pragma: no cover  # it is not entered
        assert {500, 501} <= set(open_descriptors())
        with pytest.raises(SocketError, match="there is 'web'"):
            take_activated("other", None, lambda socket: None, only_first=False)

    async def test_a_failed_option_leaves_it_to_be_taken_again(self, passed):
        passed("listening", names="web")
        with pytest.raises(OSError, match="ipv6_only"):
            await make_socket(
                connect="passive", local="activated:web", options=SocketOptions(ipv6_only=True)
            )
        async with await make_socket(connect="passive", local="activated:web"):
            pass

    async def test_a_connection(self, passed):
        passed("connection", names="connection")
        async with await make_socket("activated:connection") as stream:
            assert isinstance(stream, StreamSocket)


SERVICE = """
import json, sys, trio, sockscope._open.activation as activation, sockscope._serve.serve as serve
from sockscope.testing import open_descriptors

async def main():
    sockets = activation.activated_sockets()
    kinds = {name: [type(each).__name__ for each in group] for name, group in sockets.items()}
    print(json.dumps(kinds), flush=True)
    async def handler(stream):
        await stream.send_all(b"served")
    async with serve.serve_passive(sockets["web"], handler):
        await trio.to_thread.run_sync(sys.stdin.readline)

trio.run(main)
"""


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None,
    reason="needs the program systemd-socket-activate (Debian's package systemd)",
)
def test_by_systemds_own_program(tmp_path):
    """It waits for the first connection, then becomes the service."""
    paths = [str(tmp_path / name) for name in ("first", "second")]
    command = [
        "systemd-socket-activate",
        *(f"--listen={path}" for path in paths),
        "--fdname=web:admin",
        # It hands on few variables of its own accord.
        *(f"--setenv={name}" for name in ("PYTHONPATH",) if name in os.environ),
        sys.executable,
        "-c",
        SERVICE,
    ]
    manager = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        # It tells when it listens, once for each socket.
        for _ in paths:
            assert b"Listening on" in manager.stderr.readline()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(paths[0])
            kinds = json.loads(manager.stdout.readline())
            assert kinds == {"web": ["PassiveSocket"], "admin": ["PassiveSocket"]}
            client.settimeout(20)
            assert client.recv(100) == b"served"
    finally:
        manager.communicate(b"end\n", timeout=20)
    assert manager.returncode == 0
    # The paths are the service manager's.
    assert all(map(os.path.exists, paths))


def test_by_a_child_that_gets_the_variables(tmp_path):
    """As the service manager does it, with every variable, from descriptor 3 on."""
    listening = socket.create_server(("127.0.0.1", 0))
    launcher = (
        "import os, sys\n"
        "os.dup2(int(sys.argv[1]), 3)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='web')\n"
        "os.execv(sys.executable, [sys.executable, '-c', sys.argv[2]])\n"
    )
    with listening, socket.create_connection(listening.getsockname()) as client:
        number = listening.fileno()
        service = subprocess.Popen(
            [sys.executable, "-c", launcher, str(number), SERVICE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[number],
        )
        try:
            assert json.loads(service.stdout.readline()) == {"web": ["PassiveSocket"]}
            client.settimeout(20)
            assert client.recv(100) == b"served"
        finally:
            service.communicate(b"end\n", timeout=20)
    assert service.returncode == 0
