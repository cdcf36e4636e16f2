"""Ctrl-C and SIGTERM: the first asks for a clean end, the second ends at once."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager

import trio


class Stop:
    """How far the user's signals have gone.

    Attributes:
      asked: is set by the first one.
      first: its number; 0 before.
      exit_code: the shell's for a program that a signal ended, after the second; else 0.
    """

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.first = 0
        self.exit_code = 0
        self._scopes: set[trio.CancelScope] = set()

    @contextmanager
    def cancels(self) -> Generator[trio.CancelScope, None, None]:
        """A block that the first signal ends."""
        with trio.CancelScope() as scope:
            if self.asked.is_set():
                scope.cancel()
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    def _ask(self, number: int) -> None:
        self.first = number
        self.asked.set()
        for scope in tuple(self._scopes):
            scope.cancel()


def exit_code_of(number: int) -> int:
    """What shells make of a program that signal *number* ended."""
    return 128 + number


@asynccontextmanager
async def stoppable() -> AsyncGenerator[Stop, None]:
    """A block that the second signal cancels; what the first does is the body's to say."""
    stop = Stop()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, received, stop, nursery.cancel_scope)
            yield stop
            nursery.cancel_scope.cancel()


async def _watch(received: AsyncIterator[int], stop: Stop, scope: trio.CancelScope) -> None:
    stop._ask(await received.__anext__())
    stop.exit_code = exit_code_of(await received.__anext__())
    scope.cancel()
