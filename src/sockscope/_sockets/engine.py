"""The engine: one wake of Trio's loop for all streams that are ready.

Trio waits for a socket by telling epoll of it anew each time. With many sockets it is
cheaper to register a stream once, edge-triggered, in an epoll descriptor of our own,
and to wait for *that* one with Trio: a single task wakes, takes all events there are,
and reschedules whoever they are for. For a stream that is busy among few the detour
costs more than it saves; so the engine counts waits, and a stream that comes back before
many others have waited does so by Trio's own call. So do all that are not idle while a
wake brings no more than one of them, as under a light load, which is looked at now and
then. One that is idle always sleeps here, where it costs a thousand bytes less.

What holds it together:

- A stream is registered when it first waits here, and taken out before its descriptor
  is closed, given away or shown to the user, so that a number that is used again never
  gets another socket's event, whoever else holds the descriptor.
- An edge is told once. So a stream waits here only after the kernel has said EAGAIN, or
  after a short receive that proves as much (see ``StreamState._short_means_empty``).
- A stream that waits with Trio's own call is not registered here at the same time: both
  would wake for each event.
- Listeners and datagram sockets wait with Trio's own level-triggered call: an edge that
  a shortage of descriptors made us miss would never come again.
- The descriptor lives as long as some stream is registered or a server runs, and its task
  with it.

``SOCKSCOPE_ENGINE=trio`` in the environment turns it off, ``SOCKSCOPE_ENGINE=epoll`` has
every stream wait in it. Systems without epoll never have it, but for those with a kqueue
where ``SOCKSCOPE_ENGINE=kqueue`` asks for it: every stream waits in that one, then.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, Protocol

import trio
from trio.lowlevel import RunVar, Task, reschedule

from sockscope._sockets.kqueue import ENDED, READABLE, WRITABLE, KqueuePoll

# A stream's waits with so many of others between are worth the detour: measured.
_MANY: Final = 8
# After as many it counts as idle.
_IDLE: Final = 2048
# How many waits it takes to see how many tasks a wake serves; how many on average make the
# detour worth its price; and after how many waits by Trio's call it is looked at again.
_TRIAL: Final = 128
_SEVERAL: Final = 2
_UNTIL_NEXT_TRIAL: Final = 8192
# A client's first wait is not: many end after it. A server's may be a long one.
FIRST_BY_TRIO: Final = -1
# A wait that failed for want of kernel memory is tried again after so many seconds.
_PAUSE: Final = 0.005

_CHOICE: Final = os.environ.get("SOCKSCOPE_ENGINE", "")
_USES_KQUEUE: Final = _CHOICE == "kqueue" and hasattr(select, "kqueue")
_ALWAYS: Final = _CHOICE == "epoll" or _USES_KQUEUE
_new_poll: Any = KqueuePoll if _USES_KQUEUE else getattr(select, "epoll", None)
ENABLED: Final = _new_poll is not None and _CHOICE != "trio"

_RDHUP: Final[int] = getattr(select, "EPOLLRDHUP", 0)
_ERR: Final[int] = getattr(select, "EPOLLERR", 0)
_PRI: Final[int] = getattr(select, "EPOLLPRI", 0)
_EDGE_TRIGGERED: Final[int] = getattr(select, "EPOLLET", 0)
_READABLE: Final = READABLE | _RDHUP | ENDED | _ERR | _PRI
_WRITABLE: Final = WRITABLE | ENDED | _ERR
# After these a short receive proves nothing: the end, or an urgent mark, follows.
_MORE_THAN_DATA: Final = _RDHUP | ENDED | _ERR | _PRI
_INTEREST: Final = READABLE | WRITABLE | _RDHUP | _PRI | _EDGE_TRIGGERED


def tells_of_urgent_data() -> bool:
    """Whether events do; where they do not, a short receive may have ended at its mark."""
    return _new_poll is not KqueuePoll


class Waiter(Protocol):
    """What the engine needs of a stream."""

    _registered: int
    _latest_wait: int
    _reader: Task | None
    _writer: Task | None
    _readable: bool
    _saw_more_than_data: bool
    _short_means_empty: bool

    def fileno(self) -> int:
        """The descriptor."""
        ...


class Engine:
    """The epoll descriptor (or kqueue) of one Trio run, and the task that waits for it."""

    def __init__(self) -> None:
        self._poll: Any = None
        self._streams: dict[int, Waiter] = {}
        # How often a stream of this run has waited, here or by Trio's own call.
        self._waits = 0
        # Whether a wake serves several tasks; by those of this trial, until when it lasts.
        self._serves_several = True
        self._wakes = self._woken = 0
        self._next_look = _TRIAL
        self._running = False
        self._holders = 0

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """Have the descriptor and its task, though no stream is registered.

        From the beginning: who counts either while a server runs shall find no change.
        """
        self._holders += 1
        try:
            if ENABLED:
                with contextlib.suppress(OSError):  # tried again when it is needed
                    self._open()
            yield
        finally:
            self._holders -= 1
            self._close_if_empty()

    def is_worth_it(self, stream: Waiter) -> bool:
        """Whether the wait that *stream* is about to begin had better be here."""
        self._waits = now = self._waits + 1
        if now >= self._next_look:
            self._look()
        latest, stream._latest_wait = stream._latest_wait, now
        if _ALWAYS or latest <= 0:
            return _ALWAYS or (latest == 0 and now > _MANY)
        return now - latest > (_MANY if self._serves_several else _IDLE)

    def _look(self) -> None:
        """See whether a wake serves several tasks, or let that be tried again."""
        if self._serves_several:
            self._serves_several = self._woken >= _SEVERAL * self._wakes
        else:
            self._serves_several = True
        self._wakes = self._woken = 0
        self._next_look = self._waits + (_TRIAL if self._serves_several else _UNTIL_NEXT_TRIAL)

    def register(self, stream: Waiter) -> bool:
        """Take *stream* in; whether that could be done.

        What cannot be registered (no watches left, say) waits by Trio's own call.
        """
        try:
            poll = self._open()
            fd = stream.fileno()
            poll.register(fd, _INTEREST)
        except OSError:
            self._close_if_empty()
            return False
        self._streams[fd] = stream
        stream._registered = fd
        return True

    def _open(self) -> Any:
        if self._poll is None:
            self._poll = _new_poll()
        if not self._running:
            self._running = True
            trio.lowlevel.spawn_system_task(self._run)
        return self._poll

    def unregister(self, stream: Waiter) -> None:
        """Take *stream* out, before its descriptor can become another's."""
        fd, stream._registered = stream._registered, -1
        if self._streams.get(fd) is not stream:
            return  # its number was closed behind our back, and belongs to another by now
        del self._streams[fd]
        assert self._poll is not None
        try:
            self._poll.unregister(fd)
        except OSError:
            pass  # closed behind our back: the kernel has forgotten it
        self._close_if_empty()

    def _close_if_empty(self) -> None:
        if not (self._streams or self._holders):
            self._close()

    def _close(self) -> None:
        if self._poll is None:
            return
        poll, self._poll = self._poll, None
        if self._running:
            trio.lowlevel.notify_closing(poll.fileno())
        poll.close()

    async def _run(self) -> None:
        """Wake whoever events are for, as long as there is a descriptor."""
        try:
            while self._poll is not None:
                try:
                    await trio.lowlevel.wait_readable(self._poll.fileno())
                except trio.ClosedResourceError:
                    continue  # nobody needed it any more; maybe somebody does since
                except OSError:
                    await trio.sleep(_PAUSE)
                    continue
                # It may have been closed between this task's waking and its turn.
                if self._poll is not None:
                    self._deliver(self._poll.poll(0))
        finally:
            self._running = False
            if self._poll is not None:
                self._end()

    def _end(self) -> None:
        """The Trio run is over, and streams are left: nobody can wait for them here again."""
        for stream in self._streams.values():
            stream._registered = -1
        self._streams.clear()
        self._close()

    def _deliver(self, events: list[tuple[int, int]]) -> None:
        woken = 0
        for fd, mask in events:
            stream = self._streams.get(fd)
            if stream is None:
                continue  # taken out while an earlier event of this wake was dealt with
            if mask & _READABLE:
                stream._readable = True
                if mask & _MORE_THAN_DATA:
                    stream._saw_more_than_data = True
                    stream._short_means_empty = False
                if stream._reader is not None:
                    task, stream._reader = stream._reader, None
                    reschedule(task)
                    woken += 1
            if mask & _WRITABLE and stream._writer is not None:
                task, stream._writer = stream._writer, None
                reschedule(task)
                woken += 1
        # That a new stream may be written to wakes nobody.
        if woken:
            self._wakes += 1
            self._woken += woken


_engine: Final[RunVar[Engine]] = RunVar("sockscope.engine")


def current_engine() -> Engine:
    """The engine of this Trio run."""
    try:
        return _engine.get()
    except LookupError:
        engine = Engine()
        _engine.set(engine)
        return engine
