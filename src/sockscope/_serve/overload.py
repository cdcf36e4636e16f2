"""Shortages: what an accept loop does when descriptors or memory have run out."""

from __future__ import annotations

import math
import os
import random
import sys
from typing import Final

import trio
from trio.lowlevel import ParkingLot

from sockscope._serve.accepting import LOGGER, has_waiting
from sockscope._sockets.accept_errors import reason_of
from sockscope._sockets.base import close_quietly
from sockscope._sockets.ending import reset_on_close
from sockscope._sockets.passive import PassiveSocket

# Between two tries while the system is short of something, unless one of our own
# connections closes before: nginx pauses 500 ms, HAProxy and Trio 100 ms, Go from
# 5 ms up to 1 s.
_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 1.0
# A server at the edge of a shortage falls into it again and again: one pair of lines in
# so many seconds.
_QUIET_SECONDS: Final = 10.0
# So many are shed before others have a turn: about 15 ms.
_MOST_SHED: Final = 1024


class Shortage:
    """A listener's want of descriptors or memory, from its first failure to its end."""

    def __init__(self, passive: PassiveSocket, freed: ParkingLot) -> None:
        self._passive = passive
        self._freed = freed
        self._since: float | None = None
        self._pause = _FIRST_PAUSE
        self._retries = 0
        self._shed = 0
        self._longest_queue = 0
        # The latest pair of lines, and how many shortages had none since.
        self._told = -_QUIET_SECONDS
        self._untold = 0

    def begin(self, exc: OSError, connections: int) -> bool:
        """Take note that accepting failed with *exc*; whether a shortage began with this."""
        queue = self._note_queue()
        self._retries += 1
        if self._since is not None:
            return False
        self._since = trio.current_time()
        if self._since - self._told < _QUIET_SECONDS:
            self._untold += 1
            return True
        self._told = self._since
        LOGGER.warning(
            "accepting on %s pauses: %s (%s); %d connections are open%s, %s wait%s",
            self._passive.address,
            exc,
            reason_of(exc),
            connections,
            _limit_in_words(),
            "an unknown number" if queue is None else queue,
            f"; {self._untold} shortages since the last such line" if self._untold else "",
        )
        self._untold = 0
        return True

    def _note_queue(self) -> int | None:
        if not self._passive.is_open:
            return None
        queue = self._passive.statistics().queue
        self._longest_queue = max(self._longest_queue, queue or 0)
        return queue

    async def pause(self) -> None:
        """Wait until a new try makes sense. A checkpoint."""
        with trio.move_on_after(self._pause * random.uniform(0.5, 1)):
            await self._freed.park()
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def shed(self, number: int) -> None:
        """So many connections were reset instead of waiting."""
        self._shed += number

    def is_over(self) -> None:
        """Tell once that accepting goes on."""
        if self._since is None:
            return
        if self._told == self._since:
            LOGGER.warning(
                "accepting on %s goes on after %.3f s and %d tries; "
                "%d connections were reset, at worst %d waited",
                self._passive.address,
                trio.current_time() - self._since,
                self._retries,
                self._shed,
                self._longest_queue,
            )
            self._told = trio.current_time()
        self._since = None
        self._pause = _FIRST_PAUSE
        self._retries = self._shed = self._longest_queue = 0


class Crowd:
    """Tells that a full server's queue is full as well.

    Clients beyond it believe that they are connected, and find out seconds later: by
    their own repetitions, or never.
    """

    def __init__(self) -> None:
        self._told = -math.inf

    def tell_if_full(self, passive: PassiveSocket) -> None:
        """Look at the queue of *passive*, which had to wait for room, and tell once in a while."""
        if trio.current_time() - self._told < _QUIET_SECONDS or not passive.is_open:
            return
        figures = passive.statistics()
        if figures.queue is None or figures.queue <= (figures.backlog or 0):
            return
        self._told = trio.current_time()
        LOGGER.warning(
            "the server is full, and so is the queue of %s: %d wait, %s were dropped so far; "
            "give it a larger backlog, or overload='reject'",
            passive.address,
            figures.queue,
            figures.dropped,
        )


class Reserve:
    """A descriptor kept back, so that connections can be reset when there is no other.

    It is one for a server: only one of its tasks runs at a time.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self.refill()

    def refill(self) -> None:
        """Open it again, if it is not there and a descriptor is free."""
        if self._descriptor is not None:
            return
        try:
            self._descriptor = os.open(os.devnull, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError:
            pass  # somebody else was faster: the next close of ours is the next occasion

    def close(self) -> None:
        """Give it back."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            os.close(descriptor)
        except OSError:
            pass  # it is free all the same

    def shed(self, passive: PassiveSocket) -> int:
        """Reset what waits in the queue of *passive*; how many connections that were."""
        if self._descriptor is None:
            return 0
        self.close()
        number = 0
        try:
            # Readiness, not EAGAIN: a full table gives EMFILE on an empty queue, too.
            while number < _MOST_SHED and has_waiting(passive):
                pair = passive._take()
                if pair is None:
                    break
                reset_on_close(pair[0])
                close_quietly(pair[0])
                number += 1
        except OSError:
            pass  # another thread took the descriptor; the caller pauses
        self.refill()
        return number


if sys.platform == "win32":

    def _limit_in_words() -> str:
        return ""

else:
    import resource

    def _limit_in_words() -> str:
        """The limit of descriptors, which is what runs out first."""
        return f" (descriptors: {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} at most)"
