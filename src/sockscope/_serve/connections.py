"""The connections of a server: each in a task of its own, counted, told, and let go."""

from __future__ import annotations

import math
import socket as stdlib_socket
import sys
from collections.abc import Awaitable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any, Final, Generic, TypeVar

import outcome
import trio
from trio.lowlevel import ParkingLot

from sockscope._core.hooks import refuse_awaitable
from sockscope._options.defaults import NO_OPTIONS
from sockscope._serve.accepting import BATCH, LOGGER
from sockscope._serve.connection import (
    COUNTER_OF,
    PreparationFailed,
    needs_farewell,
    outcome_of,
    prepare,
    say_farewell,
    set_options,
)
from sockscope._serve.lending import Lender
from sockscope._serve.limits import Admission, Gate
from sockscope._serve.lingering import linger, take_for_lingering
from sockscope._serve.overload import Crowd, Reserve
from sockscope._serve.settings import Outcome, Settings
from sockscope._serve.statistics import Counters
from sockscope._serve.timers import TimeLimit
from sockscope._sockets.engine import current_engine
from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.stream import StreamSocket
from sockscope._sockets.timers import current_deadlines

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

T = TypeVar("T")

# Counted, but no error of the handler's.
_NOT_TOLD: Final = frozenset({"reset", "timed_out"})

# Trio would make the name anew for each task, and keep it.
_TASK_NAME: Final = "sockscope connection"


