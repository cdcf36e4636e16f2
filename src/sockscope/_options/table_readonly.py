"""The option table, last part: what is only read, and what is left out."""

from __future__ import annotations

import socket
from typing import Any

from sockscope._options import kinds
from sockscope._options.codec import BOOL, INT_MAX, Int, ReadOnly, Text, as_bytes, integer
from sockscope._options.composed import (
    PEER_CREDENTIALS,
    PEER_GROUPS,
    gather_peer_credentials,
    unpack_groups,
)
from sockscope._options.model import Option, Phase, Target
from sockscope._options.value_types import parse_memory_info, parse_tcp_info

_U64 = Int(0, 2**64 - 1, size=8)


def _read_only(name: str, doc: str, codec: Any, *targets: Target, **details: Any) -> Option:
    return Option(
        doc,
        codec,
        targets,
        name=name,
        phase=Phase.READ_ONLY,
        inherited=kinds.NONE,
        copied=False,
        **details,
    )


READ_ONLY: tuple[Option, ...] = (
    _read_only(
        "type",
        "The type of the socket.",
        ReadOnly("socket.SocketKind", lambda raw: socket.SocketKind(integer(raw))),
        Target("SO_TYPE", 3, kinds.ALL),
        platforms="all",
    ),
    _read_only(
        "domain",
        "The address family.",
        ReadOnly("socket.AddressFamily", lambda raw: socket.AddressFamily(integer(raw))),
        Target("SO_DOMAIN", 39, kinds.ALL),
    ),
    _read_only(
        "protocol",
        "The protocol; on a connection accepted by a Multipath TCP socket the one in use.",
        Int(0, INT_MAX),
        Target("SO_PROTOCOL", 38, kinds.ALL),
    ),
    _read_only(
        "accepting",
        "Whether it is a listening socket.",
        BOOL,
        Target("SO_ACCEPTCONN", 30, kinds.ALL),
        platforms="all but macOS",
    ),
    _read_only(
        "cookie",
        "The socket's number for its life, shared by its duplicates and shown by ss.",
        _U64,
        Target("SO_COOKIE", 57, kinds.ALL),
        platforms="Linux 4.12",
    ),
    _read_only(
        "network_namespace_cookie",
        "The number of the network namespace.",
        _U64,
        Target("SO_NETNS_COOKIE", 71, kinds.ALL),
        platforms="Linux 5.14",
    ),
    _read_only(
        "memory_info",
        "The socket's memory, and its drops.",
        ReadOnly("MemoryInfo", lambda raw: parse_memory_info(as_bytes(raw)), size=64),
        Target("SO_MEMINFO", 55, kinds.ALL),
        platforms="Linux 4.12",
    ),
    _read_only(
        "incoming_napi_id",
        "The queue of the network card that the last packet came by.",
        Int(0, 2**32 - 1),
        Target("SO_INCOMING_NAPI_ID", 56, kinds.ALL),
        platforms="Linux 4.12",
    ),
    _read_only(
        "peer_credentials",
        "The process, user, groups and label at the other end of a local connection.",
        ReadOnly("PeerCredentials", as_bytes),
        PEER_CREDENTIALS,
        gather=gather_peer_credentials,
    ),
    _read_only(
        "peer_groups",
        "The further groups of the process at the other end of a local connection.",
        # Python reads no more than 1024 bytes: 256 groups.
        ReadOnly("tuple of int", unpack_groups, size=1024),
        PEER_GROUPS,
        platforms="Linux 4.13",
    ),
    _read_only(
        "peer_pidfd",
        "A new descriptor of the process at the other end, which the caller has to close.",
        Int(0, INT_MAX),
        Target("SO_PEERPIDFD", 77, kinds.LOCAL),
        platforms="Linux 6.5",
    ),
    _read_only(
        "peer_security",
        "The security label at the other end of a local connection.",
        Text("a label", 1023),
        Target("SO_PEERSEC", 31, kinds.LOCAL),
        untested="needs a security module that labels sockets",
    ),
    _read_only(
        "path_mtu",
        "The path's MTU, once connected.",
        Int(0, INT_MAX, "bytes"),
        Target("IP_MTU", 14, kinds.INTERNET4),
        Target("IPV6_MTU", 24, kinds.INTERNET6),
    ),
    _read_only(
        "tcp_info",
        "What the kernel knows of a connection or, listening, of its queue.",
        # More than any kernel has yet; it says itself how much it gave.
        ReadOnly("TcpInfo", lambda raw: parse_tcp_info(as_bytes(raw)), size=512),
        Target("TCP_INFO", 11, kinds.TCP),
    ),
    _read_only(
        "congestion_info",
        "The congestion control algorithm's own figures, in its own form.",
        ReadOnly("bytes", as_bytes, size=64),
        Target("TCP_CC_INFO", 26, kinds.TCP),
        platforms="Linux 4.1",
    ),
    _read_only(
        "saved_syn",
        "The first packet of an accepted connection, once: see save_syn.",
        ReadOnly("bytes", as_bytes, size=512),
        Target("TCP_SAVED_SYN", 28, kinds.TCP),
        platforms="Linux 4.3",
    ),
    _read_only(
        "is_mptcp",
        "Whether a connection is still one of Multipath TCP.",
        BOOL,
        Target("TCP_IS_MPTCP", 43, kinds.TCP),
        platforms="Linux 5.16",
    ),
)

LEFT_OUT: dict[str, str] = {
    "SO_ERROR": "reading it clears it: only the end of a connect and take_error() may",
    "SO_RCVTIMEO": "does nothing on a socket that does not block: receive_timeout",
    "SO_SNDTIMEO": "does nothing on a socket that does not block: send_timeout",
    "SO_RCVBUFFORCE": "receive_buffer uses it where the process may",
    "SO_SNDBUFFORCE": "send_buffer uses it where the process may",
    "SO_ATTACH_FILTER": "takes a pointer to a program",
    "SO_DETACH_FILTER": "has no value",
    "SO_ATTACH_REUSEPORT_CBPF": "takes a pointer to a program",
    "IP_ADD_MEMBERSHIP": "DatagramSocket.join_group",
    "IP_ADD_SOURCE_MEMBERSHIP": "DatagramSocket.join_group",
    "MCAST_JOIN_GROUP": "DatagramSocket.join_group",
    "MCAST_JOIN_SOURCE_GROUP": "DatagramSocket.join_group",
    "IPV6_JOIN_GROUP": "DatagramSocket.join_group",
    "IP_PKTOPTIONS": "a buffer of control messages, not a value",
    "TCP_MD5SIG": "TCP_MD5SIG_EXT does the same, and networks",
}
"""Options that users could look for here, and why they have no row."""
