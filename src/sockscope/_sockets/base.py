"""What all kinds of socket share: names, options, waiting for readiness, closing.

A `BaseSocket` owns a non-blocking `socket.socket` and works on it directly:
`trio.socket` would add two scheduling rounds to every call. Users who want a
`trio.socket` get one of the same descriptor from `BaseSocket.socket`, made when
first asked for. From then on nothing that this object remembers about readiness
is trusted, since the user may receive, or close, through that one.
"""

from __future__ import annotations

import functools
import socket as stdlib_socket
from collections.abc import Callable
from typing import Any, TypeGuard

import trio

from sockscope._addresses.values import Address, InternetAddress, from_sockaddr
from sockscope._core.cleanup import ScopedResource
from sockscope._core.errors import SocketError, socket_error
from sockscope._options.access import get_option, set_option
from sockscope._options.defaults import NO_OPTIONS
from sockscope._options.values import SocketOptions

AF_UNIX: int = getattr(stdlib_socket, "AF_UNIX", -1)

# The family as a plain number: the property of socket.socket makes an enum of it each
# time, at the price of a system call.
_family_of_plain = stdlib_socket.SocketType.family.__get__

#: A socket of the standard library, or one that a custom socket factory made.
AnySocket = stdlib_socket.socket | trio.socket.SocketType


@functools.cache
def _trio_socket_class() -> type:
    """The class of Trio's own sockets, which has no public name."""
    with stdlib_socket.socket() as scratch:
        return type(trio.socket.from_stdlib_socket(scratch))


def is_custom(sock: object) -> TypeGuard[trio.socket.SocketType]:
    """Whether *sock* came from a custom socket factory: it may have no descriptor."""
    return not isinstance(sock, (stdlib_socket.socket, _trio_socket_class()))


def family_of(sock: AnySocket) -> int:
    """The address family as a plain number."""
    plain = isinstance(sock, stdlib_socket.socket)
    return _family_of_plain(sock) if plain else int(sock.family)


def close_quietly(sock: AnySocket) -> bool:
    """Close *sock*; whether the system called it a success.

    An error of close(2) tells of data, not of the descriptor: that is gone
    already, and a second close might hit another socket's.
    """
    try:
        sock.close()
    except OSError:
        return False
    return True


