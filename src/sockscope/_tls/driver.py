"""The driver under `TLSStream`: bytes between a stream and OpenSSL, in both directions at once.

OpenSSL works on two memory BIOs and never waits. The driver moves what it leaves
in the outgoing one to the stream below, and what comes from there into the
incoming one. Three rules keep the directions apart:

- **Turns.** One task at a time uses the sending side of the stream below
  (``_flushing``). It sends all that the outgoing BIO holds, in the order in which
  OpenSSL made it, so records never overtake each other.
- **A receiver never waits for a sender.** What the protocol makes a receiver answer
  (a key update, a request for a certificate) goes out while it goes on receiving:
  two ends with both directions full could wait for each other for ever.
- **A receiver leaves nothing half done.** Its answer begins only when the stream
  below has room, and is then finished within a bounded time, cancelled or not. So
  a cancelled receive has done nothing that the next one would not do.
"""

from __future__ import annotations

import ssl
import sys
from typing import Final, NoReturn

import idna  # Trio depends on it: names must be encoded as it encodes them
import trio

from sockscope._core.errors import HandshakeError
from sockscope._sockets.stream_wait import WaitingStream
from sockscope._tls.faults import (
    handshake_error,
    in_words,
    let_alert_arrive,
    peer_in_words,
    reason_of,
    send_alert,
    unexpected_eof,
)
from sockscope._tls.information import TLSInformation

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

# The most plaintext that a TLS record holds (RFC 8446, 5.1), and so the most that
# one read of OpenSSL's returns.
RECORD_SIZE: Final = 16 * 1024
# An answer begins when there is room; this is for the little that did not fit.
ANSWER_SECONDS: Final = 5.0
# Answers that a peer can ask for without reading them. Beyond this many bytes
# nothing more is received until they are gone.
MOST_UNANSWERED: Final = 64 * 1024


def encoded_hostname(name: str | bytes | None) -> str | bytes | None:
    """*name* in the form in which `trio.socket.getaddrinfo` looks it up (IDNA 2008).

    The standard library would encode it by IDNA 2003, which gives some names
    another form: then the certificate checked would not be that of the host dialled.
    """
    if not isinstance(name, str) or name.isascii():
        return name
    return idna.encode(name, uts46=True).decode("ascii")


def busy(doing: str) -> trio.BusyResourceError:
    """The error of a second task in one direction."""
    return trio.BusyResourceError(f"another task is already {doing} this TLS stream")


