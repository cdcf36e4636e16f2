"""Closing what an operation that failed half-way has opened, and what a block has used."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Protocol

import trio

#: What closing may raise where the connection has gone; the descriptor is free all the same.
CLOSING_ERRORS: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class Closable(Protocol):
    """Anything with a plain ``close()``: sockets of Trio and of the standard library."""

    def close(self) -> None:
        """Give the descriptor back."""


class close_on_error:  # in lower case, as it is used like a function
    """Close *resource* if the body raises anything, cancellation included.

    A class, for a generator costs five times as much, on every connection that is opened.
    """

    __slots__ = ("_resource",)

    def __init__(self, resource: Closable) -> None:
        self._resource = resource

    def __enter__(self) -> None:
        pass

    @trio.lowlevel.enable_ki_protection  # or a second Ctrl-C leaves it open
    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            return
        try:
            self._resource.close()
        except OSError:
            pass  # close(2) frees the descriptor first; the body's error is the one to tell


async def close_at_once(aclose: Callable[[], Awaitable[None]]) -> None:
    """Await *aclose* after a failure, without waiting for the peer; it is no checkpoint.

    Args:
      aclose: closes forcefully when it is cancelled, as `trio.abc.AsyncResource` says.
    """
    # Shielded, for a Cancelled of the surroundings would take the place of what failed.
    with trio.CancelScope(shield=True) as scope:
        scope.cancel()
        await aclose()


class _AsyncClosable(Protocol):
    async def aclose(self) -> None: ...


class ScopedResource:
    """A `trio.abc.AsyncResource` whose block never loses its own exception to the closing.

    In a cancelled scope Trio's own would raise Cancelled in its place, which the scope
    then swallows.
    """

    __slots__ = ()

    async def __aexit__(
        self: _AsyncClosable,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close, as `aclose` does; what that raises is told only if the body raised nothing."""
        if exc is None:
            await self.aclose()
            return
        with contextlib.suppress(trio.Cancelled, *CLOSING_ERRORS):
            await self.aclose()
