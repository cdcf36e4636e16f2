"""Exact sizes, separators, lines and peeking: right however it is cut, and nothing is lost."""

from __future__ import annotations

import math
import pickle

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from sockscope.buffered import BufferedStream, IncompleteReadError, RecordTooLongError
from tests.buffered.streams import ScriptedStream, collect, counted_steps, cut

_sizes = st.lists(st.integers(1, 7), max_size=30)
_few = st.lists(st.sampled_from(b"ab\r\n"), max_size=40).map(bytes)


def run(function, *args):
    return trio.run(function, *args)


@given(
    separator=_few.filter(len), data=_few, sizes=_sizes, max_size=st.integers(0, 20), ahead=_sizes
)
def test_receive_until_gives_what_split_gives(separator, data, sizes, max_size, ahead):
    size = 1 + len(ahead)

    async def main():
        inner = ScriptedStream(cut(data, sizes))
        stream = BufferedStream(inner, input_buffer_size=size)
        rest = data
        while True:
            record, found, after = rest.partition(separator)
            # At the end a start of a separator is content, but may have been one before that.
            if found and len(record) <= max_size:
                assert await stream.receive_until(separator, max_size) == record
                rest = after
                continue
            if found or len(rest) > max_size + len(separator):
                with pytest.raises(RecordTooLongError) as too_long:
                    await stream.receive_until(separator, max_size)
                assert too_long.value.max_size == max_size
                # never more held than the limit, the separator and one receive
                assert stream.buffered <= max_size + len(separator) + size
                assert b"".join(await collect(stream)) == rest
            else:
                with pytest.raises((IncompleteReadError, RecordTooLongError)) as error:
                    await stream.receive_until(separator, max_size)
                if isinstance(error.value, IncompleteReadError):
                    assert error.value.partial == rest
            return

    run(main)


@given(data=st.binary(max_size=200), sizes=_sizes, wanted=st.lists(st.integers(0, 50), max_size=20))
def test_receive_exactly_gives_consecutive_slices(data, sizes, wanted):
    async def main():
        stream = BufferedStream(ScriptedStream(cut(data, sizes)))
        start = 0
        for n in wanted:
            if start + n > len(data):
                with pytest.raises(IncompleteReadError) as error:
                    await stream.receive_exactly(n)
                assert error.value.partial == data[start:]
                assert stream.buffered == 0
                assert await stream.receive_some() == b""
                return
            assert await stream.receive_exactly(n) == data[start : start + n]
            start += n

    run(main)


@given(data=_few, sizes=_sizes)
def test_lines_are_ended_by_lf_or_crlf(data, sizes):
    async def main():
        stream = BufferedStream(ScriptedStream(cut(data, sizes)))
        *whole, partial = data.split(b"\n")
        lines, iterator = [], stream.lines(max_size=len(data))
        for _ in whole:
            lines.append(await iterator.__anext__())  # noqa: PERF401  # the end is tested apart
        with pytest.raises((IncompleteReadError, StopAsyncIteration)) as end:
            await iterator.__anext__()
        assert getattr(end.value, "partial", b"") == partial
        assert isinstance(end.value, IncompleteReadError) is bool(partial)
        assert lines == [line.removesuffix(b"\r") for line in whole]

    run(main)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("chunk", [1, 100])
async def test_the_newline_does_not_count_for_the_length_of_a_line(newline, chunk):
    stream = BufferedStream(ScriptedStream([b"12345" + newline], checkpoints=False))
    assert await collect(stream.lines(max_size=5)) == [b"12345"]
    data = b"123456" + newline
    stream = BufferedStream(ScriptedStream(cut(data, [chunk] * len(data))))
    with pytest.raises(RecordTooLongError, match="max_size=5 bytes"):
        await collect(stream.lines(max_size=5))
    assert b"".join(await collect(stream)) == data


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"--boundary"])
async def test_a_record_is_too_long_as_soon_as_that_is_certain(separator):
    """No peer keeps the call waiting for the byte after the one too many."""
    left, right = trio.testing.memory_stream_pair()
    stream = BufferedStream(right)
    await left.send_all(b"x" * 11)
    with pytest.raises(RecordTooLongError):
        await stream.receive_until(separator, 10)
    with pytest.raises(RecordTooLongError):
        await stream.lines(10).__anext__()
    assert await stream.receive_some() == b"x" * 11


async def test_after_too_long_a_record_a_larger_limit_finds_it():
    stream = BufferedStream(ScriptedStream([b"abcdef;g"]))
    for _ in range(2):
        with pytest.raises(RecordTooLongError):
            await stream.receive_until(b";", 3)
    assert await stream.receive_until(b";", 6) == b"abcdef"
    assert await stream.receive_some() == b"g"


