"""Taking connections from a listener's queue."""

from __future__ import annotations

import errno
import logging
import select
import sys
from collections.abc import Callable
from typing import Final

import trio

from sockscope._sockets.passive import PassiveSocket

LOGGER: Final = logging.getLogger("sockscope.server")

# One wake takes all that is ready, up to this many; then the handlers have a turn.
BATCH: Final = 64

#: What a descriptor helps against.
NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})


# A Ctrl-C between accept(2) and the connection's task would leave a socket to nobody.
@trio.lowlevel.enable_ki_protection
def accept_batch(passive: PassiveSocket, begin: Callable[..., object], limit: int) -> int:
    """Take what is in the queue, up to *limit*, and begin each connection; how many they were.

    Raises:
      SocketError: accept(2) failed; what came before it has begun.
    """
    for number in range(limit):
        try:
            pair = passive._take()
        except OSError as exc:
            # A full table gives EMFILE on an empty queue, too: then nobody is kept waiting.
            if exc.errno in NO_DESCRIPTOR and not has_waiting(passive):
                return number
            raise
        if pair is None:
            return number
        begin(passive, *pair)
    return limit


def has_waiting(passive: PassiveSocket) -> bool:
    """Whether a connection waits in the queue: accept(2) does not tell without a descriptor."""
    if sys.platform == "win32":
        return bool(select.select([passive.fileno()], [], [], 0)[0])
    poll = select.poll()
    poll.register(passive.fileno(), select.POLLIN)
    return bool(poll.poll(0))
