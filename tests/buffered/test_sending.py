"""Gathered writes: in order, bounded, never sent twice, and known where a call was cut short."""

from __future__ import annotations

import errno
import ssl

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from sockscope.buffered import BufferedStream
from tests.buffered.streams import ScriptedStream, clog, counted_steps


@given(
    size=st.integers(1, 20),
    calls=st.lists(
        st.tuples(
            st.sampled_from(["write", "send_all", "flush", "aclose", "send_eof"]), st.binary()
        )
    ),
)
def test_all_arrives_once_in_order_and_little_is_held_back(size, calls):
    async def main():
        inner = ScriptedStream()
        stream = BufferedStream(inner, output_buffer_size=size)
        expected = b""
        for name, data in calls:
            if name in ("write", "send_all"):
                await getattr(stream, name)(data)
                expected += data
            else:
                await getattr(stream, name)()
            held = len(expected) - len(inner.sent)
            assert expected.startswith(inner.sent)
            assert held <= size if name == "write" else held == 0
            if name in ("aclose", "send_eof"):
                break
        await stream.aclose()
        assert inner.sent == expected
        assert stream.in_doubt == 0

    trio.run(main)


async def test_a_small_head_and_its_body_leave_in_one_piece():
    inner = ScriptedStream()
    stream = BufferedStream(inner, output_buffer_size=10)
    await stream.write(b"head ")
    await stream.send_all(memoryview(b"body"))
    await stream.write(b"head ")
    await stream.send_all(b"a longer body")
    assert inner.sends == [b"head body", b"head ", b"a longer body"]


@pytest.mark.parametrize("written", [b"", b"abc"])
@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.write(b"xy"),
        lambda s: s.write(b"not so short"),
        lambda s: s.flush(),
        lambda s: s.send_all(b"xy"),
        lambda s: s.wait_send_all_might_not_block(),
    ],
)
async def test_each_call_is_one_checkpoint_and_cancelled_before_it_does_nothing(call, written):
    inner = ScriptedStream()
    stream = BufferedStream(inner, output_buffer_size=8)
    await stream.write(written)
    with trio.CancelScope() as scope:
        scope.cancel()
        await call(stream)
    assert scope.cancelled_caught
    assert stream.in_doubt == 0
    assert inner.sent == b""
    with trio.testing.assert_checkpoints(), counted_steps() as steps:
        await call(stream)
    assert len(steps) == (2 if len(inner.sends) == 2 else 1)
    await stream.flush()
    assert inner.sent.startswith(written)


