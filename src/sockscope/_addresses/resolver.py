"""Trio's resolver, with errors of ours and a checkpoint for certain."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import Any

import trio

from sockscope._addresses.values import InternetAddress, internet_from_sockaddr
from sockscope._core.errors import (
    NameNotFoundError,
    ResolverError,
    TemporaryResolverError,
    UnknownServiceError,
    socket_error,
)

INTERNET_FAMILIES = (socket.AF_INET, socket.AF_INET6)

# Not every system has all of them: EAI_NODATA and EAI_ADDRFAMILY are gone from POSIX.
_ERRORS: dict[int, type[ResolverError]] = {
    getattr(socket, name): cls
    for name, cls in {
        "EAI_NONAME": NameNotFoundError,
        "EAI_NODATA": NameNotFoundError,
        "EAI_ADDRFAMILY": NameNotFoundError,
        "EAI_AGAIN": TemporaryResolverError,
        "EAI_SERVICE": UnknownServiceError,
    }.items()
    if hasattr(socket, name)
}


def family_for(ipv6: bool | None) -> int:
    """The family that the argument ``ipv6=`` asks of the resolver.

    Raises:
      TypeError: *ipv6* is neither a bool nor None.
    """
    if ipv6 is None:
        return socket.AF_UNSPEC
    if not isinstance(ipv6, bool):
        raise TypeError(f"ipv6 must be True, False or None, not {ipv6!r}")
    return socket.AF_INET6 if ipv6 else socket.AF_INET


def no_address(what: object, family: int) -> NameNotFoundError:
    """The error for a host that has no address of *family*."""
    kind = {int(socket.AF_INET): "IPv4 ", int(socket.AF_INET6): "IPv6 "}.get(family, "")
    return NameNotFoundError(socket.EAI_NONAME, f"cannot look up {what}: it has no {kind}address")


async def look_up(
    name: str, service: int | str, *, family: int, kind: int, flags: int = 0
) -> tuple[list[InternetAddress], str]:
    """Ask `trio.socket.getaddrinfo` for a name's addresses.

    Returns:
      At least one address, without duplicates; and the canonical name, where *flags* ask
      for it and there is one, else ``""``.

    Raises:
      ResolverError: the name or the service is unknown, or the resolver failed.
      SocketError: the system was short of descriptors, say.
    """
    # The codec that the socket module would use on an ASCII str refuses long labels with
    # an error of its own. Other names are encoded by Trio (IDNA 2008).
    host = name.encode("ascii") if name.isascii() else name
    # A custom resolver may answer without a schedule point, and Trio adds none.
    await trio.lowlevel.checkpoint()
    try:
        found = await trio.socket.getaddrinfo(host, service, family, kind, 0, flags)
    except socket.gaierror as exc:
        raise _resolver_error(exc, name, service, kind) from exc
    except OSError as exc:
        raise socket_error(exc, f"look up {name}") from exc
    except UnicodeError as exc:
        message = f"cannot look up {name!r}: it cannot be the name of a host ({exc})"
        raise NameNotFoundError(socket.EAI_NONAME, message) from exc
    wanted = INTERNET_FAMILIES if family == socket.AF_UNSPEC else (family,)
    addresses = list(dict.fromkeys(_internet_addresses(found, wanted)))
    if not addresses:
        raise no_address(name, family)
    return addresses, next((entry[3] for entry in found if entry[3]), "")


def _internet_addresses(
    found: Iterable[tuple[Any, ...]], families: tuple[int, ...]
) -> Iterator[InternetAddress]:
    for family, _, _, _, sockaddr in found:
        # A Python without IPv6 gives those addresses as (int, bytes).
        if family in families and isinstance(sockaddr[0], str):
            # A custom resolver may leave out what is 0 (the standard library allows it).
            parts = sockaddr if family == socket.AF_INET else (*sockaddr, 0, 0)[:4]
            yield internet_from_sockaddr(family, parts)


def _resolver_error(
    exc: socket.gaierror, name: str, service: int | str, kind: int
) -> ResolverError:
    cls = _ERRORS.get(exc.errno or 0, ResolverError)
    if cls is UnknownServiceError:
        protocol = "udp" if kind == socket.SOCK_DGRAM else "tcp"
        return unknown_service(service, protocol, exc.errno)
    return socket_error(exc, f"look up {name}", cls)


def unknown_service(
    service: int | str, protocol: str, number: int | None = socket.EAI_SERVICE
) -> UnknownServiceError:
    """The error for a service that is not known for a protocol."""
    message = f"cannot find the service {service!r} for the protocol {protocol!r}"
    return UnknownServiceError(number, message)
