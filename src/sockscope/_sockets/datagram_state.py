"""Who a datagram socket talks to, and what is known of it: peer, targets, errors, figures."""

from __future__ import annotations

import collections
import errno
import socket as stdlib_socket
import weakref
from collections.abc import Callable
from typing import Any, Final

import trio
from trio.lowlevel import checkpoint

from sockscope._addresses.designators import AddressLike, parse_designator
from sockscope._addresses.resolve import resolve
from sockscope._addresses.values import (
    Address,
    InternetAddress,
    LocalAddress,
    as_peer,
    from_sockaddr,
)
from sockscope._core.errors import DatagramError, socket_error, words_for
from sockscope._options.values import SocketOptions
from sockscope._sockets.ancillary_datagram import ROOM_FOR_ALL, UDP, UDP_GRO, room_for
from sockscope._sockets.base import AF_UNIX, AnySocket, BaseSocket, is_custom
from sockscope._sockets.datagram_room import FullQueues
from sockscope._sockets.datagram_types import Datagram, DatagramSocketStatistics
from sockscope._sockets.disconnect import disconnect
from sockscope._sockets.error_queue import read_error_queue
from sockscope._sockets.long_path import sockaddr_for
from sockscope._sockets.message_vector import HAS_RECVMMSG, SendVector

AF_INET: Final = int(stdlib_socket.AF_INET)
AF_INET6: Final = int(stdlib_socket.AF_INET6)

# Peers come again; a flood of forged ones must not fill the memory.
_ADDRESSES_KEPT: Final = 1024
# Errors that nobody has received yet: the oldest give way.
_ERRORS_KEPT: Final = 64
# Unix kernels have had 64 segments a send, newer ones 128.
_MOST_SEGMENTS: Final = 128

#: What `DatagramState._known_target` gives for a name that is still to be looked up.
UNKNOWN: Final = object()


