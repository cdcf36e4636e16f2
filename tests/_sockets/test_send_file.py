"""send_file: by the kernel and by reading, whole and in part, and what a cancelled one tells."""

from __future__ import annotations

import errno
import gzip
import io
import os
import tempfile

import pytest
import trio
import trio.testing

from sockscope._core.errors import SendTimeoutError, SocketError
from sockscope._open.descriptors import socket_pair
from sockscope._options.values import SocketOptions
from sockscope._sockets import send_file as module
from sockscope._sockets.custom import CustomStreamSocket
from sockscope.testing import open_loopback_pair

CONTENT = bytes(range(256)) * 4096  # 1 MiB, of which no two pieces are alike by accident


@pytest.fixture(params=["kernel", "reading"])
def way(request, monkeypatch):
    """Every promise holds both ways."""
    if request.param == "kernel" and not hasattr(os, "sendfile"):
        pytest.skip("this system has no sendfile")
    if request.param == "reading":
        monkeypatch.setattr(module, "_SENDFILE", None)
    return request.param


@pytest.fixture(params=["ipv4", "local"])
async def pair(request):
    async with open_loopback_pair(request.param) as pair:
        yield pair


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with open(path, "rb") as file:
        yield file


async def received(stream):
    data = bytearray()
    async for piece in stream:
        data += piece
    return bytes(data)


