"""`DatagramServer`: receive, queue, hand over, count; what `serve_datagrams` yields."""

from __future__ import annotations

import collections
import errno
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from sockscope._addresses.values import Address, LocalAddress
from sockscope._core.errors import DatagramError
from sockscope._serve.datagram_session import Counters, DatagramSession
from sockscope._sockets.datagram import DatagramSocket
from sockscope._sockets.datagram_types import Datagram

LOGGER: Final = logging.getLogger("sockscope.server")

# Datagrams taken at a time: what the kernel joins is taken by dozens anyway.
_BATCH: Final = 256
# The last look into the kernel's queues must end, however fast peers send.
_LAST_DATAGRAMS: Final = 65536
# The kernel is short of memory, for the receive or for the wait: it will not be for long.
_SHORTAGE: Final = frozenset(
    {errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EEXIST, errno.ENOENT}
)
_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 1.0

HandlerErrors: TypeAlias = Literal["log", "raise"] | Callable[[Exception, Any], None]


@dataclass(frozen=True)
class DatagramSettings:
    """What `serve_datagrams` was asked for, checked."""

    handler: Callable[..., Awaitable[object]] | None
    max_tasks: int
    max_queue: int
    handler_errors: HandlerErrors
    sessions: bool
    idle_timeout: float
    max_peers: int


class DatagramServerStatistics(NamedTuple):
    """What has become of the datagrams; received = handled + dropped_queue + queued + active.

    With sessions ``active`` counts sessions, and is no part of that sum.
    """

    received: int
    """Taken from the kernel."""
    handled: int
    """Handled to the end, failures included; with sessions: received by the peers' tasks."""
    dropped_queue: int
    """Dropped by us: the queue was full, there were too many peers, or the server ended."""
    dropped_kernel: int | None
    """Dropped by the kernel, as the receive buffer was full; None where it does not tell.
    Where the kernel joins datagrams (GRO) a lost train counts as one."""
    queued: int
    """Waiting in our queue, or in the peers'."""
    active: int
    """Handlers that run now; with sessions: sessions that have not ended."""
    handler_errors: int
    """Handlers that have failed, but for those by a peer's doing."""
    network_errors: int
    """Reports that an answer did not arrive: by the network (with ``receive_errors``), or by
    the send that a handler has failed with, to a peer that cannot be reached, has gone or
    does not read."""
    refused_peers: int
    """Datagrams of new peers above ``max_peers``; they are among those dropped."""


