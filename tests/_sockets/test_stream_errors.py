"""No false end: the first fatal error of a stream is kept (promise 6)."""

from __future__ import annotations

import errno
import os
import socket

import pytest
import trio
import trio.testing

from sockscope import OptionError, SocketError, SocketOptions, StreamSocket, open_socket
from sockscope._options.defaults import NO_OPTIONS
from sockscope.testing import open_loopback_pair
from tests.wire import (
    break_by_peer,
    close_behind_its_back,
    fill,
    receive_all,
    receive_exactly,
    reset_on_close,
)


async def expect_broken(call, kind=OSError):
    with pytest.raises(trio.BrokenResourceError) as caught:
        await call()
    assert isinstance(caught.value.__cause__, kind)
    return caught.value.__cause__


@pytest.fixture(params=["ipv4", "ipv6"])
async def tcp_pair(request):
    async with open_loopback_pair(request.param) as pair:
        yield pair


class TestReset:
    async def test_receive_then_receive(self, tcp_pair):
        near, far = tcp_pair
        far.abort()
        first = await expect_broken(near.receive_some, ConnectionResetError)
        for _ in range(3):
            assert await expect_broken(near.receive_some) is first
            assert await expect_broken(lambda: near.receive(1)) is first
            assert await expect_broken(lambda: near.receive(1, wait_all=True)) is first
            assert await expect_broken(lambda: near.receive_into(bytearray(1))) is first
            assert await expect_broken(lambda: near.receive(1, peek=True)) is first
            assert await expect_broken(lambda: near.receive(1, dont_wait=True)) is first

    async def test_a_send_consumes_it_and_receiving_still_tells(self, tcp_pair):
        """The kernel forgets the error once a send has told it: then ``b""`` would follow."""
        near, far = tcp_pair
        far.abort()
        first = await expect_broken(lambda: near.send_all(b"x"), ConnectionResetError)
        for _ in range(3):
            assert await expect_broken(near.receive_some) is first
            assert await expect_broken(lambda: near.receive(1, peek=True)) is first
            assert await expect_broken(lambda: near.send_all(b"x")) is first

    async def test_while_it_waits(self, tcp_pair):
        near, far = tcp_pair
        for call in (
            lambda: near.receive(1, peek=True),
            lambda: near.receive_into(bytearray(1)),
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect_broken, call)
                await trio.testing.wait_all_tasks_blocked()
                far.abort()

    async def test_what_came_before_is_delivered_first(self, tcp_pair):
        near, far = tcp_pair
        await far.send_all(b"last words")
        far.abort()
        first = await expect_broken(lambda: near.send_all(b"x"), ConnectionResetError)
        assert await near.receive(4) == b"last"
        assert await near.receive(6, peek=True) == b" words"
        assert await near.receive_some() == b" words"
        assert await expect_broken(near.receive_some) is first

    async def test_what_came_before_fills_the_buffer_exactly(self, tcp_pair):
        near, far = tcp_pair
        await far.send_all(b"last words")
        far.abort()
        await expect_broken(lambda: near.send_all(b"x"))
        buffer = bytearray(10)
        assert await near.receive_into(buffer) == 10
        await expect_broken(lambda: near.receive_into(buffer))

    async def test_a_gathering_receive_gives_what_came_then_the_error(self, tcp_pair):
        near, far = tcp_pair
        await far.send_all(b"part")
        far.abort()
        assert await near.receive(10, wait_all=True, peek=True) == b"part"
        assert await near.receive(10, wait_all=True) == b"part"
        for _ in range(2):
            await expect_broken(lambda: near.receive(10, wait_all=True), ConnectionResetError)
        await expect_broken(near.receive_some, ConnectionResetError)

    async def test_async_for_raises(self, tcp_pair):
        near, far = tcp_pair
        await far.send_all(b"ab")
        far.abort()
        with pytest.raises(trio.BrokenResourceError):
            await receive_all(near)
        assert near.statistics().bytes_received == 2

    async def test_while_receiving(self, tcp_pair):
        near, far = tcp_pair
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_broken, near.receive_some, ConnectionResetError)
            await trio.testing.wait_all_tasks_blocked()
            far.abort()
        await expect_broken(near.receive_some)

    async def test_while_sending(self, tcp_pair):
        near, far = tcp_pair
        await fill(near)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_broken, lambda: near.send_all(b"x" * 100), OSError)
            await trio.testing.wait_all_tasks_blocked()
            far.abort()
        await expect_broken(near.receive_some)

    async def test_both_directions_at_once(self, tcp_pair):
        """One of the two waiters gets the kernel's error: the other must not see an end."""
        near, far = tcp_pair
        await fill(near)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_broken, near.receive_some)
            nursery.start_soon(expect_broken, lambda: near.send_all(b"x" * 100))
            await trio.testing.wait_all_tasks_blocked()
            far.abort()
        await expect_broken(near.receive_some)

    async def test_send_eof_tells_too(self, tcp_pair):
        near, far = tcp_pair
        far.abort()
        await expect_broken(near.send_eof)
        await expect_broken(near.receive_some)
        await near.aclose()

    async def test_closing_does_not(self, tcp_pair):
        near, far = tcp_pair
        far.abort()
        await near.aclose()


