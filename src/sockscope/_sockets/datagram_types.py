"""What a datagram socket gives to its users: `Datagram`, and figures."""

from __future__ import annotations

from typing import NamedTuple

from sockscope._addresses.values import Address, InternetAddress


class Datagram(NamedTuple):
    """A datagram that was received.

    What the socket was not asked to report, by an option in `SocketOptions`, is None.
    """

    data: bytes
    """What was sent; ``b""`` is a datagram, too, and no end of anything. From
    `DatagramSocket.receive_from_into` it is a `memoryview` of the caller's buffer."""
    address: Address
    """Who sent it; `LocalAddress.unnamed` for a local socket without a name, or with a path
    longer than the kernel tells (107 bytes on Linux)."""
    truncated: bool = False
    """Whether it was longer than the room for it: the rest is gone."""
    destination: InternetAddress | None = None
    """The address that it came to (option ``packet_info``): of this machine, of a group,
    or a broadcast address."""
    interface: int | None = None
    """The index of the interface that it came by (``packet_info``)."""
    hops: int | None = None
    """The TTL or hop limit that it came with (``receive_hop_limit``)."""
    traffic_class: int | None = None
    """The DS field that it came with, DSCP and ECN (``receive_traffic_class``)."""
    timestamp: float | None = None
    """When the kernel got it, in seconds since the epoch (``timestamps``)."""
    dropped: int | None = None
    """How many datagrams the kernel had dropped by then because the receive buffer was
    full, modulo 2**32 (``receive_drops``). A train that the kernel had joined counts as one."""

    @property
    def ecn(self) -> int | None:
        """The two bits of Explicit Congestion Notification (RFC 3168)."""
        return None if self.traffic_class is None else self.traffic_class & 3

    @property
    def dscp(self) -> int | None:
        """The Differentiated Services code point (RFC 2474)."""
        return None if self.traffic_class is None else self.traffic_class >> 2


class DatagramSocketStatistics(NamedTuple):
    """What has gone through a datagram socket so far."""

    received: int
    """Datagrams handed out, or ready to be: those of a train are counted one by one."""
    sent: int
    """Datagrams handed to the system."""
    dropped: int | None
    """Datagrams that the kernel dropped for want of room in the receive buffer, at this
    moment (SO_MEMINFO); None where the system does not tell. Where the kernel joins
    datagrams (GRO) a lost train counts as one."""
