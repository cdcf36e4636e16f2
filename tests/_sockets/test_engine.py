"""The epoll engine: nothing that its users can tell from Trio's own waiting, but the price."""

from __future__ import annotations

import os
import resource
import select
import socket as stdlib_socket
import subprocess
import sys
from contextlib import AsyncExitStack

import outcome
import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from sockscope import SocketOptions, open_socket, serve_passive
from sockscope._sockets import engine, kqueue
from sockscope._sockets.stream import StreamSocket
from sockscope.testing import open_descriptors, open_loopback_pair
from tests._sockets import imitated_kqueue
from tests.wire import close_behind_its_back

pytestmark = pytest.mark.skipif(not engine.ENABLED, reason="this system or this run has no engine")
MANY = 20


@pytest.fixture(params=["epoll", "kqueue"])
def always(request, monkeypatch):
    """Every stream waits in the engine."""
    monkeypatch.setattr(engine, "_ALWAYS", True)
    if request.param == "kqueue":
        monkeypatch.setattr(kqueue, "_native", imitated_kqueue)
        monkeypatch.setattr(engine, "_new_poll", kqueue.KqueuePoll)
    return request.param


@pytest.fixture
def adaptive(monkeypatch):
    """The engine decides by what it delivers, whatever the environment says."""
    monkeypatch.setattr(engine, "_ALWAYS", False)


@pytest.fixture
async def pair(always, loopback_kind):
    async with open_loopback_pair(loopback_kind) as (near, far):
        yield near, far


async def receive(stream, got):
    """Append to *got* what a receive brings or raises."""
    got.append(await outcome.acapture(stream.receive_some))


def is_asleep_in_engine(stream):
    return stream._reader is not None


async def test_many_streams_share_a_wake_and_leave_nothing(adaptive):
    before = open_descriptors()
    async with AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(open_loopback_pair()) for _ in range(MANY)]
        for _ in range(3):
            got = []
            async with trio.open_nursery() as nursery:
                for near, _ in pairs:
                    nursery.start_soon(receive, near, got)
                await wait_all_tasks_blocked()
                for index, (_, far) in enumerate(pairs):
                    far._sock.send(b"%d" % index)
            assert sorted(int(data.unwrap()) for data in got) == list(range(MANY))
        assert any(near._registered != -1 for near, _ in pairs)
    assert open_descriptors() == before


async def test_while_it_is_held_the_descriptor_stays(always):
    before = open_descriptors()
    running = engine.current_engine()
    with running.held(), running.held():
        while_held = open_descriptors()
        assert len(while_held) == len(before) + 1
        polls = [running._poll]
        for _ in range(3):
            async with open_loopback_pair() as (near, far), trio.open_nursery() as nursery:
                got = []
                nursery.start_soon(receive, near, got)
                await wait_all_tasks_blocked()
                far._sock.send(b"x")
            assert got[0].unwrap() == b"x"
            polls.append(running._poll)
        assert set(polls) == {polls[0]}
        assert open_descriptors() == while_held
    assert open_descriptors() == before


async def test_turned_off_it_has_no_descriptor(monkeypatch):
    monkeypatch.setattr(engine, "ENABLED", False)
    before = open_descriptors()
    with engine.current_engine().held():
        assert open_descriptors() == before


async def test_who_waits_in_it_outlives_who_held_it(always):
    before = open_descriptors()
    async with open_loopback_pair() as (near, far), trio.open_nursery() as nursery:
        got = []
        with engine.current_engine().held():
            nursery.start_soon(receive, near, got)
            await wait_all_tasks_blocked()
        far._sock.send(b"x")
    assert got[0].unwrap() == b"x"
    assert open_descriptors() == before


async def test_a_server_keeps_it_from_one_connection_to_the_next(always):
    async def echo(stream):
        async for data in stream:
            await stream.send_all(data)

    before = open_descriptors()
    async with serve_passive(("127.0.0.1", 0), echo, idle_timeout=60) as server:
        polls = set()
        for _ in range(3):
            async with open_socket(server.addresses[0]) as client:
                await client.send_all(b"x")
                assert await client.receive_some() == b"x"
                polls.add(engine.current_engine()._poll)
        await wait_all_tasks_blocked()
        assert polls == {engine.current_engine()._poll}
        assert None not in polls
    assert open_descriptors() == before


