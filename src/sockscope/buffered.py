"""Buffered reading and writing over any Trio stream.

- `BufferedStream`: exact sizes, delimiters and lines of bytes; gathered writes.
- `TextStream`: the same for text, with encoding, errors and newline as in `io`.
- `IncompleteReadError`, `RecordTooLongError`: a stream that ends too early, a record
  that is too long. Both are `SocketError` (the first is an `EOFError`, too).

These are IOLib's buffer sizes and external format (seed 003), of the process: the
kernel's buffers are the options ``receive_buffer`` and ``send_buffer``.

Every awaited method is a checkpoint, once a call, also where it is served from the
buffer. One task at a time may receive, and one may send: a second one gets
`trio.BusyResourceError`. After `aclose` all raise `trio.ClosedResourceError`. A
`trio.BrokenResourceError` of the receiving side comes after what had been received
before it, and then each time. What the stream below raises otherwise comes out as it is.
"""

from __future__ import annotations

from sockscope._buffered.stream import BufferedStream
from sockscope._buffered.text import TextStream
from sockscope._core.errors import IncompleteReadError, RecordTooLongError

__all__ = ["BufferedStream", "IncompleteReadError", "RecordTooLongError", "TextStream"]

# Tracebacks, pickles and documentation name the module that users import them from.
for _name in __all__:
    globals()[_name].__module__ = __name__
