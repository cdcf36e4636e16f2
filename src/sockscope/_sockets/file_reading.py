"""Reading files: those that have their bytes, and those that wait for somebody to write.

A thread that waits in read(2) for a pipe, a socket or a terminal cannot be called off. So
the event loop waits for the descriptor, wherever the system can, and what is there is read
at once; the descriptor stays in blocking mode, which other processes may share.
"""

from __future__ import annotations

import functools
import io
import os
import socket as stdlib_socket
import stat
import sys
from collections.abc import Awaitable, Callable
from typing import Any, BinaryIO, Final, NamedTuple

import trio

Reader = Callable[[int, int], bytes]
InThread = Callable[..., Awaitable[bytes]]

# No file of any system is longer.
FARTHEST: Final = 2**63 - 1
# Windows cannot wait for a pipe or a terminal.
_WAITS_FOR_FILES: Final = sys.platform != "win32"


class Source(NamedTuple):
    """How a file is read.

    ``read`` takes a place and a size, and gives some bytes, or none at the end.
    ``taken`` is told how many of them were sent, so that a file with a buffer keeps the
    rest of them.
    """

    read: Callable[[int, int], Awaitable[bytes]]
    taken: Callable[[int], object]


def _ignore(size: int) -> None:
    """For files that cannot keep what was read."""


def may_wait(file: BinaryIO) -> bool:
    """Whether reading *file* may wait for somebody else, who may never write.

    Neither ``seekable()`` alone tells (`gzip` claims it, of pipes as well), nor the kind
    of the descriptor: of the devices some have all their bytes, as a disk has.
    """
    if not file.seekable():
        return True
    try:
        descriptor = file.fileno()
        mode = os.fstat(descriptor).st_mode
    except (AttributeError, OSError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


def reader_now(file: BinaryIO, descriptor: int | None) -> Reader:
    """A plain function of place and size that reads *file* there, for as long as it takes."""
    if descriptor is not None and hasattr(os, "pread"):
        return lambda place, size: os.pread(descriptor, min(size, FARTHEST - place), place)
    if not file.seekable():
        # As much as there is: read() of a pipe would wait for all of it.
        read = getattr(file, "read1", file.read)
        return lambda place, size: read(size)

    def read_at(place: int, size: int) -> bytes:
        file.seek(place)
        return file.read(size)

    return read_at


def source_of(file: BinaryIO, descriptor: int | None) -> Source:
    """How to read *file* so that a wait for somebody else can be cancelled."""
    read_now = reader_now(file, descriptor)
    if descriptor is not None or not may_wait(file):
        return Source(lambda place, size: trio.to_thread.run_sync(read_now, place, size), _ignore)
    # Threads that are left behind must not use up those of the whole program.
    in_thread = functools.partial(
        trio.to_thread.run_sync, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
    )
    if isinstance(file, io.BufferedReader):
        return Source(functools.partial(_peek, file, in_thread), file.read1)
    return Source(functools.partial(_read, file, in_thread, read_now), _ignore)


async def _peek(file: io.BufferedReader, in_thread: InThread, place: int, size: int) -> bytes:
    """Have *file* fill its buffer, where the bytes stay until they are taken."""
    can_wait = _can_wait_for(file.raw)
    data = _read_ahead(file) if can_wait else b""
    if not data:
        ready = can_wait and await _is_ready(file.raw)
        data = file.peek() if ready else await in_thread(file.peek)
    return data[:size]


def _read_ahead(file: io.BufferedReader) -> bytes:
    """What is in the buffer of *file*, read before; peek() alone would wait if it is empty."""
    attributes = vars(file.raw)
    attributes["readinto"] = lambda buffer: None  # as if there were nothing to read now
    try:
        return file.peek()
    finally:
        del attributes["readinto"]


async def _read(file: Any, in_thread: InThread, read_now: Reader, place: int, size: int) -> bytes:
    while _can_wait_for(file) and await _is_ready(file):
        data: bytes | None = file.read(size)
        if data is not None:  # else it does not block, and another process was faster
            return data
    return await in_thread(read_now, place, size)


def _can_wait_for(raw: object) -> bool:
    """Whether *raw* gives what its descriptor gives, and the system can wait for that."""
    if isinstance(raw, stdlib_socket.SocketIO):
        # Not of a TLS socket, which has bytes that the system does not know of.
        return type(getattr(raw, "_sock", None)) is stdlib_socket.socket
    return _WAITS_FOR_FILES and isinstance(raw, io.FileIO)


async def _is_ready(raw: Any) -> bool:
    """Wait until *raw* has bytes or has ended; False if the system cannot wait for this one."""
    try:
        await trio.lowlevel.wait_readable(raw.fileno())
    except OSError:
        return False
    return True
