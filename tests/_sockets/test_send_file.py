"""send_file: by the kernel and by reading, whole and in part, and what a cancelled one tells."""

from __future__ import annotations

import errno
import gzip
import io
import os
import select
import socket
import ssl
import tempfile
import threading

import pytest
import trio
import trio.testing

from sockscope._core.errors import SendTimeoutError, SocketError
from sockscope._open.descriptors import socket_pair
from sockscope._options.values import SocketOptions
from sockscope._sockets import file_reading
from sockscope._sockets import send_file as module
from sockscope._sockets.custom import CustomStreamSocket
from sockscope.testing import open_loopback_pair

if os.name == "posix":
    import fcntl
    import tty

CONTENT = bytes(range(256)) * 4096  # 1 MiB, of which no two pieces are alike by accident


@pytest.fixture(params=["kernel", "reading"])
def way(request, monkeypatch):
    """Every promise holds both ways."""
    if request.param == "kernel" and not hasattr(os, "sendfile"):
        pytest.skip("this system has no sendfile")
    if request.param == "reading":
        monkeypatch.setattr(module, "_SENDFILE", None)
        monkeypatch.setattr(module, "_SPLICE", None)
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


async def until(condition):
    """For what another thread does, of which the loop knows nothing."""
    while not condition():
        await trio.testing.wait_all_tasks_blocked(0.001)


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


def opened(kind, buffering):
    """A file that waits for somebody, and one that writes to it."""
    if kind == "socket":
        reading, writing = socket.socketpair()
        with reading, writing:
            return reading.makefile("rb", buffering), writing.makefile("wb", 0)
    if kind == "terminal":
        writer, reader = os.openpty()
        tty.setraw(reader)
    else:
        reader, writer = os.pipe()
    return open(reader, "rb", buffering), open(writer, "wb", 0)


@pytest.mark.skipif(os.name != "posix", reason="needs pipes that can be waited for")
class TestFilesThatWait:
    """Pipes, sockets and terminals, whose writer may stay silent for ever."""

    @pytest.fixture(params=["pipe", "socket", "terminal"])
    def kind(self, request):
        return request.param

    @pytest.fixture(params=[0, -1], ids=["bare", "buffered"])
    def buffering(self, request):
        return request.param

    @pytest.fixture
    def source(self, kind, buffering):
        file, writer = opened(kind, buffering)
        with writer, file:
            yield file, writer

    async def test_a_silent_one_can_be_cancelled_and_keeps_its_bytes(self, way, pair, source):
        file, writer = source
        told = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: pair[0].send_file(file, progress=told.append))
            writer.write(b"some")
            assert await pair[1].receive_some() == b"some"
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert told == [4]
        writer.write(b"more")
        assert file.read(4) == b"more"
        assert os.get_blocking(file.fileno())
        await pair[0].send_all(b"the stream is free")

    async def test_no_thread_waits(self, way, pair, source, monkeypatch):
        def refuse(*args, **arguments):
            raise AssertionError("a thread was asked for")

        monkeypatch.setattr(trio.to_thread, "run_sync", refuse)
        with trio.move_on_after(0.01) as scope:
            await pair[0].send_file(source[0])
        assert scope.cancelled_caught

    async def test_up_to_the_end(self, way, pair, kind, buffering):
        if kind == "terminal":
            pytest.skip("a terminal that hangs up is an error")
        file, writer = opened(kind, buffering)

        def write():
            with writer:
                for start in range(0, len(CONTENT), 4096):
                    writer.write(CONTENT[start : start + 4096])

        with file:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, write)
                assert await sent_by(*pair, file) == (len(CONTENT), CONTENT)

    async def test_no_more_than_count(self, way, pair, source):
        file, writer = source
        writer.write(b"head and body")
        assert await sent_by(*pair, file, 99, 4) == (4, b"head")
        assert file.read(9) == b" and body"

    async def test_what_the_file_had_read_ahead_comes_first(self, way, pair, kind):
        file, writer = opened(kind, -1)
        with writer, file:
            writer.write(b"head\nbody")
            assert file.readline() == b"head\n"
            assert await sent_by(*pair, file, 0, 4) == (4, b"body")

    async def test_cancelled_while_the_peer_is_slow_it_keeps_what_was_not_sent(
        self, kind, buffering
    ):
        if buffering == 0 and (kind != "pipe" or module._SPLICE is None):
            pytest.skip("what was read is nowhere else")
        size = 4000 if kind == "terminal" else 50_000  # as much as they hold
        file, writer = opened(kind, buffering)
        if buffering == 0:
            size = fcntl.fcntl(file, fcntl.F_SETPIPE_SZ, 300_000)  # splice takes much at once
        near, far = socket_pair()
        told = [0]
        async with near, far:
            near.set_option("send_buffer", 1)  # as small as the system makes it
            with writer, file:
                writer.write(CONTENT[:size])
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(lambda: near.send_file(file, progress=told.append))
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    nursery.cancel_scope.cancel()
                left = b""
                while len(left) < size - told[-1]:
                    left += file.read(min(1000, size - told[-1] - len(left)))
            await near.send_eof()
            got = await received(far)
        assert told[-1] == len(got) == near.statistics().bytes_sent
        assert got + left == CONTENT[:size]
        assert left

    async def test_closing_the_stream_ends_the_wait(self, way, pair, source):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send():
                with pytest.raises(trio.ClosedResourceError):
                    await pair[0].send_file(source[0])

            await trio.testing.wait_all_tasks_blocked()
            await pair[0].aclose()

    async def test_an_end_is_told_from_a_pause(self, way, pair, monkeypatch):
        """Another process may be faster to read what a non-blocking pipe had."""
        file, writer = opened("pipe", 0)
        os.set_blocking(file.fileno(), False)
        wait, stolen = trio.lowlevel.wait_readable, []

        async def wait_and_lose(descriptor):
            await wait(descriptor)
            if not stolen:
                stolen.append(os.read(descriptor, 100))
                nursery.start_soon(write_later)

        async def write_later():
            await trio.testing.wait_all_tasks_blocked()
            writer.write(b"next")

        monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_and_lose)
        with writer, file:
            writer.write(b"lost")
            async with trio.open_nursery() as nursery:
                assert await sent_by(*pair, file, 0, 4) == (4, b"next")
        assert stolen == [b"lost"]

    @pytest.mark.skipif(module._SPLICE is None, reason="this system has no splice")
    async def test_where_splice_is_refused_it_is_read(self, pair, monkeypatch):
        def refuse(*args, flags):
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(module, "_SPLICE", refuse)
        file, writer = opened("pipe", 0)
        with writer, file:
            writer.write(b"read")
            assert await sent_by(*pair, file, 0, 4) == (4, b"read")

    @pytest.mark.skipif(module._SPLICE is None, reason="this system has no splice")
    async def test_a_peer_that_has_gone(self, pair, source):
        await pair[1].aclose()

        async def send_for_ever():
            while True:
                source[1].write(b"x")
                await pair[0].send_file(source[0], 0, 1)

        with pytest.raises(trio.BrokenResourceError):
            await send_for_ever()