async def test_it_is_used_while_a_wake_serves_several(adaptive, monkeypatch):
    """One at a time, as under a light load, they wait by Trio's own call, but for the idle."""
    monkeypatch.setattr(engine, "_TRIAL", 40)
    monkeypatch.setattr(engine, "_UNTIL_NEXT_TRIAL", 100)
    monkeypatch.setattr(engine, "_IDLE", 400)
    running = engine.Engine()
    engine._engine.set(running)

    async def receive_all_of(stream):
        async for _ in stream:
            pass

    async with AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(open_loopback_pair()) for _ in range(MANY)]
        nursery = await stack.enter_async_context(trio.open_nursery())
        for near, _ in pairs:
            nursery.start_soon(receive_all_of, near)
        await wait_all_tasks_blocked()
        idle, *busy = pairs

        async def send(together, rounds):
            for _ in range(rounds):
                for _, far in busy:
                    far._sock.send(b"x")
                    if not together:
                        await wait_all_tasks_blocked()
                await wait_all_tasks_blocked()

        await send(together=False, rounds=5)
        assert not running._serves_several
        assert all(near._registered == -1 for near, _ in busy)
        await send(together=True, rounds=20)
        assert running._serves_several
        # Not all: who has its turn late in one wake and early in the next is busy.
        assert sum(is_asleep_in_engine(near) for near, _ in busy) > MANY // 4
        while running._serves_several:
            await send(together=False, rounds=1)
        while running._waits - idle[0]._latest_wait < 500:
            await send(together=False, rounds=1)
        idle[1]._sock.send(b"x")
        await wait_all_tasks_blocked()
        assert is_asleep_in_engine(idle[0])
        nursery.cancel_scope.cancel()


async def test_few_streams_wait_by_trios_own_call(adaptive):
    async with open_loopback_pair() as (near, far), trio.open_nursery() as nursery:
        got = []
        nursery.start_soon(receive, near, got)
        await wait_all_tasks_blocked()
        assert near._registered == -1
        await far.send_all(b"x")
    assert got[0].unwrap() == b"x"


async def test_one_busy_stream_among_idle_ones_leaves_the_engine(adaptive):
    """It comes back before others have waited: not worth the detour."""
    async with AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(open_loopback_pair()) for _ in range(MANY)]
        far, near = pairs.pop()
        async with trio.open_nursery() as nursery:
            # Those that were accepted: their first wait may be a long one.
            for _, idle in pairs:
                nursery.start_soon(receive, idle, [])
            await wait_all_tasks_blocked()
            registered = []
            for _ in range(50):
                async with trio.open_nursery() as inner:
                    inner.start_soon(receive, near, [])
                    await wait_all_tasks_blocked()
                    registered.append(near._registered != -1)
                    await far.send_all(b"x")
            idle_ones = sum(idle._registered != -1 for _, idle in pairs)
            nursery.cancel_scope.cancel()
        assert registered[-1] is False
        # The idle ones stay, where they cost least.
        assert idle_ones >= MANY - 1 - engine._MANY


async def test_a_clients_first_wait_is_by_trios_own_call(adaptive):
    """Many end after it: a registration would cost more than it saves."""
    async with AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(open_loopback_pair()) for _ in range(MANY)]
        async with trio.open_nursery() as nursery:
            for near, _ in pairs:
                nursery.start_soon(receive, near, [])
            await wait_all_tasks_blocked()
            assert not any(near._registered != -1 for near, _ in pairs)
            nursery.cancel_scope.cancel()


async def test_a_receive_is_a_checkpoint_once_it_has_slept(pair):
    near, far = pair
    await far.send_all(b"x")
    with assert_checkpoints():
        assert await near.receive_some() == b"x"


async def test_a_cancelled_receive_has_done_nothing(pair):
    near, far = pair
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, near, [])
            await wait_all_tasks_blocked()
            assert is_asleep_in_engine(near)
            scope.cancel()
    assert not is_asleep_in_engine(near)
    await far.send_all(b"kept")
    assert await near.receive_some() == b"kept"


@pytest.mark.parametrize("end", ["aclose", "abort"])
async def test_closing_wakes_the_sleepers(pair, end):
    near, far = pair
    got = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, near, got)
        await wait_all_tasks_blocked()
        assert is_asleep_in_engine(near)

        async def fill():
            # More than any buffer holds.
            with pytest.raises(trio.ClosedResourceError):
                await near.send_all(bytes(100_000_000))

        nursery.start_soon(fill)
        await wait_all_tasks_blocked()
        assert near._writer is not None
        await near.aclose() if end == "aclose" else near.abort()
    with pytest.raises(trio.ClosedResourceError):
        got[0].unwrap()
    assert far.is_open


async def test_a_detached_descriptor_is_no_longer_watched(pair):
    near, far = pair
    got = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, near, got)
        await wait_all_tasks_blocked()
        with stdlib_socket.socket(fileno=near.detach()) as plain:
            assert near._registered == -1
            await far.send_all(b"x")
            plain.setblocking(True)
            assert plain.recv(1) == b"x"
    with pytest.raises(trio.ClosedResourceError):
        got[0].unwrap()


