"""How a stream receives: one system call and one checkpoint wherever that will do."""

from __future__ import annotations

import operator
import socket as stdlib_socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NoReturn, TypeVar

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from sockscope._core.errors import ReceiveTimeoutError
from sockscope._sockets.stream_state import LARGEST_RECEIVE_SIZE, StreamState
from sockscope._sockets.urgent import receive_urgent

_T = TypeVar("_T")
_PEEK: Final = stdlib_socket.MSG_PEEK


def _busy() -> trio.BusyResourceError:
    return trio.BusyResourceError("another task is already receiving from this stream")


def _stop() -> NoReturn:
    raise StopAsyncIteration


def _size(n: int, argument: str) -> int:
    if isinstance(n, bool):
        raise TypeError(f"{argument} must be a whole number, not {n!r}")
    n = operator.index(n)  # a TypeError for what is no whole number
    if n < 1:
        raise ValueError(f"{argument} must be at least 1, not {n}")
    return n


class Receiving(StreamState):
    """The receiving half of `StreamSocket`."""

    __slots__ = ()

    def receive_some(self, max_bytes: int | None = None) -> Coroutine[Any, Any, bytes]:
        """Receive what there is: at least one byte, unless the stream has ended.

        Args:
          max_bytes: how many bytes at most; None is a size that suits the stream.

        Returns:
          The bytes, or ``b""`` at the end of the stream: the peer has sent all.

        Raises:
          trio.BrokenResourceError: the connection broke; its ``__cause__`` says how.
          trio.ClosedResourceError: this side is closed, maybe just now by another task.
          trio.BusyResourceError: another task is receiving.
          ReceiveTimeoutError: nothing came for `receive_timeout` seconds.

        A checkpoint. When cancelled, nothing was received.
        Source: `trio.abc.ReceiveStream`; recv(2).
        """
        size = self._receive_size if max_bytes is None else _size(max_bytes, "max_bytes")
        return self._receive(size)

    def __anext__(self) -> Coroutine[Any, Any, bytes]:
        """What ``async for data in stream`` awaits: bytes until the end of the stream."""
        return self._receive(self._receive_size, iterating=True)

    async def _receive(self, size: int, *, iterating: bool = False) -> bytes:
        """Receive up to *size* bytes; at the end raise StopAsyncIteration if *iterating*.

        One frame for all who come here, as each idle connection keeps it.
        """
        if self._receiving:
            raise _busy()
        self._receiving = True
        try:
            if self._readable:
                # Cancelled? Then nothing must happen; if not, nothing may be undone after.
                await checkpoint_if_cancelled()
                try:
                    data = self._receive_now(size)
                except BlockingIOError:
                    pass
                except OSError as exc:
                    self._fail(exc, "receive")
                else:
                    await cancel_shielded_checkpoint()
                    return data if data or not iterating else _stop()
            # As _when_readable, which has a frame more: this is what servers do all day.
            while True:
                expired = await self._until_readable()
                try:
                    data = self._receive_now(size)
                except BlockingIOError:
                    self._check_expired(expired)
                except OSError as exc:
                    self._fail(exc, "receive")
                else:
                    return data if data or not iterating else _stop()
        finally:
            self._receiving = False

    def _receive_now(self, size: int) -> bytes:
        """Receive without waiting, and remember whether more may be there."""
        if self._held:
            self._check_open()
            head, self._held = self._held[:size], self._held[size:]
            return head
        data: bytes = self._sock.recv(size)
        received = len(data)
        self._bytes_received += received
        if received == size:
            if size == self._receive_size < LARGEST_RECEIVE_SIZE:
                self._receive_size *= 2
        elif received:
            self._readable = not self._short_means_empty
        elif self._error is not None:
            raise self._broken("receive")
        else:
            self._ended = True
        return data

    async def _when_readable(self, attempt: Callable[[], _T]) -> _T:
        """Try *attempt* each time the socket is readable, until it succeeds."""
        while True:
            expired = await self._until_readable()
            try:
                return attempt()
            except BlockingIOError:
                self._check_expired(expired)
            except OSError as exc:
                self._fail(exc, "receive")

    def _until_readable(self) -> Awaitable[bool | None]:
        """Sleep until a receive may succeed; whether `receive_timeout` came first."""
        if self._error is not None:
            raise self._broken("receive")
        return self._wait_readable()

    def _check_expired(self, expired: bool | None) -> None:
        """Nothing was there to be received: was that for too long?"""
        if expired:
            raise ReceiveTimeoutError(
                f"nothing received for {self._receive_timeout} s, stream {self._describe()}"
            )

    async def _receive_with(self, attempt: Callable[[], _T], *, dont_wait: bool = False) -> _T:
        """Try *attempt* once, then whenever the socket is readable."""
        if self._receiving:
            raise _busy()
        self._receiving = True
        try:
            await checkpoint_if_cancelled()
            try:
                result = attempt()
            except BlockingIOError:
                if dont_wait:
                    self._check_kept()
                    raise trio.WouldBlock from None
                return await self._when_readable(attempt)
            except OSError as exc:
                self._fail(exc, "receive")
            await cancel_shielded_checkpoint()
            return result
        finally:
            self._receiving = False

    def _check_kept(self) -> None:
        if self._error is not None:
            raise self._broken("receive")

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """Receive into a buffer of the caller's.

        Args:
          buffer: a writable buffer of at least one byte.

        Returns:
          The number of bytes received; 0 at the end of the stream.

        Raises:
          ValueError: the buffer is empty.
          Otherwise as `receive_some`.

        A checkpoint. When cancelled, nothing was received.
        """
        with memoryview(buffer) as whole, whole.cast("B") as view:
            _size(len(view), "the buffer's length")
            return await self._receive_with(lambda: self._receive_into_now(view))

    def _receive_into_now(self, view: memoryview) -> int:
        if self._held:
            data = self._receive_now(len(view))
            view[: len(data)] = data
            return len(data)
        received: int = self._sock.recv_into(view)
        self._bytes_received += received
        if not received:
            self._check_kept()
        elif received < len(view):
            self._readable = not self._short_means_empty
        return received

    async def receive(
        self,
        n: int,
        *,
        out_of_band: bool = False,
        peek: bool = False,
        wait_all: bool = False,
        dont_wait: bool = False,
    ) -> bytes:
        """Receive with the flags of recv(2), each meaning what it says there.

        Args:
          n: how many bytes at most.
          out_of_band: the urgent byte instead of the stream (MSG_OOB). An ordinary
            receive that comes first destroys it: the option ``oob_inline`` does not.
          peek: leave the bytes where they are (MSG_PEEK).
          wait_all: all *n* bytes, fewer only at the end of the stream (MSG_WAITALL).
            When cancelled, what had come is kept for the next receive.
          dont_wait: only what is there at once (MSG_DONTWAIT).

        Returns:
          The bytes, or ``b""`` at the end of the stream.

        Raises:
          trio.WouldBlock: *dont_wait*, and there is nothing (with *wait_all*: not enough).
          ValueError: *n* is below 1.
          Otherwise as `receive_some`.

        A checkpoint. When cancelled, nothing was received.
        Source: recv(2); IOLib's ``receive-from`` (seed 003).
        """
        _size(n, "n")
        if out_of_band:
            return await receive_urgent(self, n, peek=peek, dont_wait=dont_wait)
        if wait_all:
            return await self._receive_all(n, peek=peek, dont_wait=dont_wait)
        attempt = self._peek_now if peek else self._receive_now
        return await self._receive_with(lambda: attempt(n), dont_wait=dont_wait)

    def _peek_now(self, n: int) -> bytes:
        self._check_open()  # what is held is not the kernel's to refuse
        data: bytes = self._held[:n] or self._sock.recv(n, _PEEK)
        if not data:
            self._check_kept()
        return data

    async def _receive_all(self, n: int, *, peek: bool, dont_wait: bool) -> bytes:
        """Gather *n* bytes; what is not handed out stays in ``_held``.

        A non-blocking socket ignores MSG_WAITALL, and polling a peeked one spins:
        so the bytes are taken off the kernel's queue and kept here.
        """
        gathered = bytearray()
        while len(gathered) < n:
            missing = n - len(gathered)
            try:
                piece = await self._receive_with(
                    lambda missing=missing: self._receive_now(missing),  # type: ignore[misc]  # bound now
                    dont_wait=dont_wait,
                )
            except trio.BrokenResourceError:
                # What came before the error is delivered first, as MSG_WAITALL does.
                if not gathered:
                    raise
                break
            except BaseException:
                self._hold(bytes(gathered))
                raise
            if not piece:
                break
            gathered += piece
        data = bytes(gathered)
        if peek:
            self._hold(data)
        return data

    def _hold(self, data: bytes) -> None:
        self._held = data + self._held
        self._readable = True
