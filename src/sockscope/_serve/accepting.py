"""The accept loop of one listener, which survives what a kernel can throw at it."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Final

import trio
from trio.lowlevel import ParkingLot

from sockscope._sockets.accept_errors import reason_of
from sockscope._sockets.passive import PassiveSocket

LOGGER: Final = logging.getLogger("sockscope.server")

# One wake takes all that is ready, up to this many; then the handlers have a turn.
BATCH: Final = 64
# Between two tries while the system is short of something, unless one of our own
# connections closes before: nginx pauses 500 ms, HAProxy and Trio 100 ms, Go from
# 5 ms up to 1 s.
_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 1.0


class Shortage:
    """A listener's want of descriptors or memory, from its first failure to its end."""

    def __init__(self, passive: PassiveSocket, freed: ParkingLot) -> None:
        self._passive = passive
        self._freed = freed
        self._since: float | None = None
        self._pause = _FIRST_PAUSE
        self._retries = 0

    async def endure(self, exc: OSError, connections: int) -> bool:
        """Pause until a new try makes sense; whether a shortage began with this."""
        begins = self._since is None
        if begins:
            self._since = trio.current_time()
            LOGGER.warning(
                "accepting on %s pauses: %s (%s); %d connections are open",
                self._passive.address,
                exc,
                reason_of(exc),
                connections,
            )
        self._retries += 1
        with trio.move_on_after(self._pause * random.uniform(0.5, 1)):
            await self._freed.park()
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return begins

    def is_over(self) -> None:
        """Tell once that accepting goes on."""
        if self._since is None:
            return
        LOGGER.warning(
            "accepting on %s goes on after %.3f s and %d tries",
            self._passive.address,
            trio.current_time() - self._since,
            self._retries,
        )
        self._since = None
        self._pause = _FIRST_PAUSE
        self._retries = 0


def accept_batch(passive: PassiveSocket, begin: Callable[..., object], limit: int) -> int:
    """Take what is in the queue, up to *limit*, and begin each connection; how many they were.

    Raises:
      SocketError: accept(2) failed; what came before it has begun.
    """
    for number in range(limit):
        pair = passive._take()
        if pair is None:
            return number
        begin(passive, *pair)
    return limit
