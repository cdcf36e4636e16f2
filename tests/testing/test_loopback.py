"""Loopback listeners, pairs and servers for tests: real, closed on exit, failures shown."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
from ipaddress import ip_address

import pytest
import trio

from sockscope._open.open import open_socket
from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.stream import StreamSocket
from sockscope.testing import (
    cancel_everywhere,
    open_descriptors,
    open_loopback_pair,
    serving,
)

FAMILIES = {
    "ipv4": socket.AF_INET,
    "ipv6": socket.AF_INET6,
    "local": getattr(socket, "AF_UNIX", None),
}


async def test_pair_is_a_connection(loopback_kind, loopback_pair):
    client, server = loopback_pair
    assert isinstance(client, StreamSocket)
    assert isinstance(server, StreamSocket)
    assert server.accepted
    assert not client.accepted
    assert client.socket.family == FAMILIES[loopback_kind]
    for near, far in ((client, server), (server, client)):
        await near.send_all(b"hello")
        assert await far.receive_some() == b"hello"


async def test_listener_can_be_reached(loopback_kind, loopback_listener):
    assert isinstance(loopback_listener, PassiveSocket)
    async with open_socket(loopback_listener.address) as client:
        async with await loopback_listener.accept() as child:
            await client.send_eof()
            assert await child.receive_some() == b""


async def test_pair_is_closed_and_its_path_gone(loopback_kind, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gc.collect()
    before = open_descriptors()
    async with open_loopback_pair(loopback_kind) as (client, server):
        assert (list(tmp_path.iterdir()) != []) == (loopback_kind == "local")
    assert not client.is_open
    assert not server.is_open
    assert open_descriptors() == before
    assert list(tmp_path.iterdir()) == []


async def test_pair_is_cancel_safe(loopback_kind):
    async def open_and_close():
        async with open_loopback_pair(loopback_kind):
            pass

    assert await cancel_everywhere(open_and_close) > 2


async def echo(stream):
    async for data in stream:
        await stream.send_all(data)


async def test_serving_serves_on_a_free_port_of_loopback():
    async with serving(echo) as server:
        assert server.addresses[0].host == ip_address("127.0.0.1")
        async with open_socket(server.addresses[0]) as client:
            await client.send_all(b"hello")
            assert await client.receive_some() == b"hello"


async def test_serving_elsewhere():
    async with serving(echo, ("127.0.0.2", 0)) as server:
        assert server.addresses[0].host == ip_address("127.0.0.2")


async def fail(stream):
    raise ValueError("the handler is broken")


async def test_serving_shows_what_the_handler_raises():
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="the handler is broken")):
        async with serving(fail) as server, open_socket(server.addresses[0]):
            await trio.sleep_forever()


async def test_serving_takes_other_arguments():
    told = []
    async with serving(fail, handler_errors=lambda exc, stream: told.append(exc)) as server:
        async with open_socket(server.addresses[0]) as client:
            assert await client.receive_some() == b""
    assert [type(exc) for exc in told] == [ValueError]


async def test_serving_waits_one_second_for_handlers(autojump_clock):
    async def hang(stream):
        await trio.sleep_forever()

    async with serving(hang) as server:
        async with open_socket(server.addresses[0]):
            await trio.testing.wait_all_tasks_blocked()
            start = trio.current_time()
    assert trio.current_time() - start == pytest.approx(1, abs=0.1)


PLAIN = """
import socket, sys
sys.modules.update({"pytest": None, "_pytest": None})  # as if it were not installed
import trio
from sockscope.testing import LeakError, cancel_everywhere
kept = []
async def leaks():
    kept.append(socket.socket())
try:
    trio.run(cancel_everywhere, leaks)
except LeakError:
    print("found")
"""


def test_works_without_pytest():
    command = [sys.executable, "-c", PLAIN]
    assert subprocess.run(command, stdout=subprocess.PIPE, timeout=60).stdout == b"found\n"


@pytest.mark.parametrize("has_ipv6", [True, False])
def test_a_kind_that_is_missing_is_skipped(pytester, monkeypatch, has_ipv6):
    class Without(socket.socket):
        def bind(self, address):
            if self.family == socket.AF_INET6 and not has_ipv6:
                raise OSError("no such address")

    monkeypatch.setattr(socket, "socket", Without)
    pytester.makeconftest("pytest_plugins = ['sockscope.testing']")
    pytester.makepyfile("def test(loopback_kind): pass")
    outcomes = pytester.runpytest_inprocess().parseoutcomes()
    assert outcomes == ({"passed": 3} if has_ipv6 else {"passed": 2, "skipped": 1})
