"""Questions about hosts, services and protocols, as IOLib has them (seed 003)."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Literal

import trio

from sockscope._addresses.designators import HostLike, check_service_name, parse_host
from sockscope._addresses.hosts import format_host, format_scope, is_digits
from sockscope._addresses.resolver import (
    family_for,
    look_up,
    no_address,
    unknown_service,
)
from sockscope._addresses.values import InternetAddress, check_port, parse_port
from sockscope._core.errors import ResolverError, UnknownProtocolError, socket_error
from sockscope._core.frozen import refuse_changes

# For getaddrinfo(3) and getnameinfo(3). The socket module's getservbyname and
# getservbyport read a buffer that all threads share after they have let go of the
# interpreter's lock: two look-ups at a time could swap their results.
_TRANSPORTS = {
    "tcp": (socket.SOCK_STREAM, 0),
    "udp": (socket.SOCK_DGRAM, socket.NI_DGRAM),
}
PROTOCOLS_FILE = Path(
    os.path.expandvars(r"%SystemRoot%\System32\drivers\etc\protocol")
    if sys.platform == "win32"
    else "/etc/protocols"
)


@refuse_changes
@dataclass(frozen=True, slots=True)
class Service:
    """A service of the system's list, see `lookup_service`.

    Attributes:
      port: its port number.
      name: its official name.
      protocol: ``"tcp"`` or ``"udp"``.
    """

    port: int
    name: str
    protocol: str


@refuse_changes
@dataclass(frozen=True, slots=True)
class Protocol:
    """A protocol of the system's list, see `lookup_protocol`.

    Attributes:
      number: what stands in the IP header.
      name: its official name.
      aliases: its other names.
    """

    number: int
    name: str
    aliases: tuple[str, ...] = ()


@refuse_changes
@dataclass(frozen=True, slots=True)
class HostInfo:
    """What is known of a host, see `lookup_host`. Iterable over its addresses.

    Attributes:
      addresses: its addresses, at least one, in the resolver's order (RFC 6724). Those of
        a link carry their scope, as ``fe80::1%eth0``.
      canonical_name: its official name; the text of the address where it has none.
      aliases: the other names it is known by: what was asked, where that is not official.
    """

    addresses: tuple[IPv4Address | IPv6Address, ...]
    canonical_name: str
    aliases: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[IPv4Address | IPv6Address]:
        return iter(self.addresses)


async def lookup_host(host: HostLike, *, ipv6: bool | None = None) -> HostInfo:
    """Find the addresses of a name, or the name of an address.

    Args:
      host: a name; or an address (a literal, an `ipaddress` object, a 32-bit number),
        whose name is looked up. An address without a name is no error.
      ipv6: True for IPv6 addresses only, False for IPv4 only, None for both.

    Both directions go through Trio's resolver, and so through a custom one that is set.

    Returns:
      The addresses in the resolver's order, the canonical name, and other names.

    Raises:
      NameNotFoundError: the name is unknown, or there is no address of the family asked for.
      TemporaryResolverError: the name server did not answer.
      ResolverError: the resolver failed otherwise.
      ValueError, TypeError: *host* is no host.

    A checkpoint.
    """
    family = family_for(ipv6)
    try:
        found = parse_host(host)
    except (ValueError, TypeError) as exc:
        kind = TypeError if isinstance(exc, TypeError) else ValueError
        raise kind(f"host={host!r}: {exc}") from exc
    if not isinstance(found, str):
        return await _look_up_literal(InternetAddress(found[0], 0, found[1]), family)
    addresses, official = await look_up(
        found, 0, family=family, kind=socket.SOCK_STREAM, flags=socket.AI_CANONNAME
    )
    aliases = () if official.casefold() in ("", found.casefold()) else (found,)
    return HostInfo(tuple(map(_with_scope, addresses)), official or found, aliases)


async def _look_up_literal(address: InternetAddress, family: int) -> HostInfo:
    host = _with_scope(address)
    if family not in (socket.AF_UNSPEC, address.family):
        raise no_address(host, family)
    await trio.lowlevel.checkpoint()  # a custom resolver may have none
    try:
        name, _ = await trio.socket.getnameinfo(address.sockaddr, socket.NI_NAMEREQD)
    except socket.gaierror:
        # The question for the address is answered; most have no name, and whether the
        # name server says so or says nothing makes no difference to the caller.
        name = str(host)
    except OSError as exc:
        raise socket_error(exc, f"look up the name of {host}") from exc
    return HostInfo((host,), name)


def _with_scope(address: InternetAddress) -> IPv4Address | IPv6Address:
    if not address.scope_id:
        return address.host
    return IPv6Address(f"{format_host(address.host)}%{format_scope(address.scope_id)}")


async def lookup_service(
    name_or_port: str | int, protocol: Literal["tcp", "udp", "any"] = "tcp"
) -> Service:
    """Find a service by its name, an alias of it, or its port.

    Args:
      name_or_port: a name such as ``"ssh"``, or a port as an int or in digits.
      protocol: ``"any"`` asks for TCP first, then for UDP.

    Looks into the system's list, services(5), in a thread.

    Returns:
      Its port, official name and protocol.

    Raises:
      UnknownServiceError: the list does not have it (or the system has no list).
      ValueError: the port is out of range, or the protocol is none of these.
      TypeError: *name_or_port* is neither a str nor an int.

    A checkpoint.
    """
    if protocol != "any" and protocol not in _TRANSPORTS:
        raise ValueError(f"protocol must be 'tcp', 'udp' or 'any', not {protocol!r}")
    wanted = _port_or_name(name_or_port)
    if isinstance(wanted, str):
        check_service_name(wanted)
    else:
        check_port(wanted)
    candidates = tuple(_TRANSPORTS) if protocol == "any" else (protocol,)
    service = await trio.to_thread.run_sync(
        _find_service, wanted, candidates, abandon_on_cancel=True
    )
    if service is None:
        raise unknown_service(name_or_port, protocol)
    return service


async def find_port(name: str, protocol: str) -> int:
    """The port of a service, for `resolve`.

    Raises:
      UnknownServiceError: it is unknown.
    """
    port = await trio.to_thread.run_sync(_port_of, name, protocol, abandon_on_cancel=True)
    if port is None:
        raise unknown_service(name, protocol)
    return port


def _port_or_name(value: str | int) -> str | int:
    return parse_port(value) if isinstance(value, str) and is_digits(value) else value


def _find_service(wanted: str | int, protocols: tuple[str, ...]) -> Service | None:
    for protocol in protocols:
        port = _port_of(wanted, protocol) if isinstance(wanted, str) else wanted
        if port is None:
            continue
        name = _name_of(port, protocol)
        if name is not None:
            return Service(port, name, protocol)
    return None


def _port_of(name: str, protocol: str) -> int | None:
    try:
        entries = socket.getaddrinfo(None, name, type=_TRANSPORTS[protocol][0])
    except socket.gaierror as exc:
        if exc.errno not in (socket.EAI_SERVICE, socket.EAI_NONAME):
            raise socket_error(exc, f"look up the service {name!r}", ResolverError) from exc
        return None
    return int(entries[0][4][1])


def _name_of(port: int, protocol: str) -> str | None:
    flags = socket.NI_NUMERICHOST | _TRANSPORTS[protocol][1]
    name = socket.getnameinfo(("127.0.0.1", port), flags)[1]
    return None if is_digits(name) else name


async def lookup_protocol(name_or_number: str | int) -> Protocol:
    """Find a protocol of the Internet by its name, an alias of it, or its number.

    Args:
      name_or_number: such as ``"tcp"``, ``6`` or ``"6"``; upper or lower case.

    Reads protocols(5) in a thread; where the system has no such file, what the socket
    module knows by ``IPPROTO_*`` takes its place.

    Returns:
      Its number, official name and aliases.

    Raises:
      UnknownProtocolError: it is not known.
      TypeError: *name_or_number* is neither a str nor an int.

    A checkpoint.
    """
    wanted = name_or_number
    if isinstance(wanted, bool) or not isinstance(wanted, (str, int)):
        raise TypeError(f"name_or_number must be a str or an int, not {wanted!r}")
    known = await trio.to_thread.run_sync(_read_protocols, abandon_on_cancel=True)
    for protocol in known:
        names = (protocol.name, *protocol.aliases, str(protocol.number))
        if str(wanted).casefold() in (name.casefold() for name in names):
            return protocol
    raise UnknownProtocolError(None, f"cannot find the protocol {wanted!r}")


def _read_protocols() -> list[Protocol]:
    try:
        text = PROTOCOLS_FILE.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return _protocols_of_socket_module()
    except OSError as exc:
        raise socket_error(exc, f"read {PROTOCOLS_FILE}") from exc
    lines = (line.partition("#")[0].split() for line in text.splitlines())
    return [
        Protocol(int(fields[1]), fields[0], tuple(fields[2:]))
        for fields in lines
        if len(fields) >= 2 and is_digits(fields[1])
    ]


def _protocols_of_socket_module() -> list[Protocol]:
    names = sorted(name for name in dir(socket) if name.startswith("IPPROTO_"))
    return [
        Protocol(int(getattr(socket, name)), name.removeprefix("IPPROTO_").lower())
        for name in names
    ]
