"""`lifetime` and `idle_timeout`: they cancel the handler, are counted, and cost no call."""

from __future__ import annotations

import math

import pytest
import trio

from sockscope import accept_connection, open_socket, serve_passive
from sockscope._serve.timers import _FEW, TimedOut, Timers
from sockscope.testing import serving
from tests._serve.waiting import until


async def echo(stream):
    async for data in stream:
        await stream.send_all(data)


class Counters:
    """What the timers look at, of a stream."""

    _bytes_received = 0
    _bytes_sent = 0


async def forever(record):
    began = trio.current_time()
    try:
        await trio.sleep_forever()
    finally:
        record.append(trio.current_time() - began)


@pytest.fixture
async def timers(nursery):
    def start(lifetime=math.inf, idle_timeout=math.inf):
        timers = Timers(lifetime, idle_timeout)
        nursery.start_soon(timers.run)
        return timers

    return start


async def test_lifetime_is_counted_from_accept(timers, autojump_clock):
    ran = []
    timers = timers(lifetime=10)
    with pytest.raises(TimedOut):
        await timers.handle(Counters(), trio.current_time() - 3, forever, ran)
    assert ran == [pytest.approx(7)]


async def test_idle_from_the_start(timers, autojump_clock):
    ran = []
    timers = timers(idle_timeout=8)
    with pytest.raises(TimedOut):
        await timers.handle(Counters(), 0, forever, ran)
    assert ran == [pytest.approx(8)]


@pytest.mark.parametrize("counter", ["_bytes_received", "_bytes_sent"])
@pytest.mark.parametrize("last", [0.5, 1.0, 3.3, 7.9, 20.0])
async def test_idle_since_the_last_byte(timers, nursery, counter, last, autojump_clock):
    """Never before the time, and at most an eighth after it."""
    stream, ran = Counters(), []
    timers = timers(idle_timeout=8)

    async def trickle():
        end = trio.current_time() + last
        while trio.current_time() < end:
            await trio.sleep(min(6, end - trio.current_time()))
            setattr(stream, counter, getattr(stream, counter) + 1)

    nursery.start_soon(trickle)
    with pytest.raises(TimedOut):
        await timers.handle(stream, 0, forever, ran)
    assert last + 8 <= ran[0] <= last + 9.001


async def test_whichever_timer_is_first(timers, autojump_clock):
    ran = []
    both = timers(lifetime=5, idle_timeout=8)
    with pytest.raises(TimedOut):
        await both.handle(Counters(), trio.current_time(), forever, ran)
    assert ran == [pytest.approx(5)]


async def test_what_ended_is_left_alone(timers, autojump_clock):
    timers = timers(lifetime=5, idle_timeout=1)

    async def answer(value):
        return value

    for number in range(3 * _FEW):
        assert await timers.handle(Counters(), trio.current_time(), answer, number) == number
    assert len(timers._heap) <= 2 * _FEW  # thrown out, not kept until they come due
    await trio.sleep(10)
    assert not timers._heap


async def test_a_handler_that_goes_on_is_cancelled_again(timers, autojump_clock):
    """A cancelled scope cancels every further wait: one look after the other changes nothing."""
    timers = timers(idle_timeout=1)

    async def stubborn():
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    assert await timers.handle(Counters(), 0, stubborn) is None


@pytest.mark.parametrize("limit", ["lifetime", "idle_timeout"])
async def test_counted_and_not_logged(limit, caplog):
    outcomes = []
    async with serve_passive(
        ("127.0.0.1", 0),
        echo,
        handler_errors="raise",
        on_close=lambda stream, outcome: outcomes.append(outcome),
        **{limit: 0.05},
    ) as server:
        async with open_socket(server.addresses[0]) as client:
            await client.send_all(b"x")
            assert await client.receive_some() == b"x"
            with trio.fail_after(5):
                assert await client.receive_some() == b""
    statistics = server.statistics()
    assert (statistics.timed_out, statistics.finished, statistics.accepted) == (1, 0, 1)
    assert outcomes == ["timed_out"]
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


async def test_bytes_keep_a_connection_alive():
    async with serving(echo, idle_timeout=0.2) as server:
        async with open_socket(server.addresses[0]) as client:
            for _ in range(10):
                await trio.sleep(0.05)
                await client.send_all(b"x")
                assert await client.receive_some() == b"x"
    assert server.statistics().timed_out == 0


async def test_a_connection_that_was_taken_by_hand_is_closed():
    async with serve_passive(("127.0.0.1", 0), lifetime=0.05) as server:
        async with open_socket(server.addresses[0]):
            async with accept_connection(server) as stream:
                with trio.fail_after(5), pytest.raises(trio.ClosedResourceError):
                    await stream.receive_some()
    assert server.statistics().timed_out == 1


async def test_one_whose_time_is_up_is_not_handed_out():
    async with serve_passive(("127.0.0.1", 0), lifetime=0.05, drain_timeout=0) as server:
        async with open_socket(server.addresses[0]), trio.open_nursery() as nursery:

            async def impatient():
                async with accept_connection(server, timeout=0.01):
                    await trio.sleep_forever()

            nursery.start_soon(impatient)
            await until(lambda: server.connections)
            nursery.cancel_scope.cancel()
        await until(lambda: not server.connections)
        with pytest.raises(trio.WouldBlock):
            async with accept_connection(server, wait=False):
                pass  # pragma: no cover  # it is over
