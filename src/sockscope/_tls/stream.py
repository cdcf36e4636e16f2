"""`TLSStream`: TLS over any Trio stream."""

from __future__ import annotations

import ssl
from typing import Final

import trio
from trio.lowlevel import checkpoint

from sockscope._core.cleanup import ScopedResource
from sockscope._tls.driver import busy
from sockscope._tls.receiving import Receiving
from sockscope._tls.sending import Sending

# A peer that takes not even a close_notify in this time is not waited for: nginx's
# time for a lingering close.
CLOSE_SECONDS: Final = 30.0


class TLSStream(ScopedResource, Receiving, Sending, trio.abc.HalfCloseableStream):
    """TLS over any Trio stream, with the methods and attributes of `trio.SSLStream`.

    `tls_upgrade` makes one with the handshake done. Made directly, it shakes hands
    when first used, or in `do_handshake`.

    Args:
      transport_stream: any `trio.abc.Stream`, which is the TLS stream's own from now on.
      ssl_context: a plain `ssl.SSLContext`.
      server_hostname: on a client, the name to ask for and to check the certificate
        for. Not ASCII, it is encoded by IDNA 2008, as Trio's look-ups are.
      server_side: whether this end is the server.
      https_compatible: take an end without close_notify for an end. Much of the web
        leaves it out, and HTTP has its own means of telling where a message ends.

    It has what `trio.SSLStream` lacks: `send_eof`, alerts for the peer when something
    fails, an `aclose` that waits for nobody.

    - One task may send while another receives, whatever the protocol does underneath.
    - A cancelled `receive_some` has done nothing. A cancelled handshake or `send_all`
      may have sent part of a record: it ends the stream, and every later call says so.
    - A stream that ends without close_notify was perhaps cut off by somebody in the
      middle: all that came before is delivered, then `trio.BrokenResourceError` raised.
    - The peer's reset, or whatever else broke the connection, is kept: what had
      arrived before it is delivered, then the error, each time.
    """

    __slots__ = ("__weakref__",)

    async def do_handshake(self) -> None:
        """Shake hands, unless that was done: `tls_upgrade` has done it.

        Raises:
          trio.BrokenResourceError: it failed; the `HandshakeError` that says why is
            the ``__cause__``. The peer was told by an alert.
          trio.ClosedResourceError: the stream is closed.

        A checkpoint. When cancelled, the stream is broken for good.
        """
        self._check_open("shake hands")
        if self._handshaken and not self._handshaking:
            await checkpoint()
        else:
            await self._ensure_handshake("shake hands")

    async def send_eof(self) -> None:
        """Tell the peer by close_notify that nothing more will be sent; receiving goes on.

        Under TLS 1.2 and 1.3 alike. The stream below is left open in both directions.
        Peers that know no half-close answer a close_notify by closing.

        Raises:
          trio.BrokenResourceError: the connection is gone already.
          trio.ClosedResourceError: this side is closed.
          trio.BusyResourceError: another task is sending.

        A checkpoint; a second call does nothing else. When cancelled, the stream is
        broken for good. Source: `trio.abc.HalfCloseableStream`; RFC 8446, 6.1.
        """
        if self._sending:
            raise busy("sending on")
        self._sending = True
        try:
            if self._eof_sent:
                self._check_open("send the end")
                await checkpoint()
                return
            if not self._send_ready:
                await self._before_sending()
            try:
                self._close_notify()
            except ssl.SSLError as exc:
                await self._protocol_error(exc, "send the end")
            await self._flush()
        finally:
            self._sending = False

    def _close_notify(self) -> None:
        """Have OpenSSL say that nothing more will be sent, and lose nothing received.

        Its shutdown looks for the peer's close_notify as well, and for it whatever
        else has arrived is an error that ends the connection. So what has arrived
        is put aside: plaintext in ``_plain``, less than a record, and ciphertext.
        """
        while pending := self._ssl.pending():
            self._plain += self._ssl.read(pending)
            self._receive_ready = False
        ciphertext = self._incoming.read()
        self._eof_sent = True
        self._send_ready = False
        try:
            self._ssl.unwrap()
        except ssl.SSLWantReadError:
            pass  # sent; the peer's own is not there yet
        finally:
            self._incoming.write(ciphertext)

    async def unwrap(self) -> tuple[trio.abc.Stream, bytes]:
        """End TLS and go on in the clear on the stream below: close_notify in both directions.

        Returns:
          The stream below, and the bytes in the clear that came with the peer's
          close_notify. This object is closed; the stream below is not.

        Raises:
          trio.BrokenResourceError: as `receive_some`, and when the peer still sends
            data, or what it had sent was not received: where that is here already, since
            `send_eof`, nothing was done, and it can still be received.
          trio.ClosedResourceError: this side is closed.
          trio.BusyResourceError: another task is sending or receiving.

        A checkpoint. When cancelled, the stream is broken for good.
        """
        if self._sending or self._receiving:
            raise busy("using")
        self._sending = self._receiving = True
        try:
            if not self._send_ready and not self._eof_sent:
                await self._before_sending()
            self._check_open("unwrap")
            if self._plain:
                raise trio.BrokenResourceError(
                    f"cannot unwrap, TLS with {self._peer()}: {len(self._plain)} bytes of it "
                    "have not been received"
                )
            await self._exchange_close_notify()
            self._closed = True
            self._receive_ready = self._send_ready = False
            return self._transport, self._incoming.read()
        except ssl.SSLError as exc:
            return await self._protocol_error(exc, "unwrap")
        finally:
            self._sending = self._receiving = False

    async def _exchange_close_notify(self) -> None:
        self._eof_sent = True
        self._send_ready = False
        while True:
            try:
                self._ssl.unwrap()
            except ssl.SSLWantReadError:
                ended = self._ended
            else:
                ended = True
            if self._outgoing.pending:
                await self._flush()
            if ended:
                return
            await self._pull()
            if self._receive_fault is not None:
                raise self._broken("unwrap", self._receive_fault)

    async def aclose(self) -> None:
        """Send close_notify, if the handshake is done and nobody is sending, and close.

        It never waits for the peer's answer; before the handshake, or on a broken
        stream, it just closes. A peer that reads nothing is given 30 seconds to take
        what is on its way. Waiting tasks get `trio.ClosedResourceError`.

        A checkpoint. It always closes, also when cancelled. Closing twice is fine.
        """
        if self._closed:
            await checkpoint()
            return
        can_say_goodbye = self._send_ready and not (self._sending or self._flushing)
        self._closed = True
        self._receive_ready = self._send_ready = False
        self._wake()
        if self._file_wait is not None:
            self._file_wait.cancel()
        in_peace = not can_say_goodbye
        try:
            if can_say_goodbye:
                in_peace = await self._say_goodbye()
        finally:
            if in_peace:
                await self._transport.aclose()
            else:
                await trio.aclose_forcefully(self._transport)

    async def _say_goodbye(self) -> bool:
        """Send close_notify; whether that went through, or there was nobody to hear it."""
        try:
            self._close_notify()
        except ssl.SSLError:
            pass  # in the middle of a renegotiation: a cut that the peer will see
        try:
            with trio.move_on_after(CLOSE_SECONDS):
                await self._transport.send_all(self._outgoing.read())
                return True
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            return True  # it was the first to close, or has gone
        return False