class TLSDriver(TLSInformation):
    """The state of a TLS connection, and the steps that `TLSStream` is made of."""

    __slots__ = (
        "_closed",
        "_ended",
        "_eof_sent",
        "_fault",
        "_file_wait",
        "_flushing",
        "_handshaking",
        "_incoming",
        "_lazy",
        "_more",
        "_outgoing",
        "_plain",
        "_pulling",
        "_receive_fault",
        "_receive_ready",
        "_receiving",
        "_send_fault",
        "_send_ready",
        "_sending",
        "_waiters",
    )

    def __init__(
        self,
        transport_stream: trio.abc.Stream,
        ssl_context: ssl.SSLContext,
        *,
        server_hostname: str | bytes | None = None,
        server_side: bool = False,
        https_compatible: bool = False,
    ) -> None:
        self._transport = transport_stream
        self._https_compatible = https_compatible
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = ssl_context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=encoded_hostname(server_hostname),
        )
        # A task of the user's is in that direction.
        self._receiving = False
        self._sending = False
        self._handshaking = False
        self._handshaken = False
        # False while anything is out of the ordinary: one look on each call's path.
        self._receive_ready = False
        self._send_ready = False
        self._closed = False
        self._eof_sent = False
        self._ended = False
        # What ended both directions, the receiving one, the sending one: the first of each.
        self._fault: Exception | None = None
        self._receive_fault: Exception | None = None
        self._send_fault: Exception | None = None
        # Whether the incoming BIO may hold a whole record.
        self._more = False
        # Decrypted before its time, by send_eof; less than one record.
        self._plain = b""
        # Bytes at the head of the outgoing BIO that wait for company: a server's
        # session tickets. Sent alone they could fill the pipe of a client that only
        # sends, or reset its connection (python-trio/trio#819).
        self._lazy = 0
        self._flushing = False
        self._pulling = False
        self._waiters: trio.lowlevel.ParkingLot | None = None
        # Where `send_file` waits for its file.
        self._file_wait: trio.CancelScope | None = None

    def _peer(self) -> str:
        return peer_in_words(self._transport, None if self.server_side else self.server_hostname)

    def __repr__(self) -> str:
        state = "closed " if self._closed else ""
        return f"<sockscope.TLSStream {state}over {self._transport!r}>"

    # Faults

    def _break(self, cause: BaseException) -> None:
        """End both directions for good."""
        if not isinstance(cause, Exception):
            cause = trio.BrokenResourceError("a handshake or a send was cancelled half-way")
        self._fault = self._fault or cause
        self._receive_ready = self._send_ready = False

    def _cannot_send(self, cause: Exception) -> None:
        """End the sending direction; what has arrived can still be received."""
        self._send_fault = self._send_fault or cause
        self._send_ready = False

    def _broken(self, step: str, cause: Exception) -> trio.BrokenResourceError:
        """The error of every call that comes after *cause*."""
        if isinstance(cause, ssl.SSLError):
            words = in_words(cause)
        else:
            words = str(cause) or type(cause).__name__
        error = trio.BrokenResourceError(f"cannot {step}, TLS with {self._peer()}: {words}")
        # A broken stream's own cause is the system's error: that is the one to tell.
        is_stream_s = isinstance(cause, trio.BrokenResourceError)
        error.__cause__ = cause.__cause__ if is_stream_s else cause
        if not is_stream_s:
            self._tell_below(cause)
        return error

    def _tell_below(self, cause: Exception) -> None:
        """Let a server know that this is its connection's own end, and no handler's fault."""
        transport: object = self._transport
        while isinstance(transport, TLSDriver):
            transport = transport._transport
        if isinstance(transport, WaitingStream) and transport._layer_fault is None:
            transport._layer_fault = cause

    def _check_open(self, step: str) -> None:
        if self._closed:
            raise trio.ClosedResourceError(f"cannot {step}: this TLS stream was closed")
        if self._fault is not None:
            raise self._broken(step, self._fault)

    async def _protocol_error(self, exc: ssl.SSLError, step: str) -> NoReturn:
        """End the connection for what OpenSSL said of it, telling the peer."""
        self._break(exc)
        await self._send_alert()
        raise self._broken(step, exc)

    async def _send_alert(self) -> None:
        # Whoever is sending at the moment takes the alert along.
        if self._flushing:
            return
        self._flushing = True
        try:
            await send_alert(self._transport, self._outgoing)
        finally:
            self._end_turn()

    # Waiting for another task of this stream

    async def _progress(self) -> None:
        """Sleep until another task of this stream has ended a turn."""
        if self._waiters is None:
            self._waiters = trio.lowlevel.ParkingLot()
        await self._waiters.park()

    def _wake(self) -> None:
        if self._waiters is not None:
            self._waiters.unpark_all()

    async def _wait_for_turn(self) -> None:
        while self._flushing:
            await self._progress()
        self._check_open("send")

    def _end_turn(self) -> None:
        self._flushing = False
        self._wake()

    # Sending

    async def _flush(self) -> None:
        """Send what OpenSSL has made; a checkpoint. Cancelled, it ends the stream."""
        try:
            if self._flushing:
                await self._wait_for_turn()
            self._flushing = True
            try:
                self._lazy = 0
                await self._transport.send_all(self._outgoing.read())
                while self._outgoing.pending:
                    await self._transport.send_all(self._outgoing.read())
            finally:
                self._flushing = False
                if self._waiters is not None:
                    self._wake()
        except Exception as exc:
            self._cannot_send(exc)
            raise
        except BaseException as exc:
            self._break(exc)
            raise

    async def _answer(self) -> None:
        """Send what the protocol owes the peer, once there is room for it."""
        while self._flushing:
            await self._progress()
        self._flushing = True
        try:
            owed = self._outgoing.pending
            if not owed:
                return  # a sender took it along
            await self._transport.wait_send_all_might_not_block()
            with trio.move_on_after(ANSWER_SECONDS, shield=True) as scope:
                self._lazy = 0
                await self._transport.send_all(self._outgoing.read(owed))
            if scope.cancelled_caught:
                self._break(TimeoutError("the peer did not take an answer that the protocol owed"))
        except Exception as exc:
            self._cannot_send(exc)
            self._outgoing.read()  # or the receiver would try again for ever
        finally:
            self._end_turn()

    # Receiving

    async def _pull(self) -> None:
        """Receive once from the stream below, or wait for a task that does so; a checkpoint."""
        if self._pulling:
            await self._progress()
            self._check_open("receive")
            return
        self._pulling = True
        try:
            data = await self._transport.receive_some()
        except trio.BrokenResourceError as exc:
            self._receive_fault = exc
            self._receive_ready = False
            raise
        finally:
            self._pulling = False
            if self._waiters is not None:
                self._wake()
        if data:
            self._incoming.write(data)
            self._more = True
        else:
            self._transport_ended()

    def _transport_ended(self) -> None:
        """The stream below has ended, and no close_notify was seen."""
        self._receive_ready = False
        if self._send_fault is not None:
            # Below a broken stream an end proves nothing.
            self._receive_fault = self._send_fault
        elif self._https_compatible and self._handshaken:
            self._ended = True
        else:
            self._receive_fault = unexpected_eof()

    async def _pull_and_answer(self) -> None:
        """Receive as `_pull` does, sending meanwhile what the protocol owes the peer."""
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._answer)
                try:
                    if self._outgoing.pending < MOST_UNANSWERED:
                        await self._pull()
                        nursery.cancel_scope.cancel()
                except BaseException as exc:
                    failure = exc
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            cancelled, rest = group.split(trio.Cancelled)
            if rest is not None:
                raise
            assert cancelled is not None
            failure = failure or cancelled.exceptions[0]
        # Bare, as it would have come without the nursery.
        if failure is not None:
            raise failure

    def _decrypt(self, size: int) -> bytes | None:
        """Decrypt up to *size* bytes of one record; None if none is whole, b"" at the end."""
        try:
            data = self._ssl.read(size)
        except ssl.SSLWantReadError:
            self._more = False
            return None
        except ssl.SSLZeroReturnError:
            data = b""
        if not data:
            self._ended = True
            self._receive_ready = False
        elif self._incoming.pending or (len(data) == size and self._ssl.pending()):
            self._more = True
        else:
            self._more = False
        return data

    # The handshake

    async def _handshake(self, received: bytes = b"") -> None:
        """Shake hands; whatever goes wrong ends the stream, and comes out as it is.

        Args:
          received: what has been received of the peer's part already.
        """
        self._handshaking = True
        self._incoming.write(received)
        try:
            await self._shake_hands()
        except ssl.SSLError as exc:
            error = handshake_error(
                in_words(exc), self._peer(), server_side=self.server_side, reason=reason_of(exc)
            )
            self._break(error)
            if await send_alert(self._transport, self._outgoing):
                await let_alert_arrive(self._transport)
            raise error from exc
        except BaseException as exc:
            self._break(exc)
            raise
        finally:
            self._handshaking = False
            self._wake()

    async def _shake_hands(self) -> None:
        while not self._handshaken:
            try:
                self._ssl.do_handshake()
            except ssl.SSLWantReadError:
                pass
            else:
                self._handshaken = True
                if self.server_side and self._ssl.version() == "TLSv1.3":
                    self._lazy = self._outgoing.pending
            if self._outgoing.pending > self._lazy:
                await self._transport.send_all(self._outgoing.read())
            if not self._handshaken:
                data = await self._transport.receive_some()
                if not data:
                    raise unexpected_eof()
                self._incoming.write(data)
        self._more = self._incoming.pending > 0
        self._receive_ready = self._send_ready = not self._closed

    async def _ensure_handshake(self, step: str) -> None:
        """Have hands shaken before the first *step*, by this task or another one."""
        while self._handshaking:
            await self._progress()
        self._check_open(step)
        if not self._handshaken:
            try:
                await self._handshake()
            except HandshakeError as exc:
                # What a stream raises is a BrokenResourceError; the reason is its cause.
                raise self._broken(step, exc) from exc
