"""kqueue(2) with the methods of `select.epoll` that the engine uses.

Both filters of a descriptor are set once, with EV_CLEAR: each tells of what is new, as an
edge-triggered epoll does. The kernel forgets them when the descriptor is closed.

It has run on no macOS and no BSD yet, only on an imitation of kqueue for Linux; so it is
used where it is asked for, by ``SOCKSCOPE_ENGINE=kqueue``.
"""

from __future__ import annotations

import contextlib
import select
from typing import Any, Final

READABLE: Final[int] = getattr(select, "EPOLLIN", 0x001)
WRITABLE: Final[int] = getattr(select, "EPOLLOUT", 0x004)
ENDED: Final[int] = getattr(select, "EPOLLHUP", 0x010)

# What is beyond that is told at the next wake, for the kqueue itself stays readable.
_EVENTS_AT_ONCE: Final = 1024

# Neither the names nor their types are there on other systems.
_native: Any = select


class KqueuePoll:
    """A kqueue that speaks of readiness as `select.epoll` does."""

    def __init__(self) -> None:
        self._kqueue: Any = _native.kqueue()
        self._filters = {
            _native.KQ_FILTER_READ: READABLE,
            _native.KQ_FILTER_WRITE: WRITABLE,
        }

    def fileno(self) -> int:
        """Its own descriptor, which is readable while there are events."""
        return int(self._kqueue.fileno())

    def close(self) -> None:
        """Close it; registrations go with it."""
        self._kqueue.close()

    def register(self, fd: int, _: int) -> None:
        """Watch *fd* in both directions.

        Raises:
          OSError: it cannot be watched; nothing of it is.
        """
        try:
            for kind in self._filters:
                self._change(fd, kind, _native.KQ_EV_ADD | _native.KQ_EV_CLEAR)
        except OSError:
            self.unregister(fd)
            raise

    def unregister(self, fd: int) -> None:
        """Watch *fd* no more; what is not watched, or closed, is no error."""
        for kind in self._filters:
            with contextlib.suppress(OSError):
                self._change(fd, kind, _native.KQ_EV_DELETE)

    def _change(self, fd: int, kind: int, flags: int) -> None:
        self._kqueue.control([_native.kevent(fd, kind, flags)], 0, 0)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """The descriptors that are ready, and for what; one that is for both comes twice.

        Args:
          timeout: seconds to wait for the first.
        """
        ended = _native.KQ_EV_EOF | _native.KQ_EV_ERROR
        return [
            (int(event.ident), self._filters[event.filter] | (ENDED if event.flags & ended else 0))
            for event in self._kqueue.control(None, _EVENTS_AT_ONCE, timeout)
        ]
