"""Receiving urgent ("out-of-band") data, which ordinary readiness does not announce."""

from __future__ import annotations

import errno
import select
import socket as stdlib_socket
from typing import Final

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from sockscope._core.errors import ReceiveTimeoutError, SocketError
from sockscope._sockets.base import is_custom
from sockscope._sockets.stream_state import StreamState
from sockscope._sockets.stream_wait import expires

# Without epoll nothing wakes for urgent data alone: look by the clock.
_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.1


async def receive_urgent(stream: StreamState, n: int, *, peek: bool, dont_wait: bool) -> bytes:
    """Receive the urgent byte; see `StreamSocket.receive`.

    Nothing pending shows as EINVAL on TCP, as EAGAIN when the mark has come and the
    byte has not.
    """
    if is_custom(stream._sock):
        raise SocketError(
            errno.EOPNOTSUPP, "cannot receive out of band: not on a custom factory's socket"
        )
    if stream.get_option("oob_inline"):
        raise SocketError(
            errno.EINVAL,
            "cannot receive out of band: the option oob_inline keeps urgent data in the stream",
        )
    await checkpoint_if_cancelled()
    data = _attempt(stream, n, peek)
    if data is not None:
        await cancel_shielded_checkpoint()
        return data
    if dont_wait:
        raise trio.WouldBlock
    while data is None:
        expired = await expires(lambda: _wait_urgent(stream), stream.receive_timeout)
        data = _attempt(stream, n, peek)
        if data is None and expired:
            raise ReceiveTimeoutError(f"nothing urgent received for {stream.receive_timeout} s")
    return data


def _attempt(stream: StreamState, n: int, peek: bool) -> bytes | None:
    """The urgent byte, ``b""`` where none can come any more, or None if none is there yet."""
    sock: stdlib_socket.socket = stream._sock
    flags = stdlib_socket.MSG_OOB | (stdlib_socket.MSG_PEEK if peek else 0)
    try:
        return sock.recv(n, flags)
    except OSError as exc:
        # EINVAL: none is there. EAGAIN: one is announced, but has not come yet.
        if exc.errno not in (errno.EINVAL, errno.EAGAIN) or not stream.is_open:
            stream._fail(exc, "receive out of band")
    if not _has_ended(sock):
        return None
    stream.take_error()
    if stream._error is not None:
        raise stream._broken("receive out of band")
    return b""


def _has_ended(sock: stdlib_socket.socket) -> bool:
    """Whether the peer has shut its side down, ordinary data still unread or not."""
    if not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


async def _wait_urgent(stream: StreamState) -> None:
    """Sleep until urgent data, or the end of the stream, is announced; or it is closed."""
    # Closing the trio.socket that the user has wakes nobody who does not wait for that.
    if not hasattr(select, "EPOLLPRI") or stream._exposed is not None:
        await _pause_until_urgent(stream)
        return
    if stream._urgent_fd is not None:
        raise trio.BusyResourceError("another task is already waiting for urgent data")
    with select.epoll() as poll:
        poll.register(stream.fileno(), select.EPOLLPRI | select.EPOLLRDHUP)
        stream._urgent_fd = poll.fileno()
        try:
            await trio.lowlevel.wait_readable(poll.fileno())
        except trio.ClosedResourceError:
            pass  # closed, or shown to the user: the next look at the stream tells
        finally:
            stream._urgent_fd = None
            trio.lowlevel.notify_closing(poll.fileno())


async def _pause_until_urgent(stream: StreamState) -> None:
    pause = _FIRST_PAUSE
    await trio.sleep(pause)
    # A closed stream has no number to look at; its next call tells.
    while stream.is_open and not select.select([], [], [stream.fileno()], 0)[2]:
        pause = min(2 * pause, _LONGEST_PAUSE)
        await trio.sleep(pause)
