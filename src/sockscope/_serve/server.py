"""`Server`: what `serve_passive` yields; it accepts, serves and drains."""

from __future__ import annotations

import contextvars
import socket as stdlib_socket
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

import outcome
import trio
from trio.lowlevel import ParkingLot, checkpoint

from sockscope._addresses.values import Address, InternetAddress
from sockscope._core.deadlines import check_timeout
from sockscope._options.defaults import NO_OPTIONS
from sockscope._serve.accepting import BATCH, LOGGER, NO_DESCRIPTOR, accept_batch
from sockscope._serve.connection import (
    COUNTER_OF,
    PreparationFailed,
    needs_farewell,
    outcome_of,
    prepare,
    say_farewell,
    set_options,
)
from sockscope._serve.draining import handshakes_have_ended, keep_new_ones_away, may_lose
from sockscope._serve.lending import Lender
from sockscope._serve.limits import Admission, Gate
from sockscope._serve.lingering import (
    copy_for_lingering,
    keep_for_lingering,
    linger,
    take_for_lingering,
)
from sockscope._serve.overload import Reserve, Shortage
from sockscope._serve.settings import Outcome, Settings
from sockscope._serve.statistics import Counters, ServerStatistics, take_snapshot
from sockscope._serve.timers import Timers
from sockscope._sockets.accept_errors import Verdict, verdict_of
from sockscope._sockets.custom import CustomPassiveSocket
from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.stream import StreamSocket

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

T = TypeVar("T")

# Counted, but no error of the handler's.
_NOT_TOLD: Final = frozenset({"reset", "timed_out"})

# Trio would make the name anew for each task, and keep it.
_TASK_NAME: Final = "sockscope connection"

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