class TestEveryKind:
    async def test_a_send_that_fails_makes_the_end_no_clean_one(self, loopback_pair, loopback_kind):
        near, far = loopback_pair
        await far.send_all(b"before")
        await break_by_peer(near, far, loopback_kind)
        await expect_broken(lambda: near.send_all(b"x"))
        assert await near.receive_some() == b"before"
        first = await expect_broken(near.receive_some)
        assert await expect_broken(near.receive_some) is first

    async def test_unread_input_at_the_peer_is_an_error(self, loopback_pair):
        near, far = loopback_pair
        await near.send_all(b"unread")
        await far.aclose()
        await expect_broken(near.receive_some, ConnectionResetError)
        await expect_broken(near.receive_some, ConnectionResetError)

    async def test_a_clean_end_stays_clean_until_something_fails(self, loopback_pair):
        near, far = loopback_pair
        await far.aclose()
        assert await near.receive_some() == b""
        assert await near.receive_some() == b""

    async def test_the_message_names_the_step_and_the_peer(self, loopback_pair, loopback_kind):
        near, far = loopback_pair
        await break_by_peer(near, far, loopback_kind)
        with pytest.raises(trio.BrokenResourceError, match="receive") as caught:
            await near.receive_some()
        assert str(near.remote_address) in str(caught.value)


class TestTakeError:
    async def test_it_keeps_what_it_takes(self, tcp_pair):
        near, far = tcp_pair
        await far.send_all(b"before")
        far.abort()
        error = near.take_error()
        assert isinstance(error, ConnectionResetError)
        assert error.errno == errno.ECONNRESET
        assert await near.receive_some() == b"before"
        assert await expect_broken(near.receive_some) is error
        assert await expect_broken(lambda: near.send_all(b"x")) is error

    async def test_there_is_none(self, loopback_pair):
        near, _ = loopback_pair
        assert near.take_error() is None
        await near.send_all(b"x")

    async def test_it_wakes_no_false_end(self, tcp_pair):
        """The error is taken while another task is waiting."""
        near, far = tcp_pair
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_broken, near.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            far.abort()
            assert near.take_error() is not None

    async def test_a_second_one_gives_the_kernels_again(self, tcp_pair):
        near, far = tcp_pair
        far.abort()
        assert near.take_error() is not None
        assert near.take_error() is None
        await expect_broken(near.receive_some)

    async def test_options_and_statistics_do_not_take_it(self, tcp_pair):
        near, far = tcp_pair
        far.abort()
        near.get_option("nodelay")
        near.statistics()
        near.tcp_info()
        repr(near)
        assert near.is_open
        _ = near.is_connected
        error = near.take_error()
        assert error is not None
        assert error.errno == errno.ECONNRESET


class TestCallersFaults:
    async def test_an_unsupported_flag_breaks_nothing(self):
        async with open_loopback_pair("local") as (near, far):
            # Linux knows no MSG_DONTROUTE there on some kernels: then it is told as it is.
            try:
                await near.send(b"x", dont_route=True)
            except SocketError:
                await near.send(b"x")
            assert await far.receive_some() == b"x"

    async def test_a_descriptor_closed_behind_our_back_is_loud(self):
        """By os.close: not what a stream closed by us says, for the number may be reused."""
        left, right = socket.socketpair()
        stream = StreamSocket(left, NO_OPTIONS, peer="")
        left.setblocking(False)
        os.close(left.fileno())
        with pytest.raises(SocketError, match="receive") as caught:
            await stream.receive_some()
        assert caught.value.errno == errno.EBADF
        with pytest.raises(SocketError, match="send"):
            await stream.send_all(b"x")
        left.detach()
        right.close()

    async def test_not_connected_yet(self):
        async with open_socket(family="internet") as stream:
            for call in (
                stream.receive_some,
                lambda: stream.send_all(b"x"),
                lambda: stream.send(b"x"),
                stream.send_eof,
            ):
                with pytest.raises(OSError, match=r"connect\(\) first"):
                    await call()
            assert stream.is_open


class TestAPeerOfTheStandardLibrary:
    async def test_reset_while_the_error_is_taken_by_a_send(self, loopback_kind):
        if loopback_kind == "local":
            pytest.skip("a local socket has no resets")
        family = socket.AF_INET if loopback_kind == "ipv4" else socket.AF_INET6
        with socket.create_server((_host(loopback_kind), 0), family=family) as server:
            async with open_socket(server.getsockname()[:2]) as near:
                peer, _ = server.accept()
                peer.send(b"before")
                reset_on_close(peer)
                peer.close()
                await expect_broken(lambda: near.send_all(b"x"))
                assert await receive_exactly(near, 6) == b"before"
                await expect_broken(near.receive_some, ConnectionResetError)


def _host(kind):
    return {"ipv4": "127.0.0.1", "ipv6": "::1"}[kind]


class TestTheWaitItself:
    """A wait that fails is an error, for a hang is worse."""

    @pytest.mark.parametrize("wait", ["receive_some", "wait_send_all_might_not_block"])
    async def test_it_fails(self, tcp_pair, wait):
        near, _ = tcp_pair
        # A descriptor that epoll does not take: what epoll_ctl's other errors look like, too.
        assert near.socket.fileno() == near.fileno()
        near._readable = False
        close_behind_its_back(near.fileno())
        with pytest.raises(trio.BrokenResourceError, match="cannot wait") as caught:
            await getattr(near, wait)()
        assert isinstance(caught.value.__cause__, PermissionError)


async def test_a_stream_without_a_peer_names_itself():
    async with open_socket(family="internet") as stream:
        assert "0.0.0.0:0" in repr(stream)


async def test_an_option_that_fails_once_it_is_connected_closes_it(loopback_listener):
    """As it would have when the socket was made with its remote."""
    if loopback_listener.address.family == socket.AF_UNIX:
        pytest.skip("it is an option of TCP")
    options = SocketOptions(upper_layer="nonsense")
    family = {"ipv6": loopback_listener.address.family == socket.AF_INET6}
    async with open_socket(family="internet", options=options, **family) as stream:
        with pytest.raises(OptionError):
            await stream.connect(loopback_listener.address)
        assert not stream.is_open
