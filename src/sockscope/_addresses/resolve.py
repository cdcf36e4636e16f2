"""From a designator to addresses."""

from __future__ import annotations

import socket
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, TypeAlias

import trio

from sockscope._addresses.designators import (
    ActivatedRequest,
    AddressLike,
    DescriptorRequest,
    HostRequest,
    Request,
    parse_designator,
)
from sockscope._addresses.lookups import find_port
from sockscope._addresses.resolver import family_for, look_up, no_address
from sockscope._addresses.values import (
    AF_UNIX,
    Address,
    InternetAddress,
    LocalAddress,
)

SocketKind: TypeAlias = Literal["stream", "datagram", "seqpacket"]

# IPv6 first: where the system allows, one socket of it serves both families.
_WILDCARDS = (IPv6Address("::"), IPv4Address("0.0.0.0"))


async def resolve(
    designator: AddressLike,
    *,
    ipv6: bool | None = None,
    type: SocketKind = "stream",
    passive: bool = False,
) -> list[Address]:
    """Find the addresses that a designator stands for.

    Args:
      designator: an address, ``(host, port)``, a str such as ``"example.org:https"`` ...
      ipv6: True for IPv6 addresses only, False for IPv4 only, None for both. Local
        addresses are of neither, and pass.
      type: the type of socket it is for: services are looked up for its protocol
        (``tcp`` for ``"stream"``, ``udp`` for ``"datagram"``).
      passive: whether a socket is to be bound to it. Only then may the host be None, the
        wildcard, which gives ``::`` and ``0.0.0.0``, in this order: a caller that opens a
        dual-stack socket on the first has no need of the second.

    Names are looked up by `trio.socket.getaddrinfo`, so that a resolver set by
    `trio.socket.set_custom_hostname_resolver` is used; literals need no thread.

    Returns:
      At least one address, in the order in which the resolver gave them (RFC 6724),
      without duplicates.

    Raises:
      NameNotFoundError: the host is unknown, or has no address of the family asked for.
      TemporaryResolverError: the name server did not answer.
      UnknownServiceError: the service is unknown.
      UnknownInterfaceError: a scope names no interface.
      ResolverError: the resolver failed otherwise.
      ValueError, TypeError: the designator is none, or names a socket that is there already
        (``"fd:3"``).

    A checkpoint, also where there is nothing to look up.
    """
    request = parse_designator(designator, argument="designator", passive=passive)
    return await resolve_request(request, ipv6=ipv6, type=type)


async def resolve_request(
    request: Request,
    *,
    ipv6: bool | None = None,
    type: SocketKind = "stream",
) -> list[Address]:
    """`resolve` for a designator that has been parsed."""
    family = family_for(ipv6)
    if isinstance(request, (DescriptorRequest, ActivatedRequest)):
        raise ValueError(f"{request} cannot be resolved: it names a socket that is there already")
    kind = _socket_kind(type, request)
    found: list[Address]
    if isinstance(request, Address):
        await trio.lowlevel.checkpoint()
        found = [request]
    elif isinstance(request.host, str):
        found = await _addresses_of(request, request.host, family, kind)
    else:
        port = await _port_of(request.service, kind)
        hosts = _WILDCARDS if request.host is None else (request.host,)
        found = [InternetAddress(h, port, request.scope_id, request.flow_info) for h in hosts]
    wanted = [address for address in found if _suits(address, family)]
    if not wanted:
        raise no_address(request, family)
    return wanted


def _socket_kind(type_name: str, request: Request) -> int:
    kinds = {"stream": socket.SOCK_STREAM, "datagram": socket.SOCK_DGRAM}
    if type_name in kinds:
        return kinds[type_name]
    if type_name != "seqpacket":
        raise ValueError(f"type must be 'stream', 'datagram' or 'seqpacket', not {type_name!r}")
    if not isinstance(request, LocalAddress):
        raise ValueError(f"type='seqpacket' is for local sockets, not for {request}")
    return socket.SOCK_SEQPACKET


def _suits(address: Address, family: int) -> bool:
    return family == socket.AF_UNSPEC or address.family in (family, AF_UNIX)


async def _port_of(service: int | str, kind: int) -> int:
    if isinstance(service, str):
        return await find_port(service, "udp" if kind == socket.SOCK_DGRAM else "tcp")
    await trio.lowlevel.checkpoint()
    return service


async def _addresses_of(request: HostRequest, name: str, family: int, kind: int) -> list[Address]:
    found, _ = await look_up(name, request.service, family=family, kind=kind)
    if not (request.scope_id or request.flow_info):
        return [*found]
    return [
        replace(
            address,
            scope_id=address.scope_id or request.scope_id,
            flow_info=address.flow_info or request.flow_info,
        )
        for address in found
        if address.family == socket.AF_INET6
    ]
