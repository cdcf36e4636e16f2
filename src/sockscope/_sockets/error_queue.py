"""The error queue of a datagram socket (IP_RECVERR): what ICMP said, and of which datagram.

An unread queue keeps epoll awake for ever (42,551 wake-ups in 0.1 s were counted), and
its first entry is reported by the next send or receive, whomever that concerns. So it is
read at each wake without data and at each error, and each entry becomes a `DatagramError`
that names the destination it is about.

A local socket has no such queue, and ignores MSG_ERRQUEUE: reading one there would eat
datagrams. It is never asked.
"""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from sockscope._addresses.values import Address, InternetAddress, from_sockaddr
from sockscope._core.errors import DatagramError
from sockscope._options.model import number_of
from sockscope._options.value_types import ExtendedError, parse_extended_error
from sockscope._sockets.ancillary_datagram import IP, IPV6

#: None where the system has no error queue.
_MSG_ERRQUEUE: Final = number_of("MSG_ERRQUEUE", 0x2000)
_RECEIVE_ERRORS: Final = ((IP, 11), (IPV6, 25))  # IP_RECVERR, IPV6_RECVERR

ORIGIN_LOCAL: Final = 1
_REPORTED: Final = frozenset({2, 3})  # by ICMP, by ICMPv6
# The head of the datagram that comes back: ICMP carries 548 bytes at most, ICMPv6 1,232.
_ROOM: Final = 2048
_CONTROL_ROOM: Final = 1024
# More than any queue holds at once; a flood of new ones must not keep us here.
_AT_ONCE: Final = 256

#: What ICMP messages are turned into (icmp(7), ``net/ipv4/icmp.c``, ``net/ipv6/icmp.c``):
#: a send or receive that fails with one of these may tell of an earlier datagram.
NETWORK_ERRORS: Final = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNREFUSED",
        "EHOSTUNREACH",
        "ENETUNREACH",
        "EHOSTDOWN",
        "ENONET",
        "ENOPROTOOPT",
        "EOPNOTSUPP",
        "EPROTO",
        "EACCES",
        "EMSGSIZE",
        # Windows says so of any unreachable port, also to a socket without a peer.
        "ECONNRESET",
        "ENETRESET",
    )
    if hasattr(errno, name)
)


def read_error_queue(sock: Any) -> tuple[list[DatagramError], int | None]:
    """Empty the error queue of an internet datagram socket; a plain function.

    Args:
      sock: a socket of the standard library, IPv4 or IPv6.

    Returns:
      What ICMP reported, oldest first; and the MTU that the last local EMSGSIZE named,
      which the failing send has told of already.
    """
    reported: list[DatagramError] = []
    mtu = None
    if _MSG_ERRQUEUE is None:
        return reported, mtu
    for _ in range(_AT_ONCE):
        try:
            data, messages, _, sender = sock.recvmsg(_ROOM, _CONTROL_ROOM, _MSG_ERRQUEUE)
        except OSError:
            break  # EAGAIN: the queue is empty
        for level, kind, raw in messages:
            if (level, kind) not in _RECEIVE_ERRORS:
                continue
            entry, offender = parse_extended_error(raw)
            if entry.origin in _REPORTED:
                to = from_sockaddr(int(sock.family), sender, unmap=True)
                reported.append(_error(entry, to, _offender(offender), data))
            elif entry.origin == ORIGIN_LOCAL and entry.errno == errno.EMSGSIZE:
                mtu = entry.info
    return reported, mtu


def _error(
    entry: ExtendedError, to: Address, offender: InternetAddress | None, data: bytes
) -> DatagramError:
    by = "" if offender is None else f", says {offender.host}"
    return DatagramError(
        entry.errno,
        f"a datagram to {to} did not arrive: {os.strerror(entry.errno)}{by}",
        address=to,
        offender=offender,
        mtu=entry.info if entry.errno == errno.EMSGSIZE else None,
        returned=data,
    )


def _offender(raw: bytes) -> InternetAddress | None:
    """The sockaddr behind an entry: the host or router that sent the ICMP message."""
    if len(raw) < 2:
        return None
    (family,) = struct.unpack_from("=H", raw)
    if family == stdlib_socket.AF_INET and len(raw) >= 8:
        return InternetAddress(IPv4Address(raw[4:8]), 0)
    if family == stdlib_socket.AF_INET6 and len(raw) >= 28:
        (scope_id,) = struct.unpack_from("=I", raw, 24)
        return InternetAddress(IPv6Address(raw[8:24]), 0, scope_id).unmapped
    return None  # AF_UNSPEC: nobody said it
