"""Receiving: sizes and flags, inactivity timers, and what a cancelled receive leaves."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from sockscope import ReceiveTimeoutError, SocketOptions, SocketTimeoutError, open_socket
from sockscope.testing import open_loopback_pair
from tests.wire import open_pair, receive_all, receive_exactly


class TestSizes:
    @pytest.mark.parametrize("method", ["receive_some", "receive"])
    @pytest.mark.parametrize("size", [0, -1])
    async def test_too_small(self, method, size):
        async with open_loopback_pair() as (near, _):
            with pytest.raises(ValueError, match="at least 1"):
                await getattr(near, method)(size)

    @pytest.mark.parametrize("method", ["receive_some", "receive"])
    @pytest.mark.parametrize("size", ["1", 1.5, True])
    async def test_no_number(self, method, size):
        async with open_loopback_pair() as (near, _):
            with pytest.raises(TypeError):
                await getattr(near, method)(size)

    async def test_none_is_a_size_that_suits(self, loopback_pair):
        near, far = loopback_pair
        await near.send_all(b"abc")
        assert await far.receive_some(None) == b"abc"

    async def test_at_most_so_many(self, loopback_pair):
        near, far = loopback_pair
        await near.send_all(b"abcdef")
        assert await far.receive_some(2) == b"ab"
        assert await far.receive(3) == b"cde"
        assert await far.receive_some(9) == b"f"

    async def test_exactly_as_many_as_there_are(self, loopback_pair):
        """A full receive says nothing about what is left: the next one must still wait."""
        near, far = loopback_pair
        await near.send_all(b"abc")
        assert await far.receive_some(3) == b"abc"
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def later():
                await trio.testing.wait_all_tasks_blocked()
                await near.send_all(b"d")

            assert await far.receive_some(3) == b"d"

    async def test_every_byte_of_many_sizes(self, loopback_pair):
        near, far = loopback_pair
        pieces = [bytes([n % 256]) * n for n in (1, 16384, 3, 16385, 65536, 7, 200_000, 1)]
        got = b""
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send():
                for piece in pieces:
                    await near.send_all(piece)
                await near.send_eof()

            got = await receive_all(far)
        assert got == b"".join(pieces)


class TestFlags:
    async def test_peek_leaves_the_bytes(self, loopback_pair):
        near, far = loopback_pair
        await near.send_all(b"abc")
        assert await far.receive(2, peek=True) == b"ab"
        assert await far.receive(8, peek=True) == b"abc"
        assert await far.receive(8) == b"abc"

    async def test_peek_waits(self, loopback_pair):
        near, far = loopback_pair
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def later():
                await trio.testing.wait_all_tasks_blocked()
                await near.send_all(b"abc")

            assert await far.receive(8, peek=True) == b"abc"

    async def test_peek_sees_the_end(self, loopback_pair):
        near, far = loopback_pair
        await near.send_eof()
        assert await far.receive(8, peek=True) == b""

    async def test_wait_all_gathers(self, loopback_pair):
        near, far = loopback_pair
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def drip():
                for n in range(10):
                    await near.send_all(b"%d" % n)
                    await trio.testing.wait_all_tasks_blocked()

            assert await far.receive(10, wait_all=True) == b"0123456789"

    async def test_wait_all_takes_no_more(self, loopback_pair):
        near, far = loopback_pair
        await near.send_all(b"abcdef")
        assert await far.receive(4, wait_all=True) == b"abcd"
        assert await far.receive_some() == b"ef"

    async def test_wait_all_at_the_end_of_the_stream(self, loopback_pair):
        near, far = loopback_pair
        await near.send_all(b"abc")
        await near.send_eof()
        assert await far.receive(10, wait_all=True) == b"abc"
        assert await far.receive(10, wait_all=True) == b""

    async def test_wait_all_larger_than_the_kernel_holds(self, loopback_pair):
        near, far = loopback_pair
        size = 5_000_000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, b"x" * size)
            assert len(await far.receive(size, wait_all=True)) == size

    async def test_wait_all_and_peek(self, loopback_pair):
        """The kernel would spin here: poll says readable, and the rest has not come."""
        near, far = loopback_pair
        await near.send_all(b"ab")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def later():
                await trio.testing.wait_all_tasks_blocked()
                await near.send_all(b"cdef")

            assert await far.receive(4, wait_all=True, peek=True) == b"abcd"
        assert await far.receive(2, peek=True) == b"ab"
        assert await receive_exactly(far, 6) == b"abcdef"

    async def test_a_cancelled_wait_all_loses_nothing(self, loopback_pair):
        near, far = loopback_pair
        await near.send_all(b"abc")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: far.receive(10, wait_all=True))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        await near.send_all(b"def")
        buffer = bytearray(2)
        assert await far.receive_into(buffer) == 2
        assert buffer == b"ab"
        assert await far.receive(1, peek=True) == b"c"
        assert await receive_exactly(far, 4) == b"cdef"

    async def test_what_a_cancelled_wait_all_gathered_is_there_at_once(self, loopback_pair):
        near, far = loopback_pair
        await near.send_all(b"abc")
        with trio.move_on_after(0.01):
            await far.receive(10, wait_all=True)
        assert await far.receive(10, dont_wait=True) == b"abc"
        with pytest.raises(trio.WouldBlock):
            await far.receive(10, dont_wait=True)

    async def test_dont_wait(self, loopback_pair):
        near, far = loopback_pair
        with pytest.raises(trio.WouldBlock):
            await far.receive(5, dont_wait=True)
        with pytest.raises(trio.WouldBlock):
            await far.receive(5, dont_wait=True, peek=True)
        await near.send_all(b"abc")
        assert await far.receive(5, dont_wait=True, peek=True) == b"abc"
        assert await far.receive(5, dont_wait=True) == b"abc"
        with pytest.raises(trio.WouldBlock):
            await far.receive(5, dont_wait=True)
        await near.send_eof()
        assert await far.receive(5, dont_wait=True) == b""

    async def test_dont_wait_for_all(self, loopback_pair):
        near, far = loopback_pair
        await near.send_all(b"abc")
        with pytest.raises(trio.WouldBlock):
            await far.receive(5, wait_all=True, dont_wait=True)
        await near.send_all(b"de")
        assert await far.receive(5, wait_all=True, dont_wait=True) == b"abcde"

    async def test_dont_wait_when_it_is_closed(self, loopback_pair):
        near, _ = loopback_pair
        await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await near.receive(5, dont_wait=True)

    async def test_what_arrived_is_delivered_under_a_low_water_mark(self):
        """Poll is silent below the mark: try first, always."""
        options = SocketOptions(receive_low_water=10)
        async with open_pair("ipv4", child=options) as (near, far):
            await near.send_all(b"12345")
            assert await far.receive_some() == b"12345"
            await near.send_all(b"67890")
            assert await far.receive_some() == b"67890"

    async def test_a_receive_through_its_socket_is_seen(self, loopback_pair):
        near, far = loopback_pair
        await near.send_all(b"abcdef")
        assert await far.socket.recv(3) == b"abc"
        assert await far.receive_some() == b"def"
        await near.send_all(b"ghi")
        assert await far.socket.recv(9) == b"ghi"
        with pytest.raises(trio.WouldBlock):
            await far.receive(1, dont_wait=True)


class TestShutdownForReading:
    async def test_it_ends_the_stream_on_this_side(self, loopback_pair):
        _, far = loopback_pair
        far.shutdown(read=True)
        assert await far.receive_some() == b""

    async def test_it_wakes_who_waits(self, loopback_pair):
        _, far = loopback_pair
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait():
                assert await far.receive_some() == b""

            await trio.testing.wait_all_tasks_blocked()
            far.shutdown(read=True)


class TestInactivityTimer:
    RECEIVES = {
        "receive_some": lambda s: s.receive_some(),
        "receive": lambda s: s.receive(4),
        "receive_into": lambda s: s.receive_into(bytearray(4)),
        "receive_all": lambda s: s.receive(4, wait_all=True),
        "peek": lambda s: s.receive(4, peek=True),
    }

    @pytest.mark.parametrize("receive", RECEIVES)
    async def test_it_expires(self, receive, loopback_pair, autojump_clock):
        _, far = loopback_pair
        far.receive_timeout = 7.0
        began = trio.current_time()
        with pytest.raises(ReceiveTimeoutError) as caught:
            await self.RECEIVES[receive](far)
        assert trio.current_time() - began == pytest.approx(7.0)
        assert isinstance(caught.value, (TimeoutError, trio.TooSlowError, SocketTimeoutError))
        assert "7" in str(caught.value)

    @pytest.mark.parametrize("receive", RECEIVES)
    async def test_the_stream_lives_on(self, receive, loopback_pair, autojump_clock):
        near, far = loopback_pair
        far.receive_timeout = 7.0
        with pytest.raises(ReceiveTimeoutError):
            await self.RECEIVES[receive](far)
        await near.send_all(b"abcd")
        assert await far.receive(4, wait_all=True) == b"abcd"

    async def test_each_byte_starts_it_anew(self, loopback_pair, autojump_clock):
        near, far = loopback_pair
        far.receive_timeout = 7.0
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def drip():
                for _ in range(10):
                    await trio.sleep(6)
                    await near.send_all(b"x")

            assert await far.receive(10, wait_all=True) == b"x" * 10
            assert trio.current_time() >= 60
        far.receive_timeout = None

    async def test_what_came_before_it_expired_is_kept(self, loopback_pair, autojump_clock):
        near, far = loopback_pair
        far.receive_timeout = 7.0
        await near.send_all(b"ab")
        with pytest.raises(ReceiveTimeoutError):
            await far.receive(4, wait_all=True)
        assert await far.receive_some() == b"ab"

    async def test_as_an_option(self, loopback_listener, autojump_clock):
        options = SocketOptions(receive_timeout=3, send_timeout=4)
        async with open_socket(loopback_listener.address, options=options) as near:
            assert (near.receive_timeout, near.send_timeout) == (3, 4)
            assert near.get_option("receive_timeout") == 3
            with pytest.raises(ReceiveTimeoutError):
                await near.receive_some()
            near.set_option("receive_timeout", 5.0)
            assert near.receive_timeout == 5
            began = trio.current_time()
            with pytest.raises(ReceiveTimeoutError):
                await near.receive_some()
            assert trio.current_time() - began == pytest.approx(5)

    async def test_as_an_option_of_a_child(self, autojump_clock):
        options = SocketOptions(receive_timeout=3)
        async with open_pair("ipv4", child=options) as (_, far):
            with pytest.raises(ReceiveTimeoutError):
                await far.receive_some()

    async def test_it_never_reaches_the_kernel(self):
        import socket

        options = SocketOptions(receive_timeout=3, send_timeout=3)
        async with open_pair("ipv4", client=options) as (near, _):
            near.receive_timeout = 4
            for name in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                assert not any(near.socket.getsockopt(socket.SOL_SOCKET, name, 16))

    @pytest.mark.parametrize("none", [None, math.inf])
    async def test_none_again(self, loopback_pair, none, autojump_clock):
        near, far = loopback_pair
        far.receive_timeout = 1
        far.receive_timeout = none
        assert far.receive_timeout is None
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def later():
                await trio.sleep(1000)
                await near.send_all(b"x")

            assert await far.receive_some() == b"x"

    @pytest.mark.parametrize("bad", [-1, math.nan])
    async def test_no_such_time(self, bad):
        async with open_loopback_pair() as (near, _):
            near.receive_timeout = 5
            with pytest.raises(ValueError):
                near.receive_timeout = bad
            with pytest.raises(ValueError):
                near.send_timeout = bad
            assert near.receive_timeout == 5

    async def test_dont_wait_does_not_wait_for_it(self, loopback_pair):
        _, far = loopback_pair
        far.receive_timeout = 1000
        with pytest.raises(trio.WouldBlock):
            await far.receive(1, dont_wait=True)

    async def test_zero_takes_only_what_is_there(self, loopback_pair):
        near, far = loopback_pair
        far.receive_timeout = 0
        with pytest.raises(ReceiveTimeoutError):
            await far.receive_some()
        await near.send_all(b"x")
        assert await far.receive_some() == b"x"
        with pytest.raises(ReceiveTimeoutError):
            await far.receive_some()
