"""Sending files: by the kernel where it can, else by reading them."""

from __future__ import annotations

import errno
import functools
import io
import os
import select
import stat
from collections.abc import Awaitable, Callable
from typing import BinaryIO, Final, TypeVar

import trio
from trio.lowlevel import checkpoint

from sockscope._sockets.base import is_custom
from sockscope._sockets.file_reading import (
    FARTHEST,
    Source,
    may_wait,
    source_of,
)
from sockscope._sockets.stream_send import Sending

# At a gigabit two milliseconds of sending, which is how long the loop may be held.
_PIECE: Final = 256 * 1024
_SENDFILE: Final = getattr(os, "sendfile", None)
_SPLICE: Final = getattr(os, "splice", None)
_DONT_WAIT_FOR_PIPE: Final = getattr(os, "SPLICE_F_NONBLOCK", 0)
# What moving bytes out of a pipe returns when somebody else was faster to read them.
_NOTHING_YET: Final = -1
# The kernel cannot send this file by itself (of /proc, say), or cannot read it: then
# reading it ourselves tells which, without blaming the stream.
_READ_INSTEAD: Final = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ESPIPE, errno.EOVERFLOW, errno.EIO}
    | {errno.ENOTSUP}  # which macOS tells from EOPNOTSUPP
)
# What would wait for a disk says EAGAIN instead (preadv2, Linux 4.14).
_DONT_WAIT: Final = getattr(os, "RWF_NOWAIT", None)

Progress = Callable[[int], object]
# Out of a file into a descriptor, from a place, so many bytes; and what to wait for before.
Move = Callable[[int, int, int], int]
Prepare = Callable[[int, int], Awaitable[None]]
T = TypeVar("T")


class _CannotSend(Exception):
    """The kernel does not take this file."""


class SendingFiles(Sending):
    """The part of `StreamSocket` that sends files."""

    # What to cancel if the stream is closed while a file is waited for.
    __slots__ = ("_file_wait",)

    async def send_file(
        self,
        file: BinaryIO,
        offset: int = 0,
        count: int | None = None,
        *,
        progress: Progress | None = None,
    ) -> int:
        """Send part of a file, without its bytes passing through this process where possible.

        Args:
          file: a file opened for reading bytes, which must stay open. One that the
            system knows keeps its position; of any other (`io.BytesIO`, `gzip`) the
            bytes that it gives are sent, and its position moves. A file without
            positions, such as a pipe, is read on from where it is, and waited for as
            long as it is silent.
          offset: where in the file to begin, in bytes; of a file without positions
            it says nothing.
          count: how many bytes; None is up to the end. Fewer if the file ends before,
            also if it shrinks meanwhile.
          progress: a plain function, called with the bytes sent so far after each part.

        Returns:
          The bytes sent.

        Raises:
          ValueError: *offset* or *count* is negative, or 2**63 or more.
          TypeError: *file* gives text, or is no file but its path or descriptor.
          OSError: the file could not be read.
          trio.BusyResourceError: another task is sending, or waits for the same pipe.
          Otherwise as `StreamSocket.send_all`.

        A checkpoint. When cancelled, *progress* has been told of every byte sent. The disk
        is read in a thread, unless the system has the bytes in memory.

        A pipe, socket or terminal may stay silent for ever; cancelling ends the wait, and
        the file has all its bytes but those sent, if it has a buffer (``open(fd, "rb")``,
        ``makefile("rb")``), or is a pipe without one on Linux. Of others without a buffer,
        up to 256 KiB that were read and not yet sent are lost. What the system cannot wait
        for (pipes on Windows, `gzip` on a pipe, sockets of `ssl`, objects of your own
        without positions) is read in a thread, which a cancelled call leaves behind: it
        reads once more, those bytes are lost unless they stay in the file's buffer, and
        closing the file may have to wait for it.
        Source: sendfile(2), splice(2).
        """
        check_arguments(file, offset, count)
        if self._sending:
            raise trio.BusyResourceError("another task is already sending on this stream")
        self._sending = True
        try:
            await checkpoint()
            self._check_can_send()
            if count == 0:
                return 0
            count = min(FARTHEST if count is None else count, FARTHEST - offset)
            report = progress or (lambda sent: None)
            sent, complete = 0, False
            descriptor = await descriptor_of(file)
            way = None if is_custom(self._sock) else self._way_of_kernel(file, descriptor)
            if way is not None:
                sent, complete = await self._send_by_kernel(*way, offset, count, report)
            if complete:
                return sent
            source = source_of(file, descriptor)
            return await self._send_by_reading(source, offset, count, report, sent)
        finally:
            self._sending = False

    def _way_of_kernel(self, file: BinaryIO, descriptor: int | None) -> tuple[Prepare, Move] | None:
        """How the kernel sends *file* by itself, if it does."""
        if descriptor is not None and _SENDFILE is not None:
            return functools.partial(_load, descriptor), functools.partial(_sendfile, descriptor)
        if _SPLICE is not None and _is_bare_pipe(file):
            pipe = file.fileno()
            wait = functools.partial(trio.lowlevel.wait_readable, pipe)
            return lambda place, size: self._unless_closed(wait), functools.partial(_splice, pipe)
        return None

    async def _send_by_kernel(
        self, prepare: Prepare, move: Move, offset: int, count: int, report: Progress
    ) -> tuple[int, bool]:
        """The bytes sent, and whether that was all; if not, the kernel does not take the file."""
        sent = 0
        while True:
            place, size = offset + sent, min(_PIECE, count - sent)
            await prepare(place, size)
            try:
                done = await self._send_step(
                    lambda place=place, size=size: self._move(move, place, size),  # type: ignore[misc]  # bound now
                    sent,
                )
            except _CannotSend:
                return sent, False
            if done == _NOTHING_YET:
                continue
            if not done:
                return sent, True
            sent += done
            report(sent)
            if sent == count:
                return sent, True
            await checkpoint()

    def _move(self, move: Move, place: int, size: int) -> int:
        try:
            sent = move(self._sock.fileno(), place, size)
        except OSError as exc:
            if exc.errno in _READ_INSTEAD:
                raise _CannotSend from exc
            raise
        self._bytes_sent += max(sent, 0)
        return sent

    async def _send_by_reading(
        self, source: Source, offset: int, count: int, report: Progress, sent: int
    ) -> int:
        while sent != count:
            place, size = offset + sent, min(_PIECE, count - sent)
            data = await self._unless_closed(functools.partial(source.read, place, size))
            if not data:
                break
            with memoryview(data) as view:
                start = 0
                while start < len(view):
                    self._check_can_send()
                    done = await self._send_part(view[start:], sent)
                    source.taken(done)
                    start += done
                    sent += done
                    report(sent)
        return sent

    async def _unless_closed(self, wait: Callable[[], Awaitable[T]]) -> T:
        """Await *wait*, which has to do with the file alone, as long as the stream is open."""
        with trio.CancelScope() as self._file_wait:
            result = await wait()
            self._check_can_send()
            return result
        raise trio.ClosedResourceError("another task closed this stream")

    def _wake(self) -> None:
        super()._wake()
        if self._sending and hasattr(self, "_file_wait"):
            self._file_wait.cancel()

    async def _send_part(self, data: memoryview, sent: int) -> int:
        """Send some of *data*; a custom factory's stream does it otherwise."""
        return await self._send_step(lambda: self._send_now(data), sent)

    async def _send_step(self, attempt: Callable[[], int], sent: int) -> int:
        """Try *attempt* at once, then whenever the socket is writable."""
        try:
            return attempt()
        except BlockingIOError:
            return await self._when_writable(attempt, sent)
        except OSError as exc:
            self._fail(exc, "send")


