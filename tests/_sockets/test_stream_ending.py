"""How streams end: close, reset, linger, detach, and being closed behind their back."""

from __future__ import annotations

import os
import socket
import struct

import pytest
import trio
import trio.testing

from sockscope import Linger, SocketOptions, make_socket, open_socket
from sockscope._sockets import queues
from sockscope.testing import open_descriptors, open_loopback_pair
from tests.wire import (
    close_behind_its_back,
    fill,
    no_descriptor_left,
    open_pair,
    receive_all,
    receive_exactly,
)

TEN_MINUTES = SocketOptions(linger=Linger(600))

WAITS = {
    "receive_some": lambda s: s.receive_some(),
    "receive": lambda s: s.receive(1),
    "receive_all": lambda s: s.receive(2, wait_all=True),
    "receive_into": lambda s: s.receive_into(bytearray(1)),
    "out_of_band": lambda s: s.receive(1, out_of_band=True),
    "send_all": lambda s: s.send_all(b"x" * 100_000_000),
    "send": lambda s: s.send(b"x"),
    "wait_send_all_might_not_block": lambda s: s.wait_send_all_might_not_block(),
}


async def close(stream):
    await stream.aclose()


async def close_its_socket(stream):
    stream.socket.close()


async def abort(stream):
    stream.abort()


async def detach(stream):
    os.close(stream.detach())


ENDS = [close, close_its_socket, abort, detach]


RECEIVES = {
    "receive_some": lambda s: s.receive_some(),
    "receive": lambda s: s.receive(1),
    "receive(peek)": lambda s: s.receive(1, peek=True),
    "receive(wait_all)": lambda s: s.receive(2, wait_all=True),
    "receive(dont_wait)": lambda s: s.receive(1, dont_wait=True),
    "receive_into": lambda s: s.receive_into(bytearray(1)),
}


class TestWhatWasReceivedAhead:
    @pytest.mark.parametrize("end", [close, close_its_socket, abort, detach])
    @pytest.mark.parametrize("receive", RECEIVES.values(), ids=RECEIVES)
    async def test_a_closed_stream_gives_none_of_it(self, loopback_pair, receive, end):
        near, far = loopback_pair
        await far.send_all(b"abc")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: near.receive(5, wait_all=True))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert near._held == b"abc"
        await end(near)
        with pytest.raises(trio.ClosedResourceError):
            await receive(near)


async def test_a_send_that_waits_as_its_side_is_shut_down(loopback_pair):
    """The send is over; the peer's answer still comes."""
    near, far = loopback_pair
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send():
            with pytest.raises(trio.ClosedResourceError):
                await near.send_all(bytes(100_000_000))

        await trio.testing.wait_all_tasks_blocked()
        near.shutdown(write=True)
        await receive_all(far)
    await far.send_all(b"answer")
    assert await near.receive_some() == b"answer"


