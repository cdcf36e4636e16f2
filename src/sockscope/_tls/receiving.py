"""How a TLS stream receives: one call of the stream below and one of OpenSSL's."""

from __future__ import annotations

import operator
import ssl

from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from sockscope._tls.driver import RECORD_SIZE, TLSDriver, busy


def _size(max_bytes: int) -> int:
    size = operator.index(max_bytes)  # a TypeError for what is no whole number
    if size < 1:
        raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
    return size


class Receiving(TLSDriver):
    """The receiving half of `TLSStream`."""

    __slots__ = ()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive and decrypt: at least one byte, and at most one record, unless it has ended.

        Args:
          max_bytes: how many bytes at most; None is a whole record.

        Returns:
          The bytes, or ``b""`` once the peer has said (by close_notify) that it has
          sent all.

        Raises:
          trio.BrokenResourceError: the connection broke, ended without close_notify or
            brought what is not TLS; the ``__cause__`` says how.
          trio.ClosedResourceError: this side is closed, maybe just now by another task.
          trio.BusyResourceError: another task is receiving.

        A checkpoint. When cancelled, nothing was received.
        Source: `trio.abc.ReceiveStream`.
        """
        size = RECORD_SIZE if max_bytes is None else _size(max_bytes)
        if self._receiving:
            raise busy("receiving from")
        self._receiving = True
        try:
            if self._more or not self._receive_ready:
                held = await self._receive_held(size)
                if held is not None:
                    return held
            while True:
                if self._outgoing.pending > self._lazy:
                    await self._pull_and_answer()
                else:
                    await self._pull()
                data = self._decrypt(size)
                if data is not None:
                    return data
                if not self._receive_ready:
                    return self._end()
        except ssl.SSLError as exc:
            return await self._protocol_error(exc, "receive")
        finally:
            self._receiving = False

    async def _receive_held(self, size: int) -> bytes | None:
        """Serve a receive from what is here already; a checkpoint only if it can be."""
        if not self._handshaken or self._handshaking:
            await self._ensure_handshake("receive")
        # Cancelled? Then nothing must happen; if not, nothing may be undone after.
        await checkpoint_if_cancelled()
        data = self._held_now(size)
        if data is not None:
            await cancel_shielded_checkpoint()
        return data

    def _held_now(self, size: int) -> bytes | None:
        """What is here already: data, then the error that came after it, or the end."""
        self._check_open("receive")
        if self._plain:
            head, self._plain = self._plain[:size], self._plain[size:]
            return head
        if self._more and not self._ended:
            data = self._decrypt(size)
            if data is not None:
                return data
        if self._ended or self._receive_fault is not None:
            return self._end()
        self._receive_ready = True
        return None

    def _end(self) -> bytes:
        """What is behind the last byte: the end, or the error."""
        self._check_open("receive")
        if self._receive_fault is not None and not self._ended:
            raise self._broken("receive", self._receive_fault)
        return b""
