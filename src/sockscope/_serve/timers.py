"""The timers of a server's connections: ``lifetime`` and ``idle_timeout``.

A lifetime is the deadline of a cancel scope, which Trio keeps. Idleness is not: a scope
that every byte moved on would make every call dearer. So each stream's counters are looked
at now and then, an eighth of the timeout apart: an idle connection ends after its
timeout, and no later than an eighth beyond it.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import trio
from trio.lowlevel import ParkingLot

from sockscope._sockets.stream import StreamSocket

# How many looks there are in one timeout: more are more exact, and cost more.
_LOOKS: Final = 8
# Looks that are due within so much of the time between two share one wake.
_SHARED: Final = 1 / 8
# Entries of connections that have ended are thrown out once they are the greater part.
_FEW: Final = 256


class TimedOut(Exception):
    """The connection's ``lifetime`` or ``idle_timeout`` has cancelled its handler."""


@dataclass(eq=False)
class _Watch:
    """A connection whose bytes are watched."""

    stream: StreamSocket
    scope: trio.CancelScope
    bytes: int
    moved: float
    ended: bool = False


class _Entry(NamedTuple):
    """When to look at a watch; the number keeps equal times apart."""

    due: float
    number: int
    watch: _Watch


class Timers:
    """Cancels handlers whose connection has lived, or been idle, for too long.

    Args:
      lifetime: seconds that a connection may live.
      idle_timeout: seconds that it may go without a byte either way.
    """

    def __init__(self, lifetime: float, idle_timeout: float) -> None:
        self._lifetime = lifetime
        self._idle = idle_timeout
        self._step = idle_timeout / _LOOKS
        self._heap: list[_Entry] = []
        self._numbers = itertools.count()
        self._ended = 0
        self._empty = ParkingLot()

    @classmethod
    def of(cls, lifetime: float, idle_timeout: float) -> Timers | None:
        """One for these; None if both are infinite."""
        return None if lifetime == idle_timeout == math.inf else cls(lifetime, idle_timeout)

    async def handle(
        self, stream: StreamSocket, began: float, handler: Callable[..., Awaitable[Any]], *args: Any
    ) -> Any:
        """Await *handler* with *args* as long as the timers allow.

        Raises:
          TimedOut: they have cancelled it.
        """
        with trio.CancelScope(deadline=began + self._lifetime) as scope:
            if self._idle == math.inf:
                return await handler(*args)
            watch = _Watch(stream, scope, _bytes_of(stream), trio.current_time())
            self._look_again(watch, watch.moved)
            self._empty.unpark()
            try:
                return await handler(*args)
            finally:
                self._forget(watch)
        raise TimedOut

    def _forget(self, watch: _Watch) -> None:
        watch.ended = True
        self._ended += 1
        if self._ended > _FEW and 2 * self._ended > len(self._heap):
            self._heap = [entry for entry in self._heap if not entry.watch.ended]
            heapq.heapify(self._heap)
            self._ended = 0

    async def run(self) -> None:
        """Look at the connections that are due, as long as the server runs."""
        if self._idle == math.inf:
            return
        while True:
            # None that comes later is due earlier than the first: see _look_again.
            while self._heap:
                await trio.sleep_until(self._heap[0].due)
                self._look()
            await self._empty.park()

    def _look(self) -> None:
        now = trio.current_time()
        due: list[_Watch] = []
        while self._heap and self._heap[0].due <= now + self._step * _SHARED:
            due.append(heapq.heappop(self._heap).watch)
        for watch in due:
            if watch.ended:
                self._ended -= 1
            else:
                self._look_at(watch, now)

    def _look_at(self, watch: _Watch, now: float) -> None:
        count = _bytes_of(watch.stream)
        if count != watch.bytes:
            watch.bytes = count
            watch.moved = now
        elif watch.moved + self._idle <= now:
            watch.scope.cancel()
        self._look_again(watch, now)

    def _look_again(self, watch: _Watch, now: float) -> None:
        end = watch.moved + self._idle
        due = now + self._step if end <= now else min(now + self._step, end)
        heapq.heappush(self._heap, _Entry(due, next(self._numbers), watch))


def _bytes_of(stream: StreamSocket) -> int:
    return stream._bytes_received + stream._bytes_sent
