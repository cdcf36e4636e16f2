"""TextStream is io.TextIOWrapper over a stream, however characters and newlines are cut."""

from __future__ import annotations

import codecs
import contextlib
import io

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from sockscope.buffered import BufferedStream, RecordTooLongError, TextStream
from tests.buffered.streams import ScriptedStream, collect, counted_steps, cut

NEWLINES = [None, "", "\n", "\r", "\r\n"]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "shift_jis", "utf-32", "iso2022_jp"]

_text = st.text(st.sampled_from("\r\n\r\naé😀あ漢ｱ"), max_size=40)
_japanese = st.text(st.sampled_from("\r\n\r\naあ漢"), max_size=40)
_sizes = st.lists(st.integers(1, 5), max_size=40)


def text_of(encoding):
    return _japanese if encoding in ("shift_jis", "iso2022_jp") else _text


_encoded = st.sampled_from(ENCODINGS).flatmap(
    lambda encoding: st.tuples(st.just(encoding), text_of(encoding))
)


@given(encoded=_encoded, sizes=_sizes, newline=st.sampled_from(NEWLINES))
@example(encoded=("utf-8", "a\r"), sizes=[], newline="\r\n")
@example(encoded=("utf-8", "a\r\r\nb"), sizes=[1] * 5, newline="\r\n")
def test_lines_are_those_of_io(encoded, sizes, newline):
    encoding, text = encoded
    data = text.encode(encoding)
    expected = list(io.TextIOWrapper(io.BytesIO(data), encoding, newline=newline))

    async def main():
        chunks = cut(data, sizes)
        stream = TextStream(ScriptedStream(chunks), encoding=encoding, newline=newline)
        assert await collect(stream) == expected
        assert await stream.receive_line() == ""
        stream = TextStream(ScriptedStream(chunks), encoding=encoding, newline=newline)
        ends = ("\r\n", "\r", "\n") if newline == "" else (newline or "\n",)
        bare = [
            line[: -len(next((e for e in ends if line.endswith(e)), "")) or None]
            for line in expected
        ]
        assert await collect(stream.lines()) == bare

    trio.run(main)


@given(
    encoded=_encoded,
    sizes=_sizes,
    newline=st.sampled_from(NEWLINES),
    counts=st.lists(st.one_of(st.none(), st.integers(1, 5)), max_size=20),
)
def test_receive_some_between_lines_loses_nothing(encoded, sizes, newline, counts):
    encoding, text = encoded
    data = text.encode(encoding)
    expected = io.TextIOWrapper(io.BytesIO(data), encoding, newline=newline).read()

    async def main():
        stream = TextStream(ScriptedStream(cut(data, sizes)), encoding=encoding, newline=newline)
        got = ""
        for count in counts:
            if count is None:
                with contextlib.suppress(RecordTooLongError):
                    got += await stream.receive_line(max_size=2)
            else:
                some = await stream.receive_some(count)
                assert len(some) <= count
                got += some
        while some := await stream.receive_some():
            got += some
        assert got == expected

    trio.run(main)


@given(
    texts=_encoded.flatmap(
        lambda pair: st.tuples(st.just(pair[0]), st.lists(text_of(pair[0]), max_size=5))
    ),
    newline=st.sampled_from(NEWLINES),
    send_all=st.booleans(),
)
def test_written_text_is_encoded_as_io_does(texts, newline, send_all):
    encoding, pieces = texts
    file = io.BytesIO()
    wrapper = io.TextIOWrapper(file, encoding, newline=newline)
    for piece in pieces:
        wrapper.write(piece)
    wrapper.flush()

    async def main():
        inner = ScriptedStream()
        stream = TextStream(inner, encoding=encoding, newline=newline)
        for piece in pieces:
            await (stream.send_all if send_all else stream.write)(piece)
        await stream.flush()
        assert inner.sent == file.getvalue()

    trio.run(main)


@pytest.mark.parametrize("errors", ["replace", "ignore", "backslashreplace"])
@given(data=st.binary(max_size=30), sizes=_sizes)
def test_errors_says_what_becomes_of_bytes_that_are_no_text(errors, data, sizes):
    expected = io.TextIOWrapper(io.BytesIO(data), "utf-8", errors).read()

    async def main():
        stream = TextStream(ScriptedStream(cut(data, sizes)), errors=errors)
        assert "".join(await collect(stream)) == expected

    trio.run(main)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "shift_jis"])
@given(
    text=_japanese,
    bad=st.sampled_from([b"\xff", b"\x00\xdc\x00\xdc", b"\x83", b"\xe3\x81"]),
    sizes=_sizes,
)
def test_text_before_a_fault_is_received_then_the_error_each_time(encoding, text, bad, sizes):
    """Where the network cuts decides nothing: the same text comes before the same error."""
    data = text.encode(encoding) + bad
    try:
        data.decode(encoding)
    except UnicodeDecodeError as exc:
        good = data[: exc.start].decode(encoding)
    else:
        return

    async def main():
        stream = TextStream(ScriptedStream(cut(data, sizes)), encoding=encoding, newline="\n")
        got = ""
        for _ in range(len(data) + 1):
            try:
                got += await stream.receive_some()
            except UnicodeDecodeError:
                break
        assert got == good
        for _ in range(2):
            with pytest.raises(UnicodeDecodeError):
                await stream.receive_line()

    trio.run(main)


