"""How a stream waits: in the engine, or by Trio's own call where that is cheaper."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import outcome
import trio
from trio.lowlevel import (
    Abort,
    RaiseCancelT,
    Task,
    current_task,
    reschedule,
    wait_task_rescheduled,
)

from sockscope._options.values import SocketOptions
from sockscope._sockets.base import AF_UNIX, AnySocket, BaseSocket, family_of
from sockscope._sockets.engine import ENABLED, current_engine, tells_of_urgent_data
from sockscope._sockets.timers import current_deadlines


def finite(seconds: float | None) -> float | None:
    """A timeout as the streams keep it: None where it never ends."""
    return None if seconds is None or seconds == math.inf else float(seconds)


async def expires(wait: Callable[[], Awaitable[None]], seconds: float | None) -> bool:
    """Await *wait* for so many seconds at most; whether the time ran out first."""
    if seconds is None:
        await wait()
        return False
    with trio.move_on_after(seconds) as scope:
        await wait()
    return scope.cancelled_caught


class WaitingStream(BaseSocket):
    """The part of a stream that knows whether it may be readable, and sleeps until it is."""

    __slots__ = (
        "_latest_wait",
        "_layer_fault",
        "_look_at",
        "_read_due",
        "_reader",
        "_receive_timeout",
        "_registered",
        "_saw_more_than_data",
        "_send_timeout",
        "_short_means_empty",
        "_trio_waits",
        "_urgent_fd",
        "_write_due",
        "_writer",
    )

    def __init__(self, sock: AnySocket, requested: SocketOptions) -> None:
        super().__init__(sock, requested)
        # The engine's: the number it knows the stream by, the tasks it is to wake, and
        # whether it has told of an end or of urgent data, of which it tells once.
        self._registered = -1
        self._latest_wait = 0
        self._reader: Task | None = None
        self._writer: Task | None = None
        self._saw_more_than_data = False
        # Seconds of inactivity that a receive and a send wait out, and when, for those that
        # sleep in the engine, they are over. The last is the heap's.
        self._receive_timeout = finite(requested.receive_timeout)
        self._send_timeout = finite(requested.send_timeout)
        self._read_due = self._write_due = math.inf
        self._look_at = math.inf
        # What broke the connection above the kernel's stream or beside it: what a layer such
        # as TLS has found in it, or a wait that failed.
        self._layer_fault: BaseException | None = None
        # Tasks asleep by Trio's own call, whom closing has to wake.
        self._trio_waits = 0
        # Where a task waits for urgent data; None while none does.
        self._urgent_fd: int | None = None
        self._short_means_empty = self._trusts_short_receives(requested)

    def _trusts_short_receives(self, options: SocketOptions) -> bool:
        """Whether a short receive says that nothing is left, so that the next one waits first.

        Not on local streams, where messages with descriptors or from other senders
        end a receive early; not above a low-water mark, below which poll is silent
        though there are bytes; not with urgent bytes in the stream, which end a
        receive, too; not when the user holds the socket as well; nor when the stream's
        end is behind the bytes, of which the engine has told already.
        """
        return (
            self._exposed is None
            and not self._saw_more_than_data
            and family_of(self._sock) != AF_UNIX
            and (options.receive_low_water or 0) <= 1
            and not options.oob_inline
            and tells_of_urgent_data()
        )

    def _look_again(self) -> None:
        """Something has changed: trust nothing that is known of the socket's readiness."""
        self._short_means_empty = self._trusts_short_receives(self._requested)
        self._readable = True

    def _options_changed(self, options: SocketOptions) -> None:
        super()._options_changed(options)
        self._look_again()

    def _expose(self, sock: trio.socket.SocketType) -> None:
        super()._expose(sock)
        self._look_again()
        # The user may close it behind the engine's back: whoever sleeps there shall
        # look again, and wait by Trio's own call.
        if self._registered != -1:
            current_engine().unregister(self)
            self._reschedule(None)
        self._wake_urgent()

    def _wait_readable(self) -> Coroutine[Any, Any, bool | None]:  # type: ignore[override]  # see below
        """Sleep until a receive may succeed; the caller has seen that none would by now.

        Returns:
          What tells, when awaited, True if `receive_timeout` came first: not a coroutine
          of its own, whose frame each idle connection would keep.
        """
        self._check_open()
        self._readable = False
        engine = current_engine()
        # Not in both at once: a writer that sleeps in the engine keeps the stream there.
        if (engine.is_worth_it(self) or self._writer is not None) and self._join_engine():
            self._reader = current_task()
            if self._receive_timeout is None:
                self._read_due = math.inf  # whatever an earlier wait had
            else:
                self._read_due = trio.current_time() + self._receive_timeout
                if self._read_due < self._look_at:
                    current_deadlines().watch(self, self._read_due)
            return wait_task_rescheduled(self._stop_reading)  # noqa: ASYNC105  # by the caller
        if self._registered != -1:
            engine.unregister(self)
        return self._wait_readable_by_trio()

    async def _wait_readable_by_trio(self) -> bool | None:
        timeout = self._receive_timeout
        self._trio_waits += 1
        try:
            if timeout is None:
                await trio.lowlevel.wait_readable(self._sock)
            else:
                with trio.move_on_after(timeout) as scope:
                    await trio.lowlevel.wait_readable(self._sock)
                if scope.cancelled_caught:
                    return True
        except OSError as exc:
            raise self._cannot_wait(exc) from exc
        finally:
            self._trio_waits -= 1
        self._readable = True
        return None

    def _wait_writable(self) -> Coroutine[Any, Any, bool | None]:  # type: ignore[override]  # see above
        """Sleep until a send may succeed; the caller has seen that none would by now.

        Returns:
          What tells, when awaited, True if `send_timeout` came first.
        """
        if self._registered == -1:
            return expires(self._wait_for_room, self._send_timeout)
        self._writer = current_task()
        if self._send_timeout is None:
            self._write_due = math.inf
        else:
            self._write_due = trio.current_time() + self._send_timeout
            if self._write_due < self._look_at:
                current_deadlines().watch(self, self._write_due)
        return wait_task_rescheduled(self._stop_writing)  # noqa: ASYNC105  # by the caller

    def _next_due(self) -> float:
        """See `Timed`: only who sleeps in the engine has deadlines here."""
        read_due = math.inf if self._reader is None else self._read_due
        return read_due if self._writer is None else min(read_due, self._write_due)

    def _expire(self, now: float) -> None:
        """See `Timed`: wake who has slept for too long, to try once more."""
        if self._reader is not None and self._read_due <= now:
            task, self._reader = self._reader, None
            reschedule(task, outcome.Value(True))
        if self._writer is not None and self._write_due <= now:
            task, self._writer = self._writer, None
            reschedule(task, outcome.Value(True))

    async def _wait_for_room(self) -> None:
        """Sleep until a send may succeed, which it may at once: then no edge would come."""
        self._trio_waits += 1
        try:
            await super()._wait_writable()
        except OSError as exc:
            raise self._cannot_wait(exc) from exc
        finally:
            self._trio_waits -= 1

    def _cannot_wait(self, exc: OSError) -> trio.BrokenResourceError:
        """The wait itself failed (epoll_ctl: ENOMEM, ENOSPC): an error, for a hang is worse."""
        broken = trio.BrokenResourceError(f"cannot wait for the stream {self._describe()}: {exc}")
        broken.__cause__ = self._layer_fault = exc
        return broken

    def _join_engine(self) -> bool:
        """Register with the engine, unless that was done; whether it is so now."""
        if self._registered != -1:
            return True
        return ENABLED and self._exposed is None and current_engine().register(self)

    def _stop_reading(self, _: RaiseCancelT) -> Abort:
        self._reader = None
        return Abort.SUCCEEDED

    def _stop_writing(self, _: RaiseCancelT) -> Abort:
        self._writer = None
        return Abort.SUCCEEDED

    def _wake(self) -> None:
        # So that the next receive begins with its cancellation point, and only then hears
        # that the stream is closed.
        self._readable = True
        if self._registered != -1:
            current_engine().unregister(self)
            self._reschedule(trio.ClosedResourceError("another task closed this stream"))
        if self._look_at != math.inf:
            current_deadlines().forget(self)
        self._wake_urgent()
        if self._trio_waits or self._exposed is not None:
            # A system call in Trio, even where nobody waits.
            super()._wake()

    def _wake_urgent(self) -> None:
        """Let a task that waits for urgent data look at the stream again."""
        if self._urgent_fd is not None and trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(self._urgent_fd)

    def _reschedule(self, error: Exception | None) -> None:
        """Wake whoever sleeps in the engine, with *error* or just to look again."""
        for task in (self._reader, self._writer):
            if task is not None:
                # A new outcome for each: it is good for one use.
                result: outcome.Outcome[Any] = outcome.Value(None)
                reschedule(task, result if error is None else outcome.Error(error))
        self._reader = self._writer = None
