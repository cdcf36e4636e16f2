"""`StreamSocket.connect`: a stream that was made without a remote."""

from __future__ import annotations

import errno
import os
import socket
import sys

import pytest
import trio
import trio.testing

from sockscope import (
    ConnectError,
    ConnectTimeoutError,
    LocalAddress,
    NameNotFoundError,
    SocketError,
    SocketOptions,
    make_socket,
    open_socket,
)
from sockscope._sockets import connecting
from sockscope.testing import ScriptedResolver, cancel_everywhere, open_loopback_listener


def bare(kind, **arguments):
    """A stream of *kind* without a remote."""
    if kind == "local":
        return open_socket(family="local", **arguments)
    return open_socket(family="internet", ipv6=kind == "ipv6", **arguments)


async def test_connect(loopback_listener, loopback_kind):
    async with bare(loopback_kind) as stream:
        with trio.testing.assert_checkpoints():
            await stream.connect(loopback_listener.address)
        assert stream.remote_address == loopback_listener.address
        assert stream.is_connected
        assert not stream.accepted
        async with await loopback_listener.accept() as child:
            await stream.send_all(b"x")
            assert await child.receive_some() == b"x"
            await child.send_all(b"y")
            assert await stream.receive_some() == b"y"


async def test_options_and_source_are_in_place_before(loopback_listener, loopback_kind):
    if loopback_kind == "local":
        pytest.skip("a local socket has no port to bind")
    host = str(loopback_listener.address.host)
    options = SocketOptions(keepalive=True)
    async with open_socket(local=(host, 0), options=options) as stream:
        assert stream.is_bound
        port = stream.local_address.port
        assert stream.get_option("keepalive")
        await stream.connect(loopback_listener.address)
        async with await loopback_listener.accept() as child:
            assert child.remote_address.port == port


async def test_a_name(loopback_listener, loopback_kind):
    if loopback_kind == "local":
        pytest.skip("internet addresses only")
    with ScriptedResolver({"both.test": ["127.0.0.1", "::1"]}):
        async with bare(loopback_kind) as stream:
            await stream.connect(("both.test", loopback_listener.port))
            assert stream.remote_address == loopback_listener.address


async def test_an_unknown_name_leaves_it_as_it_was(loopback_listener, loopback_kind):
    with ScriptedResolver({}):
        async with bare(loopback_kind) as stream:
            with pytest.raises(NameNotFoundError, match=r"none\.test"):
                await stream.connect(("none.test", 1))
            await stream.connect(loopback_listener.address)


async def test_a_look_up_that_takes_too_long(autojump_clock):
    with ScriptedResolver({"slow.test": ["127.0.0.1"]}, delays={"slow.test": 60}):
        async with bare("ipv4") as stream:
            with pytest.raises(ConnectTimeoutError, match=r"slow\.test"):
                await stream.connect(("slow.test", 1), timeout=5)
            assert stream.is_open


async def test_refused(loopback_listener, loopback_kind):
    address = loopback_listener.address
    await loopback_listener.aclose()
    if loopback_kind == "local":
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(address.path)
    async with bare(loopback_kind) as stream:
        with pytest.raises(ConnectError, match="connect to") as caught:
            await stream.connect(address)
        assert isinstance(caught.value, ConnectionRefusedError)
        assert str(address) in str(caught.value)
        [error] = caught.value.exceptions
        assert isinstance(error.__cause__, ConnectionRefusedError)
        assert not stream.is_open  # a socket that was refused once is of no further use
        with pytest.raises(trio.ClosedResourceError):
            await stream.connect(address)
    if loopback_kind == "local":
        os.unlink(address.path)


async def test_a_second_time(loopback_pair, loopback_listener):
    near, far = loopback_pair
    for stream in near, far:
        with pytest.raises(SocketError, match="connected already") as caught:
            await stream.connect(loopback_listener.address)
        assert caught.value.errno == errno.EISCONN
        assert stream.is_open
    await near.send_all(b"x")
    assert await far.receive_some() == b"x"


@pytest.mark.parametrize("address", ["unix:/nowhere", "[::1]:1", LocalAddress.abstract("x")])
async def test_another_family(address):
    async with open_socket(family="internet", ipv6=False) as stream:
        with pytest.raises(SocketError, match="family") as caught:
            await stream.connect(address)
        assert caught.value.errno == errno.EAFNOSUPPORT
        assert stream.is_open


@pytest.mark.parametrize("bad", [5, None, ("127.0.0.1", 70000), "no port"])
async def test_no_address(bad):
    async with open_socket(family="internet") as stream:
        with pytest.raises((TypeError, ValueError)):
            await stream.connect(bad)
        assert stream.is_open


