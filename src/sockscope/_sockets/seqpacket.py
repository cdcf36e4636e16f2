"""Streams of messages: local sockets of the type ``"seqpacket"``.

A message is received whole or cut, never in two parts, and sent whole or not at all.
recv(2) returns 0 for an empty message and for the end alike. Sending an empty one is
refused here, but a peer of another make may do it, and that must not look like the end:
see `_has_ended`.
"""

from __future__ import annotations

import errno
import select
import socket as stdlib_socket
from collections.abc import Callable
from typing import Any, Final

import trio

from sockscope._core.errors import SocketError, TruncatedError
from sockscope._sockets.ancillary import CLOSE_ON_EXEC, close_all, take_descriptors
from sockscope._sockets.base import AF_UNIX, AnySocket
from sockscope._sockets.queues import unread_bytes
from sockscope._sockets.stream import StreamSocket

_SEQPACKET: Final = getattr(stdlib_socket, "SOCK_SEQPACKET", -1)
_PEEK: Final = stdlib_socket.MSG_PEEK
_TRUNCATED: Final = getattr(stdlib_socket, "MSG_TRUNC", 0)
_RDHUP: Final = getattr(select, "POLLRDHUP", 0)
_SO_TIMESTAMP: Final = 29
_ROOM_FOR_TIMESTAMP: Final = 64
# In a row. A queue has room for fewer, so that only a peer that goes on and on gets there.
_MOST_EMPTY: Final = 1000


class MessageStream(StreamSocket):
    """A `StreamSocket` that receives and sends messages: ``type="seqpacket"``."""

    __slots__ = ()

    # By way of receive_some, which is another here.
    __anext__ = trio.abc.ReceiveStream.__anext__  # type: ignore[assignment]  # Trio allows bytearray

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive the next message; see `StreamSocket.receive_some`.

        Args:
          max_bytes: room for the message; without it no message is ever cut.

        Raises:
          TruncatedError: the message was longer than *max_bytes*: its ``data`` is the
            head, the rest is gone.
          Otherwise as `StreamSocket.receive_some`.

        A checkpoint. When cancelled, nothing was received.
        """
        if max_bytes is not None:
            return await super().receive_some(max_bytes)
        return await self._receive_with(self._receive_whole)

    def _receive_whole(self) -> bytes:
        # All that is queued is room enough for the first message of it.
        return self._receive_now(unread_bytes(self._sock) or 1)

    def _receive_now(self, size: int) -> bytes:
        data, flags = self._next_message(lambda: self._sock.recvmsg(size))
        self._note(data, flags)
        return bytes(data)

    def _receive_into_now(self, view: memoryview) -> int:
        size, flags = self._next_message(lambda: self._sock.recvmsg_into([view]))
        self._note(view[:size], flags)
        return int(size)

    def _peek_now(self, n: int) -> bytes:
        def peek() -> Any:
            message = self._sock.recvmsg(n, 0, _PEEK)
            if not message[0]:
                self._sock.recv(1)  # an empty one would be in the way for good
            return message

        data, _ = self._next_message(peek)
        if not data:
            self._check_kept()
        return bytes(data)  # a cut one is not gone: no error

    def _next_message(self, receive: Callable[[], Any]) -> tuple[Any, int]:
        """The first message that is not empty, or the end, with its flags.

        Raises:
          OSError: as recvmsg(2); ``EPROTO`` where a peer sends nothing but empty ones.
        """
        for _ in range(_MOST_EMPTY):
            message, _, flags, _ = receive()
            if message or _has_ended(self._sock):
                return message, flags
        raise OSError(errno.EPROTO, "the peer sends nothing but empty messages")

    def _receive_fds_now(self, max_bytes: int, room: int) -> tuple[bytes, list[int], int]:
        for _ in range(_MOST_EMPTY):
            # Descriptors of an empty message are closed: nothing tells it from the end.
            data, found, flags = super()._receive_fds_now(max_bytes, room)
            if data or _has_ended(self._sock):
                return data, found, flags
        raise OSError(errno.EPROTO, "the peer sends nothing but empty messages")

    async def _receive_all(self, n: int, *, peek: bool, dont_wait: bool) -> bytes:
        """As the kernel has it: of messages MSG_WAITALL takes one."""
        return await self.receive(n, peek=peek, dont_wait=dont_wait)

    def _note(self, data: bytes | memoryview, flags: int) -> None:
        """Count what was received.

        Raises:
          TruncatedError: it is the head of a message.
          trio.BrokenResourceError: it is the end, after an error.
        """
        self._bytes_received += len(data)
        if flags & _TRUNCATED:
            raise TruncatedError(errno.EMSGSIZE, "the message was cut", data=bytes(data))
        if not data:
            self._check_kept()

    async def send_file(self, *args: Any, **arguments: Any) -> int:
        """Always raises: a file has no messages.

        Raises:
          SocketError: ``EOPNOTSUPP``.
        """
        raise SocketError(
            errno.EOPNOTSUPP, "cannot send a file by seqpacket: send its parts as messages"
        )

    def _failure(self, exc: OSError, step: str) -> Exception:
        if isinstance(exc, TruncatedError):
            message = f"cannot {step} a whole message {self._describe()}: it is longer"
            return TruncatedError(exc.errno, message, data=exc.data)
        return super()._failure(exc, step)

    def _send_now(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        if not memoryview(data).nbytes:
            raise ValueError("data is empty: the peer would take it for the end of the stream")
        return super()._send_now(data, flags)


def stream_class(sock: AnySocket) -> type[StreamSocket]:
    """The class for a stream over *sock*, by its type."""
    messages = (int(sock.family), int(sock.type)) == (AF_UNIX, _SEQPACKET)
    return MessageStream if messages else StreamSocket


def _has_ended(sock: stdlib_socket.socket) -> bool:
    """Whether the stream has ended, when a receive has brought nothing.

    Before the peer shuts down, it was an empty message. After that, empty ones may still
    be queued before others: a message is told from the end by its timestamp, which the
    kernel puts on it when it is looked at.
    """
    poll = select.poll()
    poll.register(sock, _RDHUP)
    if not poll.poll(0):
        return False
    sock.setsockopt(stdlib_socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
    try:
        while True:
            data, stamp, _, _ = sock.recvmsg(1, _ROOM_FOR_TIMESTAMP, _PEEK | CLOSE_ON_EXEC)
            # A look at descriptors opens them.
            close_all(take_descriptors(stamp))
            if data or not stamp:
                return not data
            sock.recv(1)
    finally:
        sock.setsockopt(stdlib_socket.SOL_SOCKET, _SO_TIMESTAMP, 0)