class DatagramState(BaseSocket):
    """The part of `DatagramSocket` that neither sends nor receives."""

    __slots__ = (
        "_adopted",
        "_default",
        "_destinations",
        "_errors",
        "_family",
        "_full",
        "_joins",
        "_largest_segment",
        "_last_designator",
        "_last_target",
        "_may_join",
        "_most_segments",
        "_on_close",
        "_peer",
        "_peers_faults",
        "_pending",
        "_read_ended",
        "_received",
        "_receives_vectors",
        "_receiving",
        "_room",
        "_senders",
        "_sending",
        "_sent",
        "_shared_hosts",
        "_targets",
        "_train",
        "_turn",
        "_vector",
    )

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
        super().__init__(sock, requested)
        self._local = address
        self._family = int(sock.family)
        self._adopted = adopted
        self._peer = peer
        self._on_close = on_close
        # Where send_to goes without an address: a designator; and what each one stands for.
        self._default: AddressLike | None = None
        self._targets: dict[Any, Any] = {}
        self._last_designator: Any = None
        self._last_target: Any = None
        # Addresses by what the kernel calls them: the same few come with every datagram.
        self._senders: dict[Any, Address] = {}
        self._destinations: dict[Any, InternetAddress] = {}
        # Group and broadcast addresses of ours, from which nothing can be sent.
        self._shared_hosts: set[Any] = set()
        # Received ahead, as parts of trains; and what the network said of what we sent.
        self._pending: list[Datagram] = []
        self._errors: collections.deque[DatagramError] = collections.deque(maxlen=_ERRORS_KEPT)
        self._receiving = False
        self._sending = False
        # Many handlers send on a server's socket, see `_share`: their turns to wait for our
        # own buffer, who waits for others', and the errors that were a peer's doing.
        self._turn: trio.Lock | None = None
        self._full: FullQueues | None = None
        self._peers_faults: weakref.WeakSet[DatagramError] | None = None
        self._read_ended = False
        self._received = 0
        self._sent = 0
        # Whether we may let the kernel join trains (UDP_GRO) unasked, and whether we have.
        self._may_join = (
            self._family != AF_UNIX
            and UDP_GRO is not None
            and requested.gro is None
            and not (adopted or is_custom(sock))
        )
        self._joins = False
        self._most_segments = _MOST_SEGMENTS
        self._largest_segment = 65535
        # The arguments of sendmmsg(2), once needed.
        self._vector: SendVector | None = None
        # Whether recvmmsg(2) may be used, and how many datagrams came with each message of
        # the last: so many that the first asks for one.
        self._receives_vectors = HAS_RECVMMSG and self._family in (AF_INET, AF_INET6)
        self._train = _MOST_SEGMENTS
        self._room = 0
        self._update_room()

    def _describe(self) -> str:
        where = super()._describe()
        return where if self._peer is None else f"{where} connected to {self._peer}"

    def _update_room(self) -> None:
        """Know how much room control messages need; others may have asked for any."""
        if self._adopted or self._exposed is not None:
            self._room = ROOM_FOR_ALL
        else:
            self._room = room_for(self._requested, joins=self._joins)

    def _options_changed(self, options: SocketOptions) -> None:
        super()._options_changed(options)
        if options.gro is not None:
            self._may_join = self._joins = False
        self._update_room()

    @property
    def remote_address(self) -> Address | None:
        """The peer that the socket is connected to, or None."""
        return self._peer

    @property
    def default_address(self) -> Address | AddressLike | None:
        """Where `send_to` goes without an address, with no connect and no filter; or None.

        It may be set to any address designator, or to None. A name is looked up by the
        first `send_to` that needs it, once. It rules over the peer of a connected socket.

        Source: Allegro CL's ``:remote-host`` of datagram sockets (seed 004), Emacs's
        ``set-process-datagram-address`` (seed 000).
        """
        return self._default

    @default_address.setter
    def default_address(self, address: AddressLike | None) -> None:
        if address is not None:
            request = parse_designator(address, argument="default_address")
            if isinstance(request, Address):
                self._sockaddr_of(request)
                address = request
        self._default = address

    def statistics(self) -> DatagramSocketStatistics:
        """What was received and sent, and what the kernel dropped, at this moment.

        Raises:
          trio.ClosedResourceError: the socket is closed.

        A plain function. Source: SO_MEMINFO (Linux), which is right at once: the count that
        ``receive_drops`` brings with a datagram is older.
        """
        self._check_open()
        try:
            dropped = self.get_option("memory_info").dropped
        except OSError:
            dropped = None  # this system does not tell
        return DatagramSocketStatistics(self._received, self._sent, dropped)

    async def connect(self, address: AddressLike) -> None:
        """Give the socket a peer: it sends there, receives from there alone, hears of refusals.

        Args:
          address: an address designator; of a name, the first address of the socket's
            family. A connected socket may be connected again, to another peer.

        What had come before from others is still received: `Datagram.address` tells.

        Raises:
          SocketError: there is no route, or no socket at that path; the peer is as it was.
          ResolverError: the name is unknown, or has no address of this family.
          trio.ClosedResourceError: the socket is closed.

        A checkpoint. When cancelled, the peer is as it was.
        Source: connect(2), udp(7); IOLib's ``connect`` (seed 003).
        """
        self._check_open()
        target = await self._look_up(address)
        self._check_open()
        try:
            await self._connect_to(target)
        except DatagramError:
            raise
        except OSError as exc:
            raise socket_error(exc, f"connect to {target}") from exc

    async def _connect_to(self, target: Address) -> None:
        """Connect to a literal address; no checkpoint.

        Raises:
          OSError: as the system says, without any words of ours.
        """
        sockaddr = self._sockaddr_of(target)
        if self._family == AF_UNIX:
            with sockaddr_for(sockaddr) as short:
                self._sock.connect(short)
        else:
            self._sock.connect(sockaddr)
        self._peer = as_peer(target)
        self._forget_local()

    def disconnect(self) -> None:
        """Take the peer away again, as connect(2) to AF_UNSPEC does; a plain function.

        A port that the system chose is given up with it; one that was bound by number
        stays.

        Raises:
          SocketError: the system refused.
          trio.ClosedResourceError: the socket is closed.

        Source: udp(7); IOLib's ``disconnect`` (seed 003).
        """
        self._check_open()
        try:
            disconnect(self._sock)
        except OSError as exc:
            raise socket_error(exc, f"disconnect from {self._peer}") from exc
        self._peer = None
        self._forget_local()

    def _forget_local(self) -> None:
        """The kernel may have changed the local address; a path stays as it was given."""
        self._destinations.clear()
        if not isinstance(self._local, LocalAddress):
            self._local = None

    async def _look_up(self, designator: AddressLike) -> Address:
        """The address of this socket's family that a designator stands for; a checkpoint."""
        request = parse_designator(designator, argument="address")
        if isinstance(request, Address):
            await checkpoint()
            return request
        # A dual-stack socket reaches both; others one.
        ipv6 = None if self._is_dual_stack() else self._family == AF_INET6
        return (await resolve(designator, ipv6=ipv6, type="datagram"))[0]

    def _is_dual_stack(self) -> bool:
        return self._family == AF_INET6 and not self._sock.getsockopt(
            stdlib_socket.IPPROTO_IPV6, stdlib_socket.IPV6_V6ONLY
        )

    async def _look_up_target(self, designator: AddressLike) -> Any:
        """The sockaddr of a name, which is then remembered: it is looked up once."""
        target = self._sockaddr_of(await self._look_up(designator))
        self._remember(designator, target)
        return target

    def _known_target(self, designator: AddressLike | None) -> Any:
        """The sockaddr to send to, None for the peer's, `UNKNOWN` where a look-up is needed."""
        if designator is None:
            if self._default is None:
                if self._peer is None:
                    raise DatagramError(
                        errno.EDESTADDRREQ,
                        f"cannot send from {self._describe()}: give an address, set "
                        "default_address, or connect() first",
                    )
                return None
            designator = self._default
        if isinstance(designator, Address):
            # Its hash costs more than its sockaddr.
            target = self._sockaddr_of(designator)
        else:
            target = self._remembered(designator)
        if target is not UNKNOWN:
            self._last_designator, self._last_target = designator, target
        return target

    def _remembered(self, designator: AddressLike) -> Any:
        try:
            return self._targets[designator]
        except (KeyError, TypeError):
            pass  # it is new, or no designator at all
        request = parse_designator(designator, argument="address")
        if not isinstance(request, Address):
            return UNKNOWN
        target = self._sockaddr_of(request)
        self._remember(designator, target)
        return target

    def _remember(self, designator: Any, target: Any) -> None:
        if len(self._targets) >= _ADDRESSES_KEPT:
            self._targets.clear()
        self._targets[designator] = target

    def _sockaddr_of(self, address: Address) -> Any:
        """What the system calls take for *address* on a socket of this family."""
        if address.family == self._family:
            return address.sockaddr
        if isinstance(address, InternetAddress):
            if self._family == AF_INET6:
                return address.mapped.sockaddr
            if self._family == AF_INET and address.unmapped.family == AF_INET:
                return address.unmapped.sockaddr
        raise DatagramError(
            errno.EAFNOSUPPORT,
            f"cannot send to {address}: the socket {self._describe()} is of another family",
        )

    def _sender(self, sockaddr: Any) -> Address:
        """The address of who sent a datagram."""
        return self._senders.get(sockaddr) or self._new_sender(sockaddr, sockaddr)

    def _new_sender(self, key: Any, sockaddr: Any) -> Address:
        if len(self._senders) >= _ADDRESSES_KEPT:
            self._senders.clear()
        address = from_sockaddr(self._family, sockaddr, unmap=True)
        self._senders[key] = address
        return address

    def _destination(self, host: Any, interface: int | None, *, scoped: bool) -> InternetAddress:
        """The address that a datagram came to, which is always one of a few."""
        key = host, interface
        address = self._destinations.get(key)
        if address is None:
            local = self.local_address
            port = local.port if isinstance(local, InternetAddress) else 0
            address = InternetAddress(host, port, (interface or 0) if scoped else 0)
            self._destinations[key] = address
        return address

    def _latch(self, error: DatagramError) -> None:
        """Keep an error for the next receive, and wake the task that waits in one.

        The kernel tells of each error once. If a send was the one to hear it, a receiver
        may never be woken, so it is woken from here: `_wait` knows what that means.
        """
        self._errors.append(error)
        if self._receiving and self._exposed is None:
            trio.lowlevel.notify_closing(self._sock)

    async def _wait(self, wait: Callable[[], Any]) -> None:
        """Await *wait*, which `_latch` may end."""
        try:
            await wait()
        except trio.ClosedResourceError:
            if not self.is_open:
                raise

    def _network_errors(
        self, exc: OSError
    ) -> tuple[list[DatagramError], DatagramError | None, int | None]:
        """What the kernel has heard of earlier datagrams, as *exc* says that it has.

        Returns:
          What the error queue holds; if that is nothing, an error about the peer, where
          there is one whom *exc* can be about; and the MTU that the queue names.
        """
        reported: list[DatagramError] = []
        mtu = None
        if self._family != AF_UNIX:
            reported, mtu = read_error_queue(self._sock)
        if reported or self._peer is None:
            return reported, None, mtu
        message = f"a datagram to {self._peer} did not arrive: {words_for(exc)}"
        return reported, DatagramError(exc.errno, message, address=self._peer, mtu=mtu), mtu

    def _let_kernel_join(self) -> None:
        """Have trains of datagrams received as one (UDP_GRO), where that is ours to decide.

        Not where others use the descriptor: they would take a train for one datagram.
        """
        if not self._may_join:
            return
        self._may_join = False
        assert UDP_GRO is not None
        try:
            self._sock.setsockopt(UDP, UDP_GRO, 1)
        except OSError:
            return  # this kernel has none
        self._joins = True
        self._update_room()
