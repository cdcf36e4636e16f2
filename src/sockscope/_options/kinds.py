"""The kinds of socket that options tell apart, and names for sets of them."""

from __future__ import annotations

import socket

TCP4, TCP6 = "tcp4", "tcp6"
UDP4, UDP6 = "udp4", "udp6"
RAW4, RAW6 = "raw4", "raw6"
LOCAL_STREAM, LOCAL_DATAGRAM, LOCAL_SEQPACKET = "local-stream", "local-datagram", "local-seqpacket"
# A family of which this table knows nothing (vsock, netlink ...): level SOL_SOCKET at most.
OTHER = "other"

NONE: frozenset[str] = frozenset()
TCP = frozenset({TCP4, TCP6})
UDP = frozenset({UDP4, UDP6})
RAW = frozenset({RAW4, RAW6})
DATAGRAM = UDP | RAW  # internet sockets that keep message boundaries
INTERNET = TCP | DATAGRAM
INTERNET4 = frozenset({TCP4, UDP4, RAW4})
INTERNET6 = frozenset({TCP6, UDP6, RAW6})
LOCAL = frozenset({LOCAL_STREAM, LOCAL_DATAGRAM, LOCAL_SEQPACKET})
ALL = INTERNET | LOCAL | {OTHER}

# Python on Windows lacks AF_UNIX: a number that no family has (-1 would mean AF_INET).
AF_UNIX: int = getattr(socket, "AF_UNIX", 65535)

_KINDS: dict[tuple[int, int], str] = {
    (socket.AF_INET, socket.SOCK_STREAM): TCP4,
    (socket.AF_INET6, socket.SOCK_STREAM): TCP6,
    (socket.AF_INET, socket.SOCK_DGRAM): UDP4,
    (socket.AF_INET6, socket.SOCK_DGRAM): UDP6,
    (socket.AF_INET, socket.SOCK_RAW): RAW4,
    (socket.AF_INET6, socket.SOCK_RAW): RAW6,
    (AF_UNIX, socket.SOCK_STREAM): LOCAL_STREAM,
    (AF_UNIX, socket.SOCK_DGRAM): LOCAL_DATAGRAM,
    (AF_UNIX, socket.SOCK_SEQPACKET): LOCAL_SEQPACKET,
}

# How a message calls a socket of that kind.
DESCRIPTIONS: dict[str, str] = {
    TCP4: "an IPv4 stream socket",
    TCP6: "an IPv6 stream socket",
    UDP4: "an IPv4 datagram socket",
    UDP6: "an IPv6 datagram socket",
    RAW4: "an IPv4 raw socket",
    RAW6: "an IPv6 raw socket",
    LOCAL_STREAM: "a local stream socket",
    LOCAL_DATAGRAM: "a local datagram socket",
    LOCAL_SEQPACKET: "a local seqpacket socket",
    OTHER: "a socket of this family",
}


def kind_of(family: int, type: int) -> str:  # socket(2)'s own word
    """The kind of a socket of *family* and *type*."""
    return _KINDS.get((family, type), OTHER)


def family_and_type(kind: str) -> tuple[int, int]:
    """The inverse of `kind_of`, for scratch sockets; KeyError for `OTHER`."""
    return _BY_KIND[kind]


_BY_KIND = {kind: pair for pair, kind in _KINDS.items()}
