"""Sockets that are there already: descriptors handed in, and pairs."""

from __future__ import annotations

import errno
import socket as stdlib_socket
import ssl
from typing import Literal, TypeAlias, overload

import trio

from sockscope._addresses.values import Address, from_sockaddr
from sockscope._core.errors import SocketError, socket_error
from sockscope._options.values import SocketOptions
from sockscope._sockets.adopting import Connect, adopt_socket, adopters
from sockscope._sockets.base import AF_UNIX, is_custom
from sockscope._sockets.datagram import DatagramSocket
from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.seqpacket import stream_class
from sockscope._sockets.stream import StreamSocket

OurSocket: TypeAlias = StreamSocket | PassiveSocket | DatagramSocket
_NO_OPTIONS = SocketOptions()


def _active(sock: stdlib_socket.socket) -> StreamSocket:
    try:
        peer = sock.getpeername()
    except OSError:
        peer = None  # it is still to be connected
    return stream_class(sock)(sock, _NO_OPTIONS, peer=peer)


def _passive(sock: stdlib_socket.socket) -> PassiveSocket:
    return PassiveSocket(sock, _NO_OPTIONS, backlog=None, adopted=True)


def _datagram(sock: stdlib_socket.socket) -> DatagramSocket:
    peer: Address | None = None
    try:
        peer = from_sockaddr(int(sock.family), sock.getpeername(), unmap=True)
    except OSError:
        pass  # it has no peer
    return DatagramSocket(sock, _NO_OPTIONS, peer=peer, adopted=True)


adopters["active"] = _active
adopters["passive"] = _passive
adopters["datagram"] = _datagram


@overload
def socket_from_fd(
    fd: int | stdlib_socket.socket | trio.socket.SocketType,
    *,
    connect: Literal["passive"],
    options: SocketOptions | None = None,
    dup: bool = False,
) -> PassiveSocket: ...
@overload
def socket_from_fd(
    fd: int | stdlib_socket.socket | trio.socket.SocketType,
    *,
    connect: Literal["active"],
    options: SocketOptions | None = None,
    dup: bool = False,
) -> StreamSocket | DatagramSocket: ...
@overload
def socket_from_fd(
    fd: int | stdlib_socket.socket | trio.socket.SocketType,
    *,
    connect: Connect = None,
    options: SocketOptions | None = None,
    dup: bool = False,
) -> OurSocket: ...
def socket_from_fd(
    fd: int | stdlib_socket.socket | trio.socket.SocketType,
    *,
    connect: Connect = None,
    options: SocketOptions | None = None,
    dup: bool = False,
) -> OurSocket:
    """Make one of our sockets out of a descriptor, of whatever kind it is.

    The system is asked for family and type, and whether it listens. The socket is made
    non-blocking and close-on-exec.

    Args:
      fd: a descriptor's number, or a socket of the standard library or of Trio, which
        is detached (closed, in its own eyes) on success.
      connect: what it must be: ``"passive"`` for one that listens, or is bound and will
        listen now (Emacs's ``:use-external-socket``); ``"active"`` for any other; None
        for whatever it is. (On a system that does not tell, say it.)
      options: set on it.
      dup: use a duplicate: the caller keeps its own descriptor, as with IOLib. Both are
        of one socket, so the caller's is non-blocking from now on, too.

    Returns:
      A `StreamSocket`, `PassiveSocket` or `DatagramSocket`, which owns the descriptor.
      A local socket's path is not removed when it is closed: it is not ours.

    Raises:
      SocketError: the descriptor is closed (``EBADF``) or no socket (``ENOTSOCK``).
      WrongSocketError: it is not what *connect* says, or of a kind that nobody knows.
      OptionError: an option failed.
      TypeError: *fd* is something else; a TLS socket, say.
      ValueError: *connect* is something else.

      After an error the descriptor is still the caller's.

    A plain function. Source: SO_DOMAIN, SO_TYPE, SO_ACCEPTCONN, socket(7); IOLib's
    ``make-socket-from-fd`` (seed 003); Emacs's ``:use-external-socket`` (seed 000).
    """
    if connect not in (None, "active", "passive"):
        raise ValueError(f"connect must be None, 'active' or 'passive', not {connect!r}")
    number = _number_of(fd)
    step = f"use descriptor {number}"
    try:
        sock = _duplicate(number) if dup else stdlib_socket.socket(fileno=number)
    except OSError as exc:
        raise socket_error(exc, step) from exc
    try:
        ours = _adopt(sock, connect, options or _NO_OPTIONS, step)
    except BaseException:
        if dup:
            sock.close()
        else:
            sock.detach()
        raise
    if not dup and not isinstance(fd, int):
        fd.detach()
    return ours