async def cut_short(call):
    """Run *call* until it blocks, and cancel it there."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_flush_cut_short_tells_what_is_in_doubt_and_sends_nothing_twice(real_pair):
    left, right = await real_pair()
    stream = BufferedStream(left)
    await stream.write(b"first")
    clog(left)
    await cut_short(stream.flush)
    assert stream.in_doubt == len(b"first")
    await stream.flush()  # nothing is left for it, so it does not wait for the peer
    await stream.write(b"second")
    async with right, trio.open_nursery() as nursery:
        nursery.start_soon(stream.aclose)
        got = b"".join([chunk async for chunk in right])
    assert got.endswith(b"second")
    assert got.count(b"first") == 0  # the kernel had no room for a byte of it
    assert stream.in_doubt == len(b"first")


async def test_a_cancelled_write_has_not_taken_its_data(real_pair):
    left, right = await real_pair()
    stream = BufferedStream(left, output_buffer_size=6)
    await stream.write(b"first")
    clog(left)
    await cut_short(lambda: stream.write(b"second"))
    assert stream.in_doubt == len(b"first")
    await cut_short(lambda: stream.write(b"longer than the buffer"))
    assert stream.in_doubt == len(b"first" + b"longer than the buffer")
    async with right, trio.open_nursery() as nursery:
        nursery.start_soon(stream.aclose)
        got = b"".join([chunk async for chunk in right])
    assert b"second" not in got


async def test_a_failed_flush_is_in_doubt_too_and_aclose_tells_of_lost_bytes():
    inner = ScriptedStream()
    inner.send_error = trio.BrokenResourceError("reset")
    stream = BufferedStream(inner)
    await stream.write(b"abc")
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        await stream.flush()
    assert stream.in_doubt == 3
    await stream.write(b"de")
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        await stream.aclose()
    assert inner.closed
    await stream.aclose()


async def test_aclose_sends_what_was_written(real_pair):
    left, right = await real_pair()
    async with right, BufferedStream(left) as stream:
        await stream.write(b"last words")
        await stream.aclose()
        assert b"".join([chunk async for chunk in right]) == b"last words"


async def test_a_cancelled_aclose_closes_at_once(real_pair):
    left, right = await real_pair()
    async with right:
        stream = BufferedStream(left)
        await stream.write(b"lost")
        clog(left)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.aclose)
                await trio.testing.wait_all_tasks_blocked()
                assert left.socket.fileno() >= 0
                scope.cancel()
        assert scope.cancelled_caught
        assert left.socket.fileno() < 0
        with pytest.raises(trio.ClosedResourceError):
            await stream.write(b"x")


async def test_aclose_wakes_a_task_that_is_sending(real_pair):
    left, right = await real_pair()
    async with right:
        stream = BufferedStream(left)
        clog(left)

        async def send():
            with pytest.raises(trio.ClosedResourceError):
                await stream.send_all(b"x" * 1_000_000)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()


async def test_two_tasks_may_not_send_at_once():
    left, _ = trio.testing.lockstep_stream_pair()
    stream = BufferedStream(left)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, b"x")
        await trio.testing.wait_all_tasks_blocked()
        calls = (
            lambda: stream.write(b"y"),
            lambda: stream.send_all(b"y"),
            stream.flush,
            stream.send_eof,
            stream.wait_send_all_might_not_block,
        )
        for call in calls:
            with pytest.raises(trio.BusyResourceError):
                await call()
        nursery.cancel_scope.cancel()


async def test_closed_is_closed_for_every_call():
    stream = BufferedStream(ScriptedStream([b"ahead"]))
    await stream.peek()
    await stream.aclose()
    assert stream.buffered == 0
    for call in (
        stream.receive_some,
        stream.peek,
        lambda: stream.receive_exactly(0),
        lambda: stream.receive_until(b"\n", 1),
        stream.lines().__anext__,
        lambda: stream.write(b""),
        stream.flush,
        lambda: stream.send_all(b""),
        stream.send_eof,
        stream.wait_send_all_might_not_block,
    ):
        with pytest.raises(trio.ClosedResourceError):
            await call()


async def test_send_eof_sends_what_was_written_and_ends_writing_only(real_pair):
    left, right = await real_pair()
    async with right, BufferedStream(left) as stream:
        await stream.write(b"question")
        await stream.send_eof()
        await stream.send_eof()
        assert b"".join([chunk async for chunk in right]) == b"question"
        with pytest.raises(trio.ClosedResourceError, match="send_eof"):
            await stream.write(b"more")
        await right.send_all(b"answer")
        assert await stream.receive_exactly(6) == b"answer"


async def test_send_eof_over_a_stream_without_says_so_and_sends_nothing():
    left, _ = trio.testing.memory_stream_pair()
    tls = trio.SSLStream(left, ssl.create_default_context(), server_hostname="example.org")
    stream = BufferedStream(tls)
    with pytest.raises(OSError, match="SSLStream is not half-closeable") as error:
        await stream.send_eof()
    assert error.value.errno == errno.EOPNOTSUPP
    await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("data", ["text", 5, [1, 2], None])
async def test_only_bytes_are_taken(data):
    stream = BufferedStream(ScriptedStream())
    with pytest.raises(TypeError):
        await stream.write(data)
    with pytest.raises(TypeError):
        await stream.send_all(data)
