r"""The control messages of datagrams: what the kernel reports with each, and how to answer.

| report | option | control message | layout |
| --- | --- | --- | --- |
| destination, interface | ``packet_info`` | IP_PKTINFO | ``u32 ifindex, 4s spec_dst, 4s dst`` |
| | | IPV6_PKTINFO | ``16s dst, u32 ifindex``; beside the other for mapped peers |
| hops | ``receive_hop_limit`` | IP_TTL, IPV6_HOPLIMIT | ``i32`` |
| traffic class | ``receive_traffic_class`` | IP_TOS | one byte |
| | | IPV6_TCLASS | ``i32`` |
| time | ``timestamps`` | SCM_TIMESTAMPNS | ``struct timespec`` |
| | ``microsecond_timestamps`` | SCM_TIMESTAMP | ``struct timeval`` |
| | ``timestamping`` | SCM_TIMESTAMPING | three of ``struct timespec`` |
| drops | ``receive_drops`` | SO_RXQ_OVFL | ``u32``, absent while it is 0 |
| a joined train | UDP_GRO | UDP_GRO | ``i32``: the size of all but the last |
"""

from __future__ import annotations

import functools
import os
import socket as stdlib_socket
import struct
import sys
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from sockscope._options.model import number_of
from sockscope._options.values import SocketOptions

IP: Final = int(stdlib_socket.IPPROTO_IP)
IPV6: Final = int(stdlib_socket.IPPROTO_IPV6)
UDP: Final = int(stdlib_socket.IPPROTO_UDP)
_SOL: Final = stdlib_socket.SOL_SOCKET

UDP_SEGMENT: Final = number_of("UDP_SEGMENT", 103)
UDP_GRO: Final = number_of("UDP_GRO", 104)
IP_PKTINFO: Final = number_of("IP_PKTINFO", 8)
IPV6_PKTINFO: Final = number_of("IPV6_PKTINFO", 50)

_NATIVE_INT: Final = struct.Struct("i")
_UINT: Final = struct.Struct("=I")
_SHORT: Final = struct.Struct("=H")
_PKTINFO4: Final = struct.Struct("=I4s4s")
_PKTINFO6: Final = struct.Struct("=16sI")
_TIME: Final = struct.Struct("ll")
_ANY4: Final = bytes(4)
_ANY6: Final = bytes(16)

ControlMessage = tuple[int, int, bytes]

# A machine has few addresses, and every datagram comes to one of them.
_ipv4 = functools.lru_cache(maxsize=256)(IPv4Address)
_ipv6 = functools.lru_cache(maxsize=256)(IPv6Address)


class Reports:
    """What the control messages of one datagram say; slots that nothing filled are None."""

    __slots__ = (
        "destination",
        "dropped",
        "hops",
        "interface",
        "is_shared",
        "segment",
        "timestamp",
        "traffic_class",
    )

    def __init__(self) -> None:
        self.destination: IPv4Address | IPv6Address | None = None
        self.interface: int | None = None
        #: Whether it came to a group's or a broadcast address, which nothing is sent from.
        self.is_shared = False
        self.hops: int | None = None
        self.traffic_class: int | None = None
        self.timestamp: float | None = None
        self.dropped: int | None = None
        #: The size of each datagram but the last, where the kernel has joined several.
        self.segment: int | None = None


def _packet_info4(reports: Reports, data: bytes) -> None:
    reports.interface, own, destination = _PKTINFO4.unpack(data)
    reports.destination = _ipv4(destination)
    # The first is what an answer would be sent from: it differs for groups and broadcasts.
    reports.is_shared = own != destination


def _packet_info6(reports: Reports, data: bytes) -> None:
    # For a mapped peer IP_PKTINFO follows, and says more.
    raw, interface = _PKTINFO6.unpack(data)
    destination = _ipv6(raw)
    reports.interface = interface
    reports.destination = destination.ipv4_mapped or destination
    reports.is_shared = destination.is_multicast


def _hops(reports: Reports, data: bytes) -> None:
    (reports.hops,) = _NATIVE_INT.unpack(data)


def _traffic_class(reports: Reports, data: bytes) -> None:
    reports.traffic_class = data[0] if len(data) == 1 else _NATIVE_INT.unpack(data)[0]


def _nanoseconds(reports: Reports, data: bytes) -> None:
    seconds, fraction = _TIME.unpack_from(data)
    reports.timestamp = seconds + fraction * 1e-9


def _microseconds(reports: Reports, data: bytes) -> None:
    seconds, fraction = _TIME.unpack_from(data)
    reports.timestamp = seconds + fraction * 1e-6


def _timestamping(reports: Reports, data: bytes) -> None:
    # By the kernel's clock, nothing, by the card's: zero where it was not asked for.
    for offset in (0, 2 * _TIME.size):
        seconds, fraction = _TIME.unpack_from(data, offset)
        if seconds and reports.timestamp is None:
            reports.timestamp = seconds + fraction * 1e-9


def _dropped(reports: Reports, data: bytes) -> None:
    (reports.dropped,) = _UINT.unpack(data)


def _segment(reports: Reports, data: bytes) -> None:
    (reports.segment,) = _NATIVE_INT.unpack(data)


