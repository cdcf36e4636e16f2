"""`DatagramSession`: what one peer sends to a server's socket, as if it were connected."""

from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import dataclass

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from sockscope._addresses.values import Address
from sockscope._core.cleanup import ScopedResource
from sockscope._sockets.datagram import DatagramSocket
from sockscope._sockets.datagram_send import Data
from sockscope._sockets.datagram_types import Datagram


@dataclass
class Counters:
    """What a server counts as it goes."""

    received: int = 0
    handled: int = 0
    dropped: int = 0
    handler_errors: int = 0
    network_errors: int = 0
    refused: int = 0


class DatagramSession(ScopedResource, trio.abc.Channel[bytes]):
    """The datagrams of one peer, on a socket of a `DatagramServer`.

    It is a `trio.abc.Channel` of bytes: each is one datagram, delivered whole or not at all.
    ``async for data in session`` ends when the session has ended: because it was closed,
    because neither side had sent anything for the server's ``idle_timeout``, or because the
    server is draining. A peer that sends again later gets a new session.
    """

    def __init__(
        self,
        socket: DatagramSocket,
        first: Datagram,
        room: int,
        counters: Counters,
        stir: Callable[[DatagramSession], None],
        forget: Callable[[DatagramSession], None],
    ) -> None:
        self._socket = socket
        self._latest = first
        self._room = room
        self._counters = counters
        self._stir = stir
        self._forget = forget
        self._queue: collections.deque[bytes] = collections.deque()
        self._ended = False
        self._idle = False
        self._closed = False
        self._receiving = False
        self._arrival = trio.lowlevel.ParkingLot()
        #: When something was last sent or received, by Trio's clock; the server's to use.
        self._active_at = 0.0

    def __repr__(self) -> str:
        state = " closed" if self._closed else " ended" if self._ended else ""
        return f"<sockscope.DatagramSession{state} with {self.remote_address}>"

    @property
    def remote_address(self) -> Address:
        """The peer."""
        return self._latest.address

    @property
    def socket(self) -> DatagramSocket:
        """The server's socket that the peer's datagrams come to."""
        return self._socket

    async def send(self, value: Data) -> None:
        """Send one datagram to the peer, from the address to which its latest one came.

        Raises:
          DatagramError: it cannot be sent; see `DatagramSocket.send_to`.
          trio.ClosedResourceError: the session is closed, or the server has ended.
          trio.BrokenResourceError: the session had ended, as nothing was sent either way.

        A checkpoint. When cancelled, nothing was sent.
        """
        if self._closed:
            raise trio.ClosedResourceError("this session was already closed")
        if self._idle:
            raise trio.BrokenResourceError(
                f"the session with {self.remote_address} has ended: it was idle for too long"
            )
        await self._socket.reply(self._latest, value)
        self._stir(self)

    async def receive(self) -> bytes:
        """Receive the peer's next datagram, which may be empty.

        Raises:
          trio.EndOfChannel: the session has ended, and everything is received.
          trio.ClosedResourceError: the session is closed, maybe just now.
          trio.BusyResourceError: another task is receiving.

        A checkpoint. When cancelled, nothing was received.
        """
        if self._receiving:
            raise trio.BusyResourceError("another task is already receiving from this session")
        self._receiving = True
        try:
            await checkpoint_if_cancelled()
            if not self._queue and not self._closed and not self._ended:
                await self._arrival.park()
            else:
                await cancel_shielded_checkpoint()
        finally:
            self._receiving = False
        if self._closed:
            raise trio.ClosedResourceError("this session was already closed")
        if not self._queue:
            raise trio.EndOfChannel
        self._counters.handled += 1
        return self._queue.popleft()

    async def aclose(self) -> None:
        """End the session; the peer hears nothing of it. A checkpoint; it always closes."""
        self._close()
        await checkpoint()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._counters.dropped += len(self._queue)
            self._queue.clear()
            self._forget(self)
            self._arrival.unpark_all()

    def _end(self, *, idle: bool = False) -> None:
        """Let receives end once they have everything; of an idle session, sends too."""
        self._ended = True
        self._idle = idle
        self._arrival.unpark_all()

    def _deliver(self, datagram: Datagram) -> bool:
        """Queue a datagram; whether there was room."""
        if len(self._queue) >= self._room:
            return False
        self._latest = datagram
        self._queue.append(datagram.data)
        self._arrival.unpark()
        return True
