"""Streams to buffer: scripted where the cut or the fault must be exact, real ones else."""

from __future__ import annotations

import random
import select
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import trio
import trio.testing


class ScriptedStream(trio.abc.HalfCloseableStream):
    """Gives the chunks one a receive, then the error or the end; keeps what is sent.

    A socket joins and cuts as it likes, so exact cuts cannot be had from one.
    """

    def __init__(
        self,
        chunks: Iterable[bytes] = (),
        *,
        error: BaseException | None = None,
        checkpoints: bool = True,
    ) -> None:
        self.chunks = list(chunks)[::-1]
        self.error = error
        self.checkpoints = checkpoints
        self.receives = 0
        self.sent = bytearray()
        self.sends: list[bytes] = []
        self.closed = False
        self.send_error: BaseException | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self.checkpoints:
            await trio.lowlevel.checkpoint()
        if self.closed:
            raise trio.ClosedResourceError
        self.receives += 1
        if self.chunks:
            chunk = self.chunks.pop()
            if max_bytes is not None and len(chunk) > max_bytes:
                self.chunks.append(chunk[max_bytes:])
            return chunk[:max_bytes]
        if self.error is not None:
            error, self.error = self.error, None  # told once, as a socket's is
            raise error
        return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self.closed:
            raise trio.ClosedResourceError
        if self.send_error is not None:
            raise self.send_error
        self.sends.append(bytes(data))
        self.sent += data

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """*data* in chunks of these sizes, the rest as the last one."""
    chunks, start = [], 0
    for size in sizes:
        chunks.append(data[start : start + size])
        start += size
    return [chunk for chunk in [*chunks, data[start:]] if chunk]


async def collect(lines: object) -> list:
    return [line async for line in lines]  # type: ignore[attr-defined]  # any async iterable


class _Steps(trio.abc.Instrument):
    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()
        self.steps: list[int] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.steps.append(1)


@contextmanager
def counted_steps() -> Iterator[list[int]]:
    """How often this task was scheduled again within the block: its schedule points."""
    counter = _Steps()
    trio.lowlevel.add_instrument(counter)
    try:
        yield counter.steps
    finally:
        trio.lowlevel.remove_instrument(counter)


def _have_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture(params=["tcp4", "tcp6", "local"])
def real_pair(request) -> Callable[[], object]:
    """An async function that connects two SocketStreams over the family of the parameter."""
    if request.param == "tcp6" and not _have_ipv6():
        pytest.skip("no IPv6 loopback here")
    if request.param == "local" and not hasattr(socket, "AF_UNIX"):
        pytest.skip("no local sockets here")

    async def make() -> tuple[trio.SocketStream, trio.SocketStream]:
        if request.param == "local":
            left, right = trio.socket.socketpair()
            return trio.SocketStream(left), trio.SocketStream(right)
        host = "127.0.0.1" if request.param == "tcp4" else "::1"
        [listener] = await trio.open_tcp_listeners(0, host=host)
        async with listener:
            left = await trio.testing.open_stream_to_socket_listener(listener)
            return left, await listener.accept()

    return make


def clog(stream: trio.SocketStream) -> None:
    """Fill the kernel's buffers until nothing more goes in, now or later."""
    raw = stream.socket._sock  # type: ignore[attr-defined]  # Trio has no non-waiting send
    poll = select.poll()
    poll.register(raw, select.POLLOUT)
    while True:
        try:
            raw.send(b"x" * random.randint(1, 100_000))
        except BlockingIOError:
            # What the peer's kernel acknowledges late makes room once more.
            while _unacknowledged(raw):
                poll.poll(1)
            if not poll.poll(0):
                return


def _unacknowledged(raw: socket.socket) -> int:
    """How many segments are under way to the peer's kernel."""
    if raw.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
        return 0
    information = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
    return int.from_bytes(information[24:28], sys.byteorder)  # tcpi_unacked