class TestClosing:
    @pytest.mark.parametrize("end", ENDS)
    @pytest.mark.parametrize("wait", WAITS)
    async def test_it_wakes_who_waits(self, loopback_pair, wait, end):
        near, _far = loopback_pair
        if wait.startswith(("send", "wait")):
            await fill(near)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def waits():
                with pytest.raises(trio.ClosedResourceError):
                    await WAITS[wait](near)

            await trio.testing.wait_all_tasks_blocked()
            await end(near)

    @pytest.mark.parametrize("end", ENDS)
    async def test_it_wakes_both_directions_at_once(self, loopback_pair, end):
        near, _far = loopback_pair
        await fill(near)
        async with trio.open_nursery() as nursery:
            for wait in ("receive_some", "send_all"):

                @nursery.start_soon
                async def waits(wait=wait):
                    with pytest.raises(trio.ClosedResourceError):
                        await WAITS[wait](near)

            await trio.testing.wait_all_tasks_blocked()
            await end(near)

    @pytest.mark.parametrize("end", ENDS)
    async def test_nothing_works_after(self, loopback_pair, end):
        near, _ = loopback_pair
        await end(near)
        assert not near.is_open
        assert near.fileno() == -1
        for wait in WAITS.values():
            with pytest.raises(trio.ClosedResourceError):
                await wait(near)
        for call in (
            lambda: near.get_option("keepalive"),
            lambda: near.set_option("keepalive", True),
            near.take_error,
            near.detach,
            lambda: near.shutdown(write=True),
            lambda: SocketOptions(keepalive=True).apply(near),
        ):
            with pytest.raises(trio.ClosedResourceError):
                call()
        with pytest.raises(trio.ClosedResourceError):
            await near.send_eof()
        assert near.is_listening is near.is_connected is near.is_bound is False

    @pytest.mark.parametrize("end", ENDS)
    async def test_twice_is_fine(self, loopback_pair, end):
        near, _ = loopback_pair
        await end(near)
        await near.aclose()
        near.abort()
        await near.aclose()

    @pytest.mark.parametrize("end", ENDS)
    async def test_the_number_is_never_touched_again(self, loopback_pair, end):
        """It may be another socket's by now."""
        near, far = loopback_pair
        number = near.fileno()
        left, right = socket.socketpair()
        with left, right:
            await end(near)
            os.dup2(left.fileno(), number)
            try:
                for wait in WAITS.values():
                    with pytest.raises(trio.ClosedResourceError):
                        await wait(near)
                near.abort()
                await near.aclose()
                del near
                os.fstat(number)
                right.setblocking(False)
                with pytest.raises(BlockingIOError):
                    right.recv(1)
            finally:
                os.close(number)
        await far.aclose()

    async def test_a_cancelled_close_closes(self, loopback_pair):
        near, far = loopback_pair
        with trio.CancelScope() as scope:
            scope.cancel()
            await near.aclose()
        assert scope.cancelled_caught
        assert not near.is_open
        assert await far.receive_some() == b""

    async def test_what_was_queued_arrives(self, loopback_pair):
        near, far = loopback_pair
        queued = await fill(near)
        await near.aclose()
        assert len(await receive_all(far)) == queued

    async def test_unread_input_does_not_lose_what_arrived(self, loopback_pair):
        """The kernel sends a reset then: what had come before it is delivered, then an error."""
        near, far = loopback_pair
        await far.send_all(b"never read")
        await near.send_all(b"reply")
        await near.aclose()
        assert await receive_exactly(far, 5) == b"reply"
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()

    async def test_no_warning_and_no_descriptor_is_left(self, loopback_listener):
        with no_descriptor_left():
            for end in ENDS:
                near = await make_socket(loopback_listener.address)
                far = await loopback_listener.accept()
                near.socket  # noqa: B018  # a second object on the descriptor
                await end(near)
                await end(far)
                del near, far

    async def test_an_error_of_close_is_no_error(self, loopback_pair, monkeypatch):
        near, far = loopback_pair
        number = near.fileno()

        def close_and_fail(sock):
            os.close(sock.detach())
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(socket.socket, "close", close_and_fail)
        await near.aclose()
        monkeypatch.undo()
        assert number not in open_descriptors()
        assert await far.receive_some() == b""


class TestDetach:
    async def test_the_descriptor_lives_on(self, loopback_pair):
        near, far = loopback_pair
        number = near.fileno()
        assert near.detach() == number
        assert not near.is_open
        with socket.socket(fileno=number) as plain:
            plain.send(b"still connected")
            assert await far.receive_some() == b"still connected"


class TestAbort:
    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_the_peer_gets_a_reset(self, kind):
        async with open_loopback_pair(kind) as (near, far):
            near.abort()
            with pytest.raises(trio.BrokenResourceError) as caught:
                await far.receive_some()
            assert isinstance(caught.value.__cause__, ConnectionResetError)

    async def test_a_local_peer_gets_the_end(self):
        async with open_loopback_pair("local") as (near, far):
            near.abort()
            assert await far.receive_some() == b""

    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_what_was_queued_is_lost(self, kind):
        async with open_loopback_pair(kind) as (near, far):
            queued = await fill(near)
            near.abort()
            with pytest.raises(trio.BrokenResourceError):
                await receive_all(far)
            assert far.statistics().bytes_received < queued

    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_it_does_not_linger(self, kind):
        async with open_pair(kind, client=SocketOptions(linger=Linger(100))) as (near, far):
            await fill(near)
            near.abort()
            with pytest.raises(trio.BrokenResourceError):
                await receive_all(far)


