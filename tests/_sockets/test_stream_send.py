"""Sending: flags, inactivity timers, ends of one direction."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from sockscope import SendTimeoutError, SocketOptions, TcpInfo, open_socket
from sockscope.testing import open_loopback_pair
from tests.wire import fill, open_pair, receive_all, receive_exactly


class TestSend:
    async def test_nothing(self, loopback_pair):
        near, far = loopback_pair
        with trio.testing.assert_checkpoints():
            await near.send_all(b"")
        assert await near.send(b"") == 0
        await near.send_eof()
        assert await far.receive_some() == b""

    async def test_nothing_on_a_closed_stream(self, loopback_pair):
        near, _ = loopback_pair
        await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await near.send_all(b"")

    async def test_part_of_it(self, loopback_pair):
        near, far = loopback_pair
        data = bytes(range(256)) * 400_000
        sent = await near.send(data)
        assert 0 < sent < len(data)
        assert await receive_exactly(far, sent) == data[:sent]

    async def test_dont_wait(self, loopback_pair):
        near, far = loopback_pair
        assert await near.send(b"ab", dont_wait=True) == 2
        queued = 2 + await fill(near)
        with pytest.raises(trio.WouldBlock):
            await near.send(b"x", dont_wait=True)
        assert near.statistics().bytes_sent == queued
        assert len(await receive_exactly(far, queued)) == queued

    async def test_it_waits_for_room(self, loopback_pair):
        near, far = loopback_pair
        queued = await fill(near)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send():
                assert await near.send(b"abc") > 0

            await trio.testing.wait_all_tasks_blocked()
            await receive_exactly(far, queued)

    async def test_wait_send_all_might_not_block(self, loopback_pair):
        near, far = loopback_pair
        await near.wait_send_all_might_not_block()
        queued = await fill(near)
        async with trio.open_nursery() as nursery:
            woken = []

            @nursery.start_soon
            async def wait():
                await near.wait_send_all_might_not_block()
                woken.append(True)

            await trio.testing.wait_all_tasks_blocked()
            assert not woken
            await receive_exactly(far, queued)

    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_more_to_come_is_held_back(self, kind):
        async with open_loopback_pair(kind) as (near, far):
            assert await near.send(b"head", more=True) == 4
            await near.send_all(b"body")
            assert await receive_exactly(far, 8) == b"headbody"
            info = near.tcp_info()
            assert isinstance(info, TcpInfo)
            # Both in one segment: that was the point of it.
            assert info.data_segs_out == 1

    async def test_dont_route(self):
        async with open_loopback_pair() as (near, far):
            assert await near.send(b"near by", dont_route=True) == 7
            assert await far.receive_some() == b"near by"


class TestOneEnd:
    async def test_shutdown_of_what(self, loopback_pair):
        near, _ = loopback_pair
        with pytest.raises(ValueError, match=r"read=True.*write=True"):
            near.shutdown()

    async def test_shutdown_for_writing_is_send_eof(self, loopback_pair):
        near, far = loopback_pair
        near.shutdown(write=True)
        near.shutdown(write=True)
        await near.send_eof()
        assert await far.receive_some() == b""
        with pytest.raises(trio.ClosedResourceError):
            await near.send_all(b"x")
        await far.send_all(b"back")
        assert await near.receive_some() == b"back"

    async def test_shutdown_both_ways_leaves_it_open(self, loopback_pair):
        near, far = loopback_pair
        near.shutdown(read=True, write=True)
        assert near.is_open
        assert await near.receive_some() == b""
        assert await far.receive_some() == b""

    async def test_shutdown_after_the_peer_has_gone(self, loopback_pair):
        near, far = loopback_pair
        await far.aclose()
        await near.receive_some()
        try:
            near.shutdown(read=True, write=True)
        except trio.BrokenResourceError:
            pass  # the system may say that there is no peer any more
        await near.aclose()

    async def test_shutdown_of_a_closed_stream(self, loopback_pair):
        near, _ = loopback_pair
        await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            near.shutdown(write=True)
        with pytest.raises(trio.ClosedResourceError):
            await near.send_eof()

    async def test_shutdown_of_a_stream_without_a_peer(self):
        async with open_socket(family="internet") as stream:
            with pytest.raises(OSError, match="connect"):
                stream.shutdown(write=True)

    async def test_a_shutdown_through_its_socket_is_known(self, loopback_pair):
        near, far = loopback_pair
        near.socket.shutdown(socket.SHUT_WR)
        with pytest.raises(trio.ClosedResourceError):
            await near.send_all(b"x")
        assert await far.receive_some() == b""


class TestInactivityTimer:
    @pytest.mark.parametrize("method", ["send_all", "send"])
    async def test_it_expires(self, method, loopback_pair, autojump_clock):
        near, _ = loopback_pair
        await fill(near)
        near.send_timeout = 7.0
        began = trio.current_time()
        with pytest.raises(SendTimeoutError) as caught:
            await getattr(near, method)(b"x" * 10)
        assert trio.current_time() - began == pytest.approx(7.0)
        assert caught.value.sent == 0
        assert isinstance(caught.value, (TimeoutError, trio.TooSlowError))

    async def test_it_says_what_was_sent(self, loopback_pair, autojump_clock):
        near, far = loopback_pair
        near.send_timeout = 7.0
        data = bytes(range(251)) * 100_000
        with pytest.raises(SendTimeoutError) as caught:
            await near.send_all(data)
        sent = caught.value.sent
        assert 0 < sent < len(data)
        assert near.statistics().bytes_sent == sent
        assert await receive_exactly(far, sent) == data[:sent]
        with pytest.raises(trio.WouldBlock):
            await far.receive(1, dont_wait=True)
        # And the stream goes on behind it.
        near.send_timeout = None
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def rest():
                await near.send_all(data[sent:])
                await near.send_eof()

            assert await receive_all(far) == data[sent:]

    async def test_progress_starts_it_anew(self, autojump_clock):
        """A slow reader takes far longer than the timer: but never so long for one piece."""
        # Over a local socket: on TCP acknowledgements are late by the kernel's clock.
        small = SocketOptions(send_buffer=8192)
        async with open_pair("local", client=small) as (near, far):
            near.send_timeout = 7.0
            size = 600_000
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def read_slowly():
                    got = 0
                    while got < size:
                        await trio.sleep(5)
                        got += len(await receive_exactly(far, 60_000))

                began = trio.current_time()
                await near.send_all(b"x" * size)
                assert trio.current_time() - began > 2 * 7.0

    async def test_as_an_option(self, loopback_listener, autojump_clock):
        options = SocketOptions(send_timeout=3)
        async with open_socket(loopback_listener.address, options=options) as near:
            with pytest.raises(SendTimeoutError):
                await near.send_all(b"x" * 10_000_000)
            near.set_option("send_timeout", 4.0)
            assert near.send_timeout == 4

    async def test_waiting_for_room_is_no_sending(self, loopback_pair, autojump_clock):
        near, _ = loopback_pair
        await fill(near)
        near.send_timeout = 1
        with trio.move_on_after(60) as scope:
            await near.wait_send_all_might_not_block()
        assert scope.cancelled_caught
