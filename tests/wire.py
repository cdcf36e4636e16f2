"""What tests of streams do at the wire, and how they watch the process."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import struct
from collections.abc import Iterator

import trio
import trio.testing

from sockscope import open_socket
from sockscope.testing import open_descriptors, open_loopback_listener

TCP_KINDS = ("ipv4", "ipv6")


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Fail if the body leaves a descriptor open that was not open before."""
    before = open_descriptors()
    yield
    if open_descriptors() != before:
        gc.collect()  # slow; and what waits for it is a warning, which is an error in tests
    assert open_descriptors() == before


def close_behind_its_back(fd: int) -> None:
    """Take *fd* away from its socket: the number belongs to something else at once."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, fd)
    os.close(nothing)


@contextlib.asynccontextmanager
async def open_pair(kind, *, client=None, child=None, listener=None):
    """Both ends of a connection over loopback, each with options of its own."""
    async with open_loopback_listener(kind) as passive:
        if listener is not None:
            listener.apply(passive)
        async with open_socket(passive.address, options=client) as near:
            async with await passive.accept(options=child) as far:
                yield near, far


async def fill(stream) -> int:
    """Send until the kernel takes no more; how many bytes it took."""
    sent = 0
    while True:
        before = sent
        with contextlib.suppress(trio.WouldBlock):
            while True:
                sent += await stream.send(b"x" * 65536, dont_wait=True)
        # What the peer's kernel acknowledges late makes room once more.
        await trio.testing.wait_all_tasks_blocked(0.001)
        if sent == before:
            return sent


async def receive_all(stream) -> bytes:
    """Everything until the end of the stream."""
    return b"".join([bytes(chunk) async for chunk in stream])


async def receive_exactly(stream, count: int) -> bytes:
    """*count* bytes, or fewer if the stream ends before."""
    got = bytearray()
    while len(got) < count and (chunk := await stream.receive_some(count - len(got))):
        got += chunk
    return bytes(got)


def reset_on_close(sock) -> None:
    """Let the next close send a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def break_by_peer(stream, peer, kind) -> None:
    """Let *peer* break *stream*, and come back when its kernel knows.

    A local socket has no resets: there the error is that of input which *peer* did not read.
    """
    if kind == "local":
        await stream.send_all(b"unread")
        await peer.aclose()
    else:
        peer.abort()
    await trio.lowlevel.wait_readable(stream.fileno())


class Steps(trio.abc.Instrument):
    """Counts the turns that one task has."""

    def __init__(self) -> None:
        self.count = 0
        self._task = trio.lowlevel.current_task()

    def before_task_step(self, task) -> None:
        self.count += task is self._task

    def __enter__(self):
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *exc_info) -> None:
        trio.lowlevel.remove_instrument(self)
