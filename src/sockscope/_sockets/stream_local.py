"""What only local streams can do: pass descriptors and whole sockets, tell who the peer is."""

from __future__ import annotations

import errno
import socket as stdlib_socket
from collections.abc import Iterable
from typing import Any, Final

import trio

from sockscope._core.errors import (
    IncompleteReadError,
    SocketError,
    TruncatedError,
    WrongSocketError,
    socket_error,
)
from sockscope._options.value_types import PeerCredentials
from sockscope._options.values import SocketOptions
from sockscope._sockets.adopting import adopt_socket
from sockscope._sockets.ancillary import (
    CLOSE_ON_EXEC,
    MOST_DESCRIPTORS,
    HasDescriptor,
    close_all,
    pack_descriptors,
    room_for,
    take_descriptors,
)
from sockscope._sockets.base import AF_UNIX, BaseSocket, is_custom
from sockscope._sockets.stream_receive import Receiving
from sockscope._sockets.stream_send import Sending

# A socket is handed over with one byte: without any, a stream would lose it.
_HANDED_OVER: Final = b"S"
_TRUNCATED: Final = getattr(stdlib_socket, "MSG_TRUNC", 0)
_CUT: Final = getattr(stdlib_socket, "MSG_CTRUNC", 0)


class PassingDescriptors(Receiving, Sending):
    """The part of `StreamSocket` that is for local sockets."""

    __slots__ = ()

    def _check_local(self, step: str) -> None:
        self._check_open()
        if is_custom(self._sock) or self._sock.family != AF_UNIX or not CAN_PASS:
            raise SocketError(
                errno.EOPNOTSUPP,
                f"cannot {step}, stream {self._describe()}: only local sockets can do that",
            )

    async def send_fds(
        self, data: bytes | bytearray | memoryview, fds: Iterable[int | HasDescriptor]
    ) -> int:
        """Send bytes, and pass descriptors with the first of them.

        Args:
          data: at least one byte: a stream drops descriptors that come with none.
          fds: descriptors, as numbers or as anything with a ``fileno()``; at most 253.
            They stay the sender's, which may close them as soon as this has returned.

        Returns:
          How many of the bytes were taken, at least one; ``send_all`` may send the rest.
          A short message goes in one piece.

        Raises:
          ValueError: *data* is empty, a descriptor is closed, or there are too many.
          TypeError: one of *fds* is no descriptor.
          SocketError: not a local socket; a number is no open descriptor (``EBADF``); too
            many are on their way (``ETOOMANYREFS``); the peer takes none (``EPERM``).
          Otherwise as `StreamSocket.send_all`.

        A checkpoint. When cancelled, nothing was sent. Local sockets only; not on Windows.
        Source: SCM_RIGHTS, unix(7); ``file-descriptor`` passing of IOLib (seed 003).
        """
        self._check_local("pass descriptors")
        kept = list(fds)  # they must stay open until they are sent
        messages = pack_descriptors(kept)
        if not memoryview(data).nbytes:
            raise ValueError("data is empty: descriptors need a byte to go with")

        def attempt() -> int:
            sent: int = self._sock.sendmsg([data], messages)
            self._bytes_sent += sent
            return sent

        return await self._send_with(attempt, dont_wait=False)

    async def receive_fds(self, max_bytes: int, max_fds: int) -> tuple[bytes, list[int]]:
        """Receive bytes, and the descriptors that came with them.

        Args:
          max_bytes: room for bytes, at least 1.
          max_fds: how many descriptors are welcome, 0 to 253.

        Returns:
          The bytes (``b""`` at the end of the stream) and the descriptors, which are
          close-on-exec, and the caller's to close.

        Raises:
          TruncatedError: more descriptors came than *max_fds*, or than this process may
            open; or a message was longer than *max_bytes*. All that came are closed;
            the bytes are in its ``data``.
          SocketError: not a local socket.
          ValueError: an argument is out of range.
          Otherwise as `StreamSocket.receive_some`, which loses any descriptors.

        A checkpoint. When cancelled, nothing was received. Local sockets only; not on
        Windows. Source: SCM_RIGHTS, unix(7), recvmsg(2).
        """
        self._check_local("receive descriptors")
        _check_range("max_bytes", max_bytes, 1, None)
        _check_range("max_fds", max_fds, 0, MOST_DESCRIPTORS)
        room = room_for(max_fds)
        data, found, cut = await self._receive_with(lambda: self._receive_fds_now(max_bytes, room))
        if cut or len(found) > max_fds:
            close_all(found)
            if cut & _TRUNCATED:
                what = f"the message was longer than max_bytes={max_bytes}"
            else:
                what = f"more came than max_fds={max_fds}, or than may be open here"
            raise TruncatedError(
                errno.EMSGSIZE,
                f"cannot receive descriptors {self._describe()}: {what}; all are closed",
                data=data,
            )
        return data, found

    def _receive_fds_now(self, max_bytes: int, room: int) -> tuple[bytes, list[int], int]:
        """The bytes, the descriptors, and the flags that say what was cut."""
        if self._held:
            return self._receive_now(max_bytes), [], 0
        data, messages, flags, _ = self._sock.recvmsg(max_bytes, room, CLOSE_ON_EXEC)
        found = take_descriptors(messages)
        self._bytes_received += len(data)
        if not data:
            close_all(found)
            self._check_kept()
            return b"", [], 0
        return data, found, flags & (_TRUNCATED | _CUT)

    async def send_socket(
        self, socket: BaseSocket | stdlib_socket.socket | trio.socket.SocketType
    ) -> None:
        """Hand a whole socket over to the process at the other end.

        Args:
          socket: one of ours, the standard library's or Trio's. It stays open here, and
            closing it later does not harm the receiver's. The path of a passive local
            socket goes with it: closing it here no longer removes the path.

        Raises:
          ValueError: it has received ahead of its user, which would not go with it.
          Otherwise as `send_fds`.

        A checkpoint. When cancelled, nothing was sent. Local sockets only; not on Windows.
        """
        if getattr(socket, "_held", b"") or getattr(socket, "_pending", ()):
            raise ValueError(
                "the socket has received ahead (by wait_all, peek or a train of datagrams), "
                "which would not go with it: receive that first"
            )
        await self.send_fds(_HANDED_OVER, [socket])
        if isinstance(socket, BaseSocket):
            socket._hand_over()

    async def receive_socket(self, *, options: SocketOptions | None = None) -> Any:
        """Receive a socket that the peer has handed over by `send_socket`.

        Args:
          options: set on it.

        Returns:
          A `StreamSocket`, a `PassiveSocket` or a `DatagramSocket`, which is the caller's.

        Raises:
          IncompleteReadError: the stream has ended.
          WrongSocketError: something else came, such as bytes or a file; it was closed.
          TruncatedError: more than one descriptor came; all were closed.
          OptionError: an option failed; the socket was closed.
          Otherwise as `receive_fds`.

        A checkpoint. When cancelled, nothing was received. Local sockets only; not on
        Windows.
        """
        data, found = await self.receive_fds(len(_HANDED_OVER), 1)
        if not data:
            raise IncompleteReadError(
                None, f"cannot receive a socket {self._describe()}: the stream has ended"
            )
        return _take_over(found, options or SocketOptions(), self._describe())

    def peer_credentials(self) -> PeerCredentials:
        """Who the process at the other end is, as the kernel knows.

        Returns:
          Its process, user, groups and security label, of the moment of connect (seen
          from a client: of listen). Another process may use the connection by now.

        Raises:
          SocketError: not connected (``ENOTCONN``); `UnsupportedOptionError` for what is
            no local socket, or a system that does not tell.
          trio.ClosedResourceError: the stream is closed.

        A plain function. Local sockets on Linux.
        Source: SO_PEERCRED, SO_PEERGROUPS, SO_PEERSEC, unix(7).
        """
        return self.get_option("peer_credentials")  # type: ignore[no-any-return]  # a row of that type


#: Whether this system's Python passes descriptors at all: Windows's does not.
CAN_PASS: Final = hasattr(stdlib_socket, "SCM_RIGHTS")


def _check_range(name: str, value: int, least: int, most: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} must be {allowed}, not {value}")


def _take_over(found: list[int], options: SocketOptions, peer: str) -> BaseSocket:
    """Our socket of the one descriptor that came; closed if it will not do."""
    if not found:
        message = f"cannot receive a socket {peer}: bytes came without any"
        raise WrongSocketError(errno.EBADMSG, message)
    step = f"receive a socket {peer}"
    try:
        sock = stdlib_socket.socket(fileno=found[0])
    except OSError as exc:
        close_all(found)
        raise socket_error(exc, step, WrongSocketError) from exc
    try:
        return adopt_socket(sock, None, options)
    except BaseException:
        sock.close()
        raise
