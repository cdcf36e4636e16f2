"""The timers of a server's connections: ``lifetime`` and ``idle_timeout``.

A scope's deadline that every byte moved on would make every call dearer. So a stream's
counters are looked at now and then, an eighth of the timeout apart: an idle connection ends
after its timeout, and no later than an eighth beyond it.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import Final

import trio

from sockscope._sockets.stream import StreamSocket
from sockscope._sockets.timers import current_deadlines

# How many looks there are in one timeout: more are more exact, and cost more.
_LOOKS: Final = 8


class TimedOut(Exception):
    """The connection's ``lifetime`` or ``idle_timeout`` has cancelled its handler."""


class TimeLimit:
    """Cancels its body once a connection has lived, or been idle, for too long.

    Args:
      stream: whose bytes are watched.
      end: when its lifetime is over, by Trio's clock; `math.inf` for never.
      idle_timeout: seconds that it may go without a byte either way.
    """

    __slots__ = ("_bytes", "_due", "_end", "_idle", "_look_at", "_moved", "_scope", "_stream")

    def __init__(self, stream: StreamSocket, end: float, idle_timeout: float) -> None:
        self._stream = stream
        self._end = end
        self._idle = idle_timeout
        self._moved = trio.current_time()
        self._bytes = _bytes_of(stream)
        self._scope = trio.CancelScope()
        self._due = self._next_look(self._moved)
        self._look_at = math.inf

    def __enter__(self) -> None:
        self._scope.__enter__()
        current_deadlines().watch(self, self._due)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        current_deadlines().forget(self)
        caught = self._scope.__exit__(kind, exc, traceback)
        if self._scope.cancelled_caught:
            raise TimedOut
        return caught

    def _next_look(self, now: float) -> float:
        return min(self._end, now + self._idle / _LOOKS, self._moved + self._idle)

    def _next_due(self) -> float:
        """When to look next: see `Timed`."""
        return self._due

    def _expire(self, now: float) -> None:
        """Look: see `Timed`."""
        count = _bytes_of(self._stream)
        if count != self._bytes:
            self._bytes = count
            self._moved = now
        if self._end <= now or self._moved + self._idle <= now:
            self._scope.cancel()
            self._due = math.inf
        else:
            self._due = self._next_look(now)


def _bytes_of(stream: StreamSocket) -> int:
    return stream._bytes_received + stream._bytes_sent
