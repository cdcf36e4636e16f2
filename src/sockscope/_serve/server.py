"""`Server`: what `serve_passive` yields; it accepts, serves and drains."""

from __future__ import annotations

import contextvars
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Generic, TypeVar

import trio
from trio.lowlevel import ParkingLot, checkpoint

from sockscope._addresses.values import Address, InternetAddress
from sockscope._core.deadlines import check_timeout
from sockscope._serve.accepting import BATCH, LOGGER, NO_DESCRIPTOR, accept_batch
from sockscope._serve.connections import Connections
from sockscope._serve.draining import handshakes_have_ended, keep_new_ones_away, may_lose
from sockscope._serve.overload import Shortage
from sockscope._serve.settings import Settings
from sockscope._serve.statistics import ServerStatistics, take_snapshot
from sockscope._sockets.accept_errors import Verdict, verdict_of
from sockscope._sockets.custom import CustomPassiveSocket
from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.stream import StreamSocket

T = TypeVar("T")

# As many connections a listener's queue can hold: see listen(2).
_LONGEST_QUEUE: Final = 0x10000

_current: Final[contextvars.ContextVar[Server[Any]]] = contextvars.ContextVar("sockscope.server")


def current_server() -> Server[Any]:
    """The server whose handler (or upgrade, or hook) the caller runs in.

    Raises:
      RuntimeError: the caller is not within a server's connection.
    """
    try:
        return _current.get()
    except LookupError:
        raise RuntimeError("current_server() is for handlers of a server") from None


def _is_short(failure: Exception | None) -> bool:
    return isinstance(failure, OSError) and verdict_of(failure) is Verdict.SHORTAGE


