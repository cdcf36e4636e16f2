"""Lending a server's connections to the tasks that ask for one by `accept_connection`."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, Generic, TypeVar

import outcome
import trio
from trio.lowlevel import Abort, ParkingLot, Task

from sockscope._serve.settings import Result
from sockscope._sockets.stream import StreamSocket

T = TypeVar("T")

# So many are prepared at a time for a single task that waits.
_MOST_PREPARED: Final = 64
_NO_MORE = "the server drains and accepts no more"


class Loan(Generic[T]):
    """A connection that is out of its server's hands until it is given back."""

    def __init__(self, stream: StreamSocket, connection: T) -> None:
        self.stream = stream
        self.connection = connection
        self._error: BaseException | None = None
        self._returned = trio.Event()
        # Its lifetime has ended, or its server, before or while somebody had it.
        self.is_over = False

    def give_back(self, error: BaseException | None) -> None:
        """The borrower is done, and has raised *error*."""
        self._error = error
        self._returned.set()

    async def returned(self) -> Result:
        """Wait until it is given back, and how."""
        try:
            await self._returned.wait()
        except BaseException:
            self.is_over = True
            raise
        return outcome.Value(None) if self._error is None else outcome.Error(self._error)


class Lender(Generic[T]):
    """Connections that are ready, and the tasks that wait for one, first come first served.

    A connection is taken from the kernel only if somebody waits for it: until then it
    is safe in the kernel's queue. It goes to who waits longest in the very step in which
    it is ready, so that it cannot be lost on the way.

    Args:
      prepares: whether connections have to be waited for before they can be lent. Then
        more of them are prepared at a time than are asked for: one whose peer is silent
        must not hold up the next.
    """

    def __init__(self, prepares: bool) -> None:
        self._prepares = prepares
        self._ready: deque[Loan[T]] = deque()
        # With each whether it waits only while connections are being prepared.
        self._waiting: OrderedDict[Task, bool] = OrderedDict()
        self._preparing: set[StreamSocket] = set()
        self._wanted = ParkingLot()
        self._no_more = False

    def are_spoken_for(self) -> bool:
        """Whether there are as many tasks waiting as connections on their way."""
        return len(self._waiting) >= len(self._preparing)

    def _missing(self) -> int:
        """How many connections are wanted beyond those that are on their way."""
        waiting = len(self._waiting)
        if waiting and self._prepares:
            waiting = max(waiting, _MOST_PREPARED)
        return waiting - len(self._preparing)

    async def wanted(self) -> int:
        """Wait until connections are wanted; how many. No checkpoint if some are."""
        while self._missing() < 1:
            await self._wanted.park()
        return self._missing()

    def begin(self, stream: StreamSocket) -> None:
        """*stream* has been accepted, and will be lent or be `over`."""
        self._preparing.add(stream)

    def over(self, stream: StreamSocket) -> None:
        """*stream* is no longer being prepared."""
        self._preparing.discard(stream)
        self._wanted.unpark_all()
        if not self._preparing:
            self._tell_who_waits_in_vain()

    def no_more(self) -> None:
        """The server accepts no more: once all is lent, borrowers are told."""
        self._no_more = True
        if not self._preparing:
            self._tell_who_waits_in_vain()

    def _tell_who_waits_in_vain(self) -> None:
        for task, at_once in tuple(self._waiting.items()):
            if self._no_more:
                error: Exception = trio.ClosedResourceError(_NO_MORE)
            elif at_once:
                error = trio.WouldBlock()
            else:
                continue
            del self._waiting[task]
            trio.lowlevel.reschedule(task, outcome.Error(error))

    async def lend(self, stream: StreamSocket, connection: T) -> Result:
        """Offer a connection, and wait until it is given back; how that ended."""
        loan = Loan(stream, connection)
        if self._waiting:
            task, _ = self._waiting.popitem(last=False)
            trio.lowlevel.reschedule(task, outcome.Value(loan))
        else:
            self._ready.append(loan)
        self.over(stream)
        return await loan.returned()

    async def borrow(self, *, at_once: bool = False) -> Loan[T]:
        """Wait for a connection; with *at_once*, only for those that are being prepared.

        Raises:
          trio.ClosedResourceError: the server drains, and all its connections are lent.
          trio.WouldBlock: with *at_once*, none of them came to be ready.

        A checkpoint. When cancelled, no connection has been taken.
        """
        is_first = False
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            while self._ready:
                loan = self._ready.popleft()
                if not loan.is_over:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    return loan
            if not self._preparing and (self._no_more or at_once):
                raise trio.ClosedResourceError(_NO_MORE) if self._no_more else trio.WouldBlock
            loan = await self._wait_for_loan(at_once, is_first)
            if not loan.is_over:
                return loan
            # It has ended, or its server, between the step in which it was lent and ours.
            is_first = True

    async def _wait_for_loan(self, at_once: bool, is_first: bool) -> Loan[T]:
        task = trio.lowlevel.current_task()
        self._waiting[task] = at_once
        if is_first:
            self._waiting.move_to_end(task, last=False)
        self._wanted.unpark_all()

        def abort(_: object) -> Abort:
            del self._waiting[task]
            return Abort.SUCCEEDED

        loan: Loan[T] = await trio.lowlevel.wait_task_rescheduled(abort)
        return loan

    def has_ready(self) -> bool:
        """Whether a connection can be had without waiting."""
        return any(not loan.is_over for loan in self._ready)
