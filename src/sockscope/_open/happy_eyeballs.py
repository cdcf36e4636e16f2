"""Racing connection attempts: Happy Eyeballs, version 2 (RFC 8305, sections 4 and 5)."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from sockscope._addresses.values import Address
from sockscope._core.errors import SocketError
from sockscope._sockets.stream import StreamSocket

_A = TypeVar("_A", bound=Address)
Attempt = Callable[[Address], Awaitable[StreamSocket]]


class AttemptFailed(Exception):
    """An attempt at one address failed, and another address may do; its cause says why."""

    def __init__(self, error: SocketError) -> None:
        super().__init__(error)
        self.error = error


def interleave(addresses: Sequence[_A]) -> list[_A]:
    """The addresses with their families taking turns, the first one's family first.

    Source: RFC 8305, section 4, with a First Address Family Count of 1.
    """
    by_family: dict[int, list[_A]] = {}
    for address in addresses:
        by_family.setdefault(address.family, []).append(address)
    rounds = itertools.zip_longest(*by_family.values())
    return [address for turn in rounds for address in turn if address is not None]


async def connect_first(
    addresses: Sequence[Address], attempt: Attempt, delay: float, pending: set[Address]
) -> StreamSocket:
    """Connect to the first of *addresses* that answers, and close all others.

    Args:
      addresses: in the order in which to start.
      attempt: makes one connection, or raises `AttemptFailed`; whatever else it
        raises ends the race as itself.
      delay: seconds from one start to the next; a failure starts the next at once.
      pending: is kept to the addresses whose attempts are under way.

    Raises:
      AllFailed: no attempt succeeded.

    A checkpoint.
    """
    race = _Race(attempt, pending)
    try:
        async with trio.open_nursery() as nursery:
            race.nursery = nursery
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(race.run, address, failed)
                with trio.move_on_after(delay):
                    await failed.wait()
        race.check(len(addresses))
    except BaseException:
        # Cancelled while the losers unwound, with a winner found already.
        if race.winner is not None:
            race.winner._close()
        raise
    assert race.winner is not None
    return race.winner


class AllFailed(Exception):
    """Every attempt failed."""

    def __init__(self, errors: Sequence[SocketError]) -> None:
        super().__init__(errors)
        self.errors = errors


class _Race:
    """The attempts under way, and what has come of them."""

    nursery: trio.Nursery

    def __init__(self, attempt: Attempt, pending: set[Address]) -> None:
        self._attempt = attempt
        self._pending = pending
        self._errors: list[SocketError] = []
        self._fatal: BaseException | None = None
        self.winner: StreamSocket | None = None

    async def run(self, address: Address, failed: trio.Event) -> None:
        """One attempt, which owns its socket until it has won."""
        self._pending.add(address)
        try:
            stream = await self._attempt(address)
        except AttemptFailed as exc:
            self._pending.discard(address)
            self._errors.append(exc.error)
            failed.set()
        except trio.Cancelled:
            raise  # still pending: the timeout's error names it
        except BaseException as exc:
            # Kept and raised outside of the nursery: it comes out bare.
            self._fatal = self._fatal or exc
            self.nursery.cancel_scope.cancel()
        else:
            if self.winner is not None or self._fatal is not None:
                stream._close()  # two ended in the same turn of the loop
                return
            self.winner = stream
            self.nursery.cancel_scope.cancel()

    def check(self, attempts: int) -> None:
        """Raise what the race ended with, unless somebody won."""
        if self.winner is None and self._fatal is not None:
            raise self._fatal
        if self.winner is None:
            assert len(self._errors) == attempts
            raise AllFailed(self._errors)
