"""`DatagramSocket`: UDP over IPv4 and IPv6, and local datagrams."""

from __future__ import annotations

import errno
import socket as stdlib_socket
import weakref
from collections.abc import Callable

import trio
from trio.lowlevel import checkpoint

from sockscope._addresses.designators import HostLike
from sockscope._addresses.values import Address
from sockscope._core.errors import SocketError, socket_error
from sockscope._options.values import SocketOptions
from sockscope._sockets.ancillary_datagram import UDP, UDP_GRO
from sockscope._sockets.base import AnySocket
from sockscope._sockets.datagram_batch import BatchSending
from sockscope._sockets.datagram_receive import Receiving
from sockscope._sockets.datagram_room import FullQueues
from sockscope._sockets.datagram_types import Datagram
from sockscope._sockets.faults import ALREADY_GONE
from sockscope._sockets.message_vector import ROOM
from sockscope._sockets.multicast import (
    GroupLike,
    InterfaceLike,
    Membership,
    join,
    leave,
    only_own_groups,
    parse_membership,
)

# More than a receive buffer holds of the smallest datagrams is left to its fate.
_MOST_LEFT_OVER = 4096


class DatagramSocket(Receiving, BatchSending, trio.abc.AsyncResource):
    """A socket of datagrams; ``make_socket(type="datagram")`` makes it.

    Bound, connected, both or neither. Each datagram arrives whole or not at all, maybe
    twice, maybe late; a zero-length one is data. ``async for datagram in socket`` receives
    for as long as the socket is open.

    One task may receive at a time. Sends never mix, so several tasks may send; where one
    of them has to wait for room, others that have to wait get `trio.BusyResourceError`.

    No error of a peer ends it: `DatagramError` tells of datagrams that did not arrive, and
    everything goes on working.
    """

    __slots__ = ("_memberships",)

    def __init__(
        self,
        sock: AnySocket,
        requested: SocketOptions,
        *,
        peer: Address | None = None,
        address: Address | None = None,
        adopted: bool = False,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(
            sock, requested, peer=peer, address=address, adopted=adopted, on_close=on_close
        )
        self._memberships: list[Membership] = []

    def __aiter__(self) -> DatagramSocket:
        return self

    async def __anext__(self) -> Datagram:
        return await self.receive_from()

    def join_group(
        self,
        group: GroupLike,
        *,
        interface: InterfaceLike | None = None,
        source: HostLike | None = None,
    ) -> None:
        """Join a multicast group, to receive what is sent to it; a plain function.

        Args:
          group: its address.
          interface: by which the group is joined: a name, an index or one of its
            addresses; None is the one that the route to the group leads to.
          source: receive only what this host sends (source-specific multicast, RFC 4607).

        The socket should be bound to the group's port. It gets its own groups only, where
        Linux by itself would give it every group that any program here has joined, unless
        the option ``multicast_all`` says so. Closing leaves all groups.

        Raises:
          ValueError: *group* is no multicast address, or *source* of another family.
          UnknownInterfaceError: there is no such interface.
          SocketError: ``EADDRINUSE``: joined already; ``ENODEV``: no route, or no such
            interface; ``ENOBUFS``: at the system's limit (20 IPv4 groups on Linux);
            ``ENOPROTOOPT``: this system has no source-specific groups.
          trio.ClosedResourceError: the socket is closed.

        Source: ip(7), ipv6(7), RFC 3678.
        """
        self._check_open()
        membership = parse_membership(group, interface, source)
        join(self._sock, membership)
        self._memberships.append(membership)
        if self._requested.multicast_all is None:
            only_own_groups(self._sock)

    def leave_group(
        self,
        group: GroupLike,
        *,
        interface: InterfaceLike | None = None,
        source: HostLike | None = None,
    ) -> None:
        """Leave a multicast group; a plain function.

        Args:
          group: as it was joined.
          interface: as it was joined; it may be left out if the group was joined by one.
          source: as it was joined.

        Raises:
          SocketError: the group was not joined so (``EADDRNOTAVAIL``), or was joined by
            several interfaces and none is named.
          trio.ClosedResourceError: the socket is closed.

        Source: ip(7), ipv6(7), RFC 3678.
        """
        self._check_open()
        wanted = parse_membership(group, interface, source)
        joined = [
            member
            for member in self._memberships
            if member[:2] == wanted[:2] and (interface is None or member.raw == wanted.raw)
        ]
        if len(joined) > 1:
            raise SocketError(
                errno.EINVAL,
                f"cannot leave the group {wanted.group}: it was joined by "
                f"{len(joined)} interfaces, say which",
            )
        # One that others joined on this descriptor may be left all the same.
        membership = joined[0] if joined else wanted
        leave(self._sock, membership)
        if joined:
            self._memberships.remove(membership)

    def shutdown(self, *, read: bool = False, write: bool = False) -> None:
        """Shut one or both directions down; the socket stays open. A plain function.

        Args:
          read: nothing more will be received: what has come is, then receives raise
            `trio.ClosedResourceError`, also one that waits.
          write: nothing more will be sent: sends raise `DatagramError` (``EPIPE``).

        Raises:
          ValueError: neither is True.
          trio.ClosedResourceError: the socket is closed.

        Source: shutdown(2).
        """
        if not (read or write):
            raise ValueError("shutdown needs read=True, write=True or both")
        self._check_open()
        how = {
            (True, False): stdlib_socket.SHUT_RD,
            (False, True): stdlib_socket.SHUT_WR,
            (True, True): stdlib_socket.SHUT_RDWR,
        }[read, write]
        try:
            (self._exposed or self._sock).shutdown(how)
        except OSError as exc:
            # ENOTCONN of an unconnected socket, on which Linux does it all the same.
            if exc.errno not in ALREADY_GONE:
                raise socket_error(exc, f"shut down {self._describe()}") from exc
        if read:
            # From now on poll says readable for ever.
            self._read_ended = True
            self._wake()

    def detach(self) -> int:
        """Give the descriptor away: this socket is closed, the descriptor lives on.

        Groups stay joined. A local socket's path stays, too. What waits in the queue goes
        with the descriptor, but not after a `receive_many`: then it may be in trains, which
        others would take for single datagrams, and is thrown away. With the option ``gro``
        set to False that does not happen.

        Returns:
          The descriptor's number; closing it is now the caller's business.

        Raises:
          trio.ClosedResourceError: the socket is closed already.
        """
        self._check_open()
        self._join_no_more()
        self._on_close = None
        return super().detach()

    async def aclose(self) -> None:
        """Close the socket, waking whoever waits in it with `trio.ClosedResourceError`.

        Groups are left, and a local socket's path is removed if it is still this
        socket's. A checkpoint; it always closes, also when cancelled. Closing twice is fine.
        """
        self._close()
        await checkpoint()

    def _close(self) -> bool:
        if not self.is_open:
            return True
        release, self._on_close = self._on_close, None
        if release is not None:
            release()
        # The kernel does it at the last close: another descriptor may be of this socket.
        for membership in self._memberships:
            try:
                leave(self._sock, membership)
            except SocketError:
                pass  # the interface has gone, and the membership with it
        self._memberships.clear()
        return super()._close()

    def _expose(self, sock: trio.socket.SocketType) -> None:
        self._join_no_more()
        super()._expose(sock)
        self._update_room()

    def _join_no_more(self) -> None:
        """Let nobody else find trains in the queue: they would take each for a datagram."""
        self._may_join = False
        if not self._joins:
            return
        assert UDP_GRO is not None
        try:
            for _ in range(_MOST_LEFT_OVER):
                self._pending.extend(self._take_train(ROOM))
        except OSError as exc:
            self._keep_for_later(exc)
        self._sock.setsockopt(UDP, UDP_GRO, 0)
        self._joins = False
        self._update_room()

    def _share(self, most_waiting: float) -> None:
        """Let sends of several tasks wait: a server's handlers share its socket.

        Args:
          most_waiting: how many may wait for longer than a burst.
        """
        self._turn = trio.Lock()
        self._full = FullQueues(most_waiting)
        self._peers_faults = weakref.WeakSet()
