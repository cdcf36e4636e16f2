"""Sockets of a custom socket factory: no descriptor, only Trio's socket methods.

`trio.socket.set_custom_socket_factory` lets tests and simulations put a network of
their own below every Trio program. What our own sockets do by a system call and
a wait is done here by the methods of `trio.socket.SocketType`, each of which waits
and is a checkpoint by itself.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import trio
from trio.lowlevel import checkpoint

from sockscope._core.cleanup import close_on_error
from sockscope._core.deadlines import check_timeout, deadline_after
from sockscope._core.errors import (
    AcceptTimeoutError,
    ReceiveTimeoutError,
    SendTimeoutError,
    SocketError,
)
from sockscope._options.defaults import NO_OPTIONS
from sockscope._options.values import SocketOptions
from sockscope._sockets.base import BaseSocket
from sockscope._sockets.ending import reset_on_close
from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.stream import StreamSocket


class _CustomSocket(BaseSocket):
    """Whether it is open is what we did, for there is no descriptor to ask."""

    _closed = False

    @property
    def is_open(self) -> bool:
        """Whether the socket has not been closed on this side."""
        return not self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this socket was already closed")

    def _close(self) -> bool:
        if self._closed:
            return True
        self._closed = True
        try:
            self._sock.close()
        except OSError:
            return False
        return True


class CustomStreamSocket(_CustomSocket, StreamSocket):
    """A `StreamSocket` over a custom factory's socket."""

    async def aclose(self) -> None:
        """See `StreamSocket.aclose`; its close is not the kernel's, and does not block."""
        self._close()
        await checkpoint()

    def abort(self) -> None:
        """See `StreamSocket.abort`."""
        if self.is_open:
            reset_on_close(self._sock)
            self._close()

    def _linger_seconds(self) -> int:
        return 0

    # By way of receive_some, which is another here.
    __anext__ = trio.abc.ReceiveStream.__anext__  # type: ignore[assignment]  # Trio allows bytearray

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See `StreamSocket.receive_some`."""
        return await self.receive(self._receive_size if max_bytes is None else max_bytes)

    async def _receive_with(self, attempt: Callable[[], Any], *, dont_wait: bool = False) -> Any:
        """Here *attempt* gives an awaitable: the socket's own methods wait."""
        if self._receiving:
            raise trio.BusyResourceError("another task is already receiving from this stream")
        self._check_open()
        self._receiving = True
        try:
            # Broken it only gives what had come before that, and never waits for more.
            at_once = dont_wait or self._error is not None
            with deadline_after(0 if at_once else _forever(self._receive_timeout)):
                return await attempt()
        except OSError as exc:
            self._fail(exc, "receive")
        finally:
            self._receiving = False
        self._check_kept()
        if dont_wait:
            raise trio.WouldBlock
        raise ReceiveTimeoutError(
            f"nothing received for {self._receive_timeout} s, stream {self._describe()}"
        )

    async def _receive_now(self, size: int) -> bytes:  # type: ignore[override]  # see _receive_with
        if self._held:
            await checkpoint()
            head, self._held = self._held[:size], self._held[size:]
            return head
        data: bytes = await self._sock.recv(size)
        self._bytes_received += len(data)
        if not data:
            self._check_kept()
        return data

    async def _peek_now(self, n: int) -> bytes:  # type: ignore[override]  # see _receive_with
        data = await self._receive_now(n)
        self._hold(data)
        return data

    async def _receive_into_now(self, view: memoryview) -> int:  # type: ignore[override]  # see above
        data = await self._receive_now(len(view))
        view[: len(data)] = data
        return len(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `StreamSocket.send_all`."""
        sent = 0
        with memoryview(data) as whole, whole.cast("B") as view:
            while True:
                with view[sent:] as rest:
                    attempt = functools.partial(self._send_now, rest)
                    sent += await self._send_with(attempt, dont_wait=False, sent=sent)
                if sent == len(view):
                    return

    async def _send_with(
        self, attempt: Callable[[], Any], *, dont_wait: bool, sent: int = 0
    ) -> Any:
        """Here *attempt* gives an awaitable: the socket's own methods wait."""
        if self._sending:
            raise trio.BusyResourceError("another task is already sending on this stream")
        self._check_can_send()
        self._sending = True
        try:
            with deadline_after(0 if dont_wait else _forever(self._send_timeout)):
                return await attempt()
        except OSError as exc:
            self._fail(exc, "send")
        finally:
            self._sending = False
        if dont_wait:
            raise trio.WouldBlock
        raise SendTimeoutError(
            f"nothing sent for {self._send_timeout} s, stream {self._describe()}", sent=sent
        )

    async def _send_now(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:  # type: ignore[override]  # see _send_with
        sent: int = await self._sock.send(data, flags) if flags else await self._sock.send(data)
        self._bytes_sent += sent
        return sent

    async def _send_part(self, data: memoryview, sent: int) -> int:
        self._sending = False  # send_file has it; so has _send_with, at once
        try:
            done: int = await self._send_with(
                lambda: self._send_now(data), dont_wait=False, sent=sent
            )
            return done
        finally:
            self._sending = True

    async def _wait_for_room(self) -> None:
        await self._sock.wait_writable()


class CustomPassiveSocket(_CustomSocket, PassiveSocket):
    """A `PassiveSocket` over a custom factory's socket."""

    async def accept(
        self, *, timeout: float = math.inf, options: SocketOptions | None = None
    ) -> StreamSocket:
        """See `PassiveSocket.accept`."""
        check_timeout(timeout)
        self._check_open()
        if self._accepting:
            raise trio.BusyResourceError("another task is already accepting on this socket")
        self._accepting = True
        try:
            with deadline_after(timeout):
                sock, peer = await self._sock.accept()
                return self._child(sock, peer, options or NO_OPTIONS)
            raise AcceptTimeoutError(f"no connection within {timeout} s on {self._describe()}")
        except OSError as exc:
            if isinstance(exc, SocketError):
                raise
            raise self._accept_failure(exc) from exc
        finally:
            self._accepting = False

    def _child(
        self, sock: trio.socket.SocketType, peer: Any, options: SocketOptions
    ) -> StreamSocket:
        with close_on_error(sock):
            self._accepted += 1
            stream = CustomStreamSocket(sock, NO_OPTIONS, peer=peer, accepted=True)
            self.configure_child(stream, options)
            return stream

    def _take(self) -> None:
        """Nothing can be had without waiting."""


def _forever(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds
