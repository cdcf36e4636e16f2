"""Sending files: by the kernel where it can, else by reading them."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from typing import BinaryIO, Final

import trio
from trio.lowlevel import checkpoint

from sockscope._sockets.base import is_custom
from sockscope._sockets.stream_send import Sending

# At a gigabit two milliseconds of sending, which is how long the loop may be held.
_PIECE: Final = 256 * 1024
_SENDFILE: Final = getattr(os, "sendfile", None)
# The kernel cannot send this file by itself (of /proc, say), or cannot read it: then
# reading it ourselves tells which, without blaming the stream.
_READ_INSTEAD: Final = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ESPIPE, errno.EOVERFLOW, errno.EIO}
)
# What would wait for a disk says EAGAIN instead (preadv2, Linux 4.14).
_DONT_WAIT: Final = getattr(os, "RWF_NOWAIT", None)

Reader = Callable[[int, int], bytes]
Progress = Callable[[int], object]


class _CannotSend(Exception):
    """sendfile(2) does not take this file."""


class SendingFiles(Sending):
    """The part of `StreamSocket` that sends files."""

    __slots__ = ()

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
            positions, such as a pipe, is read on from where it is.
          offset: where in the file to begin, in bytes.
          count: how many bytes; None is up to the end. Fewer if the file ends before,
            also if it shrinks meanwhile.
          progress: a plain function, called with the bytes sent so far after each part.

        Returns:
          The bytes sent.

        Raises:
          ValueError: *offset* or *count* is negative.
          TypeError: *file* gives text.
          OSError: the file could not be read.
          Otherwise as `StreamSocket.send_all`.

        A checkpoint. When cancelled, *progress* has been told of every byte sent. The disk
        is read in a thread, unless the system has the bytes in memory.
        Source: sendfile(2).
        """
        check_arguments(file, offset, count)
        if self._sending:
            raise trio.BusyResourceError("another task is already sending on this stream")
        self._sending = True
        try:
            self._check_can_send()
            await checkpoint()
            if count == 0:
                return 0
            report = progress or (lambda sent: None)
            sent, complete = 0, False
            descriptor = await descriptor_of(file)
            if descriptor is not None and _SENDFILE is not None and not is_custom(self._sock):
                sent, complete = await self._send_by_kernel(descriptor, offset, count, report)
            if complete:
                return sent
            read = reader_of(file, descriptor)
            return await self._send_by_reading(read, offset, count, report, sent)
        finally:
            self._sending = False

    async def _send_by_kernel(
        self, descriptor: int, offset: int, count: int | None, report: Progress
    ) -> tuple[int, bool]:
        """The bytes sent, and whether that was all; if not, the kernel does not take the file."""
        sent = 0
        while True:
            place, size = offset + sent, _piece(count, sent)
            if _must_wait_for_disk(descriptor, place, size):
                # Into the system's memory, out of which the kernel then sends.
                await trio.to_thread.run_sync(os.pread, descriptor, size, place)
            try:
                done = await self._send_step(
                    lambda place=place, size=size: self._sendfile(descriptor, place, size),  # type: ignore[misc]  # bound now
                    sent,
                )
            except _CannotSend:
                return sent, False
            if not done:
                return sent, True
            sent += done
            report(sent)
            if sent == count:
                return sent, True
            await checkpoint()

    def _sendfile(self, descriptor: int, place: int, size: int) -> int:
        assert _SENDFILE is not None
        try:
            sent: int = _SENDFILE(self._sock.fileno(), descriptor, place, size)
        except OSError as exc:
            if exc.errno in _READ_INSTEAD:
                raise _CannotSend from exc
            raise
        self._bytes_sent += sent
        return sent

    async def _send_by_reading(
        self, read: Reader, offset: int, count: int | None, report: Progress, sent: int
    ) -> int:
        while sent != count:
            data = await trio.to_thread.run_sync(read, offset + sent, _piece(count, sent))
            if not data:
                break
            with memoryview(data) as view:
                start = 0
                while start < len(view):
                    self._check_can_send()
                    done = await self._send_part(view[start:], sent)
                    start += done
                    sent += done
                    report(sent)
        return sent

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
    if offset < 0 or (count is not None and count < 0):
        raise ValueError(f"offset and count must be 0 or more, not {offset} and {count}")


def _piece(count: int | None, sent: int) -> int:
    return _PIECE if count is None else min(_PIECE, count - sent)


async def descriptor_of(file: BinaryIO) -> int | None:
    """The descriptor that has the very bytes that *file* gives, or None.

    `gzip` and its like have a ``fileno()``, too: of the compressed file.
    """
    if not isinstance(getattr(file, "raw", file), io.FileIO) or not file.seekable():
        return None
    if file.writable():
        await trio.to_thread.run_sync(file.flush)  # what was written belongs to the file
    return file.fileno()


def reader_of(file: BinaryIO, descriptor: int | None) -> Reader:
    """A plain function of place and size that reads *file* there."""
    if descriptor is not None and hasattr(os, "pread"):
        return lambda place, size: os.pread(descriptor, size, place)
    if not file.seekable():
        # As much as there is: read() of a pipe would wait for all of it.
        read = getattr(file, "read1", file.read)
        return lambda place, size: read(size)

    def read_at(place: int, size: int) -> bytes:
        file.seek(place)
        return file.read(size)

    return read_at


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