def _adopt(
    sock: stdlib_socket.socket, connect: Connect, options: SocketOptions, step: str
) -> OurSocket:
    try:
        return adopt_socket(sock, connect, options)  # type: ignore[return-value]  # of the adopters above
    except SocketError:
        raise
    except OSError as exc:
        raise socket_error(exc, step) from exc


def _number_of(fd: int | stdlib_socket.socket | trio.socket.SocketType) -> int:
    if isinstance(fd, ssl.SSLSocket):
        raise TypeError(f"fd must be a plain socket: {fd!r} would lose its encryption")
    if isinstance(fd, (stdlib_socket.socket, trio.socket.SocketType)):
        if isinstance(fd, trio.socket.SocketType) and is_custom(fd):
            made = type(fd).__name__
            raise TypeError(
                f"fd must have a descriptor: a {made} of a custom socket factory has none"
            )
        number = fd.fileno()
    elif isinstance(fd, int) and not isinstance(fd, bool):
        number = fd
    else:
        raise TypeError(f"fd must be a descriptor's number or a socket, not {fd!r}")
    if number < 0:
        raise SocketError(errno.EBADF, f"cannot use descriptor {number}: it is closed")
    return number


def _duplicate(number: int) -> stdlib_socket.socket:
    """A socket of a new descriptor, close-on-exec from the start."""
    copy = stdlib_socket.dup(number)
    try:
        return stdlib_socket.socket(fileno=copy)
    except BaseException:
        stdlib_socket.close(copy)
        raise


@overload
def socket_pair(
    type: Literal["stream", "seqpacket"] = "stream",
    *,
    options: SocketOptions | None = None,
) -> tuple[StreamSocket, StreamSocket]: ...
@overload
def socket_pair(
    type: Literal["datagram"],
    *,
    options: SocketOptions | None = None,
) -> tuple[DatagramSocket, DatagramSocket]: ...
def socket_pair(
    type: Literal["stream", "datagram", "seqpacket"] = "stream",  # as in make_socket
    *,
    options: SocketOptions | None = None,
) -> tuple[StreamSocket, StreamSocket] | tuple[DatagramSocket, DatagramSocket]:
    """Make two sockets that are connected to each other, and to nothing else.

    Args:
      type: ``"stream"``, ``"datagram"``, or ``"seqpacket"`` for messages in order.
      options: set on both.

    Returns:
      Two local sockets; on Windows, which has no local pairs, two of TCP.

    Raises:
      SocketError: descriptors have run out, or this system has no such pair.
      OptionError: an option failed.
      ValueError: *type* is something else.

    A plain function. Source: socketpair(2); IOLib's ``make-socket-pair`` (seed 003).
    """
    if type not in _PAIR_TYPES:
        raise ValueError(f"type must be one of {', '.join(map(repr, _PAIR_TYPES))}, not {type!r}")
    step = f"make a pair of {type} sockets"
    family = stdlib_socket.AF_INET if AF_UNIX == -1 else stdlib_socket.AddressFamily(AF_UNIX)
    try:
        pair = stdlib_socket.socketpair(family, _PAIR_TYPES[type])
    except (OSError, ValueError) as exc:  # a ValueError is Windows's, for a type it lacks
        number = exc.errno if isinstance(exc, OSError) else errno.EOPNOTSUPP
        raise SocketError(number, f"cannot {step}: {exc}") from exc
    try:
        first, second = (_adopt(sock, None, options or _NO_OPTIONS, step) for sock in pair)
    except BaseException:
        for sock in pair:
            sock.close()
        raise
    return first, second  # type: ignore[return-value]  # two of one kind


_PAIR_TYPES = {
    "stream": stdlib_socket.SOCK_STREAM,
    "datagram": stdlib_socket.SOCK_DGRAM,
    "seqpacket": getattr(stdlib_socket, "SOCK_SEQPACKET", -1),
}