class Server(Generic[T]):
    """A running server; `serve_passive` makes it."""

    def __init__(self, passives: Iterable[PassiveSocket], settings: Settings) -> None:
        self._passives = list(passives)
        self._settings = settings
        self._connections = Connections[T](settings)
        self._counters = self._connections.counters
        self._accept_scopes = {passive: trio.CancelScope() for passive in self._passives}
        self._draining_scopes: set[trio.CancelScope] = set()
        self._draining = trio.Event()
        self._drained = trio.Event()
        # A pause is a lot to park in; None while accepting goes on.
        self._paused: ParkingLot | None = None
        self._nursery: trio.Nursery
        # Listeners that no handshake can reach any more, and what keeps them away.
        self._quiet: dict[PassiveSocket, ExitStack] = {}

    def __repr__(self) -> str:
        where = ", ".join(map(str, self.addresses)) or "nothing any more"
        return f"<sockscope.Server on {where}, {len(self._connections.live)} connections>"

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The addresses on which it accepts, in the order in which they were given."""
        return tuple(passive.address for passive in self._passives)

    @property
    def sockets(self) -> tuple[PassiveSocket, ...]:
        """The passive sockets, in the order of `addresses`."""
        return tuple(self._passives)

    @property
    def port(self) -> int:
        """The one internet port on which it accepts.

        Raises:
          ValueError: there is none, or more than one.
        """
        ports = {a.port for a in self.addresses if isinstance(a, InternetAddress)}
        if len(ports) != 1:
            raise ValueError(f"the server has {len(ports) or 'no'} internet ports, not one")
        return ports.pop()

    @property
    def connections(self) -> frozenset[StreamSocket]:
        """The connections that are being prepared or are with a handler."""
        return frozenset(self._connections.live)

    @property
    def draining(self) -> trio.Event:
        """Is set when the server begins to drain."""
        return self._draining

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """Cancels the whole server: its listeners, its handlers and the body of its block."""
        return self._nursery.cancel_scope

    @contextmanager
    def cancel_when_draining(self) -> Generator[trio.CancelScope, None, None]:
        """A scope that is cancelled when the server begins to drain.

        For handlers that wait for their peer's next request: ``with
        server.cancel_when_draining(): request = await next_request()``.
        """
        with trio.CancelScope() as scope:
            if self._draining.is_set():
                scope.cancel()
            self._draining_scopes.add(scope)
            try:
                yield scope
            finally:
                self._draining_scopes.discard(scope)

    def pause(self) -> None:
        """Accept no more for now: connections wait in the kernel's queue. A plain function."""
        if self._paused is None:
            self._paused = ParkingLot()

    def resume(self) -> None:
        """Accept again after `pause`. A plain function."""
        lot, self._paused = self._paused, None
        if lot is not None:
            lot.unpark_all()

    def stop_accepting(self) -> None:
        """Close the listeners for good, after taking what the kernel has accepted already.

        Connections go on. A plain function; a second call does nothing.
        """
        for passive in tuple(self._passives):
            if passive._is_shared:
                # Its queue goes on elsewhere.
                self._remove(passive)
                continue
            # A path first: who comes after that is told so, and never waits in vain.
            passive._release_path()
            failure = self._take_the_rest(passive)
            if failure is not None:
                LOGGER.warning("on closing %r its queue could not be served: %s", passive, failure)
            half_open = passive not in self._quiet and may_lose(passive)
            self._counters.possibly_lost += half_open or failure is not None
            self._remove(passive)
        if self._connections.lender is not None:
            self._connections.lender.no_more()

    def _take_the_rest(self, passive: PassiveSocket) -> Exception | None:
        """Begin what is in the queue: the kernel has promised those to their peers.

        Returns:
          What kept it from taking them all, if something did.
        """
        try:
            # No queue is longer than that; who comes later was promised nothing.
            for _ in range(_LONGEST_QUEUE // BATCH):
                if not accept_batch(passive, self._connections.begin, BATCH):
                    break
        except (OSError, trio.ClosedResourceError) as exc:
            return exc
        return None

    async def _empty_queues(self) -> None:
        """Begin what is in the queues; in a shortage as connections end. No checkpoint else."""
        for passive in tuple(self._passives):
            shortage = Shortage(passive, self._connections.freed)
            while not passive._is_shared and _is_short(self._take_the_rest(passive)):
                await shortage.pause()

    def _remove(self, passive: PassiveSocket) -> None:
        # The kernel's name first: it cannot be asked after.
        _ = passive.address if passive.is_open else None
        self._passives.remove(passive)
        self._accept_scopes[passive].cancel()
        if not passive._close():
            self._counters.close_errors += 1
        if passive in self._quiet:
            self._quiet.pop(passive).close()

    async def drain(self, timeout: float | None = None, *, lame_duck: float = 0.0) -> None:
        """Stop accepting, let the handlers finish, and cancel what is left.

        Where the system lets it (see the how-to page on draining), clients whose handshake
        is under way are served as well; `ServerStatistics.possibly_lost` tells where it
        did not.

        Args:
          timeout: seconds for the handlers; None is the server's ``drain_timeout``.
          lame_duck: seconds before that in which `draining` is set and connections are
            still taken, so that load balancers look away first.

        A checkpoint. When cancelled, connections are no longer accepted, and those that
        are there go on.
        """
        if timeout is None:
            timeout = self._settings.drain_timeout
        check_timeout(timeout)
        check_timeout(lame_duck, "lame_duck")
        connections, counters = self._connections, self._counters
        began, drained = trio.current_time(), counters.drained
        self._draining.set()
        connections.is_draining = True
        for scope in tuple(self._draining_scopes):
            scope.cancel()
        try:
            await trio.sleep(lame_duck)
            await self._end_handshakes()
            deadline = trio.current_time() + timeout
            with trio.CancelScope(deadline=deadline):
                await self._empty_queues()
        finally:
            self.stop_accepting()
        with trio.CancelScope(deadline=deadline):
            await connections.all_ended()
        left = len(connections.live)
        if left or connections.lingering:
            connections.cut()
            await connections.all_ended()
        self._drained.set()
        LOGGER.info(
            "drained: %d connections ended by themselves, %d were cut, in %.3f s",
            counters.drained - drained,
            left,
            trio.current_time() - began,
        )

    async def _end_handshakes(self) -> None:
        """Let no new handshake begin, where that can be done, and wait for those under way."""
        for passive in self._passives:
            if passive not in self._quiet and may_lose(passive):
                keeping = keep_new_ones_away(passive, self._connections.begin)
                if keeping is not None:
                    self._quiet[passive] = keeping
        if self._quiet:
            await handshakes_have_ended(tuple(self._connections.live))

    def statistics(self) -> ServerStatistics:
        """A snapshot of the server's figures, the kernel's among them."""
        return take_snapshot(
            self._counters,
            self._connections.live,
            len(self._connections.lingering),
            self._passives,
        )

    # -- running: called by serve_passive ------------------------------------------

    async def _run(self) -> None:
        """Begin to serve: what the block of `serve_passive` does on entering."""
        await self._nursery.start(self._connections.host, self._drained)
        for passive in self._passives:
            self._nursery.start_soon(
                self._accept_from, passive, name=f"accept on {passive.address}"
            )

    async def _accept_from(self, passive: PassiveSocket) -> None:
        """Accept on one listener until it is stopped; the last one's fault is the server's."""
        _current.set(self)
        with self._accept_scopes[passive]:
            try:
                if isinstance(passive, CustomPassiveSocket):
                    await self._accept_custom(passive)
                else:
                    await self._accept(passive)
            except (OSError, trio.ClosedResourceError) as exc:
                if passive not in self._passives:
                    return
                LOGGER.error("%r has failed and accepts no more: %s", passive, exc)
                self._remove(passive)
                if not self._passives:
                    raise

    async def _accept(self, passive: PassiveSocket) -> None:
        shortage = Shortage(passive, self._connections.freed)
        waits = True
        while True:
            try:
                if waits:
                    await passive._wait_readable()
                while accept_batch(passive, self._connections.begin, await self._room_for(passive)):
                    shortage.is_over()
                    await checkpoint()
                waits = True
            except OSError as exc:
                if verdict_of(exc) is Verdict.STOP:
                    raise
                await self._endure(exc, passive, shortage)
                # It may be the wait that fails: then the pauses are all the waiting there is.
                waits = False

    async def _endure(self, exc: OSError, passive: PassiveSocket, shortage: Shortage) -> None:
        """Accepting has failed for want of something: shed what waits, or pause."""
        self._counters.shortages += shortage.begin(exc, len(self._connections.live))
        shed = 0
        if self._connections.reserve is not None and exc.errno in NO_DESCRIPTOR:
            shed = self._connections.reserve.shed(passive)
        if not shed:
            await shortage.pause()
            return
        shortage.shed(shed)
        self._counters.accepted += shed
        self._counters.refuse("overload", shed)
        await checkpoint()

    async def _room_for(self, passive: PassiveSocket) -> int:
        """Wait while the server is paused or full, or nobody asks; how many to take then."""
        while True:
            number = await self._connections.wanted(passive)
            if self._paused is None:
                return number
            await self._paused.park()

    async def _accept_custom(self, passive: CustomPassiveSocket) -> None:
        while True:
            await self._room_for(passive)
            self._connections.begin_stream(passive, await passive.accept())

    def _begin_one(self) -> None:
        """Begin a connection that waits in the queue of any listener, if there is room for it."""
        if self._paused is not None:
            return
        begun: list[bool] = []

        def begin(*accepted: Any) -> None:
            begun.append(self._connections.begin(*accepted))

        for passive in self._passives:
            while self._connections.has_room() and accept_batch(passive, begin, 1):
                if begun[-1]:
                    return