class Connections(Generic[T]):
    """What a server has accepted: from `begin` until nothing of it is left."""

    def __init__(self, settings: Settings) -> None:
        self.counters = Counters()
        self.live: set[StreamSocket] = set()
        # From then on who ends has drained; from the cut on, been cut.
        self.is_draining = self._is_cut = False
        # Closed by us, but their peers are still sending; a handler may go on with other work.
        self.lingering: set[StreamSocket] = set()
        # Who waits for one to give its descriptor back, or until all have ended.
        self.freed = ParkingLot()
        self._ends = ParkingLot()
        self._settings = settings
        self._handler: Any = settings.handler
        # Bound once, for each connection keeps it.
        self._linger_hook = self._let_linger
        self._nursery: trio.Nursery
        # What is not asked for is None, and costs one comparison.
        prepares = settings.upgrade is not None or callable(settings.connection_options)
        self.lender = Lender[T](prepares) if settings.handler is None else None
        self.gate = Gate.of(
            settings.max_connections,
            settings.accept_rate,
            settings.overload,
            lambda: len(self.live) + len(self.lingering),
            self.freed,
        )
        self._crowd = Crowd()
        self.reserve = Reserve() if settings.overload == "reject" else None
        self._admission = Admission.of(
            settings.allow, settings.deny, settings.max_connections_per_host
        )
        self._is_timed = not (settings.lifetime == settings.idle_timeout == math.inf)

    async def host(self, drained: trio.Event, task_status: trio.TaskStatus[None]) -> None:
        """Hold the nursery of the handlers, which can be cut without the server's body."""
        failure: BaseException | None = None
        try:
            with self._machinery():
                async with trio.open_nursery() as self._nursery:
                    task_status.started()
                    await drained.wait()
                    # What else may be in there is cancelled.
                    self._nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # One failure is shown as a child of the server's own nursery would be.
            failure = group.exceptions[0] if len(group.exceptions) == 1 else group
        finally:
            if self.lender is not None:
                self.lender.no_more()  # however it ends, nobody may wait for it
            if self.reserve is not None:
                self.reserve.close()
        if failure is not None:
            raise failure

    @contextmanager
    def _machinery(self) -> Generator[None, None, None]:
        """Keep what each connection would otherwise need anew."""
        with current_engine().held():
            with current_deadlines().held() if self._is_timed else nullcontext():
                yield

    async def all_ended(self) -> None:
        """Wait until none is left, lingering ones included. A checkpoint unless none is."""
        while self.live or self.lingering:
            await self._ends.park()

    def cut(self) -> None:
        """Cancel all that are left."""
        if not self._is_cut:
            self._is_cut = True
            self.counters.cut = len(self.live)
        self._nursery.cancel_scope.cancel()

    def has_room(self) -> bool:
        """Whether a connection more may be taken from the kernel."""
        return self.gate is None or self.gate.room() >= 1

    async def wanted(self, passive: PassiveSocket) -> int:
        """Wait until there is room, and somebody asks where they are lent; for how many.

        What cannot wait in the queue of *passive* meanwhile is told.

        A checkpoint only if it waits.
        """
        while True:
            wanted: float = BATCH if self.lender is None else await self.lender.wanted()
            if self.gate is not None:
                wanted = min(wanted, self.gate.room())
            if wanted >= 1:
                return int(wanted)
            assert self.gate is not None
            await self.gate.wait()
            self._crowd.tell_if_full(passive)

    def begin(self, passive: PassiveSocket, sock: Any, peer: Any) -> bool:
        """Begin a connection that was accepted; False if it is refused."""
        stream = passive._make_child(sock, NO_OPTIONS, peer=peer, accepted=True)
        return self.begin_stream(passive, stream)

    def begin_stream(self, passive: PassiveSocket, stream: StreamSocket) -> bool:
        """`begin`, with the stream made already."""
        self.counters.accepted += 1
        if (self._admission is not None or self.gate is not None) and self._is_refused(stream):
            return False
        try:
            self._nursery.start_soon(self._serve, passive, stream, name=_TASK_NAME)
        except RuntimeError:
            # The server was cancelled, and has ended: nobody is left to serve it.
            self.counters.finished += 1
            stream.abort()
            return False
        self.live.add(stream)
        stream._linger = self._linger_hook
        if self.lender is not None:
            self.lender.begin(stream)
        return True

    def _is_refused(self, stream: StreamSocket) -> bool:
        """Whether a limit forbids *stream*: then it is reset and counted."""
        reason = None if self._admission is None else self._admission.refusal(stream)
        if reason is None and self.gate is not None:
            reason = self.gate.refusal(stream)
            if reason is not None and self._admission is not None:
                self._admission.leave(stream)
        if reason is None:
            return False
        self.counters.refuse(reason)
        stream.abort()
        return True

    async def _serve(self, passive: PassiveSocket, stream: StreamSocket) -> None:
        """One connection, from accept to close; whatever happens, it is closed and counted."""
        connection: Any = stream
        result: Any = None
        is_lent = False
        # A lifetime begins here, before the connection is prepared.
        limit = self._limit(stream) if self._is_timed else None
        try:
            if self._settings.on_open is not None:
                refuse_awaitable(self._settings.on_open(stream), "on_open")
            if self.gate is not None:
                await self.gate.turn(stream)
            pending = set_options(self._settings, self.counters, passive, stream)
            if pending is not None or self._settings.upgrade is not None:
                connection = await prepare(self._settings, self.counters, passive, stream, pending)
            if limit is None:
                # No frame and no context more, as each idle connection keeps them.
                result = await self._hand_over(stream, connection)
            else:
                with limit:
                    result = await self._hand_over(stream, connection)
            is_lent = self.lender is not None
            if not is_lent:
                result = outcome.Value(result)
        except PreparationFailed:
            result = None
        except BaseException as exc:
            result = outcome.Error(exc)
        ended_well = type(result) is outcome.Value
        try:
            if needs_farewell(stream, connection, ended_well):
                failure = await say_farewell(stream, connection, ended_well)
                if failure is not None and ended_well:
                    result = outcome.Error(failure)  # as if the handler had raised it
        finally:
            how = outcome_of(result, stream)
            if result is None or how == "cancelled" or not self._let_linger(stream):
                self.counters.close_errors += not stream._close()
            self._end(stream, how, result is None)
        # What a borrower raised, it has already.
        if type(result) is outcome.Error and not is_lent:
            self._report(result, stream)

    def _hand_over(self, stream: StreamSocket, connection: Any) -> Awaitable[object]:
        """The handler's coroutine; or where there is none the `Result` of whoever borrows."""
        if self.lender is not None:
            return self.lender.lend(stream, connection)
        return self._handler(connection)  # type: ignore[no-any-return]  # it is the user's

    def _limit(self, stream: StreamSocket) -> TimeLimit:
        """What cancels a handler whose connection has lived, or been idle, for too long."""
        end = trio.current_time() + self._settings.lifetime
        return TimeLimit(stream, end, self._settings.idle_timeout)

    def _end(self, stream: StreamSocket, how: Outcome, counted: bool) -> None:
        """The connection is closed, or lingers: count it."""
        counters = self.counters
        self.live.discard(stream)
        if self.is_draining and not self._is_cut:
            counters.drained += 1
        counters.bytes_received += stream._bytes_received
        counters.bytes_sent += stream._bytes_sent
        if how == "finished":
            counters.finished += 1
        elif not counted:
            name = COUNTER_OF[how]
            setattr(counters, name, getattr(counters, name) + 1)
        if self.lender is not None:
            self.lender.over(stream)
        if stream not in self.lingering:
            self._leave(stream)
        if self._settings.on_close is not None:
            try:
                refuse_awaitable(self._settings.on_close(stream, how), "on_close")
            except Exception as exc:
                self._report(outcome.Error(exc), stream)

    def _let_linger(self, stream: StreamSocket) -> bool:
        """Close *stream*, and let it linger, if a plain close might lose bytes; whether it did."""
        rest = take_for_lingering(stream)
        if rest is None:
            return False
        self.lingering.add(stream)
        self._nursery.start_soon(self._linger, stream, rest)
        return True

    async def _linger(self, stream: StreamSocket, rest: stdlib_socket.socket) -> None:
        closed_well = True
        try:
            closed_well = await linger(rest)
        finally:
            self.counters.close_errors += not closed_well
            self.lingering.discard(stream)
            if stream not in self.live:
                self._leave(stream)

    def _leave(self, stream: StreamSocket) -> None:
        """Nothing is left of a connection: wake who waits for that."""
        if self._ends and not (self.live or self.lingering):
            self._ends.unpark_all()
        if self.freed:
            self.freed.unpark_all()
        if self._admission is not None:
            self._admission.leave(stream)
        if self.gate is not None:
            self.gate.leave()
        if self.reserve is not None:
            self.reserve.refill()

    def _report(self, result: outcome.Error, stream: StreamSocket) -> None:
        """Deal with what a handler raised, as ``handler_errors`` says."""
        if outcome_of(result, stream) in _NOT_TOLD:
            return
        error = result.error
        policy = self._settings.handler_errors
        if policy == "raise" or not isinstance(error, Exception):
            result.unwrap()
        elif callable(policy):
            refuse_awaitable(policy(error, stream), "handler_errors")
        else:
            LOGGER.error(
                "the handler of the connection from %s failed",
                stream.remote_address,
                exc_info=error,
            )