class DatagramServer:
    """A server of datagrams; `serve_datagrams` makes it."""

    def __init__(self, sockets: list[DatagramSocket], settings: DatagramSettings) -> None:
        self._sockets = tuple(sockets)
        self._settings = settings
        self._nursery: trio.Nursery | None = None
        self._receivers = {socket: trio.CancelScope() for socket in sockets}
        self._queue: collections.deque[tuple[Datagram, DatagramSocket]] = collections.deque()
        # By socket and peer, the one that has been silent for longest first.
        self._sessions: collections.OrderedDict[tuple[DatagramSocket, Address], DatagramSession] = (
            collections.OrderedDict()
        )
        self._unaccepted: collections.deque[DatagramSession] = collections.deque()
        self._acceptors = trio.lowlevel.ParkingLot()
        # Who waits for a handler to end, or for a first session.
        self._progress = trio.lowlevel.ParkingLot()
        self._first_session = trio.lowlevel.ParkingLot()
        self._counters = Counters()
        # Tasks that receive, tasks that handle, and those within the handler now.
        self._receiving = self._workers = self._active = 0
        self._draining = False
        self._dropped_kernel: int | None = 0

    def __repr__(self) -> str:
        return f"<sockscope.DatagramServer on {', '.join(map(str, self.addresses))}>"

    @property
    def sockets(self) -> tuple[DatagramSocket, ...]:
        """The sockets, in the order of their addresses."""
        return self._sockets

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The addresses that datagrams are received on."""
        return tuple(socket.local_address for socket in self._sockets)

    def statistics(self) -> DatagramServerStatistics:
        """What has become of the datagrams so far; a plain function.

        Source: SO_MEMINFO for what the kernel dropped (Linux).
        """
        counters = self._counters
        taken = counters.handled + counters.dropped + self._active
        return DatagramServerStatistics(
            received=counters.received,
            handled=counters.handled,
            dropped_queue=counters.dropped,
            dropped_kernel=self._kernel_drops(),
            queued=counters.received - taken,
            active=len(self._sessions) if self._settings.sessions else self._active,
            handler_errors=counters.handler_errors,
            network_errors=counters.network_errors,
            refused_peers=counters.refused,
        )

    def _kernel_drops(self) -> int | None:
        for socket in self._sockets:
            if not socket.is_open:
                return self._dropped_kernel  # as it was when they were closed
        counts = [socket.statistics().dropped for socket in self._sockets]
        known = [count for count in counts if count is not None]
        self._dropped_kernel = sum(known) if len(known) == len(counts) else None
        return self._dropped_kernel

    async def accept(self) -> DatagramSession:
        """Wait for the next new peer, on a server without a handler.

        Any number of tasks may wait, first come first served.

        Returns:
          Its session; closing it is the caller's.

        Raises:
          RuntimeError: the server has a handler, which gets the sessions.
          trio.ClosedResourceError: the server is draining, or has ended.

        A checkpoint. When cancelled, no session is lost.
        """
        if self._settings.handler is not None:
            raise RuntimeError("the handler of this server gets the sessions: accept() cannot")
        await checkpoint_if_cancelled()
        waited = False
        while not self._draining:
            if self._unaccepted:
                if not waited:
                    await cancel_shielded_checkpoint()
                return self._unaccepted.popleft()
            await self._acceptors.park()
            waited = True
        raise trio.ClosedResourceError("this server is draining: it has no more new peers")

    # -- receiving ---------------------------------------------------------------------

    def _start(self, nursery: trio.Nursery) -> None:
        """Begin to receive."""
        self._nursery = nursery
        self._receiving = len(self._sockets)
        # A session has its task to itself, and holds up nobody.
        most = math.inf if self._settings.sessions else max(1, self._settings.max_tasks // 2)
        for socket in self._sockets:
            socket._share(most)
            nursery.start_soon(self._receive_from, socket)
        if self._settings.sessions and self._settings.idle_timeout != math.inf:
            nursery.start_soon(self._end_idle_sessions)

    async def _receive_from(self, socket: DatagramSocket) -> None:
        """Receive for as long as the server runs, past all that concerns single peers.

        One socket's fault leaves the others serving; the last one's ends the server.
        """
        try:
            with self._receivers[socket]:
                while True:
                    await self._receive_batches(socket)
        except (OSError, trio.ClosedResourceError) as exc:
            if self._receiving == 1:
                raise
            LOGGER.error("receiving no more on %s: %s", socket, exc)
        finally:
            self._receiving -= 1
            self._progress.unpark_all()

    async def _receive_batches(self, socket: DatagramSocket) -> None:
        """Receive until the network or the system reports something that will pass."""
        pause = _FIRST_PAUSE
        while True:
            try:
                batch = await socket.receive_many(_BATCH)
            except DatagramError:
                self._counters.network_errors += 1
                return
            except OSError as exc:
                if exc.errno not in _SHORTAGE:
                    raise
                if pause == _FIRST_PAUSE:
                    LOGGER.warning("cannot receive on %s for now: %s", socket, exc)
                await trio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                pause = _FIRST_PAUSE
                for datagram in batch:
                    self._take(datagram, socket)

    def _take(self, datagram: Datagram, socket: DatagramSocket) -> None:
        """Queue one datagram for its handler or its peer's, or drop it."""
        self._counters.received += 1
        if self._settings.sessions:
            self._take_for_session(datagram, socket)
            return
        if len(self._queue) >= self._settings.max_queue:
            self._counters.dropped += 1
            return
        self._queue.append((datagram, socket))
        if self._workers < self._settings.max_tasks:
            self._workers += 1
            assert self._nursery is not None
            self._nursery.start_soon(self._work)

    async def _work(self) -> None:
        """Handle what is queued, one after the other, until nothing is."""
        handler = self._settings.handler
        assert handler is not None
        try:
            while self._queue:
                datagram, socket = self._queue.popleft()
                self._active += 1
                try:
                    await checkpoint_if_cancelled()
                    await handler(datagram, socket)
                except Exception as exc:
                    self._failed(exc, datagram, datagram.address)
                finally:
                    self._active -= 1
                    self._counters.handled += 1
                    self._progress.unpark_all()
        finally:
            self._workers -= 1
            self._progress.unpark_all()

    def _failed(self, exc: Exception, subject: object, peer: Address) -> None:
        """Deal with what a handler raised, as ``handler_errors`` says.

        A peer that cannot be answered is no error of the handler that tries to.
        """
        if any(socket._is_peers_fault(exc) for socket in self._sockets):
            self._counters.network_errors += 1
            return
        self._counters.handler_errors += 1
        policy = self._settings.handler_errors
        if policy == "raise":
            raise exc
        if callable(policy):
            policy(exc, subject)
        else:
            LOGGER.error("the handler of datagrams from %s failed", peer, exc_info=exc)

    # -- sessions ----------------------------------------------------------------------

    def _take_for_session(self, datagram: Datagram, socket: DatagramSocket) -> None:
        key = socket, datagram.address
        session = self._sessions.get(key)
        if session is None:
            session = self._new_session(datagram, socket)
        if session is None or not session._deliver(datagram):
            self._counters.dropped += 1
            return
        self._stir(session)

    def _new_session(self, datagram: Datagram, socket: DatagramSocket) -> DatagramSession | None:
        """A session for a new peer, if there may be another one."""
        # A local socket without a name cannot be answered, nor told from another.
        unnamed = datagram.address == LocalAddress.unnamed
        nobody = self._draining and self._settings.handler is None
        if unnamed or nobody or len(self._sessions) >= self._settings.max_peers:
            self._counters.refused += 1
            return None
        session = DatagramSession(
            socket, datagram, self._settings.max_queue, self._counters, self._stir, self._forget
        )
        self._sessions[socket, datagram.address] = session
        self._first_session.unpark()
        if self._settings.handler is None:
            self._unaccepted.append(session)
            self._acceptors.unpark()
        else:
            assert self._nursery is not None
            self._nursery.start_soon(self._run_session, session)
        return session

    async def _run_session(self, session: DatagramSession) -> None:
        handler = self._settings.handler
        assert handler is not None
        try:
            await handler(session)
        except Exception as exc:
            self._failed(exc, session, session.remote_address)
        finally:
            session._close()

    def _stir(self, session: DatagramSession) -> None:
        """Something was sent or received in *session*."""
        key = session.socket, session.remote_address
        if self._sessions.get(key) is session:
            session._active_at = trio.current_time()
            self._sessions.move_to_end(key)

    def _forget(self, session: DatagramSession) -> None:
        """A session is over: the next datagram of its peer begins a new one."""
        key = session.socket, session.remote_address
        if self._sessions.get(key) is session:
            del self._sessions[key]
        self._progress.unpark_all()

    async def _end_idle_sessions(self) -> None:
        """End the sessions in which nothing was sent either way for the idle timeout."""
        while True:
            if not self._sessions:
                await self._first_session.park()
                continue
            oldest = next(iter(self._sessions.values()))
            due = oldest._active_at + self._settings.idle_timeout
            if due > trio.current_time():
                await trio.sleep_until(due)
                continue
            self._end_idle(oldest)

    def _end_idle(self, session: DatagramSession) -> None:
        session._end(idle=True)
        if session in self._unaccepted:
            # Nobody has seen it: what it holds would only use memory.
            self._unaccepted.remove(session)
            session._close()
        self._forget(session)

    # -- ending ------------------------------------------------------------------------

    async def _drain(self, timeout: float) -> None:
        """Stop receiving, and let everything that had come be handled, for so long."""
        self._draining = True
        for scope in self._receivers.values():
            scope.cancel()
        self._acceptors.unpark_all()
        with trio.move_on_after(timeout):
            while self._receiving:
                await self._progress.park()
            for socket in self._sockets:
                await self._receive_the_rest(socket)
            for session in tuple(self._sessions.values()):
                session._end()
            while self._workers or (self._sessions and self._settings.handler is not None):
                await self._progress.park()

    async def _receive_the_rest(self, socket: DatagramSocket) -> None:
        """Take what the kernel's queue holds, as fast as it is handled."""
        left = _LAST_DATAGRAMS
        while left > 0 and socket.is_open:
            room = _BATCH
            if not self._settings.sessions:
                room = min(room, self._settings.max_queue - len(self._queue))
            if not room:
                await self._progress.park()
                continue
            try:
                batch = await socket.receive_many(room, max_wait=0)
            except DatagramError:
                self._counters.network_errors += 1
                continue
            except OSError as exc:
                if exc.errno not in _SHORTAGE:
                    raise
                await trio.sleep(_FIRST_PAUSE)
                continue
            if not batch:
                return
            left -= len(batch)
            for datagram in batch:
                self._take(datagram, socket)

    def _close(self) -> None:
        """Close everything; what was not handled counts as dropped."""
        self._draining = True
        self._kernel_drops()
        self._counters.dropped += len(self._queue)
        self._queue.clear()
        for session in tuple(self._sessions.values()):
            session._close()
        self._acceptors.unpark_all()
        for socket in self._sockets:
            # What came in trains was taken from the kernel ahead of its turn.
            self._counters.received += len(socket._pending)
            self._counters.dropped += len(socket._pending)
            socket._close()