async def test_a_number_used_again_gets_no_others_events(always):
    """Although somebody else still holds the first socket's descriptor."""
    async with AsyncExitStack() as stack:
        # Keeps the engine, and so its epoll descriptor, alive.
        idle, _ = await stack.enter_async_context(open_loopback_pair())
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(receive, idle, [])
        first, first_peer = await stack.enter_async_context(open_loopback_pair())
        nursery.start_soon(receive, first, [])
        await wait_all_tasks_blocked()
        number = first.fileno()
        held = os.dup(number)
        try:
            other, other_peer = stdlib_socket.socketpair()
            await first.aclose()
            os.dup2(other.fileno(), number)
            other.close()
            second = StreamSocket(_nonblocking(number), SocketOptions(), peer="")
            got = []
            nursery.start_soon(receive, second, got)
            await wait_all_tasks_blocked()
            assert is_asleep_in_engine(second)
            await first_peer.send_all(b"for the first")
            await wait_all_tasks_blocked(0.01)
            assert got == []
            assert is_asleep_in_engine(second)
            other_peer.send(b"for the second")
            await wait_all_tasks_blocked(0.01)
            assert got[0].unwrap() == b"for the second"
            await second.aclose()
            other_peer.close()
        finally:
            os.close(held)
            nursery.cancel_scope.cancel()


def _nonblocking(fd):
    sock = stdlib_socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock


async def test_asked_for_its_trio_socket_it_waits_by_trio(pair):
    near, far = pair
    got = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, near, got)
        await wait_all_tasks_blocked()
        assert is_asleep_in_engine(near)
        exposed = near.socket
        assert near._registered == -1
        await wait_all_tasks_blocked()
        exposed.close()
    with pytest.raises(trio.ClosedResourceError):
        got[0].unwrap()
    assert far.is_open


async def test_data_and_end_in_one_event(pair):
    """The end is told of once: a short receive after that must not wait for more."""
    near, far = pair
    got = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, near, got)
        await wait_all_tasks_blocked()
        far._sock.send(b"last")
        far._sock.shutdown(stdlib_socket.SHUT_WR)
    assert got[0].unwrap() == b"last"
    # Options that change what is trusted must not forget what was told.
    near.set_option("send_buffer", 32768)
    assert await near.receive_some() == b""


async def test_an_end_after_all_was_read(pair):
    near, far = pair
    got = []
    for step in (b"data", b""):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, near, got)
            await wait_all_tasks_blocked()
            assert is_asleep_in_engine(near)
            if step:
                await far.send_all(step)
            else:
                await far.send_eof()
    assert [data.unwrap() for data in got] == [b"data", b""]


async def test_a_sender_that_sleeps_goes_on_when_there_is_room(pair):
    near, far = pair
    size = 1 << 22
    async with trio.open_nursery() as nursery:
        # The receiver's wait registers the stream: then the sender sleeps in the engine, too.
        nursery.start_soon(receive, near, [])
        await wait_all_tasks_blocked()
        nursery.start_soon(near.send_all, bytes(size))
        await wait_all_tasks_blocked()
        assert near._writer is not None
        received = 0
        while received < size:
            received += len(await far.receive_some())
        await far.send_eof()
    assert received == size


async def test_a_reset_wakes_a_sleeper(always):
    async with open_loopback_pair() as (near, far):
        got = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, near, got)
            await wait_all_tasks_blocked()
            far.abort()
        with pytest.raises(trio.BrokenResourceError):
            got[0].unwrap()


async def test_without_descriptors_it_waits_by_trio(always):
    """The engine needs a descriptor of its own; without one, streams still work."""
    async with open_loopback_pair() as (near, far), trio.open_nursery() as nursery:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (near.fileno(), hard))
        got = []
        try:
            nursery.start_soon(receive, near, got)
            await wait_all_tasks_blocked()
            assert near._registered == -1
            await far.send_all(b"x")
            await wait_all_tasks_blocked(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert got[0].unwrap() == b"x"


def test_a_stream_outlives_its_run(always):
    """A stream that was left open waits in the next run's engine."""
    left = []

    async def first():
        near, far = stdlib_socket.socketpair()
        near.setblocking(False)
        stream = StreamSocket(near, SocketOptions(), peer="")
        left.extend([stream, far])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive_some)
            await wait_all_tasks_blocked()
            assert stream._registered != -1
            nursery.cancel_scope.cancel()

    async def second():
        stream, far = left
        got = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, stream, got)
            await wait_all_tasks_blocked()
            assert is_asleep_in_engine(stream)
            far.send(b"x")
        await stream.aclose()
        far.close()
        assert got[0].unwrap() == b"x"

    before = open_descriptors()
    trio.run(first)
    trio.run(second)
    assert open_descriptors() == before


