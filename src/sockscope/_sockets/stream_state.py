"""Who a stream is and what is known of it: peer, timers, figures, the first error."""

from __future__ import annotations

import math
import os
import socket as stdlib_socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import outcome
import trio
from trio.lowlevel import (
    Abort,
    RaiseCancelT,
    Task,
    current_task,
    reschedule,
    wait_task_rescheduled,
)

from sockscope._addresses.values import Address, from_sockaddr
from sockscope._core.errors import SocketError, socket_error
from sockscope._options.value_types import TcpInfo
from sockscope._options.values import SocketOptions
from sockscope._sockets.base import AF_UNIX, AnySocket, BaseSocket
from sockscope._sockets.engine import ENABLED, Engine, current_engine
from sockscope._sockets.faults import CALLERS_FAULT, NOT_CONNECTED

# What one receive makes room for when the caller does not say: enough for most
# messages. It grows with a stream that fills it, for room that is not filled
# costs the allocator more than a second call would.
FIRST_RECEIVE_SIZE: Final = 16 * 1024
LARGEST_RECEIVE_SIZE: Final = 64 * 1024


class StreamStatistics(NamedTuple):
    """What has gone through a stream so far."""

    bytes_received: int
    bytes_sent: int


def finite(seconds: float | None) -> float | None:
    """A timeout as the streams keep it: None where it never ends."""
    return None if seconds is None or seconds == math.inf else float(seconds)


async def expires(wait: Callable[[], Awaitable[None]], seconds: float | None) -> bool:
    """Await *wait* for so many seconds at most; whether the time ran out first."""
    if seconds is None:
        await wait()
        return False
    with trio.move_on_after(seconds) as scope:
        await wait()
    return scope.cancelled_caught