class BaseSocket(ScopedResource):
    """The part that streams, passive sockets and datagram sockets have in common."""

    __slots__ = (
        "__weakref__",
        "_exposed",
        "_local",
        "_on_close",
        "_readable",
        "_requested",
        "_sock",
    )

    def __init__(self, sock: AnySocket, requested: SocketOptions) -> None:
        self._sock: Any = sock
        # A trio.socket of the same descriptor, once somebody has asked for it.
        self._exposed: trio.socket.SocketType | None = sock if is_custom(sock) else None
        self._requested = requested
        self._local: Address | None = None
        # What removes the path of a local socket; who takes the socket over takes it away.
        self._on_close: Callable[[], None] | None = None
        # False only while the socket is known to hold nothing: then wait first.
        self._readable = True

    def __repr__(self) -> str:
        state = "" if self.is_open else " closed"
        return f"<sockscope.{type(self).__name__}{state} {self._describe()}>"

    def _describe(self) -> str:
        """The addresses in words, for messages; never raises."""
        try:
            return str(self.local_address)
        except (OSError, trio.ClosedResourceError):
            return "without an address"

    @property
    def socket(self) -> trio.socket.SocketType:
        """A `trio.socket` of the same descriptor, for what this object does not offer.

        Closing it closes this socket, too. Once it has been asked for, readiness is
        always asked of the kernel, which costs a little on every receive.
        """
        if self._exposed is None:
            self._expose(trio.socket.from_stdlib_socket(self._sock))
        assert self._exposed is not None
        return self._exposed

    def _expose(self, sock: trio.socket.SocketType) -> None:
        """Hand out *sock*: from now on the user shares the descriptor."""
        self._exposed = sock

    def fileno(self) -> int:
        """The descriptor's number, or -1 once the socket is closed."""
        return int(self._sock.fileno())

    def detach(self) -> int:
        """Give the descriptor away: this socket is closed, the descriptor lives on.

        What was received ahead of the caller (by a ``receive(wait_all=True)`` that peeked or
        was cancelled, or the rest of a train of datagrams) is gone with the socket.

        Returns:
          The descriptor's number; closing it is now the caller's business.

        Raises:
          trio.ClosedResourceError: the socket is closed already.
        """
        self._check_open()
        self._wake()
        return int(self._sock.detach())

    @property
    def is_open(self) -> bool:
        """Whether the socket has not been closed on this side."""
        return bool(self._sock.fileno() != -1)

    @property
    def is_bound(self) -> bool:
        """Whether the socket has a local address (IOLib's ``socket-bound-p``)."""
        if not self.is_open:
            return False
        try:
            name = self._sock.getsockname()
        except OSError:
            return False
        return bool(name[1] if isinstance(name, tuple) else name)

    @property
    def is_connected(self) -> bool:
        """Whether the socket has a peer (IOLib's ``socket-connected-p``)."""
        if not self.is_open:
            return False
        try:
            self._sock.getpeername()
        except OSError:
            return False
        return True

    @property
    def is_listening(self) -> bool:
        """Whether the socket takes connections (IOLib's ``socket-listening-p``)."""
        return False

    @property
    def local_address(self) -> Address:
        """The address that the socket is bound to, as the kernel has it.

        A path of ours is as it was given, for a listener's connections, too. A path too
        long for the kernel to tell, of a socket that was adopted, is `LocalAddress.unnamed`.

        It stays what it is when the socket is closed, if it has been asked for before
        that; a path of ours is known from the beginning.

        Raises:
          trio.ClosedResourceError: the socket is closed, and nobody had asked before.
        """
        if self._local is None or self._is_provisional(self._local):
            if not self.is_open and self._local is not None:
                return self._local
            self._check_open()
            self._local = from_sockaddr(
                int(self._sock.family), self._sock.getsockname(), unmap=self.is_connected
            )
        return self._local

    @staticmethod
    def _is_provisional(address: Address) -> bool:
        """Whether the kernel may yet choose: no port, or no name."""
        return address.port == 0 if isinstance(address, InternetAddress) else not address.sockaddr

    @property
    def requested_options(self) -> SocketOptions:
        """The options asked for, which may differ from what the kernel made of them.

        `get_option` and `SocketOptions.check` tell the latter.
        """
        return self._requested

    def get_option(self, name: str) -> Any:
        """Ask the kernel for an option's value, now.

        Args:
          name: a field of `SocketOptions`, or a read-only one such as ``"tcp_info"``.

        Returns:
          The kernel's own figure, in the option's type.

        Raises:
          OptionError: the name is unknown or the system refused;
            `UnsupportedOptionError` where there is no such option here.
          trio.ClosedResourceError: the socket is closed.

        Source: getsockopt(2); Emacs's ``process-contact`` (seed 000).
        """
        self._check_open()
        return get_option(self, name)

    def set_option(self, name: str, value: Any, *, missing_ok: bool = False) -> bool:
        """Set one option, now.

        Args:
          name: a field of `SocketOptions`.
          value: what that field takes.
          missing_ok: return False, and do not raise, where this system or this kind
            of socket has no such option. No other failure is forgiven.

        Returns:
          Whether the option was set.

        Raises:
          OptionError: the system refused, or the option had to be set earlier.
          ValueError: the value is out of range.
          TypeError: the value is of the wrong type.
          trio.ClosedResourceError: the socket is closed.

        Source: setsockopt(2); Emacs's ``set-network-process-option`` (seed 000).
        """
        self._check_open()
        return set_option(self, name, value, missing_ok=missing_ok)

    def _option_target(self) -> AnySocket:
        """What has getsockopt and setsockopt, for `SocketOptions.apply` and its like."""
        self._check_open()
        return self._sock  # type: ignore[no-any-return]  # either kind of socket

    def _options_changed(self, options: SocketOptions) -> None:
        """Take note of *options*, which were set on the socket a moment ago."""
        # Most have none before, and a look by identity is the cheapest.
        none_yet = self._requested is NO_OPTIONS
        self._requested = options if none_yet else self._requested | options

    def _check_open(self) -> None:
        if self._sock.fileno() == -1:
            raise trio.ClosedResourceError("this socket was already closed")

    async def _wait_readable(self) -> None:
        """Sleep until the kernel says that a receive may succeed: a full checkpoint.

        Raises:
          OSError: the wait itself failed (epoll_ctl: ENOMEM, ENOSPC).
        """
        self._check_open()
        await trio.lowlevel.wait_readable(self._sock)
        self._readable = True

    async def _wait_writable(self) -> None:
        """Sleep until the kernel says that a send may succeed: a full checkpoint."""
        self._check_open()
        await trio.lowlevel.wait_writable(self._sock)

    def _wake(self) -> None:
        """Wake all waiters with ClosedResourceError: the descriptor is about to go."""
        if trio.lowlevel.in_trio_run() and not is_custom(self._sock):
            trio.lowlevel.notify_closing(self._sock)

    def _close(self) -> bool:
        """Close now; whether close(2) reported no error. Does nothing a second time."""
        if self._sock.fileno() == -1:
            return True
        self._release_path()
        self._wake()
        return close_quietly(self._sock)

    def _hand_over(self) -> None:
        """Another process has it as well from now on, with its path if it has one."""
        self._on_close = None

    def _release_path(self) -> None:
        """Remove the local socket's path, if there is one and it is still this socket's."""
        release, self._on_close = self._on_close, None
        if release is not None:
            release()


def error_of(exc: OSError, sock: BaseSocket, step: str) -> Exception:
    """What a failed call on *sock* means: closed by us, or *exc* with the step named."""
    if not sock.is_open:
        return trio.ClosedResourceError("this socket was closed")
    return socket_error(exc, step, SocketError)
