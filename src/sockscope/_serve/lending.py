"""Lending a server's connections to the tasks that ask for one by `accept_connection`."""

from __future__ import annotations

import math
from typing import Any, Generic, TypeVar

import outcome
import trio
from trio.lowlevel import ParkingLot

from sockscope._sockets.stream import StreamSocket

T = TypeVar("T")


class Loan(Generic[T]):
    """A connection that is out of its server's hands until it is given back."""

    def __init__(self, stream: StreamSocket, connection: T) -> None:
        self.stream = stream
        self.connection = connection
        self._result: outcome.Outcome[Any] = outcome.Value(None)
        self._returned = trio.Event()
        # Its lifetime has ended, or its server, before or while somebody had it.
        self.is_over = False

    def give_back(self, result: outcome.Outcome[Any]) -> None:
        """The borrower is done, with this result."""
        self._result = result
        self._returned.set()

    async def result(self) -> outcome.Outcome[Any]:
        """Wait until it is given back."""
        try:
            await self._returned.wait()
        except BaseException:
            self.is_over = True
            raise
        return self._result


class Lender(Generic[T]):
    """Connections that are ready, and the tasks that wait for one, first come first served.

    A connection is taken from the kernel only if somebody waits for it: until then it
    is safe in the kernel's queue.
    """

    def __init__(self) -> None:
        self._ready_in, self._ready_out = trio.open_memory_channel[Loan[T]](math.inf)
        self._borrowers = 0
        self._preparing: set[StreamSocket] = set()
        self._changed = ParkingLot()
        self._no_more = False

    def _missing(self) -> int:
        """How many connections are wanted beyond those that are on their way."""
        ready = self._ready_in.statistics().current_buffer_used
        return self._borrowers - ready - len(self._preparing)

    async def wanted(self) -> int:
        """Wait until connections are wanted; how many. No checkpoint if some are."""
        while self._missing() < 1:
            await self._changed.park()
        return self._missing()

    def begin(self, stream: StreamSocket) -> None:
        """*stream* has been accepted, and will be lent or be `over`."""
        self._preparing.add(stream)

    def is_preparing(self, stream: StreamSocket) -> bool:
        """Whether it is neither lent nor over."""
        return stream in self._preparing

    def over(self, stream: StreamSocket) -> None:
        """*stream* is no longer being prepared."""
        self._preparing.discard(stream)
        self._changed.unpark_all()
        self._close_if_done()

    def no_more(self) -> None:
        """The server accepts no more: once all is lent, borrowers are told."""
        self._no_more = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._no_more and not self._preparing:
            self._ready_in.close()

    async def lend(self, stream: StreamSocket, connection: T) -> outcome.Outcome[Any]:
        """Offer a connection and wait until it is given back; the borrower's result."""
        loan = Loan(stream, connection)
        self._ready_in.send_nowait(loan)
        self.over(stream)
        return await loan.result()

    async def borrow(self) -> Loan[T]:
        """Wait for a connection.

        Raises:
          trio.ClosedResourceError: the server drains, and all its connections are lent.
        """
        self._borrowers += 1
        self._changed.unpark_all()
        try:
            while (loan := await self._ready_out.receive()).is_over:
                pass
            return loan
        except trio.EndOfChannel:
            raise trio.ClosedResourceError("the server drains and accepts no more") from None
        finally:
            self._borrowers -= 1

    def borrow_nowait(self) -> Loan[T]:
        """A connection that is ready.

        Raises:
          trio.WouldBlock: there is none.
          trio.ClosedResourceError: as `borrow`.
        """
        try:
            while (loan := self._ready_out.receive_nowait()).is_over:
                pass
            return loan
        except trio.EndOfChannel:
            raise trio.ClosedResourceError("the server drains and accepts no more") from None

    async def prepared(self) -> None:
        """Wait until one of the connections that are being prepared is ready, or over."""
        await self._changed.park()