async def sent_by(stream, peer, *args, **arguments):
    """What send_file returns, and what the peer gets."""
    got = None

    async def receive():
        nonlocal got
        got = await received(peer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        sent = await stream.send_file(*args, **arguments)
        await stream.send_eof()
    return sent, got


class TestWhatIsSent:
    async def test_the_whole_file(self, way, pair, file):
        assert await sent_by(*pair, file) == (len(CONTENT), CONTENT)

    @pytest.mark.parametrize(
        ("offset", "count"),
        [
            (0, 10),
            (5, None),
            (1000, 600_000),
            (len(CONTENT) - 3, 100),
            (len(CONTENT), None),
            (len(CONTENT) + 9, 5),
            (0, 0),
        ],
    )
    async def test_a_part(self, way, pair, file, offset, count):
        end = None if count is None else offset + count
        part = CONTENT[offset:end]
        assert await sent_by(*pair, file, offset, count) == (len(part), part)

    async def test_the_files_position_stays(self, way, pair, file):
        file.seek(7)
        await sent_by(*pair, file, 0, 100)
        assert file.tell() == 7

    async def test_figures(self, way, pair, file):
        await sent_by(*pair, file)
        assert pair[0].statistics().bytes_sent == len(CONTENT)

    async def test_an_unbuffered_file(self, way, pair, file):
        assert await sent_by(*pair, file.raw, 5, 10) == (10, CONTENT[5:15])

    async def test_what_was_written_a_moment_ago(self, way, pair):
        with tempfile.TemporaryFile() as file:
            file.write(b"still in Python's buffer")
            assert (await sent_by(*pair, file))[1] == b"still in Python's buffer"

    async def test_bytes_in_memory(self, pair):
        assert await sent_by(*pair, io.BytesIO(CONTENT), 3, 500_000) == (
            500_000,
            CONTENT[3:500_003],
        )

    async def test_a_compressed_file_gives_what_reading_it_gives(self, pair, tmp_path):
        """Its descriptor is that of the compressed bytes."""
        with gzip.open(tmp_path / "x.gz", "wb") as file:
            file.write(b"plain text")
        with gzip.open(tmp_path / "x.gz", "rb") as file:
            assert (await sent_by(*pair, file))[1] == b"plain text"

    async def test_a_pipe_is_read_from_where_it_is(self, pair):
        reader, writer = os.pipe()
        os.write(writer, b"through a pipe")
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            assert (await sent_by(*pair, file))[1] == b"through a pipe"

    async def test_a_file_that_the_kernel_makes_up(self, pair):
        """sendfile may refuse it, and its size is 0."""
        if not os.path.exists("/proc/self/limits"):  # noqa: ASYNC240  # no disk
            pytest.skip("no /proc")
        with open("/proc/self/limits", "rb") as file:  # noqa: ASYNC230  # no disk
            whole = file.read()
            assert (await sent_by(*pair, file))[1] == whole

    @pytest.mark.skipif(not hasattr(os, "sendfile"), reason="this system has no sendfile")
    @pytest.mark.parametrize("number", sorted(module._READ_INSTEAD))
    async def test_where_the_kernel_cannot_it_is_read(self, pair, file, monkeypatch, number):
        calls = []

        def sendfile(out, number_in, offset, count):
            calls.append(offset)
            if len(calls) > 1:
                raise OSError(number, os.strerror(number))
            return real(out, number_in, offset, 1000)

        real = os.sendfile
        monkeypatch.setattr(module, "_SENDFILE", sendfile)
        assert await sent_by(*pair, file) == (len(CONTENT), CONTENT)
        assert calls == [0, 1000]

    async def test_a_disk_error_is_the_files_not_the_streams(self, pair, file, monkeypatch):
        def broken(*args):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(module, "_SENDFILE", broken)
        monkeypatch.setattr(os, "pread", broken)
        with pytest.raises(OSError, match="Input/output error"):
            await pair[0].send_file(file)
        await pair[0].send_all(b"fine")
        assert await pair[1].receive_some() == b"fine"

    async def test_without_pread_it_seeks(self, pair, file, monkeypatch):
        monkeypatch.setattr(module, "_SENDFILE", None)
        monkeypatch.delattr(os, "pread")
        assert await sent_by(*pair, file, 2, 10) == (10, CONTENT[2:12])

    async def test_a_file_that_shrinks(self, way, file):
        near, far = socket_pair()
        async with near, far:
            near.set_option("send_buffer", 5000)
            shrunk = 300_000

            def progress(sent):
                os.truncate(file.name, shrunk)

            sent, got = await sent_by(near, far, file, 0, len(CONTENT), progress=progress)
        assert got == CONTENT[:sent]
        # What had been read before may be on its way still.
        assert shrunk <= sent < len(CONTENT)


class TestTheDisk:
    @pytest.mark.skipif(not hasattr(os, "sendfile"), reason="this system has no sendfile")
    @pytest.mark.parametrize("tells", [True, False])
    async def test_is_read_in_a_thread_unless_in_memory(self, pair, file, monkeypatch, tells):
        read = []

        def pread(number, size, offset):
            read.append(offset)
            return real(number, size, offset)

        def preadv(number, buffers, offset, flags):
            raise BlockingIOError

        real = os.pread
        monkeypatch.setattr(os, "pread", pread)
        if tells:
            monkeypatch.setattr(os, "preadv", preadv)
        else:
            monkeypatch.setattr(module, "_DONT_WAIT", None)
        assert await sent_by(*pair, file, 0, 100) == (100, CONTENT[:100])
        assert read == [0]

    @pytest.mark.skipif(module._DONT_WAIT is None, reason="this system does not tell")
    async def test_what_is_in_memory_needs_no_thread(self, pair, file, monkeypatch):
        monkeypatch.setattr(module, "_must_wait_for_disk", lambda *args: False)
        monkeypatch.setattr(trio.to_thread, "run_sync", None)
        assert (await sent_by(*pair, file))[0] == len(CONTENT)

    @pytest.mark.skipif(module._DONT_WAIT is None, reason="this system does not tell")
    def test_bytes_just_written_are_in_memory(self, file):
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, module._DONT_WAIT)
        except OSError:
            pytest.skip("this file system does not tell")
        assert not module._must_wait_for_disk(file.fileno(), 0, 100)


class TestProgress:
    async def test_tells_after_each_part_up_to_all(self, way, pair, file):
        told = []
        sent, _ = await sent_by(*pair, file, progress=told.append)
        assert told == sorted(set(told))
        assert told[-1] == sent == len(CONTENT)

    async def test_when_cancelled_every_byte_sent_was_told(self, way, pair, file):
        near, far = pair
        told = [0]
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: near.send_file(file, progress=told.append))
                await trio.testing.wait_all_tasks_blocked(0.01)
                # Reading is done in threads, of which the loop knows nothing.
                while near.statistics().bytes_sent == 0:
                    await trio.testing.wait_all_tasks_blocked(0.01)
                scope.cancel()
        await near.send_eof()
        got = await received(far)
        assert 0 < told[-1] == len(got) < len(CONTENT)
        assert got == CONTENT[: len(got)]

    async def test_cancelled_before_nothing_is_sent(self, way, pair, file):
        with trio.CancelScope() as scope:
            scope.cancel()
            await pair[0].send_file(file)
        assert scope.cancelled_caught
        assert pair[0].statistics().bytes_sent == 0

    async def test_what_it_raises_comes_out(self, way, pair, file):
        def fail(sent):
            raise KeyError(sent)

        with pytest.raises(KeyError):
            await pair[0].send_file(file, 0, 10, progress=fail)
        await pair[0].send_all(b"the stream is free again")


