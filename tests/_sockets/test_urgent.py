"""Urgent data: out of line, in line, and on sockets that have it otherwise or not at all."""

from __future__ import annotations

import errno
import select
import socket

import pytest
import trio
import trio.testing

from sockscope import ReceiveTimeoutError, SocketError, SocketOptions
from sockscope.testing import open_loopback_pair
from tests.wire import open_pair, receive_all


@pytest.fixture(params=["ipv4", "ipv6", "local"])
async def pair(request):
    if request.param == "local" and not _local_has_it():
        pytest.skip("this kernel has no urgent data on local sockets")
    async with open_loopback_pair(request.param) as pair:
        yield pair


def _local_has_it():
    left, right = socket.socketpair()
    with left, right:
        try:
            left.send(b"!", socket.MSG_OOB)
        except OSError:
            return False
    return True


class TestOutOfLine:
    async def test_it_overtakes(self, pair):
        near, far = pair
        await near.send_all(b"ordinary")
        assert await near.send(b"!", out_of_band=True) == 1
        assert await far.receive(1, out_of_band=True) == b"!"
        assert await far.receive(8, wait_all=True) == b"ordinary"

    async def test_only_the_last_byte_is_urgent(self, pair):
        near, far = pair
        await near.send(b"abc", out_of_band=True)
        assert await far.receive(3, out_of_band=True) == b"c"
        assert await far.receive(2, wait_all=True) == b"ab"

    async def test_it_waits_for_it_and_not_for_ordinary_data(self, pair):
        near, far = pair
        await near.send_all(b"ordinary")
        got = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait():
                got.append(await far.receive(1, out_of_band=True))

            await trio.testing.wait_all_tasks_blocked()
            await near.send_all(b" data")
            await trio.testing.wait_all_tasks_blocked()
            assert not got
            # And the ordinary direction is not held up by it.
            assert await far.receive(13, wait_all=True) == b"ordinary data"
            await near.send(b"!", out_of_band=True)
        assert got == [b"!"]

    async def test_it_waits_when_the_user_holds_the_socket(self, pair):
        near, far = pair
        got = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait():
                got.append(await far.receive(1, out_of_band=True))

            await trio.testing.wait_all_tasks_blocked()
            far.socket  # noqa: B018  # shown while another task waits
            await trio.testing.wait_all_tasks_blocked()
            assert not got
            await near.send(b"!", out_of_band=True)
        assert got == [b"!"]

    async def test_a_second_task_is_refused(self, pair):
        near, far = pair
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: far.receive(1, out_of_band=True))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await far.receive(1, out_of_band=True)
            await near.send(b"!", out_of_band=True)

    async def test_peek(self, pair):
        near, far = pair
        await near.send(b"!", out_of_band=True)
        assert await far.receive(1, out_of_band=True, peek=True) == b"!"
        assert await far.receive(1, out_of_band=True) == b"!"

    async def test_dont_wait(self, pair):
        near, far = pair
        with pytest.raises(trio.WouldBlock):
            await far.receive(1, out_of_band=True, dont_wait=True)
        await near.send(b"!", out_of_band=True)
        assert await far.receive(1, out_of_band=True, dont_wait=True) == b"!"
        with pytest.raises(trio.WouldBlock):
            await far.receive(1, out_of_band=True, dont_wait=True)

    async def test_the_end_of_the_stream(self, pair):
        near, far = pair
        await near.send_all(b"unread")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait():
                assert await far.receive(1, out_of_band=True) == b""

            await trio.testing.wait_all_tasks_blocked()
            await near.send_eof()
        assert await receive_all(far) == b"unread"

    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_a_reset(self, kind):
        async with open_loopback_pair(kind) as (near, far), trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait():
                with pytest.raises(trio.BrokenResourceError) as caught:
                    await far.receive(1, out_of_band=True)
                assert isinstance(caught.value.__cause__, ConnectionResetError)

            await trio.testing.wait_all_tasks_blocked()
            near.abort()

    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_after_a_reset_that_is_known(self, kind):
        async with open_loopback_pair(kind) as (near, far):
            near.abort()
            assert far.take_error() is not None
            for _ in range(2):
                with pytest.raises(trio.BrokenResourceError):
                    await far.receive(1, out_of_band=True)

    async def test_after_the_end(self, pair):
        near, far = pair
        await near.send_eof()
        assert await far.receive_some() == b""
        assert await far.receive(1, out_of_band=True) == b""

    async def test_its_timer(self, pair, autojump_clock):
        _, far = pair
        far.receive_timeout = 7
        with pytest.raises(ReceiveTimeoutError):
            await far.receive(1, out_of_band=True)
        assert trio.current_time() == pytest.approx(7, abs=0.2)
        far.socket  # noqa: B018  # then it looks by the clock
        with pytest.raises(ReceiveTimeoutError):
            await far.receive(1, out_of_band=True)

    async def test_without_epoll_it_looks_by_the_clock(self, pair, monkeypatch):
        monkeypatch.delattr(select, "EPOLLPRI")
        near, far = pair
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait():
                assert await far.receive(1, out_of_band=True) == b"!"

            await trio.testing.wait_all_tasks_blocked()
            await near.send(b"!", out_of_band=True)

    async def test_without_epoll_closing_ends_it(self, pair, monkeypatch, autojump_clock):
        monkeypatch.delattr(select, "EPOLLPRI")
        _near, far = pair
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait():
                with pytest.raises(trio.ClosedResourceError):
                    await far.receive(1, out_of_band=True)

            await trio.testing.wait_all_tasks_blocked()
            await far.aclose()

    async def test_without_poll_nothing_is_known_of_the_end(
        self, pair, monkeypatch, autojump_clock
    ):
        monkeypatch.delattr(select, "POLLRDHUP")
        monkeypatch.delattr(select, "EPOLLPRI")
        near, far = pair
        await near.send_eof()
        far.receive_timeout = 1
        with pytest.raises(ReceiveTimeoutError):
            await far.receive(1, out_of_band=True)

    async def test_it_is_a_checkpoint(self, pair):
        near, far = pair
        await near.send(b"!", out_of_band=True)
        with trio.testing.assert_checkpoints():
            await far.receive(1, out_of_band=True)
        await near.send(b"!", out_of_band=True)
        with trio.CancelScope() as scope:
            scope.cancel()
            await far.receive(1, out_of_band=True)
        assert scope.cancelled_caught
        assert await far.receive(1, out_of_band=True) == b"!"


