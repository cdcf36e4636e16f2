"""Text over a buffered stream, as `io.TextIOWrapper` has it over a file."""

from __future__ import annotations

import codecs
import errno
import functools
import io
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from sockscope._buffered.lines import DEFAULT_SIZE, Lines, checked_size
from sockscope._buffered.stream import BufferedStream
from sockscope._core.cleanup import ScopedResource
from sockscope._core.conflicts import ConflictDetector
from sockscope._core.errors import RecordTooLongError

# What ends a line of text that was translated as the newline argument says.
_LINE_ENDS: dict[str | None, re.Pattern[str]] = {
    None: re.compile("\n"),
    "": re.compile("\r\n|\r|\n"),
    "\n": re.compile("\n"),
    "\r": re.compile("\r"),
    "\r\n": re.compile("\r\n"),
}


def _good_bytes(fault: UnicodeError, size: int) -> int:
    """How many of the *size* bytes last given to a decoder come before its *fault*."""
    if not isinstance(fault, UnicodeDecodeError):
        return 0  # UTF-16 without a byte order mark: nothing of it was text
    held = len(fault.object) - size  # half a character, from the call before
    return max(fault.start - held, 0)


class TextStream(ScopedResource, trio.abc.AsyncResource):
    r"""Text over *stream*, encoded and with newlines as in `io.TextIOWrapper`.

    Example::

        async with TextStream(stream, newline="\r\n") as text:
            await text.write("HELP\n")
            await text.flush()
            async for line in text:
                print(line, end="")

    ``async for`` gives lines with their endings, as files do. Characters and
    newlines may be cut anywhere on the way. Text is decoded as it is received, ahead
    of the reader: where the protocol changes to bytes, or to TLS, read its commands
    by `BufferedStream.lines`.

    Text that cannot be decoded is a `UnicodeError`, each time, once the text before
    it was received.

    Args:
      stream: any `trio.abc.Stream`; a `BufferedStream` is made of what is none.
      encoding: a text encoding.
      errors: what to do with what cannot be decoded or encoded: ``"strict"``,
        ``"replace"`` or another name that `codecs` knows.
      newline: None, ``""``, ``"\n"``, ``"\r"`` or ``"\r\n"``. Received, None makes
        each of the three a ``"\n"``, ``""`` leaves them as they are, and any other
        is the only one that ends a line. Sent, ``"\n"`` becomes `os.linesep` with None
        and the given one else; ``""`` leaves it. With None and ``""`` a lone
        ``"\r"`` is told from half a ``"\r\n"`` by the next character only: a peer
        that ends its lines in it and waits needs ``newline="\r"``.

    Attributes:
      transport_stream: the `BufferedStream` below.
      encoding: the encoding.

    Raises:
      LookupError: *encoding* or *errors* is unknown.
      ValueError: *newline* is none of the five.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        encoding: str = "utf-8",
        errors: str = "strict",
        newline: str | None = None,
    ) -> None:
        # The standard library's own check of the arguments, with its own words.
        with io.TextIOWrapper(io.BytesIO(), encoding, errors, newline) as wrapper:
            self.encoding: str = wrapper.encoding
        codecs.lookup_error(errors)
        self.transport_stream: BufferedStream = (
            stream if isinstance(stream, BufferedStream) else BufferedStream(stream)
        )
        self._encoder = codecs.getincrementalencoder(self.encoding)(errors)
        self._decoder = codecs.getincrementaldecoder(self.encoding)(errors)
        self._newlines = (
            None if newline else io.IncrementalNewlineDecoder(None, translate=newline is None)
        )
        self._line_end = _LINE_ENDS[newline]
        self._sent_newline = "\n" if newline == "" else newline or os.linesep
        self._receiving = ConflictDetector("another task is receiving from this stream")
        self._failure: UnicodeError | None = None
        self._head = io.StringIO()  # text in which no line ends
        self._head_size = 0
        self._tail = ""  # text behind it, of which _position characters were taken
        self._position = 0

    # ---- receiving ----

    async def receive_some(self, max_chars: int | None = None) -> str:
        """Receive what text is there, waiting only while there is none.

        Args:
          max_chars: the most characters to return; None for all that is there.

        Returns:
          At least one character, or ``""`` at the end of the stream.

        Raises:
          UnicodeError: the next bytes are no text.
          ValueError: *max_chars* is less than 1.

        A checkpoint. When cancelled, nothing was taken.
        """
        most = None if max_chars is None else checked_size("max_chars", max_chars, 1)
        with self._receiving:
            await self._receive_until(
                lambda: self._head_size > 0 or self._position < len(self._tail)
            )
            if self._head_size:
                self._tail, self._position = self._take(len(self._tail)), 0
            return self._take(len(self._tail) if most is None else self._position + most)

    async def receive_line(self, max_size: int = DEFAULT_SIZE) -> str:
        """Receive a line with its ending, as `io.TextIOWrapper.readline` does.

        Args:
          max_size: the most characters of the line, without its ending; from 0.

        Returns:
          The line; without an ending only at the end of the stream, and then ``""``.

        Raises:
          RecordTooLongError: no ending within *max_size*. What came stays in the buffer.
          UnicodeError: the line holds bytes that are no text. The text before them stays.
          ValueError: *max_size* is negative.

        A checkpoint. When cancelled, nothing was taken.
        """
        most = checked_size("max_size", max_size, 0)
        with self._receiving:
            await self._receive_until(lambda: self._line_ends() or self._head_size > most)
            match = self._line_end.search(self._tail, self._position)
            start, end = match.span() if match else (len(self._tail),) * 2
            if self._head_size + start - self._position > most:
                raise RecordTooLongError(
                    errno.EMSGSIZE,
                    f"cannot receive a line{self.transport_stream._whence()}: "
                    f"no end of it within max_size={most} characters",
                    max_size=most,
                )
            return self._take(end)

    def lines(self, max_size: int = DEFAULT_SIZE) -> AsyncIterator[str]:
        """Iterate over the lines without their endings, up to the end of the stream.

        The last line needs no ending here, as in `io`; `receive_line` shows whether it
        had one. `BufferedStream.lines` refuses it.

        Args:
          max_size: the most characters of a line, without its ending; from 0.

        Returns:
          An asynchronous iterator; each step raises what `receive_line` does.

        Raises:
          ValueError: *max_size* is negative.
        """
        return Lines(functools.partial(self._next_line, checked_size("max_size", max_size, 0)))

    def __aiter__(self) -> TextStream:
        return self

    async def __anext__(self) -> str:
        """The next line with its ending, of 65,536 characters at the most."""
        line = await self.receive_line()
        if not line:
            raise StopAsyncIteration
        return line

    async def _next_line(self, max_size: int) -> str | None:
        line = await self.receive_line(max_size)
        return self._line_end.split(line, maxsplit=1)[0] if line else None

    async def _receive_until(self, ready: Callable[[], bool]) -> None:
        """Receive until *ready* or the end of the stream."""
        self.transport_stream._check_open()
        if ready():
            await trio.lowlevel.checkpoint()
            self.transport_stream._check_open()
            return
        while await self._fill() and not ready():
            pass

    async def _fill(self) -> bool:
        """Receive and decode once more; False at the end of the stream."""
        if self._failure is not None:
            await trio.lowlevel.checkpoint()
            raise type(self._failure)(*self._failure.args) from self._failure
        data = await self.transport_stream.receive_some()
        text = self._decode(data)
        final = not data or self._failure is not None
        if self._newlines is not None:
            text = self._newlines.decode(text, final=final)
        self._tail, self._position = self._tail[self._position :] + text, 0
        # After a failure there is one more step: the one that raises it.
        return bool(data) or self._failure is not None

    def _decode(self, data: bytes) -> str:
        """The text of *data*, or of what comes before its first fault, which is kept."""
        before = self._decoder.getstate()
        try:
            return self._decoder.decode(data, final=not data)
        except UnicodeError as exc:
            self._failure = exc
            self._decoder.setstate(before)
            return self._decoder.decode(data[: _good_bytes(exc, len(data))])

    def _line_ends(self) -> bool:
        """Whether a line ends in the tail; if none does, the tail goes behind the head."""
        if self._line_end.search(self._tail, self._position):
            return True
        # Half an ending stays where the other half will come.
        rest = self._tail[self._position :]
        half = self._line_end is _LINE_ENDS["\r\n"] and rest.endswith("\r")
        end = len(rest) - half
        self._head_size += self._head.write(rest[:end])
        self._tail, self._position = rest[end:], 0
        return False

    def _take(self, end: int) -> str:
        """The head, and the tail up to *end*."""
        text = self._head.getvalue() + self._tail[self._position : end]
        self._head, self._head_size = io.StringIO(), 0
        self._position = min(end, len(self._tail))
        return text

    # ---- sending ----

    async def write(self, text: str) -> None:
        r"""Encode *text* and put it behind what was written before: `BufferedStream.write`.

        Args:
          text: its ``"\n"`` become what *newline* says.

        Raises:
          UnicodeEncodeError: *text* has no such encoding; nothing was written.

        A checkpoint.
        """
        await self._send(text, self.transport_stream.write)

    async def send_all(self, text: str) -> None:
        r"""Send what was written before, then *text*: `BufferedStream.send_all`.

        Args:
          text: its ``"\n"`` become what *newline* says.

        Raises:
          UnicodeEncodeError: *text* has no such encoding; nothing was sent.

        A checkpoint.
        """
        await self._send(text, self.transport_stream.send_all)

    async def flush(self) -> None:
        """Send what was written: `BufferedStream.flush`. A checkpoint."""
        await self.transport_stream.flush()

    async def send_eof(self) -> None:
        """Send what was written, then the end: `BufferedStream.send_eof`. A checkpoint."""
        await self.transport_stream.send_eof()

    async def aclose(self) -> None:
        """Send what was written, and close: `BufferedStream.aclose`. A checkpoint."""
        await self.transport_stream.aclose()

    async def _send(self, text: str, send: Callable[[bytes], Awaitable[None]]) -> None:
        if self._sent_newline != "\n":
            text = text.replace("\n", self._sent_newline)
        before = self._encoder.getstate()
        try:
            await send(self._encoder.encode(text))
        except BaseException:
            # Text that was not taken must not have used up the byte order mark.
            self._encoder.setstate(before)
            raise
