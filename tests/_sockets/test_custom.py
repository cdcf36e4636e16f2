"""Streams over sockets of a custom factory: no descriptor, only Trio's socket methods."""

from __future__ import annotations

import errno
import math
import socket
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing

from sockscope import (
    AcceptTimeoutError,
    ConnectError,
    ReceiveTimeoutError,
    SendTimeoutError,
    SocketError,
    SocketOptions,
    accept_connection,
    make_socket,
    open_socket,
    serve_passive,
)
from tests.custom_network import Network

ADDRESS = ("192.0.2.1", 80)


@pytest.fixture
async def network():
    """A network in memory, below everything in this Trio run."""
    network = Network()
    trio.socket.set_custom_socket_factory(network)
    yield network
    assert not network.open


@pytest.fixture
async def pair(network):
    async with open_socket(connect="passive", local=ADDRESS) as passive:
        async with open_socket(ADDRESS) as near, await passive.accept() as far:
            yield near, far


class TestStreams:
    async def test_check_half_closeable_stream(self, network):
        async with AsyncExitStack() as stack:
            passive = await stack.enter_async_context(open_socket(connect="passive", local=ADDRESS))

            async def make():
                near = await stack.enter_async_context(open_socket(ADDRESS))
                far = await stack.enter_async_context(await passive.accept())
                return near, far

            await trio.testing.check_half_closeable_stream(make, None)

    async def test_what_they_tell(self, pair):
        near, far = pair
        assert near.remote_address == far.local_address
        assert near.is_open
        assert near.is_connected
        assert (near.accepted, far.accepted) == (False, True)
        assert isinstance(near.socket, trio.socket.SocketType)

    async def test_flags(self, pair):
        near, far = pair
        await near.send_all(b"abcdef")
        assert await far.receive(2, peek=True) == b"ab"
        assert await far.receive(3, wait_all=True) == b"abc"
        assert await far.receive(3, wait_all=True) == b"def"
        with pytest.raises(trio.WouldBlock):
            await far.receive(1, dont_wait=True)
        buffer = bytearray(4)
        assert await near.send(b"gh") == 2
        assert await far.receive_into(buffer) == 2
        assert buffer[:2] == b"gh"

    async def test_peeked_bytes_are_there_for_the_next(self, pair):
        near, far = pair
        await near.send_all(b"ab")
        assert await far.receive(5, peek=True) == b"ab"
        assert await far.receive_some(1) == b"a"
        with trio.testing.assert_checkpoints():
            assert await far.receive_some() == b"b"

    async def test_dont_wait_for_room(self, pair):
        near, far = pair
        assert [await near.send(b"x" * 100, dont_wait=True) for _ in range(3)] == [100, 100, 56]
        with pytest.raises(trio.WouldBlock):
            await near.send(b"x", dont_wait=True)
        assert len(await far.receive(500, dont_wait=True)) == 256

    async def test_wait_send_all_might_not_block(self, pair):
        near, _ = pair
        await near.wait_send_all_might_not_block()

    async def test_timers(self, pair, autojump_clock):
        near, far = pair
        far.receive_timeout = 5
        with pytest.raises(ReceiveTimeoutError):
            await far.receive_some()
        near.send_timeout = 5
        with pytest.raises(SendTimeoutError) as caught:
            await near.send_all(b"x" * 1000)
        assert caught.value.sent == near.statistics().bytes_sent == 256

    async def test_a_reset_is_kept(self, pair, network):
        near, far = pair
        await far.send_all(b"before")
        network.reset(near)
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError):
                await near.send_all(b"x")
        assert await near.receive_some() == b"before"
        # The network says so once, and then that it is the end.
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError):
                await near.receive_some()

    async def test_busy(self, pair):
        near, far = pair
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.receive_some)
            nursery.start_soon(near.send_all, b"x" * 1000)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await near.receive_some()
            with pytest.raises(trio.BusyResourceError):
                await near.send_all(b"x")
            await far.send_all(b"x")
            nursery.cancel_scope.cancel()

    async def test_closed(self, pair):
        near, _ = pair
        await near.aclose()
        await near.aclose()
        near.abort()
        assert not near.is_open
        for call in (
            near.receive_some,
            lambda: near.send_all(b"x"),
            lambda: near.send_all(b""),
            near.send_eof,
        ):
            with pytest.raises(trio.ClosedResourceError):
                await call()

    async def test_closing_that_fails(self, pair, network):
        near, _ = pair
        network.fail_close = True
        await near.aclose()
        network.fail_close = False
        assert not near.is_open

    async def test_aborting(self, pair):
        near, far = pair
        near.abort()
        assert not near.is_open
        assert await far.receive_some() == b""

    async def test_nothing_is_out_of_band(self, pair):
        near, _ = pair
        for arguments in ({}, {"peek": True}, {"dont_wait": True}):
            with pytest.raises(SocketError) as caught:
                await near.receive(1, out_of_band=True, **arguments)
            assert caught.value.errno == errno.EOPNOTSUPP

    async def test_a_reset_is_found_by_every_way_to_receive(self, pair, network):
        near, _ = pair
        near.socket.error = errno.ECONNRESET
        with pytest.raises(trio.BrokenResourceError) as caught:
            await near.receive(1, peek=True)
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_into(bytearray(1))

    async def test_one_that_cannot_tell_its_name_is_not_bound(self, pair, monkeypatch):
        near, _ = pair
        assert near.is_bound

        def getsockname():
            raise OSError(errno.ENOBUFS, "no buffers")

        monkeypatch.setattr(near.socket, "getsockname", getsockname)
        assert not near.is_bound

    async def test_one_that_refuses_to_be_reset_is_closed_all_the_same(self, pair, network):
        near, _ = pair
        network.refuse_options = True
        near.abort()
        assert not near.is_open


