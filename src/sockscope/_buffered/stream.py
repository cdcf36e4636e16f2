"""Reading ahead and gathering writes over a stream of bytes."""

from __future__ import annotations

import errno
import functools
from collections.abc import AsyncIterator, Callable

import trio

from sockscope._buffered.lines import DEFAULT_SIZE, Lines, checked_size
from sockscope._core.cleanup import ScopedResource
from sockscope._core.conflicts import ConflictDetector
from sockscope._core.errors import IncompleteReadError, RecordTooLongError, SocketError
from sockscope._core.separators import SeparatorSearch


class BufferedStream(ScopedResource, trio.abc.HalfCloseableStream):
    r"""Read ahead and gather writes over *stream*.

    Example::

        async with BufferedStream(stream) as buffered:
            size = await buffered.receive_until(b":", max_size=9)
            body = await buffered.receive_exactly(int(size))
            await buffered.write(b"OK ")
            await buffered.write(size + b"\r\n")
            await buffered.flush()

    A cancelled receive leaves every byte where it was. It never holds more than the
    record asked for may be long, and one receive more.

    Args:
      stream: any `trio.abc.Stream`; it is this one's from now on.
      input_buffer_size: the most bytes asked for at once, at least 1.
      output_buffer_size: the most bytes that `write` holds back, at least 1.

    Attributes:
      transport_stream: the stream below.

    Raises:
      ValueError: a size is less than 1.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        input_buffer_size: int = DEFAULT_SIZE,
        output_buffer_size: int = DEFAULT_SIZE,
    ) -> None:
        self.transport_stream = stream
        self._input_size = checked_size("input_buffer_size", input_buffer_size, 1)
        self._output_size = checked_size("output_buffer_size", output_buffer_size, 1)
        self._input = bytearray()
        self._output = bytearray()
        self._receiving = ConflictDetector("another task is receiving from this stream")
        self._sending = ConflictDetector("another task is sending on this stream")
        self._search: SeparatorSearch | None = None
        self._failure: trio.BrokenResourceError | None = None
        self._in_doubt = 0
        self._eof_sent = False
        self._closed = False

    @property
    def buffered(self) -> int:
        """The number of bytes read ahead; 0 once closed."""
        return len(self._input)

    @property
    def in_doubt(self) -> int:
        """How many bytes sends that were cancelled, or failed, had handed to the stream.

        None, some or all of them were sent; they are never sent again. All else
        that was written was sent or still waits for `flush`, so while this is 0
        a cancelled `flush` may simply be called again.
        """
        return self._in_doubt

    # ---- receiving ----

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive what is there, waiting only while nothing is.

        Args:
          max_bytes: the most bytes to return; None for all that is there.

        Returns:
          At least one byte, or ``b""`` at the end of the stream.

        Raises:
          ValueError: *max_bytes* is less than 1.

        A checkpoint. When cancelled, nothing was taken.
        """
        most = None if max_bytes is None else checked_size("max_bytes", max_bytes, 1)
        with self._receiving:
            await self._receive_until(lambda: bool(self._input))
            return self._take(most)

    async def peek(self, max_bytes: int | None = None, *, min_bytes: int = 1) -> bytes:
        """Look at what comes next without taking it.

        Args:
          max_bytes: the most bytes to return; None for all that is there.
          min_bytes: wait until so many are there; 0 never waits. Asking again for
            what is not there yet would return at once, so wait by this argument.

        Returns:
          The next bytes; fewer than *min_bytes* only at the end of the stream.

        Raises:
          ValueError: *max_bytes* is less than 1 or than *min_bytes*, or that is negative.

        A checkpoint.
        """
        least = checked_size("min_bytes", min_bytes, 0)
        most = None if max_bytes is None else checked_size("max_bytes", max_bytes, max(least, 1))
        with self._receiving:
            await self._receive_until(lambda: len(self._input) >= least)
            return bytes(self._input[:most])

    async def receive_exactly(self, n: int) -> bytes:
        """Receive *n* bytes, not one more or less.

        Args:
          n: how many, from 0. Memory grows with what comes, not with what is asked for.

        Returns:
          Exactly so many.

        Raises:
          IncompleteReadError: the stream ended before; `partial` is what had come.
          ValueError: *n* is negative.

        A checkpoint. When cancelled, nothing was taken.
        """
        size = checked_size("n", n, 0)
        with self._receiving:
            if not await self._receive_until(lambda: len(self._input) >= size):
                raise self._incomplete(f"{size} bytes")
            return self._take(size)

    async def receive_until(
        self, separator: bytes | bytearray | memoryview, max_size: int = DEFAULT_SIZE
    ) -> bytes:
        """Receive a record up to *separator*, which is taken, too, and not returned.

        The time is linear in what is received, whatever the separator and however
        it is cut; a call after a cancelled one goes on where that one stopped.

        Args:
          separator: one byte or more.
          max_size: the most bytes of the record, without the separator; from 0.

        Returns:
          The record, without the separator.

        Raises:
          IncompleteReadError: the stream ended before; `partial` is what had come,
            ``b""`` where that was between two records.
          RecordTooLongError: no separator within *max_size*. What came stays in the buffer.
          ValueError: *separator* is empty, or *max_size* negative.

        A checkpoint. When cancelled, nothing was taken.
        """
        sought = bytes(memoryview(separator))
        if not sought:
            raise ValueError("separator must not be empty")
        return await self._receive_record(sought, checked_size("max_size", max_size, 0))

    def lines(self, max_size: int = DEFAULT_SIZE) -> AsyncIterator[bytes]:
        """Iterate over the lines, without their newlines, up to the end of the stream.

        A line ends in LF; one CR before it is part of the newline, so that
        CRLF protocols are read as RFC 9112, section 2.2, allows. Where a CR there
        is content, use `receive_until`. Other calls may come between two lines.

        Args:
          max_size: the most bytes of a line, without its newline; from 0.

        Returns:
          An asynchronous iterator; each step is a checkpoint, and raises

          - IncompleteReadError: the stream ended within a line: it may be cut short.
          - RecordTooLongError: no newline within *max_size*. What came stays in the buffer.

        Raises:
          ValueError: *max_size* is negative.
        """
        return Lines(functools.partial(self._next_line, checked_size("max_size", max_size, 0)))

    async def _next_line(self, max_size: int) -> bytes | None:
        try:
            return await self._receive_record(b"\n", max_size, optional_end=b"\r")
        except IncompleteReadError as exc:
            if exc.partial:
                raise
            return None

    async def _receive_record(
        self, separator: bytes, max_size: int, *, optional_end: bytes = b""
    ) -> bytes:
        with self._receiving:
            search = self._search
            if search is None or search.separator != separator:
                search = self._search = SeparatorSearch(separator)

            def size() -> int:
                """The record's size, or the least that it can still come to."""
                end = search.earliest
                cut = self._input.endswith(optional_end, 0, end)
                return end - len(optional_end) if cut else end

            if not await self._receive_until(
                lambda: search.advance(self._input) or size() > max_size
            ):
                raise self._incomplete(f"a record that ends in {separator!r}")
            if search.found is None or size() > max_size:
                raise RecordTooLongError(
                    errno.EMSGSIZE,
                    f"cannot receive a record{self._whence()}: "
                    f"no {separator!r} within max_size={max_size} bytes",
                    max_size=max_size,
                )
            record_size = size()
            return self._take(search.found + len(separator))[:record_size]

    async def _receive_until(self, ready: Callable[[], bool]) -> bool:
        """Receive until *ready*; False where the stream ended before."""
        self._check_open()
        if ready():
            await trio.lowlevel.checkpoint()
            self._check_open()
            return True
        while await self._fill():
            if ready():
                return True
        return False

    async def _fill(self) -> bool:
        """Receive once more; False at the end of the stream."""
        if self._failure is not None:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError(str(self._failure)) from self._failure
        try:
            data = await self.transport_stream.receive_some(self._input_size)
        except trio.BrokenResourceError as exc:
            # A socket tells a reset once; what follows would look like a clean end.
            self._failure = exc
            raise
        self._check_open()
        self._input += data
        return bool(data)

    def _take(self, count: int | None) -> bytes:
        with memoryview(self._input) as view, view[:count] as head:
            data = bytes(head)
        del self._input[:count]
        self._search = None
        return data

    def _incomplete(self, wanted: str) -> IncompleteReadError:
        partial = self._take(None)
        return IncompleteReadError(
            None,
            f"cannot receive {wanted}{self._whence()}: "
            f"the stream ended after {len(partial)} bytes of it",
            partial=partial,
        )

    def _whence(self) -> str:
        address = getattr(self.transport_stream, "remote_address", None)
        return "" if address is None else f" from {address}"

    # ---- sending ----

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Put *data* behind what was written before, to be sent later.

        It is sent by `flush`, `send_all`, `send_eof` and `aclose`. Where the
        buffer has no room, what it holds is sent first; *data* longer than the
        whole buffer is sent at once. So a writer that is faster than its peer waits.

        Args:
          data: the bytes, of any number.

        Raises:
          trio.BrokenResourceError: what was written before could not be sent.

        A checkpoint. A cancelled call has not taken *data*, unless that is longer than the
        buffer; what was written before may have been sent in part (`in_doubt`).
        """
        with self._sending, memoryview(data).cast("B") as view:
            self._check_writable()
            if len(view) > self._output_size:
                await self._send(view)
                return
            if len(self._output) + len(view) > self._output_size:
                await self._send(b"")
            else:
                await trio.lowlevel.checkpoint()
            self._check_writable()
            self._output += view

    async def flush(self) -> None:
        """Send what was written.

        Raises:
          trio.BrokenResourceError: the stream below is broken.

        A checkpoint. Cancelled before anything was handed to the stream, it has done nothing;
        later, what it handed over may have been sent in part: see `in_doubt`.
        """
        with self._sending:
            self._check_open()
            if self._output:
                await self._send(b"")
            else:
                await trio.lowlevel.checkpoint()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send what was written before, then *data*; in one piece where the buffer holds both.

        Args:
          data: the bytes.

        Raises:
          trio.BrokenResourceError: the stream below is broken.

        A checkpoint. Cancelled half-way, it may have sent part of both: see `in_doubt`.
        """
        with self._sending, memoryview(data).cast("B") as view:
            self._check_writable()
            await self._send(view)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the stream below takes more; what was written stays in the buffer.

        A checkpoint. Raises as the stream below does.
        """
        with self._sending:
            self._check_writable()
            await self.transport_stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Send what was written, then the end; receiving goes on.

        Raises:
          SocketError: the stream below is not half-closeable (``EOPNOTSUPP``), such
            as `trio.SSLStream`. Nothing was sent; `aclose` ends both directions.

        A checkpoint.
        """
        with self._sending:
            self._check_open()
            if not isinstance(self.transport_stream, trio.abc.HalfCloseableStream):
                raise SocketError(
                    errno.EOPNOTSUPP,
                    f"cannot end only the sending side: {type(self.transport_stream).__name__} "
                    "is not half-closeable; aclose() ends both",
                )
            if self._output:
                await self._send(b"")
            await self.transport_stream.send_eof()
            self._eof_sent = True

    async def aclose(self) -> None:
        """Send what was written, and close the stream below, whatever happens.

        Cancelled, it closes at once; the written bytes that were not sent are lost. It
        waits for a peer that does not read as long as `flush` would, for
        `output_buffer_size` bytes at the most: bound it with a cancel scope, or with
        the stream's ``send_timeout``. Without unsent bytes it only closes. Where
        another task is sending, nothing more is sent and that task gets
        `trio.ClosedResourceError`. What was read ahead is dropped.

        Raises:
          trio.BrokenResourceError: written bytes could not be sent. It is closed all
            the same.

        A checkpoint.
        """
        self._closed = True
        self._input.clear()
        self._search = None
        try:
            if self._output and not self._sending.held:
                with self._sending:
                    await self._send(b"")
        finally:
            self._output.clear()
            await self.transport_stream.aclose()

    async def _send(self, data: bytes | memoryview) -> None:
        """Send what was written, then *data*."""
        # With this a call in a cancelled scope leaves nothing in doubt; it is no
        # schedule point, so that the stream's own checkpoint stays the only one.
        await trio.lowlevel.checkpoint_if_cancelled()
        written, self._output = self._output, bytearray()
        if written and len(written) + len(data) <= self._output_size:
            written += data
            data = b""
        for piece in [part for part in (written, data) if part] or [b""]:
            try:
                await self.transport_stream.send_all(piece)
            except BaseException:
                self._in_doubt += len(piece)
                raise

    def _check_writable(self) -> None:
        self._check_open()
        if self._eof_sent:
            raise trio.ClosedResourceError("send_eof was called on this stream")

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
