"""The option table, first part: IP and IPv6 (ip(7), ipv6(7)).

Where the families have twins the row has both, under a name of neither: a socket takes its
own family's, and a dual-stack one both, as Linux keeps them apart for IPv4-mapped traffic
(measured: IPV6_TCLASS alone leaves such packets with a TOS of 0).

The order of the rows is the order in which they are set.
"""

# Annotations are the table's data: they must be objects, not text.

from dataclasses import dataclass
from typing import Annotated

from sockscope._options import kinds
from sockscope._options.codec import BOOL, INT_MAX, Enum, FlagBits, Int, NetworkOrderInt, PortRange
from sockscope._options.codec_struct import Interface
from sockscope._options.composed import (
    MULTICAST_INTERFACE4,
    MULTICAST_INTERFACE6,
    expand_multicast_interface,
)
from sockscope._options.model import KeptHash, Option, Phase, Target
from sockscope._options.value_types import PathMTUDiscovery

_DATAGRAM4 = kinds.DATAGRAM & kinds.INTERNET4
_DATAGRAM6 = kinds.DATAGRAM & kinds.INTERNET6

# What is said at IPv4's level and holds for both: raw sockets of IPv6 refuse that level.
_EITHER = kinds.INTERNET - {kinds.RAW6}


def _ip(
    constant: str,
    number: int,
    of: frozenset[str] = kinds.INTERNET4,
    *,
    mapped: bool = True,
) -> tuple[Target, ...]:
    return (Target(constant, number, of, mapped=mapped),)


def _ipv6(constant: str, number: int, of: frozenset[str] = kinds.INTERNET6) -> tuple[Target, ...]:
    return (Target(constant, number, of),)


