"""Multicast memberships: the socket options that join and leave a group.

| group | interface given by | any source | one source |
| --- | --- | --- | --- |
| IPv4 | index, name, nothing | IP_ADD_MEMBERSHIP, ``ip_mreqn`` | MCAST_JOIN_SOURCE_GROUP |
| IPv4 | one of its addresses | IP_ADD_MEMBERSHIP, ``ip_mreqn`` | IP_ADD_SOURCE_MEMBERSHIP |
| IPv6 | all | IPV6_JOIN_GROUP | MCAST_JOIN_SOURCE_GROUP |

A membership is left by the very bytes that it was joined with: the kernel knows it by its
interface, and 0 is not the interface that the route would choose.
Source: ip(7), ipv6(7), RFC 3678.
"""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
import struct
import sys
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, NamedTuple

from sockscope._addresses.designators import HostLike, parse_host
from sockscope._addresses.hosts import interface_index
from sockscope._addresses.values import InternetAddress
from sockscope._core.errors import SocketError, UnknownInterfaceError, words_for
from sockscope._options.model import number_of
from sockscope._sockets.ancillary_datagram import IP, IPV6

_AF_INET: Final = int(stdlib_socket.AF_INET)
_AF_INET6: Final = int(stdlib_socket.AF_INET6)

_MREQN: Final = struct.Struct("=4s4si")  # group, an interface's address, its index
_MREQ6: Final = struct.Struct("=16si")
_MREQ_SOURCE: Final = struct.Struct("=4s4s4s")  # group, interface, source: Linux's order
_ANY4: Final = bytes(4)
# struct group_source_req: the index, and two of struct sockaddr_storage, 8-byte aligned.
_STORAGE: Final = 128
_GROUP_SOURCE: Final = struct.Struct(f"=I4x{_STORAGE}s{_STORAGE}s")


class _Options(NamedTuple):
    """The pair of options that joins and leaves; None where this system has no such pair."""

    level: int
    join: int | None
    leave: int | None


_ANY_SOURCE4: Final = _Options(
    IP, number_of("IP_ADD_MEMBERSHIP", 35), number_of("IP_DROP_MEMBERSHIP", 36)
)
_ONE_SOURCE4: Final = _Options(
    IP, number_of("IP_ADD_SOURCE_MEMBERSHIP", 39), number_of("IP_DROP_SOURCE_MEMBERSHIP", 40)
)
_ANY_SOURCE6: Final = _Options(IPV6, stdlib_socket.IPV6_JOIN_GROUP, stdlib_socket.IPV6_LEAVE_GROUP)
# The same numbers at both levels; other systems have others, and other structures.
_GROUP_SOURCE4: Final = _Options(
    IP, number_of("MCAST_JOIN_SOURCE_GROUP", 46), number_of("MCAST_LEAVE_SOURCE_GROUP", 47)
)
_GROUP_SOURCE6: Final = _Options(IPV6, _GROUP_SOURCE4.join, _GROUP_SOURCE4.leave)

_MULTICAST_ALL: Final = (
    (IP, number_of("IP_MULTICAST_ALL", 49)),
    (IPV6, number_of("IPV6_MULTICAST_ALL", 29)),
)

InterfaceLike = int | str | IPv4Address | IPv6Address
GroupLike = str | IPv4Address | IPv6Address | InternetAddress


class Membership(NamedTuple):
    """A group that a socket has joined; what it is left by."""

    group: IPv4Address | IPv6Address
    source: IPv4Address | IPv6Address | None
    options: _Options
    raw: bytes


def parse_membership(
    group: GroupLike, interface: InterfaceLike | None, source: HostLike | None
) -> Membership:
    """What is to be joined or left.

    Raises:
      ValueError: *group* is no multicast address, or *source* of another family.
      TypeError: an argument has another type.
      UnknownInterfaceError: there is no such interface.
    """
    host = _literal(group.host if isinstance(group, InternetAddress) else group, "group")
    if not host.is_multicast:
        raise ValueError(f"group must be a multicast address, not {host}")
    origin = None if source is None else _literal(source, "source")
    if origin is not None and origin.version != host.version:
        raise ValueError(f"source {origin} is of another family than the group {host}")
    address, index = _interface(interface)
    if host.version == 6 and address is not None:
        index = _index_of_address(address)
    options, raw = _request(host, address, index, origin)
    return Membership(host, origin, options, raw)


def join(sock: Any, membership: Membership) -> None:
    """Join; a plain function.

    Raises:
      SocketError: the system refused: ``EADDRINUSE`` if it is joined already, ``ENODEV``
        if there is no route, ``ENOBUFS`` at the limit of memberships.
    """
    _set(sock, membership, membership.options.join, "join")