async def test_what_epoll_forgot_is_forgotten(pair):
    """The descriptor was closed by its number: the engine must not stumble over it."""
    near, far = pair
    got = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, near, got)
        await wait_all_tasks_blocked()
        await far.send_all(b"x")
    spare = os.dup(near.fileno())
    os.close(near.fileno())
    os.dup2(spare, near.fileno())
    os.close(spare)
    await near.aclose()
    assert near._registered == -1


async def test_a_failing_wait_is_tried_again(always, monkeypatch):
    calls = []
    wait = trio.lowlevel.wait_readable

    async def fail_once(fd):
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(12, "Cannot allocate memory")
        await wait(fd)

    async with open_loopback_pair() as (near, far):
        monkeypatch.setattr(trio.lowlevel, "wait_readable", fail_once)
        got = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, near, got)
            await wait_all_tasks_blocked(0.05)
            await far.send_all(b"x")
        assert got[0].unwrap() == b"x"
        assert len(calls) > 1


async def test_who_was_closed_in_the_same_wake_is_told(always):
    """Two are ready in one wake, and the first closes the second."""
    async with open_loopback_pair() as (one, one_peer), open_loopback_pair() as (two, two_peer):
        got = []

        async def close_the_other(mine, other):
            await receive(mine, got)
            await other.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(close_the_other, one, two)
            nursery.start_soon(close_the_other, two, one)
            await wait_all_tasks_blocked()
            one_peer._sock.send(b"x")
            two_peer._sock.send(b"x")
        assert got[0].unwrap() == b"x"
        with pytest.raises(trio.ClosedResourceError):
            got[1].unwrap()


@pytest.mark.parametrize(("choice", "registered"), [("trio", False), ("epoll", True)])
def test_the_environment_chooses(choice, registered):
    program = """
import trio
from trio.testing import wait_all_tasks_blocked
from sockscope.testing import open_loopback_pair

async def main():
    async with open_loopback_pair() as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(near.receive_some)
        await wait_all_tasks_blocked()
        print(near._registered != -1)
        nursery.cancel_scope.cancel()

trio.run(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "SOCKSCOPE_ENGINE": choice},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.strip() == str(registered)


def test_edges_are_what_it_asks_for():
    """What makes one registration for life possible."""
    assert engine._INTEREST & select.EPOLLET


async def test_a_sender_that_was_woken_for_nothing_waits_on(pair):
    near, far = pair
    size = 1 << 22
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, near, [])
        await wait_all_tasks_blocked()
        nursery.start_soon(near.send_all, bytes(size))
        await wait_all_tasks_blocked()
        assert near._writer is not None
        # Whoever sleeps in the engine looks again, finds no room, and waits by Trio's call.
        assert near.socket.fileno() == near.fileno()
        await wait_all_tasks_blocked()
        received = 0
        while received < size:
            received += len(await far.receive_some(1 << 20))
        nursery.cancel_scope.cancel()


async def test_a_cancelled_sender_is_no_longer_known(pair):
    near, far = pair
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, near, [])
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(near.send_all, bytes(1 << 22))
                await wait_all_tasks_blocked()
                assert near._writer is not None
                scope.cancel()
        assert near._writer is None
        await far.send_all(b"x")


async def test_a_stream_that_comes_to_wait_more_often_than_others_leaves(monkeypatch, pair):
    near, far = pair
    got = []
    for always in (True, False):
        monkeypatch.setattr(engine, "_ALWAYS", always)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, near, got)
            await wait_all_tasks_blocked()
            assert is_asleep_in_engine(near) is always
            await far.send_all(b"x")
    assert [data.unwrap() for data in got] == [b"x", b"x"]


@pytest.mark.parametrize("reused", [False, True])
async def test_a_number_closed_behind_our_back(always, reused):
    """Its events go to nobody, and its new owner is left alone."""
    async with AsyncExitStack() as stack:
        idle, _ = await stack.enter_async_context(open_loopback_pair())
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(receive, idle, [])
        stolen, peer = await stack.enter_async_context(open_loopback_pair())
        number = stolen.fileno()
        # Gone for the stream, but the connection lives on: the kernel still has the watch.
        held = os.dup(number)
        try:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(receive, stolen, [])
                    await wait_all_tasks_blocked()
                    scope.cancel()
            assert stolen._registered == number
            close_behind_its_back(number)
            other, other_peer = stdlib_socket.socketpair()
            with other_peer:
                if reused:
                    os.dup2(other.fileno(), number)
                    second = StreamSocket(_nonblocking(number), SocketOptions(), peer="")
                    nursery.start_soon(receive, second, [])
                    await wait_all_tasks_blocked()
                    assert is_asleep_in_engine(second)
                other.close()
                stolen._wake()
                assert stolen._registered == -1
                await peer.send_all(b"for nobody")
                await wait_all_tasks_blocked(0.01)
                if reused:
                    assert is_asleep_in_engine(second)
                    second.detach()
        finally:
            os.close(held)
            nursery.cancel_scope.cancel()
