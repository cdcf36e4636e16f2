"""`StreamSocket`: a stream of bytes over TCP or a local socket."""

from __future__ import annotations

import errno
import math
import socket as stdlib_socket

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from sockscope._addresses.designators import AddressLike, Request, parse_designator
from sockscope._addresses.resolve import resolve_request
from sockscope._addresses.values import Address, as_peer
from sockscope._core.deadlines import check_timeout, deadline_after
from sockscope._core.errors import ConnectTimeoutError, OptionError, SocketError
from sockscope._sockets.connecting import attempt_error, connect_error, connect_socket
from sockscope._sockets.ending import (
    dont_linger,
    linger,
    linger_seconds,
    reset_on_close,
    take_over,
)
from sockscope._sockets.send_file import SendingFiles
from sockscope._sockets.stream_local import PassingDescriptors


class StreamSocket(  # pyright: ignore[reportIncompatibleMethodOverride]  # it hands on a coroutine
    PassingDescriptors, SendingFiles, trio.abc.HalfCloseableStream
):
    """A stream of bytes over TCP or a local socket; `open_socket` and accepting make them.

    It is a `trio.abc.HalfCloseableStream`: `trio.SSLStream` and whatever else takes
    Trio's streams takes it. ``async for data in stream`` receives until the end.

    The first fatal error is kept. What had arrived before it is still delivered;
    then every receive and send raises `trio.BrokenResourceError` with that error as
    its ``__cause__``: never a false end of stream.
    """

    __slots__ = ()

    async def aclose(self) -> None:
        """Close the stream, waking whoever waits in it with `trio.ClosedResourceError`.

        Without the option ``linger`` it closes at once and the system goes on sending
        what it has; a server's connection whose peer is still sending lingers behind it,
        so that the peer gets our last bytes. With ``linger=Linger(seconds)`` it first
        waits, by Trio's clock, until the peer has acknowledged everything; when the time
        is up it resets.

        A checkpoint. It always closes, also when cancelled, and never raises for what
        close(2) says. Closing twice is fine.
        """
        if not self.is_open:
            await checkpoint()
            return
        seconds = self._linger_seconds()
        if not seconds:
            if self._linger is None or not self._linger(self):
                super()._close()
            await checkpoint()
            return
        self._release_path()
        self._wake()
        # For all others the stream is closed from now on.
        with take_over(self._sock) as sock:
            dont_linger(sock)
            if not await linger(sock, seconds):
                reset_on_close(sock)

    def _linger_seconds(self) -> int:
        """How long close(2) would wait: a child may have it from its listener, or a hook."""
        return linger_seconds(self._sock)

    def _close(self) -> bool:
        if self.is_open and self._linger_seconds():
            dont_linger(self._sock)
        return super()._close()

    def abort(self) -> None:
        """Reset the connection at once: the peer gets an error, queued data is lost.

        A plain function. Waiting tasks get `trio.ClosedResourceError`. On a local
        socket, which has no resets, the peer sees the end of the stream.
        """
        if self.is_open:
            reset_on_close(self._sock)
            super()._close()

    async def connect(self, address: AddressLike, *, timeout: float = math.inf) -> None:
        """Connect a stream that was made without a remote.

        Args:
          address: an address designator; of a name, the first address of the
            socket's family is taken (`open_socket` tries them all).
          timeout: seconds for looking the name up and connecting.

        Raises:
          ConnectError: the address could not be reached; the stream is closed, for
            a socket whose connect has failed is of no further use.
          ConnectTimeoutError: it took longer; the stream is closed if connecting had begun.
          ResolverError: the name is unknown, or has no address of this family.
          OptionError: an option that only a connected socket takes failed; it is closed.
          SocketError: the stream is connected already.
          trio.BusyResourceError: another task is connecting it.

        A checkpoint. When cancelled before connecting has begun, it has done nothing; while
        connecting, the stream is closed, for that cannot be taken back.
        Source: connect(2); IOLib's ``connect`` (seed 003).
        """
        check_timeout(timeout)
        request = parse_designator(address, argument="address")
        self._check_open()
        if self._peer is not None:
            raise SocketError(
                errno.EISCONN, f"cannot connect to {address}: this stream is connected already"
            )
        if self._sending:
            raise trio.BusyResourceError("another task is already connecting this stream")
        self._sending = True
        self._trio_waits += 1
        try:
            with deadline_after(timeout):
                await self._connect(request)
                return
            raise ConnectTimeoutError(f"not connected to {address} within {timeout} s")
        finally:
            self._trio_waits -= 1
            self._sending = False

    async def _connect(self, request: Request) -> None:
        if isinstance(request, Address):
            address = request
        else:
            ipv6 = self._sock.family == stdlib_socket.AF_INET6
            address = (await resolve_request(request, ipv6=ipv6, type="stream"))[0]
        if address.family != self._sock.family:
            raise SocketError(
                errno.EAFNOSUPPORT, f"cannot connect to {address}: this socket is of another family"
            )
        # Until connect(2) nothing has been done, and the stream is as it was.
        await checkpoint_if_cancelled()
        try:
            await connect_socket(self._sock, address.sockaddr)
            if self._on_connect is not None:
                self._on_connect(self._sock)
        except OptionError:
            self._close()
            raise
        except OSError as exc:
            if not self.is_open:
                raise trio.ClosedResourceError("another task closed this stream") from exc
            self._close()
            raise connect_error(address, [attempt_error(exc, address)]) from exc
        except BaseException:
            self._close()
            raise
        self._peer = as_peer(address)
        self._readable = True