async def test_calls_may_be_mixed():
    stream = BufferedStream(ScriptedStream([b"5:hello", b"GET /\r\nHost", b": x\r\n", b"\r\nbody"]))
    assert await stream.receive_exactly(int(await stream.receive_until(bytearray(b":"), 5))) == (
        b"hello"
    )
    lines = stream.lines()
    assert await lines.__anext__() == b"GET /"
    assert stream.buffered == 4
    assert await stream.peek() == b"Host"
    assert [await lines.__anext__(), await lines.__anext__()] == [b"Host: x", b""]
    assert await stream.receive_some(3) == b"bod"
    assert await stream.receive_some(3) == b"y"
    assert await stream.receive_some(3) == b""


async def test_peek_takes_nothing_and_waits_for_min_bytes():
    stream = BufferedStream(ScriptedStream([b"PR", b"OX", b"Y "]))
    assert await stream.peek(min_bytes=0) == b""
    assert await stream.peek(5) == b"PR"
    assert await stream.peek(5, min_bytes=5) == b"PROXY"
    assert await stream.peek(min_bytes=100) == b"PROXY "
    assert stream.buffered == 6
    assert await stream.receive_some() == b"PROXY "
    assert await stream.peek() == b""


async def test_what_was_read_ahead_is_counted_and_asked_for_by_size():
    inner = ScriptedStream([b"x" * 100])
    stream = BufferedStream(inner, input_buffer_size=10)
    assert await stream.receive_some(1) == b"x"
    assert stream.buffered == 9
    assert await stream.receive_exactly(25) == b"x" * 25
    assert inner.receives == 3
    assert stream.buffered == 4


async def test_time_is_linear_for_single_bytes():
    """One receive a byte, and no byte searched twice: see also test_separators."""
    data = b"a" * (1 << 16) + b"b"
    inner = ScriptedStream([data], checkpoints=False)
    stream = BufferedStream(inner, input_buffer_size=1)
    assert await stream.receive_until(b"a" * 999 + b"b", math.floor(1e9)) == data[:-1000]
    assert inner.receives == len(data)


@pytest.mark.parametrize(
    "call",
    [
        lambda stream: stream.receive_some(2),
        lambda stream: stream.peek(2),
        lambda stream: stream.peek(min_bytes=0),
        lambda stream: stream.receive_exactly(2),
        lambda stream: stream.receive_exactly(0),
        lambda stream: stream.receive_until(b";", 10),
        lambda stream: stream.lines().__anext__(),
    ],
)
@pytest.mark.parametrize("ahead", [False, True])
async def test_each_call_is_one_checkpoint(call, ahead):
    stream = BufferedStream(ScriptedStream([b"ab;cd\nef"]))
    if ahead:
        await stream.peek()
    with trio.CancelScope() as scope:
        scope.cancel()
        await call(stream)
    assert scope.cancelled_caught
    with trio.testing.assert_checkpoints(), counted_steps() as steps:
        await call(stream)
    assert len(steps) == 1


@given(
    data=_few.map(lambda head: head + b"ab|"),
    sizes=_sizes,
    cancelled_at=st.lists(st.integers(1, 5), max_size=20),
    call=st.sampled_from(["until", "exactly", "peek"]),
)
def test_a_cancelled_receive_loses_nothing(data, sizes, cancelled_at, call):
    class Cancelling(ScriptedStream):
        scope = trio.CancelScope()
        steps = -1

        async def receive_some(self, max_bytes=None):
            self.steps -= 1
            if self.steps == 0:
                self.scope.cancel()
            return await super().receive_some(max_bytes)

    async def main():
        inner = Cancelling(cut(data, sizes))
        stream = BufferedStream(inner)
        calls = {
            "until": lambda: stream.receive_until(b"|", 1000),
            "exactly": lambda: stream.receive_exactly(len(data)),
            "peek": lambda: stream.peek(min_bytes=len(data)),
        }
        for step in cancelled_at:
            with trio.CancelScope() as inner.scope:
                inner.steps = step
                got = await calls[call]()
                if call in ("until", "exactly"):
                    assert data.startswith(got)
                    return
        if call == "until":
            assert await stream.receive_until(b"|", 1000) == data[:-1]
        else:
            assert b"".join(await collect(stream)) == data

    run(main)


async def test_a_poll_goes_on_where_the_last_one_stopped():
    """A peer that sends a byte between two polls makes none of them search it all again."""
    left, right = trio.testing.memory_stream_pair()
    stream = BufferedStream(right)
    for _ in range(3):
        await left.send_all(b"a" * 10)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.receive_until, b"ab", 100)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
    search = stream._search
    await left.send_all(b"b")
    with trio.testing.assert_checkpoints():
        assert await stream.receive_until(b"ab", 100) == b"a" * 29
    assert search is not None
    assert search.found == 29


async def test_what_came_before_a_reset_is_delivered_then_the_error_each_time():
    error = trio.BrokenResourceError("reset")
    stream = BufferedStream(ScriptedStream([b"one\ntw"], error=error))
    lines = stream.lines()
    assert await lines.__anext__() == b"one"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="reset"):
            await lines.__anext__()
    with pytest.raises(trio.BrokenResourceError) as second:
        await stream.receive_exactly(3)
    assert second.value.__cause__ is error
    assert await stream.receive_some() == b"tw"
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        await stream.receive_some()


async def test_a_real_reset_is_never_a_clean_end(real_pair):
    left, right = await real_pair()
    if left.socket.family.name == "AF_UNIX":
        # a local peer resets by closing with bytes unread
        await right.send_all(b"unread")
    else:
        left.socket.setsockopt(
            trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0" + b"\0" * 4
        )
    stream = BufferedStream(right)
    await left.send_all(b"first")
    assert await stream.peek() == b"first"
    await left.aclose()
    assert await stream.receive_some() == b"first"
    for _ in range(3):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
    await stream.aclose()


async def test_two_tasks_may_not_receive_at_once():
    _, right = trio.testing.memory_stream_pair()
    stream = BufferedStream(right)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_until, b"\n", 10)
        await trio.testing.wait_all_tasks_blocked()
        for call in (stream.receive_some, stream.peek, stream.lines().__anext__):
            with pytest.raises(trio.BusyResourceError):
                await call()
        with pytest.raises(trio.BusyResourceError):
            await stream.receive_exactly(1)
        nursery.cancel_scope.cancel()


async def test_bytes_that_come_as_the_stream_is_closed_are_not_half_a_record():
    """The start of the record is gone with the buffer; its rest must not pass for it."""
    left, right = trio.testing.memory_stream_pair()
    stream = BufferedStream(right)
    await left.send_all(b"head ")
    async with trio.open_nursery() as nursery:

        async def receive():
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_until(b"\n", 100)

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await left.send_all(b"tail\n")
        await trio.aclose_forcefully(stream)


async def test_a_call_served_from_the_buffer_sees_that_it_was_closed_meanwhile():
    async def receive(stream):
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_exactly(2)

    for _ in range(30):  # Trio runs the two in random order: closed before, or at the checkpoint
        stream = BufferedStream(ScriptedStream([b"12345"]))
        await stream.peek()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, stream)
            nursery.start_soon(stream.aclose)
        assert stream.buffered == 0


async def test_errors_are_of_classes_that_users_catch():
    stream = BufferedStream(ScriptedStream([b"abc"]))
    with pytest.raises(EOFError, match=r"cannot receive 5 bytes: .* after 3 bytes") as incomplete:
        await stream.receive_exactly(5)
    assert isinstance(incomplete.value, OSError)
    again = pickle.loads(pickle.dumps(incomplete.value))
    assert (type(again), again.partial) == (IncompleteReadError, b"abc")
    assert "buffered" in IncompleteReadError.__module__


async def test_messages_name_the_peer_where_the_stream_knows_it():
    inner = ScriptedStream([])
    inner.remote_address = "192.0.2.1:80"  # as StreamSocket has it
    with pytest.raises(IncompleteReadError, match=r"from 192\.0\.2\.1:80"):
        await BufferedStream(inner).receive_exactly(1)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda s: s.receive_some(0), ValueError),
        (lambda s: s.receive_some(1.5), TypeError),
        (lambda s: s.receive_exactly(-1), ValueError),
        (lambda s: s.receive_until(b"", 10), ValueError),
        (lambda s: s.receive_until("x", 10), TypeError),
        (lambda s: s.receive_until(5, 10), TypeError),
        (lambda s: s.receive_until(b"x", -1), ValueError),
        (lambda s: s.peek(0), ValueError),
        (lambda s: s.peek(2, min_bytes=3), ValueError),
        (lambda s: s.peek(min_bytes=-1), ValueError),
        (lambda s: s.lines(-1).__anext__(), ValueError),
    ],
)
async def test_bad_arguments_are_named(call, error):
    stream = BufferedStream(ScriptedStream([b"x"]))
    with pytest.raises(error):
        await call(stream)
    assert await stream.receive_some() == b"x"


@pytest.mark.parametrize("name", ["input_buffer_size", "output_buffer_size"])
def test_a_buffer_holds_at_least_a_byte(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        BufferedStream(ScriptedStream(), **{name: 0})