class Server(Generic[T]):
    """A running server; `serve_passive` makes it."""

    def __init__(self, passives: Iterable[PassiveSocket], settings: Settings) -> None:
        self._passives = list(passives)
        self._settings = settings
        self._counters = Counters()
        self._connections: set[StreamSocket] = set()
        self._accept_scopes = {passive: trio.CancelScope() for passive in self._passives}
        self._draining_scopes: set[trio.CancelScope] = set()
        self._draining = trio.Event()
        self._drained = trio.Event()
        # Who waits until all connections have ended, or for one to give its descriptor back.
        self._ends = ParkingLot()
        self._freed = ParkingLot()
        # A pause is a lot to park in; None while accepting goes on.
        self._paused: ParkingLot | None = None
        self._nursery: trio.Nursery
        self._handlers: trio.Nursery
        self._handler: Any = settings.handler
        self._lender = Lender[T]() if settings.handler is None else None
        self._prepares = settings.upgrade is not None or callable(settings.connection_options)
        # Connections that are over, but whose peer is still sending.
        self._lingering = 0
        # Listeners that no handshake can reach any more.
        self._quiet: set[PassiveSocket] = set()
        # What has no limit to keep is None, and costs one comparison.
        self._admission = Admission.of(
            settings.allow, settings.deny, settings.max_connections_per_host
        )
        self._gate = Gate.of(
            settings.max_connections,
            settings.accept_rate,
            settings.overload,
            lambda: len(self._connections) + self._lingering,
            self._freed,
        )
        self._timers = Timers.of(settings.lifetime, settings.idle_timeout)
        self._reserve = Reserve() if settings.overload == "reject" else None

    def __repr__(self) -> str:
        where = ", ".join(map(str, self.addresses)) or "nothing any more"
        return f"<sockscope.Server on {where}, {len(self._connections)} connections>"

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
        return frozenset(self._connections)

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
            self._take_the_rest(passive)
            self._counters.possibly_lost += passive not in self._quiet and may_lose(passive)
            self._remove(passive)
        if self._lender is not None:
            self._lender.no_more()

    def _take_the_rest(self, passive: PassiveSocket) -> None:
        """Begin what is in the queue: the kernel has promised those to their peers."""
        try:
            while accept_batch(passive, self._begin, BATCH):
                pass
        except (OSError, trio.ClosedResourceError) as exc:
            LOGGER.warning("on closing %r its queue could not be served: %s", passive, exc)

    def _remove(self, passive: PassiveSocket) -> None:
        # The kernel's name first: it cannot be asked after.
        _ = passive.address if passive.is_open else None
        self._passives.remove(passive)
        self._accept_scopes[passive].cancel()
        if not passive._close():
            self._counters.close_errors += 1

    async def drain(self, timeout: float | None = None, *, lame_duck: float = 0.0) -> None:
        """Stop accepting, let the handlers finish, and cancel what is left.

        Where the system lets it (see `draining a server`), clients whose handshake is under
        way are served as well; `ServerStatistics.possibly_lost` tells where it did not.

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
        began = trio.current_time()
        self._draining.set()
        for scope in tuple(self._draining_scopes):
            scope.cancel()
        try:
            await trio.sleep(lame_duck)
            await self._end_handshakes()
        finally:
            self.stop_accepting()
        waiting = len(self._connections)
        with trio.move_on_after(timeout):
            await self._all_ended()
        left = len(self._connections)
        self._counters.drained += max(waiting - left, 0)
        self._counters.cut += left
        if left or self._lingering:
            self._handlers.cancel_scope.cancel()
            await self._all_ended()
        self._drained.set()
        LOGGER.info(
            "drained: %d connections ended by themselves, %d were cut, in %.3f s",
            waiting - left,
            left,
            trio.current_time() - began,
        )

    async def _end_handshakes(self) -> None:
        """Let no new handshake begin, where that can be done, and wait for those under way."""
        for passive in self._passives:
            if may_lose(passive) and keep_new_ones_away(passive, self._begin):
                self._quiet.add(passive)
        if self._quiet:
            await handshakes_have_ended(tuple(self._connections))

    async def _all_ended(self) -> None:
        while self._connections or self._lingering:
            await self._ends.park()

    def statistics(self) -> ServerStatistics:
        """A snapshot of the server's figures, the kernel's among them."""
        return take_snapshot(self._counters, self._connections, self._lingering, self._passives)

    # -- running: called by serve_passive ------------------------------------------

    async def _host(self, task_status: trio.TaskStatus[None]) -> None:
        """Hold the nursery of the handlers, which can be cut without the body."""
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as self._handlers:
                if self._timers is not None:
                    self._handlers.start_soon(self._timers.run)
                task_status.started()
                await self._drained.wait()
                # The timers' task is all that is left.
                self._handlers.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # One failure is shown as a child of the server's own nursery would be.
            failure = group.exceptions[0] if len(group.exceptions) == 1 else group
        finally:
            if self._reserve is not None:
                self._reserve.close()
        if failure is not None:
            raise failure

    def _start(self, nursery: trio.Nursery) -> None:
        for passive in self._passives:
            nursery.start_soon(self._accept_from, passive, name=f"accept on {passive.address}")

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
        shortage = Shortage(passive, self._freed)
        while True:
            try:
                await passive._wait_readable()
                while accept_batch(passive, self._begin, await self._may_accept()):
                    shortage.is_over()
                    await checkpoint()
            except OSError as exc:
                if verdict_of(exc) is Verdict.STOP:
                    raise
                await self._endure(exc, passive, shortage)

    async def _endure(self, exc: OSError, passive: PassiveSocket, shortage: Shortage) -> None:
        """Accepting has failed for want of something: shed what waits, or pause."""
        self._counters.shortages += shortage.begin(exc, len(self._connections))
        shed = 0
        if self._reserve is not None and exc.errno in NO_DESCRIPTOR:
            shed = self._reserve.shed(passive)
        if not shed:
            await shortage.pause()
            return
        shortage.shed(shed)
        self._counters.accepted += shed
        self._counters.refuse("overload", shed)
        await checkpoint()

    async def _may_accept(self) -> int:
        """Wait while the server is paused or full, or nobody asks; how many to take then."""
        while True:
            wanted: float = BATCH if self._lender is None else await self._lender.wanted()
            if self._gate is not None:
                wanted = min(wanted, self._gate.room())
            if self._paused is not None:
                await self._paused.park()
            elif wanted >= 1:
                return int(wanted)
            else:
                assert self._gate is not None
                await self._gate.wait()

    async def _accept_custom(self, passive: CustomPassiveSocket) -> None:
        while True:
            await self._may_accept()
            self._begin_stream(passive, await passive.accept())

    def _begin_one(self) -> StreamSocket | None:
        """Begin a connection that waits in the queue of any listener; None if none does."""
        if self._gate is not None and self._gate.room() < 1:
            return None
        for passive in self._passives:
            while (pair := passive._take()) is not None:
                stream = self._begin(passive, *pair)
                if stream is not None:
                    return stream
        return None

    def _begin(self, passive: PassiveSocket, sock: Any, peer: Any) -> StreamSocket | None:
        """Begin a connection that was accepted; None if it is refused."""
        stream = passive._make_child(sock, NO_OPTIONS, peer=peer, accepted=True)
        return stream if self._begin_stream(passive, stream) else None

    def _begin_stream(self, passive: PassiveSocket, stream: StreamSocket) -> bool:
        self._counters.accepted += 1
        if (self._admission is not None or self._gate is not None) and self._is_refused(stream):
            return False
        self._connections.add(stream)
        if self._lender is not None:
            self._lender.begin(stream)
        self._handlers.start_soon(self._serve_connection, passive, stream, name=_TASK_NAME)
        return True

    def _is_refused(self, stream: StreamSocket) -> bool:
        """Whether a limit forbids *stream*: then it is reset and counted."""
        reason = None if self._admission is None else self._admission.refusal(stream)
        if reason is None and self._gate is not None:
            reason = self._gate.refusal(stream)
            if reason is not None and self._admission is not None:
                self._admission.leave(stream)
        if reason is None:
            return False
        self._counters.refuse(reason)
        stream.abort()
        return True

    async def _serve_connection(self, passive: PassiveSocket, stream: StreamSocket) -> None:
        """One connection, from accept to close; whatever happens, it is closed and counted."""
        connection: Any = stream
        result: outcome.Outcome[Any] | None = None
        failed = False
        began = 0.0 if self._timers is None else trio.current_time()
        copy = None
        try:
            result = self._announce(stream)
            if result is None:
                if self._gate is not None:
                    await self._gate.turn(stream)
                if self._prepares:
                    connection = await prepare(self._settings, self._counters, passive, stream)
                else:
                    set_options(self._settings, self._counters, passive, stream)
                # As outcome.acapture, whose frame each idle connection would keep.
                if self._timers is not None:
                    result = await self._timers.handle(
                        stream, began, self._hand_over, stream, connection
                    )
                elif self._lender is None:
                    result = outcome.Value(await self._handler(connection))
                else:
                    result = await self._lender.lend(stream, connection)
        except PreparationFailed:
            failed = True
        except BaseException as exc:
            result = outcome.Error(exc)
        finally:
            try:
                ended_well = isinstance(result, outcome.Value)
                if needs_farewell(stream, connection, ended_well):
                    if ended_well and connection is not stream:
                        copy = copy_for_lingering(stream)
                    await say_farewell(stream, connection, ended_well)
            finally:
                how = "failed" if failed else outcome_of(result, stream)
                if copy is not None:
                    copy = keep_for_lingering(copy)
                elif not (failed or how == "cancelled"):
                    copy = take_for_lingering(stream)
                self._counters.close_errors += not stream._close()
                self._end(stream, how, failed, copy)
        if result is not None:
            self._report(result, stream)

    async def _hand_over(self, stream: StreamSocket, connection: Any) -> outcome.Outcome[Any]:
        if self._lender is not None:
            return await self._lender.lend(stream, connection)
        return outcome.Value(await self._handler(connection))

    def _announce(self, stream: StreamSocket) -> outcome.Outcome[Any] | None:
        """Call ``on_open``; what it raises counts as the handler's."""
        if self._settings.on_open is None:
            return None
        result = outcome.capture(self._settings.on_open, stream)
        return result if isinstance(result, outcome.Error) else None

    def _end(
        self,
        stream: StreamSocket,
        how: Outcome,
        counted: bool,
        rest: stdlib_socket.socket | None,
    ) -> None:
        """The connection is closed, or lingers as *rest*: count it."""
        counters = self._counters
        self._connections.discard(stream)
        counters.bytes_received += stream._bytes_received
        counters.bytes_sent += stream._bytes_sent
        if how == "finished":
            counters.finished += 1
        elif not counted:
            name = COUNTER_OF[how]
            setattr(counters, name, getattr(counters, name) + 1)
        if self._lender is not None:
            self._lender.over(stream)
        if rest is None:
            self._leave(stream)
        else:
            self._lingering += 1
            self._handlers.start_soon(self._linger, stream, rest)
        if self._settings.on_close is not None:
            self._report(outcome.capture(self._settings.on_close, stream, how), stream)

    async def _linger(self, stream: StreamSocket, rest: stdlib_socket.socket) -> None:
        closed_well = True
        try:
            closed_well = await linger(rest)
        finally:
            self._counters.close_errors += not closed_well
            self._lingering -= 1
            self._leave(stream)

    def _leave(self, stream: StreamSocket) -> None:
        """Nothing is left of a connection: wake who waits for that."""
        if self._ends and not (self._connections or self._lingering):
            self._ends.unpark_all()
        if self._freed:
            self._freed.unpark_all()
        if self._admission is not None:
            self._admission.leave(stream)
        if self._gate is not None:
            self._gate.leave()
        if self._reserve is not None:
            self._reserve.refill()

    def _report(self, result: outcome.Outcome[Any], stream: StreamSocket) -> None:
        """Deal with what a handler raised, as ``handler_errors`` says."""
        if not isinstance(result, outcome.Error) or outcome_of(result, stream) in _NOT_TOLD:
            return
        error = result.error
        policy = self._settings.handler_errors
        if policy == "raise" or not isinstance(error, Exception):
            result.unwrap()
        elif callable(policy):
            policy(error, stream)
        else:
            LOGGER.error(
                "the handler of the connection from %s failed",
                stream.remote_address,
                exc_info=error,
            )
