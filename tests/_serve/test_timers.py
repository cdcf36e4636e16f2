"""`lifetime` and `idle_timeout`: they cancel the handler, are counted, and cost no call."""

from __future__ import annotations

import math

import pytest
import trio

from sockscope import accept_connection, open_socket, serve_passive
from sockscope._serve.timers import TimedOut, TimeLimit
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


async def test_lifetime_is_counted_from_accept(autojump_clock):
    ran = []
    limit = TimeLimit(Counters(), trio.current_time() + 7, math.inf)
    with pytest.raises(TimedOut), limit:
        await forever(ran)
    assert ran == [pytest.approx(7)]


async def test_idle_from_the_start(autojump_clock):
    ran = []
    with pytest.raises(TimedOut), TimeLimit(Counters(), math.inf, 8):
        await forever(ran)
    assert ran == [pytest.approx(8)]


@pytest.mark.parametrize("counter", ["_bytes_received", "_bytes_sent"])
@pytest.mark.parametrize("last", [0.5, 1.0, 3.3, 7.9, 20.0])
async def test_idle_since_the_last_byte(nursery, counter, last, autojump_clock):
    """Never before the time, and at most an eighth after it."""
    stream, ran = Counters(), []

    async def trickle():
        end = trio.current_time() + last
        while trio.current_time() < end:
            await trio.sleep(min(6, end - trio.current_time()))
            setattr(stream, counter, getattr(stream, counter) + 1)

    nursery.start_soon(trickle)
    with pytest.raises(TimedOut), TimeLimit(stream, math.inf, 8):
        await forever(ran)
    assert last + 8 <= ran[0] <= last + 9.001


async def test_whichever_timer_is_first(autojump_clock):
    ran = []
    with pytest.raises(TimedOut), TimeLimit(Counters(), trio.current_time() + 5, 8):
        await forever(ran)
    assert ran == [pytest.approx(5)]


async def test_a_body_that_ends_or_fails_in_time(autojump_clock):
    with TimeLimit(Counters(), trio.current_time() + 5, 1):
        await trio.sleep(0.5)
    with pytest.raises(KeyError), TimeLimit(Counters(), trio.current_time() + 5, 1):
        raise KeyError
    await trio.sleep(10)


async def test_cancelled_from_outside(autojump_clock):
    with trio.move_on_after(2) as scope, TimeLimit(Counters(), math.inf, 5):
        await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_body_that_goes_on_all_the_same(autojump_clock):
    with TimeLimit(Counters(), math.inf, 1), trio.CancelScope(shield=True):
        await trio.sleep(5)


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


async def test_bytes_keep_a_connection_alive(autojump_clock):
    async with serving(echo, idle_timeout=20) as server:
        async with open_socket(server.addresses[0]) as client:
            for _ in range(10):
                await trio.sleep(5)
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