class StreamState(BaseSocket):
    """The part of `StreamSocket` that neither sends nor receives."""

    __slots__ = (
        "_accepted",
        "_bytes_received",
        "_bytes_sent",
        "_eof_sent",
        "_error",
        "_held",
        "_peer",
        "_receive_size",
        "_receive_timeout",
        "_reader",
        "_receiving",
        "_registered",
        "_remote_name",
        "_send_timeout",
        "_sending",
        "_short_means_empty",
        "_writer",
    )

    def __init__(
        self,
        sock: AnySocket,
        requested: SocketOptions,
        *,
        peer: Any = None,
        accepted: bool = False,
        remote_name: str | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(sock, requested)
        self._on_close = on_close
        # A sockaddr until somebody asks, for most servers never do; then an Address.
        self._peer: Any = peer
        self._accepted = accepted
        self._remote_name = remote_name
        self._error: OSError | None = None
        # Received ahead, by a wait_all that was cancelled or only peeked. While it
        # is not empty, _readable is true.
        self._held = b""
        self._receiving = False
        self._sending = False
        self._eof_sent = False
        self._receive_size = FIRST_RECEIVE_SIZE
        self._bytes_received = 0
        self._bytes_sent = 0
        self._receive_timeout = finite(requested.receive_timeout)
        self._send_timeout = finite(requested.send_timeout)
        self._short_means_empty = self._trusts_short_receives(requested)
        # The engine's: the number it knows the stream by, and the tasks it is to wake.
        self._registered = -1
        self._reader: Task | None = None
        self._writer: Task | None = None

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
        child that was reset. On a local socket it is the path connected to.
        An IPv4-mapped IPv6 address is shown as the IPv4 address that it is.
        """
        if self._peer is not None and not isinstance(self._peer, Address):
            self._peer = from_sockaddr(int(self._sock.family), self._peer, unmap=True)
        return self._peer  # type: ignore[no-any-return]  # an Address or None by now

    @property
    def receive_timeout(self) -> float | None:
        """Seconds without a byte after which a receive raises `ReceiveTimeoutError`.

        An inactivity timer as SO_RCVTIMEO is, kept by Trio's clock; None is none.
        """
        return self._receive_timeout

    @receive_timeout.setter
    def receive_timeout(self, seconds: float | None) -> None:
        self._options_changed(SocketOptions(receive_timeout=seconds))
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
        self._options_changed(SocketOptions(send_timeout=seconds))
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
        return self.get_option("tcp_info")

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
        self._short_means_empty = self._trusts_short_receives(self._requested)
        self._readable = True

    def _trusts_short_receives(self, options: SocketOptions) -> bool:
        """Whether a short receive says that nothing is left, so that the next one waits first.

        Not on local streams, where messages with descriptors or from other senders
        end a receive early; not above a low-water mark, below which poll is silent
        though there are bytes; not with urgent bytes in the stream, which end a
        receive, too; not when the user holds the socket as well.
        """
        return (
            self._exposed is None
            and self._sock.family != AF_UNIX
            and (options.receive_low_water or 0) <= 1
            and not options.oob_inline
        )

    def _expose(self, sock: trio.socket.SocketType) -> None:
        super()._expose(sock)
        self._short_means_empty = False
        self._readable = True
        # The user may close it behind the engine's back: whoever sleeps there shall
        # look again, and wait by Trio's own call.
        if self._registered != -1:
            current_engine().unregister(self)
            self._reschedule(None)

    async def _wait_readable(self) -> None:
        """Sleep until a receive may succeed; the caller has seen that none would by now."""
        self._check_open()
        self._readable = False
        if not ENABLED or self._exposed is not None:
            return await super()._wait_readable()
        engine = current_engine()
        engine.sleepers += 1
        try:
            # Not in both at once: a writer that sleeps in the engine keeps the stream there.
            if (engine.is_worth_it() or self._writer is not None) and self._is_registered(engine):
                self._reader = current_task()
                await wait_task_rescheduled(self._stop_reading)
                return
            if self._registered != -1:
                engine.unregister(self)
            await trio.lowlevel.wait_readable(self._sock)
            self._readable = True
        finally:
            engine.sleepers -= 1

    async def _wait_writable(self) -> None:
        """Sleep until a send may succeed; the caller has seen that none would by now."""
        self._check_open()
        if self._registered == -1:
            return await trio.lowlevel.wait_writable(self._sock)
        self._writer = current_task()
        await wait_task_rescheduled(self._stop_writing)

    def _is_registered(self, engine: Engine) -> bool:
        return self._registered != -1 or engine.register(self)

    def _stop_reading(self, _: RaiseCancelT) -> Abort:
        self._reader = None
        return Abort.SUCCEEDED

    def _stop_writing(self, _: RaiseCancelT) -> Abort:
        self._writer = None
        return Abort.SUCCEEDED

    def _wake(self) -> None:
        if self._registered != -1:
            current_engine().unregister(self)
            self._reschedule(trio.ClosedResourceError("another task closed this stream"))
        super()._wake()

    def _reschedule(self, error: Exception | None) -> None:
        """Wake whoever sleeps in the engine, with *error* or just to look again."""
        for task in (self._reader, self._writer):
            if task is not None:
                # A new outcome for each: it is good for one use.
                reschedule(task, outcome.Value(None) if error is None else outcome.Error(error))
        self._reader = self._writer = None

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
        if exc.errno in CALLERS_FAULT:
            return socket_error(exc, f"{step} {self._describe()}", SocketError)
        self._keep(exc)
        return self._broken(step)

    def _broken(self, step: str) -> trio.BrokenResourceError:
        """The error that a stream raises once its first fatal error is kept."""
        error = self._error
        assert error is not None
        broken = trio.BrokenResourceError(
            f"cannot {step}, stream {self._describe()}: {error.strerror or error}"
        )
        broken.__cause__ = error
        return broken

    def _cannot_wait(self, exc: OSError) -> Exception:
        """The wait itself failed (epoll_ctl: ENOMEM, ENOSPC): an error, for a hang is worse."""
        if not self.is_open:
            return trio.ClosedResourceError("this stream was closed")
        broken = trio.BrokenResourceError(f"cannot wait for the stream {self._describe()}: {exc}")
        broken.__cause__ = exc
        return broken