@dataclass(frozen=True, kw_only=True, slots=True, init=False, repr=False, eq=False)
class IPOptions(KeptHash):
    """The fields for IP and IPv6."""

    ipv6_only: Annotated[
        bool | None,
        Option(
            "Whether an IPv6 socket leaves IPv4 alone. Off, it also takes IPv4 traffic, with "
            "addresses like ::ffff:192.0.2.1, and blocks a later bind of the port for IPv4.",
            BOOL,
            _ipv6("IPV6_V6ONLY", 26, kinds.INTERNET6 - kinds.RAW),
            phase=Phase.BIND,  # EINVAL afterwards
            platforms="all; on OpenBSD always on",
        ),
    ] = None
    free_bind: Annotated[
        bool | None,
        Option(
            "Bind to an address that this machine does not have (yet).",
            BOOL,
            _ip("IP_FREEBIND", 15) + _ipv6("IPV6_FREEBIND", 78),
            phase=Phase.BIND,
        ),
    ] = None
    transparent: Annotated[
        bool | None,
        Option(
            "Bind to, accept for and send from foreign addresses: for transparent proxies.",
            BOOL,
            _ip("IP_TRANSPARENT", 19) + _ipv6("IPV6_TRANSPARENT", 75),
            phase=Phase.BIND,
            privilege="CAP_NET_ADMIN or CAP_NET_RAW to switch on",
        ),
    ] = None
    bind_address_no_port: Annotated[
        bool | None,
        Option(
            "Binding to an address with port 0 leaves the port to connect, so that many "
            "connections to different peers share one local port.",
            BOOL,
            # One bit for both families.
            _ip("IP_BIND_ADDRESS_NO_PORT", 24, _EITHER, mapped=False),
            phase=Phase.BIND,
            platforms="Linux 4.2",
        ),
    ] = None
    local_port_range: Annotated[
        tuple[int, int] | None,
        Option(
            "The lowest and the highest port that the system may choose; (0, 0) is off, "
            "one 0 leaves that end to the system.",
            PortRange(),
            _ip("IP_LOCAL_PORT_RANGE", 51, _EITHER, mapped=False),
            phase=Phase.HANDSHAKE,
            platforms="Linux 6.3",
        ),
    ] = None
    header_include: Annotated[
        bool | None,
        Option(
            "The program writes the IP header itself (raw sockets).",
            BOOL,
            _ip("IP_HDRINCL", 3, kinds.RAW & kinds.INTERNET4, mapped=False)
            + _ipv6("IPV6_HDRINCL", 36, kinds.RAW & kinds.INTERNET6),
            inherited=kinds.NONE,
            platforms="all; IPv6: Linux 4.5",
        ),
    ] = None
    # Before priority: setting it on IPv4 sets SO_PRIORITY, too (0x10 makes it 6).
    traffic_class: Annotated[
        int | None,
        Option(
            "The DS field: the DSCP in the upper six bits, ECN in the lower two. "
            "On TCP the kernel keeps the ECN bits for itself.",
            Int(0, 255),  # IP_TOS would take 256 and store 0
            _ip("IP_TOS", 1) + _ipv6("IPV6_TCLASS", 67),
            readback="TCP masks the two ECN bits",
            platforms="all; on Windows without effect unless a policy allows it",
        ),
    ] = None
    hop_limit: Annotated[
        int | None,
        Option(
            "The TTL or hop limit of what is sent.",
            Int(1, 255),
            _ip("IP_TTL", 2) + _ipv6("IPV6_UNICAST_HOPS", 16),
            platforms="all",
        ),
    ] = None
    min_hop_limit: Annotated[
        int | None,
        Option(
            "Packets that come with a lower TTL or hop limit are dropped (GTSM, RFC 5082).",
            Int(0, 255),
            _ip("IP_MINTTL", 21) + _ipv6("IPV6_MINHOPCOUNT", 73),
            platforms="Linux, FreeBSD (IPv4)",
        ),
    ] = None
    mtu_discovery: Annotated[
        PathMTUDiscovery | None,
        Option(
            "Whether packets may be fragmented on their way.",
            Enum(PathMTUDiscovery),
            _ip("IP_MTU_DISCOVER", 10) + _ipv6("IPV6_MTU_DISCOVER", 23),
        ),
    ] = None
    dont_fragment: Annotated[
        bool | None,
        Option(
            "Never fragment on this machine; with mtu_discovery PROBE nothing is fragmented.",
            BOOL,
            _ipv6("IPV6_DONTFRAG", 62),
            platforms="all",
        ),
    ] = None
    ipv6_mtu: Annotated[
        int | None,
        Option(
            "An upper limit for the size of packets, as if it were the interface's MTU; 0 is none.",
            Int(0, 65535, "bytes"),
            (Target("IPV6_MTU", 24, kinds.INTERNET6, readable=False),),
            readback="the system gives the path's MTU instead: see path_mtu",
            inherited=kinds.NONE,
        ),
    ] = None
    auto_flow_label: Annotated[
        bool | None,
        Option(
            "Give each flow a label of its own.",
            BOOL,
            _ipv6("IPV6_AUTOFLOWLABEL", 70),
        ),
    ] = None
    address_preferences: Annotated[
        int | None,
        Option(
            "Which source address to choose (RFC 5014): 1 temporary, 2 public, 4 care-of, "
            "0x400 home ...",
            FlagBits(0, 0xFFFF),
            _ipv6("IPV6_ADDR_PREFERENCES", 72),
            readback="the defaults of what was not said are added",
            copied=False,
            platforms="Linux, FreeBSD",
        ),
    ] = None
    unicast_interface: Annotated[
        int | None,
        Option(
            "The index of the interface to send through, if the route is not otherwise bound; "
            "0 is any.",
            NetworkOrderInt(0, INT_MAX),
            _ip("IP_UNICAST_IF", 50) + _ipv6("IPV6_UNICAST_IF", 76),
            platforms="Linux, Windows",
        ),
    ] = None
    packet_info: Annotated[
        bool | None,
        Option(
            "Tell with each datagram the address and the interface that it came to.",
            BOOL,
            _ip("IP_PKTINFO", 8) + _ipv6("IPV6_RECVPKTINFO", 49),
            ignored=kinds.TCP,
            platforms="Linux; IPv6: all",
        ),
    ] = None
    receive_hop_limit: Annotated[
        bool | None,
        Option(
            "Tell with each datagram the TTL or hop limit that it came with.",
            BOOL,
            _ip("IP_RECVTTL", 12) + _ipv6("IPV6_RECVHOPLIMIT", 51),
            ignored=kinds.TCP,
            platforms="Linux, BSD; IPv6: all",
        ),
    ] = None
    receive_traffic_class: Annotated[
        bool | None,
        Option(
            "Tell with each datagram the traffic class that it came with.",
            BOOL,
            _ip("IP_RECVTOS", 13) + _ipv6("IPV6_RECVTCLASS", 66),
            ignored=kinds.TCP,
            platforms="all",
        ),
    ] = None
    receive_errors: Annotated[
        bool | None,
        Option(
            "Raise what ICMP says of datagrams sent, with the offender's address. Our datagram "
            "sockets empty the error queue; other code has to, as an unread one keeps Trio "
            "awake for ever.",
            BOOL,
            _ip("IP_RECVERR", 11) + _ipv6("IPV6_RECVERR", 25),
            ignored=kinds.TCP,
        ),
    ] = None
    receive_errors_rfc4884: Annotated[
        bool | None,
        Option(
            "With receive_errors: keep the extensions of RFC 4884 that ICMP messages carry.",
            BOOL,
            _ip("IP_RECVERR_RFC4884", 26) + _ipv6("IPV6_RECVERR_RFC4884", 31),
            ignored=kinds.TCP,
            platforms="Linux 5.9",
        ),
    ] = None
    receive_original_destination: Annotated[
        bool | None,
        Option(
            "Tell with each datagram the address it was sent to before it was redirected.",
            BOOL,
            _ip("IP_RECVORIGDSTADDR", 20) + _ipv6("IPV6_RECVORIGDSTADDR", 74),
            ignored=kinds.TCP,
            platforms="Linux, FreeBSD",
        ),
    ] = None
    receive_fragment_size: Annotated[
        bool | None,
        Option(
            "Tell with each datagram the size of its largest fragment.",
            BOOL,
            _ip("IP_RECVFRAGSIZE", 25, _DATAGRAM4) + _ipv6("IPV6_RECVFRAGSIZE", 77),
            ignored=frozenset({kinds.TCP6}),
        ),
    ] = None
    multicast_interface: Annotated[
        int | str | None,
        Option(
            "The interface that multicasts leave by: its index or name; 0 is the route's.",
            Interface(),
            (MULTICAST_INTERFACE4, MULTICAST_INTERFACE6),
            expand=expand_multicast_interface,
            readback="for IPv4 the system gives the interface's address, not its index",
            inherited=kinds.NONE,
            platforms="all",
        ),
    ] = None
    multicast_hops: Annotated[
        int | None,
        Option(
            "The TTL or hop limit of multicasts; 0 keeps them on this machine.",
            Int(0, 255),
            _ip("IP_MULTICAST_TTL", 33, _DATAGRAM4) + _ipv6("IPV6_MULTICAST_HOPS", 18, _DATAGRAM6),
            inherited=kinds.NONE,
            platforms="all",
        ),
    ] = None
    multicast_loop: Annotated[
        bool | None,
        Option(
            "Whether this machine's members get the multicasts sent here (on Windows: whether "
            "this socket gets this machine's).",
            BOOL,
            _ip("IP_MULTICAST_LOOP", 34, _DATAGRAM4) + _ipv6("IPV6_MULTICAST_LOOP", 19, _DATAGRAM6),
            inherited=kinds.NONE,
            platforms="all",
        ),
    ] = None
    multicast_all: Annotated[
        bool | None,
        Option(
            "Whether a socket bound to the wildcard gets every group that anyone on this machine "
            "joined (the system's default), or only its own.",
            BOOL,
            _ip("IP_MULTICAST_ALL", 49) + _ipv6("IPV6_MULTICAST_ALL", 29),
            ignored=kinds.TCP,
            platforms="Linux; IPv6: Linux 4.20",
        ),
    ] = None
    icmp_filter: Annotated[
        int | None,
        Option(
            "A bit for each type of ICMP message that is not wanted (raw sockets of ICMP).",
            Int(0, 2**32 - 1, size=4),
            (Target("ICMP_FILTER", 1, kinds.RAW & kinds.INTERNET4),),
            inherited=kinds.NONE,
        ),
    ] = None
