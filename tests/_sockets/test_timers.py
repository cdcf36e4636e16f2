"""Inactivity timers of streams that sleep in the engine: exact, and without a scope each."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from sockscope import ReceiveTimeoutError, SendTimeoutError, SocketOptions
from sockscope._sockets import engine
from sockscope._sockets.timers import _FEW, Deadlines, current_deadlines
from sockscope.testing import cancel_everywhere, open_loopback_pair
from tests.wire import receive_all

SIZE = 100_000_000


@pytest.fixture(params=["engine", "trio"])
def where(request, monkeypatch):
    """Where streams wait: nobody can tell but by the price."""
    if request.param == "engine" and not engine.ENABLED:
        pytest.skip("this system or this run has no engine")
    monkeypatch.setattr(engine, "_ALWAYS", request.param == "engine")
    return request.param


@pytest.fixture
async def pair(where, loopback_kind):
    async with open_loopback_pair(loopback_kind) as pair:
        yield pair


def system_tasks():
    nurseries = trio.lowlevel.current_root_task().child_nurseries
    return sum(len(nursery.child_tasks) for nursery in nurseries)


class TestReceiving:
    async def test_it_expires_on_time(self, pair, autojump_clock):
        near, _ = pair
        near.receive_timeout = 5
        for end in (5, 10):
            with pytest.raises(ReceiveTimeoutError):
                await near.receive_some()
            assert trio.current_time() == pytest.approx(end)

    async def test_each_byte_starts_it_anew(self, pair, autojump_clock):
        near, far = pair
        near.receive_timeout = 5
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def drip():
                for _ in range(4):
                    await trio.sleep(4)
                    await far.send_all(b"x")

            with pytest.raises(ReceiveTimeoutError):
                await receive_all(near)
        assert trio.current_time() == pytest.approx(21)

    async def test_a_shorter_one_counts_from_the_next_wait(self, pair, autojump_clock):
        near, far = pair
        near.receive_timeout = 100
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.receive_some)
            await wait_all_tasks_blocked()
            await far.send_all(b"x")
        near.receive_timeout = 2
        with pytest.raises(ReceiveTimeoutError):
            await near.receive_some()
        assert trio.current_time() == pytest.approx(2)

    async def test_one_that_is_taken_back_is_over(self, pair, autojump_clock):
        near, far = pair
        near.receive_timeout = 5
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.receive_some)
            await wait_all_tasks_blocked()
            await far.send_all(b"x")
        near.receive_timeout = None
        assert near.requested_options.receive_timeout is None
        with trio.move_on_after(100) as scope:
            await near.receive_some()
        assert scope.cancelled_caught

    @pytest.mark.parametrize("timeout", [None, math.inf])
    async def test_none_never_does(self, pair, timeout, autojump_clock):
        near, _ = pair
        near.receive_timeout = timeout
        with trio.move_on_after(1000) as scope:
            await near.receive_some()
        assert scope.cancelled_caught

    async def test_what_comes_as_it_expires_is_received(self, pair, mock_clock):
        near, far = pair
        near.receive_timeout = 5
        got = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def receive():
                got.append(await near.receive_some())

            await wait_all_tasks_blocked()
            far._sock.send(b"just in time")
            mock_clock.jump(5)
        assert got == [b"just in time"]


class TestSending:
    async def test_it_expires_on_time(self, pair, autojump_clock):
        near, _ = pair
        near.send_timeout = 5
        async with trio.open_nursery() as nursery:
            # Its wait registers the stream, if it is to be in the engine.
            nursery.start_soon(near.receive_some)
            await wait_all_tasks_blocked()
            began = trio.current_time()
            with pytest.raises(SendTimeoutError) as caught:
                await near.send_all(bytes(SIZE))
            assert trio.current_time() - began == pytest.approx(5)
            assert 0 < caught.value.sent < SIZE
            nursery.cancel_scope.cancel()

    async def test_one_that_is_taken_back_is_over(self, pair, autojump_clock):
        near, far = pair
        near.send_timeout = 5
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.receive_some)
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as inner:
                inner.start_soon(near.send_all, bytes(10_000_000))
                await wait_all_tasks_blocked()
                got = 0
                while got < 10_000_000:
                    got += len(await far.receive_some())
            near.send_timeout = None
            with trio.move_on_after(100) as scope:
                await near.send_all(bytes(SIZE))
            assert scope.cancelled_caught
            nursery.cancel_scope.cancel()

    async def test_both_directions_each_at_its_time(self, pair, autojump_clock):
        near, _ = pair
        near.receive_timeout, near.send_timeout = 7, 3
        ended = {}

        async def run(name, call, *args):
            with pytest.raises((ReceiveTimeoutError, SendTimeoutError)):
                await call(*args)
            ended[name] = trio.current_time()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "receive", near.receive_some)
            await wait_all_tasks_blocked()
            nursery.start_soon(run, "send", near.send_all, bytes(SIZE))
        assert ended == {"receive": pytest.approx(7), "send": pytest.approx(3)}


async def test_nothing_is_left_of_a_closed_stream(where):
    before = system_tasks()
    options = SocketOptions(receive_timeout=50)
    async with open_loopback_pair() as (near, far), trio.open_nursery() as nursery:
        options.apply(near)
        nursery.start_soon(near.receive_some)
        await wait_all_tasks_blocked()
        await far.send_all(b"x")
    await wait_all_tasks_blocked()
    assert system_tasks() == before
    assert current_deadlines()._sleep is None


async def test_cancelled_at_every_step(where):
    async def run():
        async with open_loopback_pair() as (near, far), trio.open_nursery() as nursery:
            near.receive_timeout = 60
            nursery.start_soon(near.receive_some)
            await wait_all_tasks_blocked()
            await far.send_all(b"x")

    await cancel_everywhere(run)


def test_a_stream_that_outlives_its_run_can_be_closed(where):
    async def main():
        pair = open_loopback_pair()
        near, far = await pair.__aenter__()
        near.receive_timeout = 60
        with trio.move_on_after(0.001):
            await near.receive_some()
        return pair, near, far

    _pair, near, far = trio.run(main)
    assert near._look_at == math.inf
    near.abort()
    far.abort()


class Owner:
    """Has a deadline that a test sets."""

    def __init__(self, due=math.inf):
        self._look_at = math.inf
        self.due = due
        self.expired = []

    def _next_due(self):
        return self.due

    def _expire(self, now):
        self.expired.append(now)
        self.due = math.inf


class TestTheHeap:
    async def test_many_in_their_order(self, autojump_clock):
        deadlines = Deadlines()
        owners = [Owner(seconds) for seconds in (5, 1, 3, 1, 4)]
        for owner in owners:
            deadlines.watch(owner, owner.due)
        await trio.sleep(10)
        assert [owner.expired for owner in owners] == [[pytest.approx(s)] for s in (5, 1, 3, 1, 4)]
        assert deadlines._sleep is None

    async def test_who_has_moved_on_is_looked_at_later(self, autojump_clock):
        deadlines = Deadlines()
        owner = Owner(2)
        deadlines.watch(owner, 2)
        owner.due = 7
        await trio.sleep(5)
        assert owner.expired == []
        await trio.sleep(5)
        assert owner.expired == [pytest.approx(7)]

    async def test_an_earlier_one_comes_first(self, autojump_clock):
        deadlines = Deadlines()
        late, early = Owner(50), Owner(3)
        deadlines.watch(late, 50)
        await trio.sleep(1)
        deadlines.watch(early, 3)
        await trio.sleep(4)
        assert early.expired == [pytest.approx(3)]
        late.due = 6
        deadlines.watch(late, 6)
        await trio.sleep(100)
        assert late.expired == [pytest.approx(6)]

    async def test_held_its_task_stays_and_has_no_deadline(self, autojump_clock):
        before = system_tasks()
        deadlines = Deadlines()
        with deadlines.held(), deadlines.held():
            assert system_tasks() == before + 1
            for _ in range(3):
                owner = Owner(trio.current_time() + 5)
                deadlines.watch(owner, owner.due)
                deadlines.forget(owner)
                await wait_all_tasks_blocked()
                assert system_tasks() == before + 1
                # A test's clock would jump to a deadline that is left.
                assert trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf
            owner = Owner(trio.current_time() + 5)
            deadlines.watch(owner, owner.due)
            await trio.sleep(6)
            assert owner.expired
        await wait_all_tasks_blocked()
        assert system_tasks() == before

    async def test_who_is_in_it_outlives_who_held_it(self, autojump_clock):
        deadlines = Deadlines()
        owner = Owner(5)
        with deadlines.held():
            deadlines.watch(owner, owner.due)
        await trio.sleep(6)
        assert owner.expired == [pytest.approx(5)]
        assert deadlines._sleep is None

    async def test_the_forgotten_take_no_room(self, autojump_clock):
        deadlines = Deadlines()
        keeper = Owner(1000)
        deadlines.watch(keeper, 1000)
        for _ in range(10 * _FEW):
            owner = Owner(500)
            deadlines.watch(owner, 500)
            deadlines.forget(owner)
            deadlines.forget(owner)
            assert len(deadlines._heap) <= 2 * _FEW
        await trio.sleep(600)
        deadlines.forget(keeper)
        assert not deadlines._heap

    async def test_watched_again_at_once(self, autojump_clock):
        deadlines = Deadlines()
        owner = Owner(5)
        deadlines.watch(owner, 5)
        deadlines.forget(owner)
        deadlines.watch(owner, 5)
        await trio.sleep(6)
        assert owner.expired == [pytest.approx(5)]
