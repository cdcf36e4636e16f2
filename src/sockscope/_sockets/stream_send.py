"""How a stream sends: one system call and one checkpoint wherever that will do."""

from __future__ import annotations

import socket as stdlib_socket
from collections.abc import Callable
from typing import Final

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from sockscope._core.errors import SendTimeoutError
from sockscope._sockets.faults import ALREADY_GONE
from sockscope._sockets.stream_state import StreamState

_OUT_OF_BAND: Final = stdlib_socket.MSG_OOB
_DONT_ROUTE: Final = stdlib_socket.MSG_DONTROUTE
# Not on every system: there it is a hint that nobody takes.
_MORE: Final = getattr(stdlib_socket, "MSG_MORE", 0)


def _busy() -> trio.BusyResourceError:
    return trio.BusyResourceError("another task is already sending on this stream")


class Sending(StreamState):
    """The sending half of `StreamSocket`."""

    __slots__ = ()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of *data*, waiting for room as often as it takes.

        Args:
          data: the bytes; an empty one is only a checkpoint.

        Raises:
          trio.BrokenResourceError: the connection broke; its ``__cause__`` says how.
          trio.ClosedResourceError: this side is closed, or `send_eof` was called.
          trio.BusyResourceError: another task is sending.
          SendTimeoutError: the peer took nothing for `send_timeout` seconds; its
            ``sent`` says how many bytes had been handed to the system.

        A checkpoint. When cancelled, part of the data may have been sent.
        Source: `trio.abc.SendStream`; send(2).
        """
        if self._sending:
            raise _busy()
        self._sending = True
        try:
            await checkpoint_if_cancelled()
            self._check_can_send()
            try:
                sent = self._send_now(data)
            except BlockingIOError:
                sent = 0
            except OSError as exc:
                self._fail(exc, "send")
            size = len(data) if type(data) is bytes else memoryview(data).nbytes
            if sent == size:
                await cancel_shielded_checkpoint()
            else:
                await self._send_rest(data, sent)
        finally:
            self._sending = False

    def _send_now(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        """Send without waiting."""
        sent: int = self._sock.send(data, flags)
        self._bytes_sent += sent
        return sent

    async def _send_rest(self, data: bytes | bytearray | memoryview, sent: int) -> None:
        with memoryview(data) as whole, whole.cast("B") as view:
            while sent < len(view):
                with view[sent:] as rest:
                    sent += await self._when_writable(
                        lambda rest=rest: self._send_now(rest),  # type: ignore[misc]  # bound now
                        sent,
                    )

    async def _when_writable(self, attempt: Callable[[], int], sent: int = 0) -> int:
        """Try *attempt* each time the socket is writable, until it succeeds."""
        while True:
            expired = await self._wait_writable()
            try:
                return attempt()
            except BlockingIOError:
                pass
            except OSError as exc:
                self._fail(exc, "send")
            if expired:
                raise SendTimeoutError(
                    f"nothing sent for {self._send_timeout} s, stream {self._describe()}", sent=sent
                )

    def _check_can_send(self) -> None:
        """Raise what a send must raise before it has tried anything."""
        self._check_open()
        if self._eof_sent or (self._exposed is not None and self._exposed.did_shutdown_SHUT_WR):
            raise trio.ClosedResourceError("cannot send after send_eof or shutdown(write=True)")
        if self._error is not None:
            raise self._broken("send")

    async def send(
        self,
        data: bytes | bytearray | memoryview,
        *,
        out_of_band: bool = False,
        dont_route: bool = False,
        more: bool = False,
        dont_wait: bool = False,
    ) -> int:
        """Send part of *data*, with the flags of send(2).

        Args:
          data: the bytes.
          out_of_band: send the last byte as urgent data (MSG_OOB).
          dont_route: only to hosts on a network of our own (MSG_DONTROUTE).
          more: more will follow: let the system wait for it (MSG_MORE; Linux).
          dont_wait: only what can go at once (MSG_DONTWAIT).

        Returns:
          How many bytes were taken, at least one if there were any.

        Raises:
          trio.WouldBlock: *dont_wait*, and there is no room.
          SocketError: this kind of socket has no such flag.
          Otherwise as `send_all`.

        A checkpoint. When cancelled, nothing was sent.
        Source: send(2); IOLib's ``send-to`` (seed 003).
        """
        flags = (
            (_OUT_OF_BAND if out_of_band else 0)
            | (_DONT_ROUTE if dont_route else 0)
            | (_MORE if more else 0)
        )
        return await self._send_with(lambda: self._send_now(data, flags), dont_wait=dont_wait)

    async def _send_with(self, attempt: Callable[[], int], *, dont_wait: bool) -> int:
        """Try *attempt* once, then whenever the socket is writable."""
        if self._sending:
            raise _busy()
        self._sending = True
        try:
            await checkpoint_if_cancelled()
            self._check_can_send()
            try:
                sent = attempt()
            except BlockingIOError:
                if dont_wait:
                    raise trio.WouldBlock from None
                return await self._when_writable(attempt)
            except OSError as exc:
                self._fail(exc, "send")
            await cancel_shielded_checkpoint()
            return sent
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """Sleep until `send_all` might not have to wait.

        Raises:
          trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError:
            as `send_all`.

        A checkpoint. Source: `trio.abc.SendStream`.
        """
        if self._sending:
            raise _busy()
        self._sending = True
        try:
            await checkpoint_if_cancelled()
            self._check_can_send()
            await self._wait_for_room()
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """Tell the peer that nothing more will be sent; receiving goes on.

        Raises:
          trio.BrokenResourceError: the connection is gone already.
          trio.ClosedResourceError: this side is closed.
          trio.BusyResourceError: another task is sending.

        A checkpoint; a second call does nothing else.
        Source: `trio.abc.HalfCloseableStream`; shutdown(2).
        """
        if self._sending:
            raise _busy()
        self._sending = True
        try:
            await checkpoint()
            self._check_open()
            self._shutdown(stdlib_socket.SHUT_WR)
        finally:
            self._sending = False

    def shutdown(self, *, read: bool = False, write: bool = False) -> None:
        """Shut one or both directions down; the socket stays open.

        Args:
          read: nothing more will be received. Linux still delivers what comes later.
          write: nothing more will be sent, as `send_eof` does.

        Raises:
          ValueError: neither is True.
          trio.BrokenResourceError: the connection is gone already.
          trio.ClosedResourceError: this side is closed.

        Source: shutdown(2); IOLib's and Allegro CL's ``shutdown`` (seeds 003, 004).
        """
        if not (read or write):
            raise ValueError("shutdown needs read=True, write=True or both")
        self._check_open()
        if read:
            self._shutdown(stdlib_socket.SHUT_RD)
        if write:
            self._shutdown(stdlib_socket.SHUT_WR)

    def _shutdown(self, how: int) -> None:
        """shutdown(2), where a second call is no error on any system."""
        writing = how == stdlib_socket.SHUT_WR
        if writing and self._eof_sent:
            return
        if self._error is not None:
            raise self._broken("shut down")
        try:
            # By the trio.socket, if there is one: it remembers that this was done.
            (self._exposed or self._sock).shutdown(how)
        except OSError as exc:
            if exc.errno in ALREADY_GONE and self._peer is not None:
                self._keep(exc)
                raise self._broken("shut down") from exc
            self._fail(exc, "shut down")
        self._readable = True
        self._eof_sent = self._eof_sent or writing