def check_arguments(file: object, offset: int, count: int | None) -> None:
    if isinstance(file, io.TextIOBase):
        raise TypeError(f"file must give bytes, not text: open it with mode 'rb', not {file!r}")
    if not (hasattr(file, "read") and hasattr(file, "seekable")):
        raise TypeError(
            "file must be a file opened for reading bytes, as open() with mode 'rb' returns, "
            f"not {file!r}"
        )
    for name, value in (("offset", offset), ("count", 0 if count is None else count)):
        if not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be a number of bytes, not {value!r}")
        if not 0 <= value <= FARTHEST:
            raise ValueError(f"{name} must be 0 or more and less than 2**63, not {value}")


async def descriptor_of(file: BinaryIO) -> int | None:
    """The descriptor that has the very bytes that *file* gives, at any place, or None.

    `gzip` and its like have a ``fileno()``, too: of the compressed file.
    """
    if not isinstance(getattr(file, "raw", file), io.FileIO) or may_wait(file):
        return None
    if file.writable():
        await trio.to_thread.run_sync(file.flush)  # what was written belongs to the file
    return file.fileno()


async def _load(descriptor: int, place: int, size: int) -> None:
    """Have the system read the file into its memory, out of which it then sends."""
    if _must_wait_for_disk(descriptor, place, size):
        await trio.to_thread.run_sync(os.pread, descriptor, size, place)


def _sendfile(descriptor: int, out: int, place: int, size: int) -> int:
    assert _SENDFILE is not None
    sent: int = _SENDFILE(out, descriptor, place, size)
    return sent


def _is_bare_pipe(file: BinaryIO) -> bool:
    """Whether all that *file* gives is in the pipe, and nothing of it in a buffer."""
    return isinstance(file, io.FileIO) and stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)


def _splice(pipe: int, out: int, place: int, size: int) -> int:
    """Unlike read(2), it takes no more out of the pipe than the stream has room for."""
    assert _SPLICE is not None
    try:
        sent: int = _SPLICE(pipe, out, size, flags=_DONT_WAIT_FOR_PIPE)
    except BlockingIOError:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        if poll.poll(0):
            raise  # it is the stream that has no room
        return _NOTHING_YET
    return sent


def _must_wait_for_disk(descriptor: int, place: int, size: int) -> bool:
    """Whether reading there might stop the event loop; True if the system does not tell."""
    if _DONT_WAIT is None:
        return True
    try:
        for end in (place, place + size - 1):
            os.preadv(descriptor, [bytearray(1)], end, _DONT_WAIT)
    except OSError:
        return True
    return False
