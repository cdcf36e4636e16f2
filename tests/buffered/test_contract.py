"""Trio's own checks of what a stream is, over memory and over real sockets."""

from __future__ import annotations

import trio
import trio.testing

from sockscope.buffered import BufferedStream
from tests.buffered.streams import clog


def both(pair):
    return BufferedStream(pair[0]), BufferedStream(pair[1])


async def memory():
    return both(trio.testing.memory_stream_pair())


async def lockstep():
    return both(trio.testing.lockstep_stream_pair())


async def test_over_memory():
    await trio.testing.check_one_way_stream(memory, None)
    await trio.testing.check_two_way_stream(memory, None)
    await trio.testing.check_half_closeable_stream(memory, None)


async def test_over_lockstep():
    await trio.testing.check_one_way_stream(lockstep, lockstep)
    await trio.testing.check_half_closeable_stream(lockstep, lockstep)


async def test_over_sockets(real_pair):
    async def make():
        return both(await real_pair())

    async def make_clogged():
        left, right = await real_pair()
        clog(left)
        clog(right)
        return both((left, right))

    await trio.testing.check_one_way_stream(make, make_clogged)
    await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_one_over_another():
    async def make():
        return both(both(trio.testing.memory_stream_pair()))

    await trio.testing.check_half_closeable_stream(make, None)