def leave(sock: Any, membership: Membership) -> None:
    """Leave; a plain function.

    Raises:
      SocketError: the system refused: ``EADDRNOTAVAIL`` if it is not joined.
    """
    _set(sock, membership, membership.options.leave, "leave")


def only_own_groups(sock: Any) -> None:
    """Keep other programs' groups out: by default a socket gets all that anyone here joined."""
    for level, number in _MULTICAST_ALL:
        try:
            if number is not None:
                sock.setsockopt(level, number, 0)
        except OSError:
            pass  # the other family's, or an older kernel: then it is as it always was


_HINTS: Final = {
    errno.ENODEV: "; no route leads there: say by which interface",
    errno.EADDRINUSE: "; it is joined already",
}


def _set(sock: Any, membership: Membership, number: int | None, verb: str) -> None:
    origin = "" if membership.source is None else f" from {membership.source}"
    step = f"{verb} the group {membership.group}{origin}"
    if number is None:
        raise SocketError(errno.ENOPROTOOPT, f"cannot {step}: this system has no such option")
    try:
        sock.setsockopt(membership.options.level, number, membership.raw)
    except OSError as exc:
        hint = _HINTS.get(exc.errno or 0, "")
        raise SocketError(exc.errno, f"cannot {step}: {words_for(exc)}{hint}") from exc


def _request(
    group: IPv4Address | IPv6Address,
    address: IPv4Address | IPv6Address | None,
    index: int,
    source: IPv4Address | IPv6Address | None,
) -> tuple[_Options, bytes]:
    if source is not None and not (group.version == 4 and address is not None):
        options = _GROUP_SOURCE4 if group.version == 4 else _GROUP_SOURCE6
        return options, _GROUP_SOURCE.pack(index, _storage(group), _storage(source))
    if group.version == 6:
        return _ANY_SOURCE6, _MREQ6.pack(group.packed, index)
    own = _ANY4 if address is None else address.packed
    if source is not None:
        return _ONE_SOURCE4, _MREQ_SOURCE.pack(group.packed, own, source.packed)
    if sys.platform == "win32":
        # It has no index in it, but takes one for an address.
        return _ANY_SOURCE4, group.packed + (own if address else index.to_bytes(4, "big"))
    return _ANY_SOURCE4, _MREQN.pack(group.packed, own, index)


def _storage(host: IPv4Address | IPv6Address) -> bytes:
    """A host as ``struct sockaddr_storage``, without port, flow and scope."""
    if host.version == 4:
        return struct.pack("=HH4s", _AF_INET, 0, host.packed)
    return struct.pack("=HHI16sI", _AF_INET6, 0, 0, host.packed, 0)


def _literal(value: Any, argument: str) -> IPv4Address | IPv6Address:
    try:
        host = parse_host(value)
    except (ValueError, TypeError) as exc:
        raise type(exc)(f"{argument}={value!r}: {exc}") from exc
    if isinstance(host, str):
        raise ValueError(f"{argument} must be an address, not the name {host!r}: resolve() it")
    return host[0]


def _interface(
    interface: InterfaceLike | None,
) -> tuple[IPv4Address | IPv6Address | None, int]:
    """An interface as one of its addresses, or as its index; 0 is what the route says."""
    if interface is None:
        return None, 0
    if isinstance(interface, bool) or not isinstance(
        interface, (int, str, IPv4Address, IPv6Address)
    ):
        raise TypeError(f"interface must be a name, an index or an address, not {interface!r}")
    if isinstance(interface, int):
        if interface < 0:
            raise ValueError(f"interface must be an index, not {interface}")
        return None, interface
    if isinstance(interface, str):
        try:
            return None, interface_index(interface)
        except UnknownInterfaceError:
            if not set(interface) & set(".:"):
                raise
    return _literal(interface, "interface"), 0


def _index_of_address(address: IPv4Address | IPv6Address) -> int:
    """The index of the interface that has an IPv6 address (Linux).

    Raises:
      UnknownInterfaceError: none has it, or this system does not tell.
    """
    wanted = address.packed.hex()
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as table:
            rows = [line.split() for line in table]
    except OSError:
        rows = []
    for row in rows:
        if row[0] == wanted:
            return int(row[1], 16)
    raise UnknownInterfaceError(
        errno.EADDRNOTAVAIL,
        f"cannot find the interface with the address {address}: "
        f"{os.strerror(errno.EADDRNOTAVAIL)}; give its name or index",
    )
