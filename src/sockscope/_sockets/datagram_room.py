"""How long sends wait for room that poll does not tell of, and whom they may hold up.

A socket of one user's own waits by the clock: pauses of 1 ms doubling to 50 ms, for 3 s.

A server's socket is shared by its handlers, and what one peer does must reach no other. A
local peer that does not read would hold up every handler that answers it. So

- a pause holds up no send to another destination;
- those who wait for one destination share their patience: 3 s after its queue moved last
  they all fail, and for 10 s from then a send that finds it full fails at once;
- where more than so many (half of the handlers) wait for longer than a burst takes, 0.25 s,
  those above it fail at once, of the destinations that most wait for. So the peers that
  read have the other half, however many there are that do not, or do so slowly.

Every send is tried once, whatever is known: a destination that reads again gets it.
"""

from __future__ import annotations

import math
from typing import Any, Final

import trio

_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05
# Some sixty tries: a queue that has not moved by then is no short burst.
_PATIENCE: Final = 3.0
# A peer that has not read for that long costs a handler's wait so often.
_MEMORY: Final = 10.0
# Many handlers at once may well fill the queue of a peer that reads as fast as it can.
_BURST: Final = 0.25


class _Queue:
    """The full queue of one destination."""

    __slots__ = ("began", "moved", "waiting")

    def __init__(self) -> None:
        self.began = self.moved = trio.current_time()
        self.waiting = 0


class FullQueues:
    """The destinations of one socket whose queues are full.

    Args:
      most: how many sends may wait for longer than a burst.
    """

    __slots__ = ("_crowded_until", "_most", "_queues", "_waiting")

    def __init__(self, most: float = math.inf) -> None:
        self._most = most
        self._waiting = 0
        self._queues: dict[Any, _Queue] = {}
        # One burst after the other would make a crowd of all handlers: there is one.
        self._crowded_until = -math.inf

    def enter(self, destination: Any) -> _Queue:
        """Count one more who waits for *destination*."""
        queue = self._queues.get(destination)
        if queue is None or _is_forgotten(queue):
            # A flood of them must not fill the memory.
            for key in [key for key, old in self._queues.items() if _is_forgotten(old)]:
                del self._queues[key]
            queue = self._queues[destination] = _Queue()
        self._waiting += 1
        queue.waiting += 1
        return queue

    def leave(self, destination: Any, queue: _Queue) -> None:
        """Count one less; the last one leaves nothing behind but that all have failed."""
        self._waiting -= 1
        queue.waiting -= 1
        if not (queue.waiting or _is_stuck(queue)):
            del self._queues[destination]

    def is_too_crowded(self, queue: _Queue) -> bool:
        """Whether one of those who wait for *queue* has to make room for others."""
        if self._waiting <= self._most:
            return False
        now = trio.current_time()
        if now - queue.began < _BURST and now >= self._crowded_until:
            return False
        self._crowded_until = now + _PATIENCE
        waited_for = sum(1 for other in self._queues.values() if other.waiting)
        return queue.waiting > self._most // waited_for


def _is_stuck(queue: _Queue) -> bool:
    return trio.current_time() - queue.moved >= _PATIENCE


def _is_forgotten(queue: _Queue) -> bool:
    return not queue.waiting and trio.current_time() - queue.moved >= _PATIENCE + _MEMORY


class Pauses:
    """The pauses of one send, in a ``with`` block."""

    __slots__ = ("_destination", "_full", "_pause", "_queue")

    def __init__(self, full: FullQueues, destination: Any) -> None:
        self._full = full
        self._destination = destination
        self._pause = _FIRST_PAUSE
        self._queue: _Queue | None = None

    def __enter__(self) -> Pauses:
        return self

    def __exit__(self, *_: object) -> None:
        if self._queue is not None:
            self._full.leave(self._destination, self._queue)

    async def sleep(self) -> bool:
        """One pause, a checkpoint; False, at once, where there is nothing to wait for."""
        if self._queue is None:
            self._queue = self._full.enter(self._destination)
        if _is_stuck(self._queue) or self._full.is_too_crowded(self._queue):
            return False
        await trio.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return True

    def sent(self) -> None:
        """The queue has moved: whoever else waits for it has reason to."""
        if self._queue is not None:
            self._queue.moved = trio.current_time()
