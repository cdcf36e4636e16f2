"""Who a stream is and what is known of it: peer, timers, figures, the first error."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
from collections.abc import Callable
from typing import Any, Final, NamedTuple, NoReturn

import trio

from sockscope._addresses.values import Address, from_sockaddr
from sockscope._core.errors import SocketError, socket_error
from sockscope._options.value_types import TcpInfo
from sockscope._options.values import SocketOptions
from sockscope._sockets.base import AnySocket
from sockscope._sockets.engine import FIRST_BY_TRIO
from sockscope._sockets.faults import CALLERS_FAULT, NOT_CONNECTED
from sockscope._sockets.stream_wait import WaitingStream, finite

# What one receive makes room for when the caller does not say: enough for most
# messages. It grows with a stream that fills it, for room that is not filled
# costs the allocator more than a second call would.
FIRST_RECEIVE_SIZE: Final = 16 * 1024
LARGEST_RECEIVE_SIZE: Final = 64 * 1024


class StreamStatistics(NamedTuple):
    """What has gone through a stream so far."""

    bytes_received: int
    bytes_sent: int


class StreamState(WaitingStream):
    """The part of `StreamSocket` that neither sends nor receives."""

    __slots__ = (
        "_accepted",
        "_bytes_received",
        "_bytes_sent",
        "_ended",
        "_eof_sent",
        "_error",
        "_held",
        "_linger",
        "_on_connect",
        "_peer",
        "_receive_size",
        "_receiving",
        "_remote_name",
        "_sending",
    )

    def __init__(
        self,
        sock: AnySocket,
        requested: SocketOptions,
        *,
        peer: Any = None,
        local: Address | None = None,
        accepted: bool = False,
        remote_name: str | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(sock, requested)
        self._local = local
        self._on_close = on_close
        # A sockaddr until somebody asks, for most servers never do; then an Address.
        self._peer: Any = peer
        self._accepted = accepted
        if not accepted:
            self._latest_wait = FIRST_BY_TRIO
        # Sets the options that only a connected socket takes, where that is still to come.
        self._on_connect: Callable[[AnySocket], None] | None = None
        self._remote_name = remote_name
        self._error: OSError | None = None
        # Received ahead, by a wait_all that was cancelled or only peeked. While it
        # is not empty, _readable is true.
        self._held = b""
        self._receiving = False
        self._sending = False
        self._eof_sent = False
        # The peer has sent all, and all of it was received.
        self._ended = False
        self._receive_size = FIRST_RECEIVE_SIZE
        self._bytes_received: int = 0
        self._bytes_sent: int = 0
        # A server's: takes the socket over, and says so, if a close might lose what was sent.
        self._linger: Callable[[Any], bool] | None = None

    def _describe(self) -> str:
        if self._peer is None:
            return super()._describe()
        return f"{'from' if self._accepted else 'to'} {self.remote_address}"

    @property
    def accepted(self) -> bool:
        """Whether the stream came from a passive socket."""
        return self._accepted

    @property
    def remote_name(self) -> str | None:
        """The host name that the stream was opened with, or None for an address."""
        return self._remote_name

    @property
    def remote_address(self) -> Address | None:
        """The peer's address, or None before `connect`.

        For an accepted stream it is what accept(2) returned: getpeername fails on a
        child that was reset. On a local socket it is the path connected to; a peer that is
        bound to a path too long for the kernel to tell is `LocalAddress.unnamed`.
        An IPv4-mapped IPv6 address is shown as the IPv4 address that it is.
        """
        if self._peer is not None and not isinstance(self._peer, Address):
            self._peer = from_sockaddr(int(self._sock.family), self._peer, unmap=True)
        return self._peer

    @property
    def receive_timeout(self) -> float | None:
        """Seconds without a byte after which a receive raises `ReceiveTimeoutError`.

        An inactivity timer as SO_RCVTIMEO is, kept by Trio's clock; None is none.
        """
        return self._receive_timeout

    @receive_timeout.setter
    def receive_timeout(self, seconds: float | None) -> None:
        self._requested = self._requested.replace(receive_timeout=seconds)
        self._receive_timeout = finite(seconds)

    @property
    def send_timeout(self) -> float | None:
        """Seconds without progress after which a send raises `SendTimeoutError`.

        An inactivity timer as SO_SNDTIMEO is, kept by Trio's clock: it starts anew
        whenever the system takes a byte. None is none.
        """
        return self._send_timeout

    @send_timeout.setter
    def send_timeout(self, seconds: float | None) -> None:
        self._requested = self._requested.replace(send_timeout=seconds)
        self._send_timeout = finite(seconds)

    def statistics(self) -> StreamStatistics:
        """The bytes received and sent so far."""
        return StreamStatistics(self._bytes_received, self._bytes_sent)

    def tcp_info(self) -> TcpInfo:
        """The kernel's own view of the connection: times, windows, losses.

        Raises:
          UnsupportedOptionError: not a TCP stream, or not a system that tells.
          trio.ClosedResourceError: the stream is closed.

        Source: TCP_INFO, tcp(7).
        """
        info: TcpInfo = self.get_option("tcp_info")
        return info

    def take_error(self) -> OSError | None:
        """Take the socket's pending error from the kernel, and keep it as the stream's.

        Returns:
          The error, or None. Reading clears it in the kernel, so it is remembered
          here: the next receive delivers what had come before, then raises it.

        Raises:
          trio.ClosedResourceError: the stream is closed.

        Source: SO_ERROR, socket(7).
        """
        self._check_open()
        number = self._sock.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_ERROR)
        if not number:
            return None
        error = OSError(number, os.strerror(number))
        self._keep(error)
        return error

    def _options_changed(self, options: SocketOptions) -> None:
        super()._options_changed(options)
        if options.receive_timeout is not None:
            self._receive_timeout = finite(options.receive_timeout)
        if options.send_timeout is not None:
            self._send_timeout = finite(options.send_timeout)

    def _keep(self, error: OSError) -> None:
        """Remember the first fatal error; from now on receives look before they wait."""
        if self._error is None:
            self._error = error
        self._readable = True

    def _failure(self, exc: OSError, step: str) -> Exception:
        """What to raise for *exc*, and keep it if it is the end of the stream."""
        if not self.is_open:
            return trio.ClosedResourceError("this stream was closed")
        if self._peer is None and exc.errno in NOT_CONNECTED:
            return socket_error(exc, f"{step}: connect() first")
        if exc.errno == errno.EPIPE and self._eof_sent:
            # A send that waited while this side was shut down; receiving goes on.
            return trio.ClosedResourceError("this side of the stream was shut down")
        if exc.errno in CALLERS_FAULT:
            return socket_error(exc, f"{step} {self._describe()}", SocketError)
        self._keep(exc)
        return self._broken(step)

    def _fail(self, exc: OSError, step: str) -> NoReturn:
        """Raise what *exc* means; a later error of the kernel's does not hide the first."""
        failure = self._failure(exc, step)
        raise failure from failure.__cause__ or exc

    def _broken(self, step: str) -> trio.BrokenResourceError:
        """The error that a stream raises once its first fatal error is kept."""
        error = self._error
        assert error is not None
        broken = trio.BrokenResourceError(
            f"cannot {step}, stream {self._describe()}: {error.strerror or error}"
        )
        broken.__cause__ = error
        return broken