def _close_descriptors(_: Reports, data: bytes) -> None:
    """Descriptors that a local peer slipped in: nobody asked for them, and they would leak."""
    whole = len(data) - len(data) % _NATIVE_INT.size
    for (descriptor,) in _NATIVE_INT.iter_unpack(data[:whole]):
        os.close(descriptor)


def _readers() -> dict[tuple[int, int], Callable[[Reports, bytes], None]]:
    """A reader for each control message that this system has."""
    rows: list[tuple[int, str, int, Callable[[Reports, bytes], None]]] = [
        (IP, "IP_PKTINFO", 8, _packet_info4),
        (IPV6, "IPV6_PKTINFO", 50, _packet_info6),
        (IP, "IP_TTL", 2, _hops),
        (IPV6, "IPV6_HOPLIMIT", 52, _hops),
        (IP, "IP_TOS", 1, _traffic_class),
        (IPV6, "IPV6_TCLASS", 67, _traffic_class),
        (_SOL, "SO_TIMESTAMP", 29, _microseconds),
        (_SOL, "SO_TIMESTAMPNS", 35, _nanoseconds),
        (_SOL, "SO_TIMESTAMPING", 37, _timestamping),
        (_SOL, "SO_RXQ_OVFL", 40, _dropped),
        (UDP, "UDP_GRO", 104, _segment),
        (_SOL, "SCM_RIGHTS", 1, _close_descriptors),
        (_SOL, "SCM_PIDFD", 4, _close_descriptors),
    ]
    numbered = ((level, number_of(name, linux), reader) for level, name, linux, reader in rows)
    return {(level, number): reader for level, number, reader in numbered if number is not None}


_READERS: Final = _readers()


def read_control_messages(messages: Iterable[tuple[int, int, bytes]]) -> Reports:
    """What recvmsg(2) gave beside the data."""
    reports = Reports()
    for level, kind, data in messages:
        reader = _READERS.get((level, kind))
        if reader is not None:
            reader(reports, data)
    return reports


# The room that each option's messages need; both families', as a dual-stack socket has both.
_ROOM: Final[dict[str, tuple[int, ...]]] = {
    "packet_info": (_PKTINFO4.size, _PKTINFO6.size),
    "receive_hop_limit": (4, 4),
    "receive_traffic_class": (4, 4),
    "timestamps": (_TIME.size,),
    "microsecond_timestamps": (_TIME.size,),
    "timestamping": (3 * _TIME.size, 16),  # and SCM_TIMESTAMPING_PKTINFO
    "receive_drops": (4,),
    "receive_original_destination": (16, 28),
    "receive_fragment_size": (4, 4),
    "receive_mark": (4,),
    "receive_priority": (4,),
    "pass_credentials": (12,),
    "pass_security": (256,),
    "pass_pidfd": (4,),
    "gro": (4,),
}


def _space(sizes: Iterable[int]) -> int:
    return sum(stdlib_socket.CMSG_SPACE(size) for size in sizes)


#: Room for everything: where others may have set options that we do not know of.
ROOM_FOR_ALL: Final = (
    0 if sys.platform == "win32" else _space(size for sizes in _ROOM.values() for size in sizes)
)


def room_for(options: SocketOptions, *, joins: bool = False) -> int:
    """The bytes of control messages that *options* bring with a datagram, 0 for none.

    Never a guess: what does not fit is cut off without a word.

    Args:
      options: what was set on the socket.
      joins: the kernel joins datagrams, though *options* do not say so.
    """
    if sys.platform == "win32":
        return 0  # Python has no recvmsg there
    names = [name for name in _ROOM if getattr(options, name) or (joins and name == "gro")]
    return sum(_space(_ROOM[name]) for name in names)


def segment_message(size: int) -> ControlMessage:
    """Lets the kernel cut one send into datagrams of *size* bytes (UDP_SEGMENT, Linux 4.18)."""
    assert UDP_SEGMENT is not None
    return UDP, UDP_SEGMENT, _SHORT.pack(size)


def source_message(
    source: IPv4Address | IPv6Address, interface: int, *, is_shared: bool
) -> ControlMessage:
    """Sends a datagram from *source* by *interface*; both come from a datagram received.

    Args:
      source: the address to send from.
      interface: an interface's index; 0 leaves it to the routes.
      is_shared: *source* is a group or a broadcast address, from which nothing can be
        sent: then the kernel chooses one of the interface.
    """
    if source.version == 4:
        assert IP_PKTINFO is not None
        own = _ANY4 if is_shared or source.is_multicast else source.packed
        return IP, IP_PKTINFO, _PKTINFO4.pack(interface, own, _ANY4)
    assert IPV6_PKTINFO is not None
    raw = _ANY6 if is_shared or source.is_multicast else source.packed
    return IPV6, IPV6_PKTINFO, _PKTINFO6.pack(raw, interface)


def is_link_local(host: IPv4Address | IPv6Address) -> bool:
    """Whether an IPv6 host means something on one link only, and so needs an interface."""
    return host.version == 6 and (
        host.is_link_local or (host.is_multicast and host.packed[1] & 0xF in (1, 2))
    )


def reported(options: SocketOptions, messages: Any) -> Reports:
    """`read_control_messages`, where a count that the kernel leaves out at 0 is a 0."""
    reports = read_control_messages(messages)
    if reports.dropped is None and options.receive_drops:
        reports.dropped = 0
    return reports
