"""Datagram sockets of a custom socket factory: one datagram at a time, by Trio's methods."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable
from typing import Any

import trio
from trio.lowlevel import checkpoint

from sockscope._addresses.designators import AddressLike
from sockscope._addresses.values import Address, as_peer
from sockscope._core.deadlines import check_timeout, deadline_after
from sockscope._core.errors import SocketError, socket_error
from sockscope._options.values import SocketOptions
from sockscope._sockets.base import AnySocket
from sockscope._sockets.custom import _CustomSocket
from sockscope._sockets.datagram import DatagramSocket
from sockscope._sockets.datagram_receive import cut, refuse_truncated
from sockscope._sockets.datagram_send import Data
from sockscope._sockets.datagram_state import UNKNOWN
from sockscope._sockets.datagram_types import Datagram
from sockscope._sockets.message_vector import ROOM


class CustomDatagramSocket(_CustomSocket, DatagramSocket):
    """A `DatagramSocket` over a custom factory's socket.

    It sends and receives, one by one and in batches; there is nothing that reports, joins
    groups or has an error queue.
    """

    __slots__ = ("_closed",)

    def __init__(self, sock: AnySocket, requested: SocketOptions, **details: Any) -> None:
        self._closed = False
        super().__init__(sock, requested, **details)

    async def _connect_to(self, target: Address) -> None:
        await self._sock.connect(self._sockaddr_of(target))
        self._peer = as_peer(target)

    def disconnect(self) -> None:
        """See `DatagramSocket.disconnect`."""
        raise SocketError(errno.EOPNOTSUPP, "cannot disconnect a custom factory's socket")

    async def send_to(
        self,
        data: Data,
        address: AddressLike | None = None,
        *,
        dont_wait: bool = False,
        dont_route: bool = False,
        confirm: bool = False,
        more: bool = False,
    ) -> int:
        """See `DatagramSocket.send_to`."""
        self._check_open()
        if dont_route or confirm or more:
            raise SocketError(errno.EOPNOTSUPP, "a custom factory's socket has no flags")
        target = self._known_target(address)
        if target is UNKNOWN:
            target = await self._look_up_target(address or self._default)  # type: ignore[arg-type]  # one is given
        try:
            with deadline_after(0 if dont_wait else math.inf):
                sent: int = await (
                    self._sock.send(data) if target is None else self._sock.sendto(data, target)
                )
                self._sent += 1
                return sent
        except OSError as exc:
            raise socket_error(exc, f"send to {address or self._peer}") from exc
        raise trio.WouldBlock

    async def send_many(self, datagrams: Iterable[tuple[Data, AddressLike | None]]) -> int:
        """See `DatagramSocket.send_many`."""
        sent = 0
        try:
            for data, address in datagrams:
                await self.send_to(data, address)
                sent += 1
        except OSError as exc:
            vars(exc)["sent"] = sent
            raise
        await checkpoint()
        return sent

    async def receive_from(
        self,
        max_size: int = 65535,
        *,
        peek: bool = False,
        dont_wait: bool = False,
        strict: bool = False,
    ) -> Datagram:
        """See `DatagramSocket.receive_from`."""
        self._check_open()
        if peek:
            raise SocketError(errno.EOPNOTSUPP, "a custom factory's socket has no flags")
        with deadline_after(0 if dont_wait else math.inf):
            data, sender = await self._sock.recvfrom(ROOM)
            self._received += 1
            datagram = cut(Datagram(data, self._sender(sender)), max_size)
            if strict:
                refuse_truncated(datagram, max_size)
            return datagram
        raise trio.WouldBlock

    async def receive_many(
        self, max_count: int = 64, *, max_wait: float = math.inf
    ) -> list[Datagram]:
        """See `DatagramSocket.receive_many`; here it is one datagram at a time."""
        with deadline_after(check_timeout(max_wait, "max_wait")):
            return [await self.receive_from()]
        return []

    async def receive_from_into(self, buffer: bytearray | memoryview) -> Datagram:
        """See `DatagramSocket.receive_from_into`."""
        view = memoryview(buffer).cast("B")
        datagram = await self.receive_from(len(view))
        size = len(datagram.data)
        view[:size] = datagram.data
        return datagram._replace(data=view[:size])  # type: ignore[arg-type]  # as documented