class TestInLine:
    OPTIONS = SocketOptions(oob_inline=True)

    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_every_byte_stays_in_its_place(self, kind):
        """A receive ends at the mark: what is behind it must not be waited for."""
        async with open_pair(kind, child=self.OPTIONS) as (near, far):
            await near.send_all(b"before ")
            await near.send(b"!", out_of_band=True)
            await near.send_all(b" after")
            assert await far.receive(14, wait_all=True) == b"before ! after"

    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_nothing_is_out_of_band(self, kind):
        async with open_pair(kind, child=self.OPTIONS) as (near, far):
            await near.send(b"!", out_of_band=True)
            with pytest.raises(SocketError, match="oob_inline") as caught:
                await far.receive(1, out_of_band=True)
            assert caught.value.errno == errno.EINVAL
            assert await far.receive_some() == b"!"

    async def test_set_at_run_time(self):
        async with open_loopback_pair() as (near, far):
            far.set_option("oob_inline", True)
            await near.send_all(b"a")
            await near.send(b"!", out_of_band=True)
            await near.send_all(b"b")
            assert await far.receive(3, wait_all=True) == b"a!b"


class TestMark:
    async def test_what_is_behind_the_mark_is_not_waited_for(self, pair):
        """A receive stops at the mark, short, though there is more (out of line as well)."""
        near, far = pair
        await near.send_all(b"before")
        await near.send(b"!", out_of_band=True)
        await near.send_all(b"after")
        assert await far.receive(1, out_of_band=True) == b"!"
        with trio.fail_after(5):
            assert await far.receive(11, wait_all=True) == b"beforeafter"
