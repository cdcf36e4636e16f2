"""How a datagram socket sends: one by one, and past what poll says.

| errno | what it means here |
| --- | --- |
| EAGAIN | our send buffer is full: wait until writable |
| EAGAIN, local, not connected | the receiver's queue is full; poll lies: wait by the clock |
| ENOBUFS | the interface's queue is full (told with ``receive_errors``); poll lies: likewise |
| what ICMP is turned into | maybe an *earlier* datagram's, and this one was not sent: again |
| all others | this datagram cannot be sent |

"Again" is once: the error is kept for the next receive, unless it comes a second time. Then
it is this datagram's own.

On a server's socket many tasks send. Those that wait until writable take turns; those that
wait by the clock do so side by side, as `sockscope._sockets.datagram_room` says, so that a
full destination holds up no other. And what a peer brings about there is remembered as its
own, for the server not to take it for a fault of the handler.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import socket as stdlib_socket
from collections.abc import Callable
from typing import Any, Final

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from sockscope._addresses.designators import AddressLike
from sockscope._addresses.values import LocalAddress
from sockscope._core.errors import DatagramError, words_for
from sockscope._sockets.ancillary_datagram import is_link_local, source_message
from sockscope._sockets.base import AF_UNIX, error_of
from sockscope._sockets.datagram_room import FullQueues, Pauses
from sockscope._sockets.datagram_state import UNKNOWN, DatagramState
from sockscope._sockets.datagram_types import Datagram
from sockscope._sockets.error_queue import NETWORK_ERRORS
from sockscope._sockets.long_path import LONGEST_PATH, sockaddr_for
from sockscope._sockets.path_mtu import path_mtu

_DONT_ROUTE: Final = stdlib_socket.MSG_DONTROUTE
# Linux only: elsewhere they are hints that nobody takes.
_CONFIRM: Final = getattr(stdlib_socket, "MSG_CONFIRM", 0)
_MORE: Final = getattr(stdlib_socket, "MSG_MORE", 0)

# What a local peer can make of a send to it, by its path, mode, peer or silence (unix(7)).
_LOCAL_PEERS_ERRORS: Final = frozenset(
    {
        errno.EAGAIN,  # it does not read
        errno.ENOENT,
        errno.ECONNREFUSED,
        errno.ENOTCONN,
        errno.EPIPE,
        errno.ECONNRESET,
        errno.EPERM,  # it is connected to another
        errno.EACCES,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.EPROTOTYPE,  # a stream's socket is at the path now
    }
)
# Anybody can put an address into a datagram that has no way back.
_UNREACHABLE: Final = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN}
)

Data = bytes | bytearray | memoryview


def size_of(data: Data) -> int:
    """The length of *data* in bytes; a TypeError for what is none."""
    return len(data) if type(data) is bytes else memoryview(data).nbytes


class Sending(DatagramState):
    """The sending half of `DatagramSocket`."""

    __slots__ = ()

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
        """Send one datagram.

        Args:
          data: its bytes; none at all is a datagram, too.
          address: where it goes: an address designator, whose name is looked up once for
            each socket. None is `default_address`, else the peer connected to.
          dont_wait: only if it can be sent at once (MSG_DONTWAIT).
          dont_route: only to hosts on a network of our own (MSG_DONTROUTE).
          confirm: the peer has answered, so its link address is good (MSG_CONFIRM; Linux).
          more: more will follow, as a part of the same datagram (MSG_MORE; Linux).

        Returns:
          The number of bytes sent: all of them.

        Raises:
          DatagramError: it cannot be sent. ``EMSGSIZE``: it is too long, ``mtu`` says for
            what; ``EDESTADDRREQ``: there is no address; ``ENOBUFS``: the interface's queue
            was full for 3 s; ``EAGAIN``: a local receiver's was. On a server's socket also
            sooner, so that a peer that does not read holds up no other: see
            `serve_datagrams`.
          ResolverError: the name is unknown, or has no address of the socket's family.
          trio.WouldBlock: *dont_wait*, and there is no room.
          trio.ClosedResourceError: the socket is closed.
          trio.BusyResourceError: another task is waiting for room; not on a server's socket.

        Where the system reports that an *earlier* datagram was refused, this one is sent
        all the same, and the next receive raises the report. That one was sent does not
        mean that it arrives: without ``receive_errors`` even what our own interface's
        queue drops is a success.

        A checkpoint. When cancelled, nothing was sent.
        Source: sendto(2), udp(7); IOLib's ``send-to`` (seed 003).
        """
        flags = 0
        if dont_route or confirm or more:
            flags = (
                (_DONT_ROUTE if dont_route else 0)
                | (_CONFIRM if confirm else 0)
                | (_MORE if more else 0)
            )
        if address is not None and address is self._last_designator:
            target = self._last_target
        else:
            target = self._known_target(address)
            if target is UNKNOWN:
                target = await self._look_up_target(address or self._default)  # type: ignore[arg-type]  # one is given
        await checkpoint_if_cancelled()
        try:
            sent = self._send_now(data, flags, target)
        except OSError as exc:
            attempt = functools.partial(self._send_now, data, flags, target)
            return await self._send_past(exc, attempt, target, size_of(data), dont_wait=dont_wait)
        await cancel_shielded_checkpoint()
        return sent

    async def reply(self, datagram: Datagram, data: Data) -> int:
        """Answer a datagram, from the address that it came to.

        On a socket bound to the wildcard of a machine with several addresses, `send_to`
        would let the route choose the source, and the peer would not know the answer for
        one. What came to a group or to a broadcast address is answered from an address of
        the interface it came by.

        Args:
          datagram: one that this socket received.
          data: the answer.

        Returns:
          The number of bytes sent.

        Raises:
          TypeError: the datagram does not say where it came to: the socket needs the
            option ``packet_info``. Local sockets do not.
          Otherwise as `send_to`.

        A checkpoint. When cancelled, nothing was sent.
        Source: IP_PKTINFO, ip(7); RFC 3542, section 6.
        """
        if self._family == AF_UNIX:
            if datagram.address == LocalAddress.unnamed:
                error = DatagramError(
                    errno.EDESTADDRREQ,
                    "cannot answer: the sender is a local socket without an address,"
                    f" or with a path longer than the {LONGEST_PATH} bytes that the system tells",
                )
                self._blame_peer(error)
                raise error
            return await self.send_to(data, datagram.address)
        target = self._sockaddr_of(datagram.address)
        attempt = functools.partial(self._answer_now, data, self._source_of(datagram), target)
        await checkpoint_if_cancelled()
        try:
            sent = attempt()
        except OSError as exc:
            return await self._send_past(exc, attempt, target, size_of(data))
        await cancel_shielded_checkpoint()
        return sent

    def _source_of(self, datagram: Datagram) -> tuple[int, int, bytes]:
        """The control message that lets an answer to *datagram* come from the right address."""
        if datagram.destination is None or datagram.interface is None:
            raise TypeError(
                "cannot answer from the address that the datagram came to, as it does not say "
                "which: open the socket with SocketOptions(packet_info=True)"
            )
        host = datagram.destination.host
        is_shared = host.is_multicast or host in self._shared_hosts
        # An address of ours says all; the routes know the way back better than the way here.
        # Where the address is of a link, or is to be chosen, the interface must be said.
        named = is_shared or is_link_local(host)
        return source_message(host, datagram.interface if named else 0, is_shared=is_shared)

    def _send_now(self, data: Data, flags: int, target: Any) -> int:
        """Send without waiting."""
        sent: int
        if target is None:
            sent = self._sock.send(data, flags)
        elif self._family != AF_UNIX or len(target) <= LONGEST_PATH:
            sent = self._sock.sendto(data, flags, target)
        else:
            with sockaddr_for(target) as short:
                sent = self._sock.sendto(data, flags, short)
        self._sent += 1
        return sent

    def _answer_now(self, data: Data, source: tuple[int, int, bytes], target: Any) -> int:
        sent: int = self._sock.sendmsg([data], [source], 0, target)
        self._sent += 1
        return sent

    async def _send_past(
        self,
        exc: OSError,
        attempt: Callable[[], int],
        target: Any,
        size: int,
        *,
        dont_wait: bool = False,
    ) -> int:
        """Try *attempt*, which has failed with *exc*, until it succeeds or must fail."""
        if self._full is not None:
            return await self._send_waiting(exc, attempt, target, size, dont_wait, self._full)
        if self._sending:
            if dont_wait and isinstance(exc, BlockingIOError):
                raise trio.WouldBlock from None
            raise trio.BusyResourceError("another task is already sending on this socket")
        self._sending = True
        try:
            return await self._send_waiting(exc, attempt, target, size, dont_wait, FullQueues())
        finally:
            self._sending = False

    async def _send_waiting(
        self,
        exc: OSError,
        attempt: Callable[[], int],
        target: Any,
        size: int,
        dont_wait: bool,
        full: FullQueues,
    ) -> int:
        waited = False
        again = False
        suspected: DatagramError | None = None
        with Pauses(full, target) as pauses:
            while True:
                if isinstance(exc, BlockingIOError) or exc.errno == errno.ENOBUFS:
                    if dont_wait:
                        raise trio.WouldBlock from None
                    if not await self._wait_for_room(exc, target, pauses):
                        raise self._send_error(exc, target, size) from exc
                    waited = True
                elif again or not self._may_be_an_earlier_ones(exc):
                    raise self._send_error(exc, target, size) from exc
                else:
                    again = True
                    suspected = self._hear(exc)[0]
                try:
                    sent = attempt()
                except OSError as latest:
                    exc = latest
                    continue
                pauses.sent()
                if suspected is not None:
                    self._latch(suspected)
                if not waited:
                    await cancel_shielded_checkpoint()
                return sent

    def _may_be_an_earlier_ones(self, exc: OSError) -> bool:
        # A local socket hears of its own datagram only, and a second try would find it
        # without the peer that the first one lost.
        return exc.errno in NETWORK_ERRORS and self._family != AF_UNIX and self.is_open

    def _hear(self, exc: OSError) -> tuple[DatagramError | None, int | None]:
        """Keep what the error queue holds for the next receive.

        Returns:
          If that is nothing, the error about the peer; and the MTU that the queue names.
        """
        reported, suspected, mtu = self._network_errors(exc)
        for error in reported:
            self._latch(error)
        return suspected, mtu

    async def _wait_for_room(self, exc: OSError, target: Any, pauses: Pauses) -> bool:
        """Wait as long as it makes sense: poll tells the truth about our own buffer only.

        Returns:
          False, at once, where it makes no sense any more.
        """
        if exc.errno == errno.ENOBUFS or (self._family == AF_UNIX and target is not None):
            return await pauses.sleep()
        try:
            async with self._turn or contextlib.nullcontext():
                await self._wait(self._wait_writable)
        except OSError as failure:
            raise error_of(failure, self, f"wait for the socket {self._describe()}") from failure
        return True

    def _send_error(self, exc: OSError, target: Any, size: int, sent: int = 0) -> Exception:
        """What a datagram that cannot be sent raises."""
        if not self.is_open:
            return error_of(exc, self, "send")
        to = self._peer if target is None else self._sender(target)
        mtu = None
        words = words_for(exc)
        if exc.errno == errno.EMSGSIZE and self._family != AF_UNIX:
            mtu = self._hear(exc)[1] or path_mtu(self._sock, target)
            words += "" if mtu is None else f" (the path's MTU is {mtu} bytes)"
        error = DatagramError(
            exc.errno, f"cannot send {size} bytes to {to}: {words}", address=to, mtu=mtu, sent=sent
        )
        if self._is_peers_doing(exc.errno, target):
            self._blame_peer(error)
        return error

    def _is_peers_doing(self, number: int | None, target: Any) -> bool:
        if self._family == AF_UNIX:
            return number in _LOCAL_PEERS_ERRORS
        # Port 0 says that there is nobody to answer (RFC 768).
        nobody = number == errno.EINVAL and target is not None and target[1] == 0
        return nobody or number in _UNREACHABLE

    def _blame_peer(self, error: DatagramError) -> None:
        """Remember that *error* is a peer's doing, on a socket that has many."""
        if self._peers_faults is not None:
            self._peers_faults.add(error)

    def _is_peers_fault(self, exc: Exception) -> bool:
        """Whether *exc* is what a send on this very socket raised, by the peer's doing."""
        # Not all exceptions can be looked for in a set.
        faults = self._peers_faults
        return faults is not None and isinstance(exc, DatagramError) and exc in faults