async def test_a_factory_of_trios_own_sockets(loopback_listener):
    """Such a factory changes what it gives out, and the rest is as without one."""

    class Factory(trio.abc.SocketFactory):
        made = 0

        def socket(self, *arguments):
            self.made += 1
            plain = socket.socket(*arguments)
            return trio.socket.from_stdlib_socket(plain)

    factory = Factory()
    trio.socket.set_custom_socket_factory(factory)
    async with open_socket(loopback_listener.address) as near:
        async with await loopback_listener.accept() as far:
            await near.send_all(b"x")
            assert await far.receive_some() == b"x"
            assert near.fileno() >= 0
    assert factory.made == 1


class TestPassive:
    async def test_timeouts(self, network, autojump_clock):
        async with open_socket(connect="passive", local=ADDRESS) as passive:
            with pytest.raises(AcceptTimeoutError):
                await passive.accept(timeout=5)
            with pytest.raises(trio.WouldBlock):
                passive.accept_nowait()
            with pytest.raises(ValueError):
                await passive.accept(timeout=-1)

    async def test_busy_and_closed(self, network):
        async with open_socket(connect="passive", local=ADDRESS) as passive:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def accept():
                    with pytest.raises(trio.ClosedResourceError):
                        await passive.accept()

                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await passive.accept()
                await passive.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await passive.accept()

    async def test_options_that_fail_cost_the_child(self, network):
        async with open_socket(connect="passive", local=ADDRESS) as passive:
            async with open_socket(ADDRESS):
                network.refuse_options = True
                with pytest.raises(OSError, match="keepalive"):
                    await passive.accept(options=SocketOptions(keepalive=True))
                network.refuse_options = False

    async def test_an_error_of_accept(self, network):
        async with open_socket(connect="passive", local=ADDRESS) as passive:
            network.fail_accept = True
            with pytest.raises(OSError, match="accept on"):
                await passive.accept()


class TestOpening:
    async def test_refused(self, network):
        with pytest.raises(ConnectError) as caught:
            await make_socket(ADDRESS)
        assert isinstance(caught.value, ConnectionRefusedError)

    async def test_bound_first(self, network):
        async with open_socket(connect="passive", local=ADDRESS) as passive:
            async with open_socket(ADDRESS, local=("192.0.2.9", 99)), await passive.accept() as far:
                assert far.remote_address.port == 99

    async def test_configure(self, network):
        seen = []
        async with open_socket(
            connect="passive", local=ADDRESS, configure=lambda *args: seen.append(args)
        ) as passive:
            pass
        [(sock, context)] = seen
        assert sock is passive.socket
        assert context.role == "passive"


class TestServing:
    async def test_a_server(self, network):
        async def echo(stream):
            async for data in stream:
                await stream.send_all(data)

        async with serve_passive(ADDRESS, echo) as server:
            async with open_socket(ADDRESS) as stream:
                await stream.send_all(b"ping")
                assert await stream.receive_some() == b"ping"
        assert server.statistics().finished == 1

    async def test_accept_connection(self, network):
        async with serve_passive(ADDRESS) as server, trio.open_nursery() as nursery:
            nursery.start_soon(make_and_close)
            async with accept_connection(server, timeout=math.inf) as stream:
                assert await stream.receive_some() == b"x"


async def make_and_close():
    async with open_socket(ADDRESS) as stream:
        await stream.send_all(b"x")


def test_the_network_is_no_real_one():
    assert not issubclass(type(Network().socket()), socket.socket)