@pytest.mark.parametrize("kind", ["ipv4", "ipv6", "local"])
async def test_a_full_queue_times_out(kind, autojump_clock):
    """On TCP nobody answers; on a local socket connect(2) says EAGAIN: wait by the clock."""
    async with open_full_listener(kind) as (address, _):
        async with bare(kind) as stream:
            with pytest.raises(ConnectTimeoutError) as caught:
                await stream.connect(address, timeout=5)
            assert str(address) in str(caught.value)
            assert not stream.is_open
            assert trio.current_time() == pytest.approx(5, abs=0.1)


async def test_a_full_local_queue_is_waited_for():
    async with open_full_listener("local") as (address, listener):
        async with bare("local") as stream, trio.open_nursery() as nursery:
            nursery.start_soon(stream.connect, address)
            await trio.testing.wait_all_tasks_blocked()
            assert not stream.is_connected
            peer, _ = listener.accept()
            peer.close()


async def test_two_tasks():
    async with open_full_listener("ipv4") as (address, _):
        async with bare("ipv4") as stream, trio.open_nursery() as nursery:
            nursery.start_soon(stream.connect, address)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await stream.connect(address)
            assert stream.is_open
            nursery.cancel_scope.cancel()
        assert not stream.is_open


@pytest.mark.parametrize("kind", ["ipv4", "local"])
async def test_closed_while_it_connects(kind):
    async with open_full_listener(kind) as (address, _):
        async with bare(kind) as stream, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def connect():
                with pytest.raises(trio.ClosedResourceError):
                    await stream.connect(address)

            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()


@pytest.mark.parametrize("timeout", [-1, float("nan")])
async def test_a_timeout_that_is_none(timeout):
    async with open_socket(family="internet") as stream:
        with pytest.raises(ValueError, match="timeout"):
            await stream.connect(("127.0.0.1", 1), timeout=timeout)
        assert stream.is_open


async def test_cancelled_at_every_step(loopback_listener, loopback_kind):
    async def connect():
        async with bare(loopback_kind) as stream:
            await stream.connect(loopback_listener.address)
            loopback_listener.accept_nowait().abort()

    await cancel_everywhere(connect)


async def test_in_a_scope_that_is_cancelled_already_it_has_done_nothing(
    loopback_listener, loopback_kind
):
    async with bare(loopback_kind) as stream:
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.connect(loopback_listener.address)
        assert scope.cancelled_caught
        assert stream.is_open
        assert stream.remote_address is None
        await stream.connect(loopback_listener.address)
        assert stream.is_connected


async def test_no_port_left_is_told_as_that(monkeypatch):
    """EAGAIN on an internet socket: never an unconnected stream, as waiting would give."""
    monkeypatch.setattr(socket.socket, "connect_ex", lambda sock, address: errno.EAGAIN)
    async with open_socket(family="internet") as stream:
        with pytest.raises(ConnectError, match="no local port") as caught:
            await stream.connect(("127.0.0.1", 1))
        assert caught.value.errno == errno.EAGAIN


async def test_the_pauses_grow_and_are_bounded(monkeypatch, autojump_clock):
    pauses = []
    sleep = trio.sleep

    async def note(seconds):
        pauses.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(connecting.trio, "sleep", note)
    async with open_full_listener("local") as (address, _), bare("local") as stream:
        with pytest.raises(ConnectTimeoutError):
            await stream.connect(address, timeout=5)
    assert pauses[0] <= 0.001
    assert max(pauses) <= 0.05
    assert len(pauses) < 250


class open_full_listener:
    """A listener whose queue is full: its address, and the standard library's socket."""

    def __init__(self, kind):
        self.kind = kind

    async def __aenter__(self):
        self.passive = open_loopback_listener(self.kind)
        listener = await self.passive.__aenter__()
        listener.socket.listen(0)
        self.clients = []
        family = listener.socket.family
        for _ in range(2):
            client = socket.socket(family)
            client.setblocking(False)
            client.connect_ex(listener.address.sockaddr)
            self.clients.append(client)
        return listener.address, listener._sock

    async def __aexit__(self, *exc_info):
        for client in self.clients:
            client.close()
        await self.passive.__aexit__(*exc_info)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is not asked a second time")
async def test_to_this_machine_it_does_not_wait(monkeypatch, loopback_kind):
    """Nor where it is refused: the handshake is over when connect(2) returns."""

    async def never(sock):
        raise AssertionError("it waits")

    monkeypatch.setattr(trio.lowlevel, "wait_writable", never)
    async with open_loopback_listener(loopback_kind) as listener:
        address = listener.address
        async with open_socket(address):
            pass
    with pytest.raises(ConnectError) as caught:
        await make_socket(address)
    assert caught.value.errno in (errno.ECONNREFUSED, errno.ENOENT)