class TestLinger:
    OPTIONS = SocketOptions(linger=Linger(2))

    async def test_the_loop_never_stops(self, loopback_kind):
        """close(2) would block all tasks for ten minutes."""
        async with open_pair(loopback_kind, client=TEN_MINUTES) as (near, _far):
            await fill(near)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(near.aclose)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            assert not near.is_open

    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_time_is_up(self, kind, autojump_clock):
        """A peer that does not read is reset after so many seconds, and nothing is raised."""
        async with open_pair(kind, client=self.OPTIONS) as (near, far):
            await fill(near)
            began = trio.current_time()
            await near.aclose()
            assert trio.current_time() - began == pytest.approx(2, abs=0.1)
            with pytest.raises(trio.BrokenResourceError):
                await receive_all(far)

    async def test_it_ends_when_the_peer_has_it_all(self, loopback_kind):
        async with open_pair(loopback_kind, client=TEN_MINUTES) as (near, far):
            queued = await fill(near)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(near.aclose)
                got = await receive_all(far)
            assert len(got) == queued
            assert not near.is_open

    async def test_with_nothing_to_send(self, loopback_kind):
        async with open_pair(loopback_kind, client=TEN_MINUTES) as (near, far):
            with trio.testing.assert_checkpoints():
                await near.aclose()
            assert await far.receive_some() == b""

    async def test_a_peer_that_has_gone_is_not_waited_for(self, autojump_clock):
        async with open_pair("ipv4", client=self.OPTIONS) as (near, far):
            await near.send_all(b"x")
            far.abort()
            with trio.testing.assert_checkpoints():
                await near.aclose()
            assert trio.current_time() < 1

    async def test_waiters_are_woken_when_it_begins(self, autojump_clock):
        async with open_pair("ipv4", client=self.OPTIONS) as (near, _):
            await fill(near)
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def waits():
                    with pytest.raises(trio.ClosedResourceError):
                        await near.receive_some()
                    assert trio.current_time() < 1

                await trio.testing.wait_all_tasks_blocked()
                await near.aclose()

    async def test_while_it_lingers_it_is_closed_for_all_others(self, autojump_clock):
        async with open_pair("ipv4", client=self.OPTIONS) as (near, _):
            await fill(near)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(near.aclose)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.ClosedResourceError):
                    await near.send_all(b"x")
                with pytest.raises(trio.ClosedResourceError):
                    await near.receive_some()

    async def test_while_it_lingers_closing_again_does_nothing(self):
        async with open_pair("ipv4", client=TEN_MINUTES) as (near, far):
            queued = await fill(near)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(near.aclose)
                await trio.testing.wait_all_tasks_blocked()
                near.abort()
                await near.aclose()
                assert len(await receive_all(far)) == queued

    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_what_a_child_has_from_its_listener(self, kind):
        """On Linux it inherits the option: close(2) would block."""
        async with open_pair(kind, listener=TEN_MINUTES) as (_near, far):
            await fill(far)
            with trio.CancelScope() as scope:
                scope.cancel()
                await far.aclose()
            assert not far.is_open

    async def test_cancelled_it_closes_at_once(self):
        async with open_pair("ipv4", client=self.OPTIONS) as (near, _):
            await fill(near)
            with trio.CancelScope() as scope:
                scope.cancel()
                await near.aclose()
            assert scope.cancelled_caught
            assert not near.is_open

    async def test_an_upgrade_that_fails_does_not_wait(self, loopback_listener):
        async def fail(stream):
            await fill(stream)
            raise KeyError

        with pytest.raises(KeyError), no_descriptor_left(), trio.fail_after(5):
            await make_socket(loopback_listener.address, options=TEN_MINUTES, upgrade=fail)

    async def test_a_descriptor_that_is_no_socket_by_now(self, loopback_pair):
        near, _ = loopback_pair
        close_behind_its_back(near.fileno())
        await near.aclose()
        assert not near.is_open

    async def test_set_behind_our_back(self):
        """Through its socket: close(2) would block just the same."""
        async with open_loopback_pair() as (near, _):
            await fill(near)
            raw = struct.pack("ii", 1, 600)
            near.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, raw)
            with trio.CancelScope() as scope:
                scope.cancel()
                await near.aclose()
            assert not near.is_open

    async def test_zero_seconds_is_a_reset(self):
        async with open_pair("ipv4", client=SocketOptions(linger=Linger(0))) as (near, far):
            await near.send_all(b"bye")
            await near.aclose()
            assert await far.receive_some() == b"bye"
            with pytest.raises(trio.BrokenResourceError):
                await far.receive_some()

    async def test_leaving_the_block_by_an_error_does_not_wait(self, loopback_listener):
        async def fail():
            async with open_socket(loopback_listener.address, options=TEN_MINUTES) as near:
                await fill(near)
                raise KeyError

        with pytest.raises(KeyError):
            await fail()

    async def test_the_peer_sees_the_end_while_we_linger(self, loopback_kind):
        async with open_pair(loopback_kind, client=TEN_MINUTES) as (near, far):
            await near.send_all(b"x")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(near.aclose)
                assert await receive_all(far) == b"x"


class TestQueues:
    async def test_unread_and_unsent(self, loopback_kind):
        async with open_loopback_pair(loopback_kind) as (near, far):
            await near.send_all(b"12345")
            assert queues.unread_bytes(far._sock) == 5
            await far.receive_some()
            assert queues.unread_bytes(far._sock) == 0
            await fill(near)
            assert queues.unsent_bytes(near._sock) > 0
            sock = near._sock
        assert queues.unsent_bytes(sock) is None