class Unpollable(io.RawIOBase):
    """A file without positions or a descriptor, whose reads wait for `written`."""

    def __init__(self):
        self.written = threading.Event()

    def readable(self):
        return True

    def readinto(self, buffer):
        self.written.wait()
        buffer[:4] = b"data"
        return 4


class TestFilesThatCannotBeWaitedFor:
    """A thread reads them, and a cancelled call leaves it behind."""

    async def cancelled(self, stream, file):
        with trio.move_on_after(0.01) as scope:
            await stream.send_file(file)
        return scope.cancelled_caught

    async def test_a_bare_one(self, pair):
        file = Unpollable()
        try:
            assert await self.cancelled(pair[0], file)
        finally:
            file.written.set()
        assert await sent_by(*pair, file, 0, 4) == (4, b"data")

    async def test_a_buffered_one_keeps_the_bytes(self, pair):
        file = io.BufferedReader(Unpollable())
        try:
            assert await self.cancelled(pair[0], file)
        finally:
            file.raw.written.set()
        assert await sent_by(*pair, file, 0, 6) == (6, b"datada")

    async def test_they_use_up_no_threads_of_the_program(self, pair):
        file = Unpollable()
        try:
            assert await self.cancelled(pair[0], file)
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        finally:
            file.written.set()

    @pytest.mark.parametrize("buffering", [0, -1])
    async def test_pipes_of_windows(self, pair, monkeypatch, buffering):
        monkeypatch.setattr(module, "_SPLICE", None)
        monkeypatch.setattr(file_reading, "_WAITS_FOR_FILES", False)
        file, writer = opened("pipe", buffering)
        with writer:
            assert await self.cancelled(pair[0], file)
            writer.write(b"gone" if buffering == 0 else b"kept")
            if buffering == 0:
                await until(lambda: not select.select([file], [], [], 0)[0])
            writer.write(b"next")
            expected = b"next" if buffering == 0 else b"kept"
            assert await sent_by(*pair, file, 0, 4) == (4, expected)
        file.close()

    async def test_compressed_bytes_out_of_a_pipe(self, pair):
        pipe, writer = opened("pipe", -1)
        with pipe, gzip.open(pipe) as file, writer:  # which lets the thread end first
            assert await self.cancelled(pair[0], file)
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0

    async def test_what_the_system_cannot_poll(self, pair, monkeypatch):
        async def refuse(descriptor):
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(trio.lowlevel, "wait_readable", refuse)
        monkeypatch.setattr(module, "_SPLICE", None)
        for buffering in (0, -1):
            file, writer = opened("pipe", buffering)
            with file, writer:
                writer.write(b"data")
                writer.close()
                assert await pair[0].send_file(file) == 4

    async def test_a_socket_of_ssl_has_bytes_of_which_the_system_does_not_know(self):
        near, far = socket.socketpair()
        with near, far:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            with near.makefile("rb", buffering=0) as plain:
                assert file_reading._can_wait_for(plain)
            with context.wrap_socket(near, do_handshake_on_connect=False) as wrapped:
                assert not file_reading._can_wait_for(wrapped.makefile("rb", buffering=0))


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

    @pytest.mark.parametrize("value", [-1, 2**63, 2**70])
    @pytest.mark.parametrize("name", ["offset", "count"])
    async def test_bad_numbers(self, pair, file, name, value):
        with pytest.raises(ValueError, match=f"{name} must be 0 or more.*not {value}"):
            await pair[0].send_file(file, **{name: value})

    @pytest.mark.parametrize("value", [1.0, "1"])
    @pytest.mark.parametrize("name", ["offset", "count"])
    async def test_no_numbers(self, pair, file, name, value):
        with pytest.raises(TypeError, match=f"{name} must be a number of bytes"):
            await pair[0].send_file(file, **{name: value})

    @pytest.mark.parametrize("offset", [2**63 - 1, 2**63 - 2, 2**63 - 300_000])
    async def test_the_farthest_places_are_behind_the_end(self, way, pair, file, offset):
        for count in (None, 1, 2**63 - 1):
            assert await pair[0].send_file(file, offset, count) == 0

    @pytest.mark.parametrize("thing", ["path", b"path", 3, None, trio.Path("path")])
    async def test_what_is_no_file(self, pair, thing):
        with pytest.raises(TypeError, match=r"file must be .* mode 'rb'"):
            await pair[0].send_file(thing)

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
