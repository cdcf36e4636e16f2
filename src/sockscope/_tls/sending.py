"""How a TLS stream sends: one call of OpenSSL's and one of the stream below, for each piece."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import BinaryIO, Final

import trio
from trio.lowlevel import checkpoint

from sockscope._sockets.file_reading import Source, source_of
from sockscope._sockets.send_file import check_arguments, descriptor_of
from sockscope._tls.driver import RECORD_SIZE, TLSDriver, busy
from sockscope._tls.faults import unexpected_eof

# How much is encrypted before it is sent: four records for one call of the stream
# below. More would only lie in memory while the peer is slow.
PIECE_SIZE: Final = 4 * RECORD_SIZE
# A thread costs as much as encrypting this does: so much is read by one.
READ_SIZE: Final = 4 * PIECE_SIZE


class Sending(TLSDriver):
    """The sending half of `TLSStream`."""

    __slots__ = ()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt *data* and send it, in pieces, waiting for room as often as it takes.

        Args:
          data: the bytes; an empty one is only a checkpoint.

        Raises:
          trio.BrokenResourceError: the connection broke; its ``__cause__`` says how.
            Where the peer refused this side's certificate, the next `receive_some`
            has its reason.
          trio.ClosedResourceError: this side is closed, or `send_eof` was called.
          trio.BusyResourceError: another task is sending.

        A checkpoint. When cancelled, part of the data may have been sent, and the
        stream is broken for good: a record cut in the middle cannot be mended.
        Source: `trio.abc.SendStream`.
        """
        if self._sending:
            raise busy("sending on")
        self._sending = True
        try:
            if not self._send_ready:
                await self._before_sending()
            if type(data) is bytes and 0 < len(data) <= PIECE_SIZE:
                # As _send_piece, in place: what most sends are.
                try:
                    self._ssl.write(data)
                except ssl.SSLError:
                    await self._write_later(data)
                await self._flush()
            elif data:
                await self._send_pieces(data)
            else:
                await checkpoint()
        finally:
            self._sending = False

    async def _before_sending(self) -> None:
        """Raise what a send must raise before it has tried anything; shake hands if need be."""
        self._check_open("send")
        if self._eof_sent:
            raise trio.ClosedResourceError("cannot send after send_eof")
        if self._send_fault is not None:
            raise self._broken("send", self._send_fault)
        await self._ensure_handshake("send")

    async def _send_piece(self, piece: bytes | memoryview) -> None:
        try:
            # Never cut short: the standard library sets no partial writes.
            self._ssl.write(piece)
        except ssl.SSLError:
            await self._write_later(piece)
        await self._flush()

    async def _write_later(self, piece: bytes | memoryview) -> None:
        """Write *piece* once the new handshake that the peer began is through (TLS 1.2)."""
        try:
            while True:
                try:
                    self._ssl.write(piece)
                except ssl.SSLWantReadError:
                    pass
                else:
                    return
                if self._receive_fault is not None or self._ended:
                    raise self._broken("send", self._receive_fault or unexpected_eof())
                # One wait, then another look: a receiver may have finished it meanwhile.
                if self._outgoing.pending:
                    await self._flush()
                else:
                    await self._pull()
        except ssl.SSLError as exc:
            await self._protocol_error(exc, "send")
        except BaseException as exc:
            self._break(exc)
            raise

    async def _send_pieces(self, data: bytes | bytearray | memoryview) -> None:
        with memoryview(data) as whole, whole.cast("B") as view:
            for start in range(0, len(view), PIECE_SIZE):
                with view[start : start + PIECE_SIZE] as piece:
                    await self._send_piece(piece)

    async def send_file(
        self,
        file: BinaryIO,
        offset: int = 0,
        count: int | None = None,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Send part of a file, piece by piece.

        Args:
          file: as for `StreamSocket.send_file`.
          offset: where in the file to begin, in bytes.
          count: how many bytes; None is up to the end. Fewer if the file ends before.
          progress: a plain function, called with the bytes sent so far after each piece.

        Returns:
          The bytes sent.

        Raises:
          ValueError: *offset* or *count* is negative, or beyond any file.
          TypeError: *file* is no open binary file.
          OSError: the file could not be read.
          Otherwise as `send_all`.

        A checkpoint. When cancelled in the middle of a piece the stream is broken for
        good, as by `send_all`; while the file was read, it is not.
        """
        check_arguments(file, offset, count)
        if self._sending:
            raise busy("sending on")
        self._sending = True
        try:
            if not self._send_ready:
                await self._before_sending()
            await checkpoint()
            source = source_of(file, await descriptor_of(file))
            sent = 0
            while sent != count:
                size = READ_SIZE if count is None else min(READ_SIZE, count - sent)
                data = await self._read_file(source, offset + sent, size)
                if not data:
                    break
                for start in range(0, len(data), PIECE_SIZE):
                    piece = data[start : start + PIECE_SIZE]
                    await self._send_piece(piece)
                    sent += len(piece)
                    source.taken(len(piece))
                    if progress is not None:
                        progress(sent)
            return sent
        finally:
            self._sending = False

    async def _read_file(self, source: Source, place: int, size: int) -> bytes:
        """Read some of a file, which may be a silent pipe, as long as the stream is open."""
        with trio.CancelScope() as self._file_wait:
            return await source.read(place, size)
        raise trio.ClosedResourceError("another task closed this TLS stream")

    async def wait_send_all_might_not_block(self) -> None:
        """Sleep until `send_all` might not have to wait.

        Raises:
          trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError:
            as `send_all`.

        A checkpoint. Source: `trio.abc.SendStream`.
        """
        if self._sending:
            raise busy("sending on")
        self._sending = True
        try:
            if not self._send_ready:
                await self._before_sending()
            await self._wait_for_turn()
            self._flushing = True
            try:
                await self._transport.wait_send_all_might_not_block()
            finally:
                self._end_turn()
        finally:
            self._sending = False
