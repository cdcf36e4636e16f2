"""One heap of deadlines for a Trio run: a wait that may expire costs no cancel scope.

A scope for each wait would double the price of an echo. So who waits only writes down when
its time is up, and is in the heap once, with the first of its deadlines. When that comes
due it is looked at: if it has moved on meanwhile it goes back with a later one.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, Protocol

import trio
from trio.lowlevel import RunVar

# Entries that nobody needs are thrown out once they are the greater part of many.
_FEW: Final = 256


class Timed(Protocol):
    """What the heap needs of who has deadlines."""

    _look_at: float
    """When it will be looked at: for the heap only. `math.inf` while it is not in there."""

    def _next_due(self) -> float:
        """When the first of its deadlines is, or was; `math.inf` for none."""
        ...

    def _expire(self, now: float) -> None:
        """A deadline has come."""
        ...


class Deadlines:
    """The heap, and the task that sleeps until the first of its deadlines."""

    def __init__(self) -> None:
        # The number keeps equal times apart.
        self._heap: list[tuple[float, int, Timed]] = []
        self._numbers = itertools.count()
        # Entries whose owner has another one, or needs none any more.
        self._stale = 0
        self._sleep: trio.CancelScope | None = None
        self._holders = 0

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """Have the task, though nobody is in the heap.

        From the beginning: who counts tasks while a server runs shall find no change.
        """
        self._holders += 1
        try:
            if self._sleep is None:
                self._start()
            yield
        finally:
            self._holders -= 1
            if not self._heap:
                self._clear()

    def watch(self, timed: Timed, due: float) -> None:
        """Look at *timed* at *due*, if it is not looked at before that anyway."""
        if due >= timed._look_at:
            return
        self._stale += timed._look_at != math.inf
        timed._look_at = due
        entry = (due, next(self._numbers), timed)
        heapq.heappush(self._heap, entry)
        if self._sleep is None:
            self._start()
        elif self._heap[0] is entry:
            self._sleep.deadline = due

    def _start(self) -> None:
        self._sleep = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._run)

    def forget(self, timed: Timed) -> None:
        """*timed* has no deadlines any more."""
        if timed._look_at == math.inf:
            return
        timed._look_at = math.inf
        self._stale += 1
        if self._stale == len(self._heap):
            self._clear()
        elif self._stale > _FEW and 2 * self._stale > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2]._look_at == entry[0]]
            heapq.heapify(self._heap)
            self._stale = 0

    def _clear(self) -> None:
        self._heap.clear()
        self._stale = 0
        if self._sleep is None:
            return
        if self._holders:
            self._sleep.deadline = math.inf
        else:
            self._sleep.cancel()

    async def _run(self) -> None:
        """Look at who is due, as long as anybody is in the heap, or may soon be."""
        try:
            while self._heap or self._holders:
                first = self._heap[0][0] if self._heap else math.inf
                with trio.CancelScope(deadline=first) as self._sleep:
                    await trio.sleep_forever()
                self._look(trio.current_time())
        finally:
            self._sleep = None
            for _, _, timed in self._heap:
                timed._look_at = math.inf  # the Trio run is over
            self._clear()

    def _look(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            due, _, timed = heapq.heappop(self._heap)
            if timed._look_at != due:
                self._stale -= 1
                continue
            timed._look_at = math.inf
            if timed._next_due() <= now:
                timed._expire(now)
            self.watch(timed, timed._next_due())


_deadlines: Final[RunVar[Deadlines]] = RunVar("sockscope.deadlines")


def current_deadlines() -> Deadlines:
    """The heap of this Trio run."""
    try:
        return _deadlines.get()
    except LookupError:
        deadlines = Deadlines()
        _deadlines.set(deadlines)
        return deadlines