class TestErrors:
    async def test_a_silent_peer(self, way, file):
        near, far = socket_pair(options=SocketOptions(send_timeout=0.05))
        async with near, far:
            with pytest.raises(SendTimeoutError) as caught:
                await near.send_file(file)
            assert caught.value.sent == near.statistics().bytes_sent > 0

    async def test_a_peer_that_has_gone(self, way, pair, file):
        near, far = pair
        await far.aclose()

        async def send_for_ever():
            while True:
                await near.send_file(file)

        with pytest.raises(trio.BrokenResourceError):
            await send_for_ever()

    async def test_closed_meanwhile(self, way, pair, file):
        near, _ = pair
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send():
                with pytest.raises(trio.ClosedResourceError):
                    await near.send_file(file)

            while near.statistics().bytes_sent == 0:
                await trio.testing.wait_all_tasks_blocked(0.01)
            await near.aclose()

    async def test_after_the_end(self, way, pair, file):
        await pair[0].send_eof()
        with pytest.raises(trio.ClosedResourceError):
            await pair[0].send_file(file)

    async def test_a_second_task_is_refused(self, way, pair, file):
        near, _ = pair
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_file, file)
            await trio.testing.wait_all_tasks_blocked()
            for call in (near.send_file(file), near.send_all(b"x")):
                with pytest.raises(trio.BusyResourceError):
                    await call
            nursery.cancel_scope.cancel()

    @pytest.mark.parametrize(("arguments", "error"), [((-1,), ValueError), ((0, -1), ValueError)])
    async def test_bad_numbers(self, pair, file, arguments, error):
        with pytest.raises(error, match="must be 0 or more"):
            await pair[0].send_file(file, *arguments)

    async def test_text(self, pair, tmp_path):
        with pytest.raises(TypeError, match="'rb'"):
            await pair[0].send_file(io.StringIO("text"))

    @pytest.mark.parametrize("count", [0, 1, None])
    async def test_checkpoints(self, way, pair, file, count):
        with trio.testing.assert_checkpoints():
            await pair[0].send_file(file, len(CONTENT) - 1, count)


class Simulated(trio.socket.SocketType):
    """A custom factory's socket, which takes a few bytes at a time."""

    family, type, proto = 2, 1, 0

    def __init__(self):
        self.taken = bytearray()

    def fileno(self):
        return 99

    def getpeername(self):
        return ("127.0.0.1", 1)

    getsockname = getpeername
    did_shutdown_SHUT_WR = False

    async def send(self, data, flags=0):
        await trio.lowlevel.checkpoint()
        if len(self.taken) > 10:
            raise OSError(errno.ECONNRESET, "reset")
        self.taken += bytes(data[:6])
        return len(data[:6])


class TestCustomFactories:
    @pytest.fixture
    def stream(self):
        return CustomStreamSocket(Simulated(), SocketOptions(), peer=("127.0.0.1", 1))

    async def test_nothing_but_the_sockets_methods_is_needed(self, stream, file):
        told = []
        assert await stream.send_file(file, 0, 10, progress=told.append) == 10
        assert stream._sock.taken == CONTENT[:10]
        assert told == [6, 10]

    async def test_errors(self, stream, file):
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_file(file)


async def test_the_errors_of_the_call_are_the_callers(pair, file, monkeypatch):
    def closed_behind_our_back(*args):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(module, "_SENDFILE", closed_behind_our_back)
    with pytest.raises(SocketError, match="Bad file descriptor"):
        await pair[0].send_file(file)
