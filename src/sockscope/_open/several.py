"""What a designator with several addresses needs, whatever the kind of socket."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeGuard, TypeVar

from sockscope._addresses.designators import HostRequest, Request
from sockscope._addresses.resolve import SocketKind, resolve_request
from sockscope._addresses.values import Address, InternetAddress
from sockscope._core.errors import OptionError, SocketError
from sockscope._open.sockets import AF_INET6, SHORTAGE
from sockscope._options.values import SocketOptions
from sockscope._sockets.base import BaseSocket

_S = TypeVar("_S", bound=BaseSocket)

# IPv6 sockets are never left to the system's own default of ipv6_only: it differs.
_ONE_FAMILY: Final = SocketOptions(ipv6_only=True)
BOTH_FAMILIES: Final = SocketOptions(ipv6_only=False)


def family_options(*addresses: Address | None) -> SocketOptions:
    """What an IPv6 socket for literal addresses needs: an IPv4-mapped one is no IPv6 alone."""
    mapped = any(isinstance(a, InternetAddress) and a.unmapped is not a for a in addresses)
    return BOTH_FAMILIES if mapped else _ONE_FAMILY


# How often a port that the kernel chose for one address may be taken on the next.
_PORT_TRIES: Final = 16


async def look_up(what: Request, ipv6: bool | None, type: SocketKind) -> list[Address]:
    """The addresses of a designator; a literal costs neither a thread nor a checkpoint."""
    if isinstance(what, Address) and ipv6 is None:
        return [what]
    return await resolve_request(what, ipv6=ipv6, type=type)


def is_wildcard(request: Request | None) -> bool:
    """Whether it is every address of the machine."""
    return isinstance(request, HostRequest) and request.is_wildcard


def lacks_family(exc: SocketError, address: Address) -> bool:
    """Whether this machine has no such family: names often have an IPv6 address all the same."""
    return exc.errno == errno.EAFNOSUPPORT or (
        exc.errno == errno.EADDRNOTAVAIL and address.family == AF_INET6
    )


def is_hopeless(exc: OSError) -> bool:
    """Whether no other address can do better: a shortage, or an option that is at fault."""
    return isinstance(exc, OptionError) or exc.errno in SHORTAGE


async def open_on_each(
    addresses: Sequence[Address], open_one: Callable[[Address], Awaitable[_S]]
) -> list[_S]:
    """Open a socket on each of one designator's addresses, all on the same port.

    Addresses of a family that this machine lacks are left out, unless all are.

    Args:
      addresses: literal ones, at least one.
      open_one: opens a bound socket, or raises SocketError.

    Raises:
      SocketError: an address could not be bound; none is left open.
    """
    tries = _PORT_TRIES if len(addresses) > 1 and _takes_any_port(addresses[0]) else 1
    while True:
        tries -= 1
        try:
            return await _open_all(addresses, open_one)
        except SocketError as exc:
            # The port that the kernel chose on the first is taken on another.
            if exc.errno != errno.EADDRINUSE or not tries:
                raise


async def _open_all(
    addresses: Sequence[Address], open_one: Callable[[Address], Awaitable[_S]]
) -> list[_S]:
    opened: list[_S] = []
    lacking: SocketError | None = None
    try:
        for address in addresses:
            try:
                opened.append(await open_one(_on_the_port_of(opened, address)))
            except SocketError as exc:
                lacking = exc
                if not lacks_family(exc, address):
                    raise
        if lacking is not None and not opened:
            raise lacking
    except BaseException:
        for socket in opened:
            socket._close()
        raise
    return opened


def _on_the_port_of(opened: Sequence[BaseSocket], address: Address) -> Address:
    """*address*, with the port that the kernel chose for the first if it takes any."""
    if not opened or not _takes_any_port(address):
        return address
    first = opened[0].local_address
    assert isinstance(first, InternetAddress)  # as all of one designator are
    return dataclasses.replace(address, port=first.port)


def _takes_any_port(address: Address) -> TypeGuard[InternetAddress]:
    return isinstance(address, InternetAddress) and address.port == 0
