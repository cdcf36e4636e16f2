"""kqueue(2) as CPython's `select` has it, imitated by epoll: for the engine's tests on Linux.

An edge-triggered epoll tells of both directions at each edge, where a kqueue tells of the one
that has changed: the engine sees a few events more here than there.
"""

from __future__ import annotations

import errno
import os
import select
from typing import NamedTuple

KQ_FILTER_READ, KQ_FILTER_WRITE = -1, -2
KQ_EV_ADD, KQ_EV_DELETE, KQ_EV_CLEAR = 0x1, 0x2, 0x20
KQ_EV_ERROR, KQ_EV_EOF = 0x4000, 0x8000

_BITS = {KQ_FILTER_READ: select.EPOLLIN | select.EPOLLRDHUP, KQ_FILTER_WRITE: select.EPOLLOUT}
_ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class kevent(NamedTuple):  # its name there
    ident: int
    filter: int
    flags: int


class kqueue:  # its name there
    """See `select.kqueue`."""

    def __init__(self):
        self._epoll = select.epoll()
        self._filters = {}

    @property
    def closed(self):
        return self._epoll.closed

    def fileno(self):
        return self._epoll.fileno()

    def close(self):
        self._epoll.close()

    def control(self, changes, most, timeout):
        for event in changes or ():
            self._apply(event)
        if not most:
            return []
        found = []
        for fd, mask in self._epoll.poll(timeout, most):
            for kind in self._filters[fd]:
                if mask & (_BITS[kind] | _ENDED):
                    flags = KQ_EV_EOF if mask & _ENDED else 0
                    found.append(kevent(fd, kind, flags))
        return found

    def _apply(self, event):
        # A closed descriptor's filters are gone with it.
        try:
            os.fstat(event.ident)
        except OSError:
            self._filters.pop(event.ident, None)
            raise
        filters = self._filters.get(event.ident, set())
        if event.flags & KQ_EV_ADD:
            assert event.flags & KQ_EV_CLEAR
            changed = filters | {event.filter}
        else:
            if event.filter not in filters:
                raise FileNotFoundError(errno.ENOENT, "no such filter")
            changed = filters - {event.filter}
        mask = select.EPOLLET
        for kind in changed:
            mask |= _BITS[kind]
        if not changed:
            self._epoll.unregister(event.ident)
            del self._filters[event.ident]
        else:
            try:
                self._epoll.modify(event.ident, mask)
            except FileNotFoundError:  # the number is new, or another socket's by now
                self._epoll.register(event.ident, mask)
            self._filters[event.ident] = changed