async def test_a_lone_cr_before_a_fault_is_text_too():
    stream = TextStream(ScriptedStream([b"a\r", b"\xff"]))
    assert [await stream.receive_some(), await stream.receive_some()] == ["a", "\n"]
    with pytest.raises(UnicodeDecodeError):
        await stream.receive_some()


async def test_utf_16_without_its_mark_is_refused_each_time():
    stream = TextStream(ScriptedStream([b"a\0b\0"]), encoding="utf-16")
    for _ in range(2):
        with pytest.raises(UnicodeError, match="BOM"):
            await stream.receive_some()


async def test_a_codec_that_does_not_say_where_its_fault_is():
    """UTF-16 itself is one of those before Python 3.13."""

    class Decoder(codecs.IncrementalDecoder):
        def decode(self, data, final=False):
            if data:
                raise UnicodeError("no text at all")
            return ""

        def getstate(self):
            return b"", 0

    def search(name):
        utf_8 = codecs.lookup("utf-8")
        return (
            codecs.CodecInfo(
                utf_8.encode,
                utf_8.decode,
                incrementalencoder=utf_8.incrementalencoder,
                incrementaldecoder=Decoder,
                name=name,
            )
            if name == "faulty"
            else None
        )

    codecs.register(search)
    try:
        stream = TextStream(ScriptedStream([b"x"]), encoding="faulty")
        for _ in range(2):
            with pytest.raises(UnicodeError, match="no text at all"):
                await stream.receive_some()
    finally:
        codecs.unregister(search)


async def test_the_mark_is_sent_with_the_first_text_that_is_taken():
    inner = ScriptedStream()
    stream = TextStream(inner, encoding="utf-8-sig")
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.write("lost")
    with pytest.raises(UnicodeEncodeError):
        await stream.write("\ud800")
    await stream.send_all("a")
    await stream.send_all("b")
    assert inner.sent == b"\xef\xbb\xbfab"


async def test_a_line_too_long_stays_and_takes_bounded_memory():
    inner = ScriptedStream([b"x" * 1000])
    stream = TextStream(BufferedStream(inner, input_buffer_size=8))
    for _ in range(2):
        with pytest.raises(RecordTooLongError, match="max_size=10 characters"):
            await stream.receive_line(10)
    assert inner.receives == 2
    assert await stream.receive_some(3) == "xxx"
    assert len(await stream.receive_some()) == 13
    inner.remote_address = None
    assert await collect(stream.lines(1000)) == ["x" * 984]


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.receive_some(1),
        lambda s: s.receive_line(),
        lambda s: s.lines().__anext__(),
        lambda s: s.__anext__(),
    ],
)
@pytest.mark.parametrize("ahead", [False, True])
async def test_each_call_is_one_checkpoint_and_cancelled_takes_nothing(call, ahead):
    stream = TextStream(ScriptedStream([b"one\ntwo\nthree\n"]))
    if ahead:
        await stream.receive_line()
    with trio.CancelScope() as scope:
        scope.cancel()
        await call(stream)
    assert scope.cancelled_caught
    with trio.testing.assert_checkpoints(), counted_steps() as steps:
        assert (await call(stream))[0] == ("t" if ahead else "o")
    assert len(steps) == 1


async def test_one_task_at_a_time_receives():
    stream = TextStream(trio.testing.memory_stream_pair()[0])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_line)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await stream.receive_some()
        nursery.cancel_scope.cancel()


async def test_two_way_over_sockets(real_pair):
    left, right = await real_pair()
    async with TextStream(left, newline="\r\n") as client, TextStream(right) as server:
        await client.write("grüß\nGott\n")
        await client.send_eof()
        assert await collect(server.lines()) == ["grüß", "Gott"]
        await server.send_all("dich\r\n")
        assert await client.receive_line() == "dich\r\n"
        await server.write("leb wohl")
        await server.aclose()
        assert await collect(client) == ["leb wohl"]


async def test_closed_is_closed_also_with_text_at_hand():
    async def receive(stream):
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_line()

    for _ in range(30):  # Trio runs the two in random order: closed before, or at the checkpoint
        stream = TextStream(ScriptedStream([b"a\nb\n"]))
        await stream.receive_line()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, stream)
            nursery.start_soon(stream.aclose)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"encoding": "no-such"}, LookupError),
        ({"encoding": "hex"}, LookupError),
        ({"errors": "no-such"}, LookupError),
        ({"newline": "\n\r"}, ValueError),
    ],
)
def test_bad_arguments_are_refused_as_io_refuses_them(arguments, error):
    with pytest.raises(error):
        TextStream(ScriptedStream(), **arguments)


async def test_limits_are_checked():
    stream = TextStream(ScriptedStream([b"x"]))
    with pytest.raises(ValueError, match="max_chars"):
        await stream.receive_some(0)
    with pytest.raises(ValueError, match="max_size"):
        await stream.receive_line(-1)
    with pytest.raises(ValueError, match="max_size"):
        stream.lines(-1)
