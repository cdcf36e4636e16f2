"""Cancelling an operation at every one of its steps, to see what it leaves behind."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal

import trio
import trio.testing
from trio.lowlevel import Task, current_trio_token

from sockscope.testing._descriptors import describe_descriptor, open_descriptors

# By the real clock, whatever clock Trio has: a run that takes longer waits for something
# that does not come. Far above what a run over loopback takes on a busy machine.
STUCK_AFTER_SECONDS = 10.0
# How long peers, threads and the kernel may take to close what they had open.
SETTLE_SECONDS = 1.0

Moment = Literal["before", "after"]
_MOMENTS: tuple[Moment, ...] = ("before", "after")
_TRIO_FOLDER = os.path.dirname(trio.__file__) + os.sep


class LeakError(AssertionError):
    """A cancelled operation left something behind; the message says what, and at which step.

    Attributes:
      step: the scheduling step at which it was cancelled, counted from 1; 0 for a run
        that was not cancelled.
      moment: ``"before"`` the step (a result was on its way) or ``"after"`` it (the task
        was waiting).
      leaks: a line for each thing that was left.
    """

    def __init__(self, message: str, step: int, moment: Moment, leaks: tuple[str, ...]) -> None:
        super().__init__(message)
        self.step: int = step
        self.moment: Moment = moment
        self.leaks: tuple[str, ...] = leaks


class StuckError(AssertionError):
    """A run did not end; the message says where its tasks were waiting.

    Attributes:
      step: the scheduling step at which it was cancelled, counted from 1; 0 for a run
        that was not cancelled.
      moment: ``"before"`` or ``"after"`` that step.
    """

    def __init__(self, message: str, step: int, moment: Moment) -> None:
        super().__init__(message)
        self.step: int = step
        self.moment: Moment = moment


async def cancel_everywhere(
    async_function: Callable[[], Awaitable[object]], *, limit: int = 1000
) -> int:
    """Run an operation again and again, cancelled at its 1st, 2nd ... last step.

    A step is one turn of one task: the operation's own, or any task below it. At each
    step the operation is cancelled in two ways, in a run each: just *before* the step,
    when the result of what it waited for is on its way already, and just *after* it,
    when it is waiting. The first run is not cancelled at all, so that what is opened
    once and kept (a resolver's files, a system task) is no leak; the sweep ends when a
    run was over before its step came. All runs share the outer world, so each must find
    it as the first did: an opening that was cancelled may have left a dead connection in
    a listener's queue, so what connects *and* accepts opens a listener of its own.

    After each run the process must be where it was before: no new descriptor (after a
    garbage collection, and a second for peers and threads to close theirs), no task
    that the operation started outside itself, no socket or file that only the garbage
    collector closed, which is how an accepted connection that nobody was given looks.

    A connection that was accepted and then properly closed, though its ``accept`` raised
    Cancelled, is seen by nobody but its peer. To find that, count what is taken, with
    clients that outlive the runs::

        clients = [await open_stream(passive.address) for _ in range(100)]
        taken = 0

        async def accept_one():
            nonlocal taken
            child = await passive.accept()
            taken += 1
            child.abort()

        await cancel_everywhere(accept_one)
        assert taken + still_queued(passive) == len(clients)

    where ``still_queued`` calls ``accept_nowait`` until `trio.WouldBlock`. With too few
    clients, or with one lost, a run waits without end: that is a `StuckError`, too.

    Args:
      async_function: the operation, an async function without arguments. It need not
        raise Cancelled: it may have done its work by then. Waiting in it for tasks
        outside is fine; what it starts outside must have ended when it ends.
      limit: the number of steps that it may take at most.

    Returns:
      The number of steps of the last run, which was not cancelled.

    Raises:
      LeakError: a run left something behind.
      StuckError: a run was not over after ten seconds of real time, cancelled or not.
        It is then cancelled, through shields as well.
      RuntimeError: a run took more than *limit* steps.
      Exception: what a run raised but Cancelled, with a note that names the step.

    It is a checkpoint. Under an autojumping `trio.testing.MockClock` waits take no time.
    Warnings of class ResourceWarning are caught while it runs.
    """
    gc.collect()  # what earlier tests left to the collector is not ours
    await _Run(0, "before", limit).perform(async_function, judge=False)
    for step in itertools.count(1):
        for moment in _MOMENTS:
            run = _Run(step, moment, limit)
            await run.perform(async_function)
            if run.place is None:
                return run.steps
    raise AssertionError("unreachable")  # pragma: no cover  # count() does not end


class _Run(trio.abc.Instrument):
    """One run of the operation: follows its tasks, and cancels it at one step.

    Args:
      step: the step to cancel at; 0 for none.
      moment: on which side of the step.
      limit: how many steps it may take.
    """

    def __init__(self, step: int, moment: Moment, limit: int) -> None:
        self.step: int = step
        self.moment: Moment = moment
        self.limit = limit
        self.steps = 0
        # Where the operation was cancelled; None while it was not.
        self.place: str | None = None
        self.scope = trio.CancelScope()
        self.nursery: trio.Nursery | None = None
        # Those alive: the operation's tasks, and what they started outside of it.
        self.tasks: set[Task] = set()
        self.strays: set[Task] = set()
        self.error: Exception | None = None
        self.over_limit = False
        self.stuck_at: list[str] = []

    async def perform(
        self, async_function: Callable[[], Awaitable[object]], *, judge: bool = True
    ) -> None:
        """Run the operation and raise what it raised; if *judge*, also for what is left."""
        before = open_descriptors()
        with _resource_warnings() as unclosed:
            trio.lowlevel.add_instrument(self)
            try:
                with _real_time_limit(STUCK_AFTER_SECONDS, self.give_up):
                    async with trio.open_nursery() as self.nursery:
                        self.nursery.start_soon(self.operate, async_function, name=async_function)
                self.raise_errors()
                if judge:
                    await self.settle(before, unclosed)
            finally:
                trio.lowlevel.remove_instrument(self)

    async def operate(self, async_function: Callable[[], Awaitable[object]]) -> None:
        """Be the operation's first task."""
        try:
            with self.scope:
                await async_function()
        except Exception as exc:
            # Kept, as the nursery would wrap it in a group.
            self.error = exc

    # What Trio calls

    def task_spawned(self, task: Task) -> None:
        """Adopt *task* if it is the operation's."""
        nursery = task.parent_nursery
        if nursery is not None and (nursery is self.nursery or nursery.parent_task in self.tasks):
            self.tasks.add(task)
        elif trio.lowlevel.current_task() in self.tasks:
            self.strays.add(task)

    def task_exited(self, task: Task) -> None:
        """Forget *task*: it would keep alive what it held."""
        self.tasks.discard(task)
        self.strays.discard(task)

    def before_task_step(self, task: Task) -> None:
        """Count, and cancel when a result is on its way."""
        if task not in self.tasks:
            return
        self.steps += 1
        if self.moment == "before" and self.steps == self.step:
            self.cancel(task)
        elif self.steps > self.limit and self.place is None:
            self.over_limit = True
            self.scope.cancel()

    def after_task_step(self, task: Task) -> None:
        """Cancel when *task* has come to wait."""
        if self.moment == "after" and self.steps == self.step and self.place is None:
            # No other step comes between, so this is the task that was counted.
            self.cancel(task)

    def cancel(self, task: Task) -> None:
        """Cancel the operation while *task* is at its step."""
        self.place = _place(task)
        self.scope.cancel()

    # What the run comes to

    @property
    def words(self) -> str:
        """Which run this is."""
        if self.place is None:
            return "in a run that was not cancelled"
        return f"cancelled {self.moment} step {self.step}, {self.place}"

    def give_up(self) -> None:
        """End an operation that does not end: tell where it waits, cancel it, open its shields."""
        self.stuck_at = [_place(task) for task in self.tasks]
        if self.place is None:
            self.step = 0  # which has not come, and is not to come of this cancellation
        self.scope.cancel()
        for task in self.tasks:
            # Trio has no public way to a shield that a stranger made. Without this, the
            # run would hang instead of telling where.
            status = task._cancel_status
            while status._scope is not self.scope:
                status._scope.shield = False
                assert status._parent is not None  # all are within our scope
                status = status._parent

    def raise_errors(self) -> None:
        """Raise for a run that did not end by itself, or ended in an error."""
        if self.stuck_at:
            raise StuckError(
                f"{self.words}: not over after {STUCK_AFTER_SECONDS:g} s, but "
                + "; ".join(self.stuck_at),
                self.step,
                self.moment,
            ) from self.error
        if self.over_limit:
            raise RuntimeError(f"took more than limit={self.limit} steps") from self.error
        if self.error is not None:
            # Exception.add_note, which CPython 3.10 lacks.
            self.error.__dict__.setdefault("__notes__", []).append(
                f"cancel_everywhere: {self.words}"
            )
            raise self.error

    async def settle(self, before: dict[int, str], unclosed: list[str]) -> None:
        """Give the outer world a moment to close its ends, then raise for what is left."""
        end = time.monotonic() + SETTLE_SECONDS
        while leaks := self.leaks(before, unclosed):
            if time.monotonic() > end:
                raise LeakError(
                    f"{self.words}: left " + ", ".join(leaks), self.step, self.moment, tuple(leaks)
                )
            gc.collect()
            with trio.CancelScope() as scope, _real_time_limit(SETTLE_SECONDS, scope.cancel):
                await trio.testing.wait_all_tasks_blocked(0.01)

    def leaks(self, before: dict[int, str], unclosed: list[str]) -> list[str]:
        """What is here that was not *before*, a line each."""
        return [
            *(
                describe_descriptor(number, name)
                for number, name in open_descriptors().items()
                if before.get(number) != name
            ),
            *(f"task {task.name}, {_place(task)}" for task in self.strays),
            *(f"to the garbage collector: {words}" for words in unclosed),
        ]


def _place(task: Task) -> str:
    """Where *task* is outside Trio: its own line, and the one nearest to what it waits for."""
    lines = [
        f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
        for frame, line in task.iter_await_frames()
        if not frame.f_code.co_filename.startswith((__file__, _TRIO_FOLDER))
    ]
    if not lines:
        return f"at the end of {task.name}"
    return f"at {lines[0]}" if len(lines) == 1 else f"at {lines[0]} (waiting at {lines[-1]})"


@contextmanager
def _real_time_limit(seconds: float, expire: Callable[[], object]) -> Generator[None, None, None]:
    """Call *expire* in Trio's thread if the body takes more than *seconds* of real time."""
    inside = True
    token = current_trio_token()

    def expire_inside() -> None:
        if inside:
            expire()

    timer = threading.Timer(seconds, token.run_sync_soon, [expire_inside])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        inside = False
        timer.cancel()
        timer.join()


@contextmanager
def _resource_warnings() -> Generator[list[str], None, None]:
    """Collect what the garbage collector had to close in the body; let other warnings pass."""
    found: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", ResourceWarning)
        show = warnings.showwarning

        def collect(
            message: Warning | str, category: type[Warning], *place: Any, **more: Any
        ) -> None:
            if issubclass(category, ResourceWarning):
                found.append(str(message))
            else:
                show(message, category, *place, **more)

        warnings.showwarning = collect
        yield found
