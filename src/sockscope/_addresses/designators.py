"""Whatever a user may write for an address, turned into a request that can be resolved."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeAlias

from sockscope._addresses.hosts import format_host, is_digits, parse_literal
from sockscope._addresses.values import (
    Address,
    InternetAddress,
    LocalAddress,
    check_port,
    parse_local,
    parse_port,
    split_host_port,
    split_scope,
    trusted_address,
)

HostLike: TypeAlias = str | bytes | int | IPv4Address | IPv6Address
"""A host: a name, a literal, a 32-bit number (Allegro CL) or an `ipaddress` object."""

AddressLike: TypeAlias = (
    Address
    | str
    | os.PathLike[str]
    | os.PathLike[bytes]
    | tuple[HostLike | None, int | str]
    | tuple[HostLike | None, int, int, int]
)
"""An address designator: anything that stands for one address, or for one name's addresses."""

_HOST_TYPES = (str, bytes, int, IPv4Address, IPv6Address, type(None))


@dataclass(frozen=True, slots=True)
class HostRequest:
    """A host and a service, of which at least one has still to be looked up.

    Attributes:
      host: a name; or a literal, where only *service* is a name; or None, the wildcard.
      service: a port number or a service's name.
      scope_id: for the IPv6 addresses of a name, unless they have their own.
      flow_info: likewise.
    """

    host: str | IPv4Address | IPv6Address | None
    service: int | str
    scope_id: int = 0
    flow_info: int = 0

    @property
    def is_wildcard(self) -> bool:
        """Whether this is every address of the machine, of both families."""
        return self.host is None

    def __str__(self) -> str:
        host = self.host if self.host is None or isinstance(self.host, str) else _show(self.host)
        return f"{'*' if host is None else host}:{self.service}"


@dataclass(frozen=True, slots=True)
class DescriptorRequest:
    """``fd:N``: the socket that this process has as descriptor *number*."""

    number: int

    def __str__(self) -> str:
        return f"fd:{self.number}"


@dataclass(frozen=True, slots=True)
class ActivatedRequest:
    """``activated:NAME``: the socket that the service manager has passed under *name*."""

    name: str

    def __str__(self) -> str:
        return f"activated:{self.name}"


Request: TypeAlias = Address | HostRequest | DescriptorRequest | ActivatedRequest
"""A parsed designator; all of them are frozen, hashable and print as the designator would."""


def split_designators(value: Any, *, argument: str = "local") -> list[Any]:
    """The designators in *value*, which may be one or several; they are not parsed yet.

    A tuple whose first item is a str, bytes, int, `ipaddress` object or None is one
    designator, and so is a str, a path or an address; every other iterable is several.

    Raises:
      ValueError: *value* is empty.
      TypeError: *value* is neither a designator nor an iterable of them.
    """
    if isinstance(value, (Address, str, os.PathLike)):
        return [value]
    if isinstance(value, tuple) and value and isinstance(value[0], _HOST_TYPES):
        return [value]
    if isinstance(value, (bytes, bytearray, memoryview)) or not isinstance(value, Iterable):
        raise TypeError(f"{argument} must be an address or an iterable of them, not {value!r}")
    designators = list(value)
    if not designators:
        raise ValueError(f"{argument} is empty: it must name at least one address")
    return designators


def parse_designator(value: Any, *, argument: str = "remote", passive: bool = False) -> Request:
    """Turn one designator into an address, or into a request for what is to be looked up.

    Args:
      value: the designator, see `AddressLike`.
      argument: the name of the user's argument, for the errors.
      passive: whether a socket is to be bound to it. Only then may the host be None, the
        wildcard, or the local address have no name.

    Raises:
      ValueError: no designator has this form, or a part of it is out of its range.
      TypeError: no designator is of this type.
      UnknownInterfaceError: a scope names no interface.
    """
    if type(value) is InternetAddress:  # each datagram comes by here
        return value
    try:
        request = _parse(value)
        if not passive:
            _check_remote(request)
    except (ValueError, TypeError) as exc:
        kind = TypeError if isinstance(exc, TypeError) else ValueError
        raise kind(f"{argument}={value!r}: {exc}") from exc
    return request


def parse_host(host: object) -> tuple[IPv4Address | IPv6Address, int] | str:
    """A literal host with its scope, or a name.

    Args:
      host: see `HostLike`.

    Raises:
      ValueError: the host is empty, a broken literal or out of range.
      TypeError: it has another type.
      UnknownInterfaceError: its scope names no interface.
    """
    if isinstance(host, IPv6Address):
        return split_scope(host)
    if isinstance(host, IPv4Address):
        return IPv4Address(int(host)), 0
    if isinstance(host, int) and not isinstance(host, bool):
        if not 0 <= host <= 0xFFFF_FFFF:
            raise ValueError("a host that is a number must be an IPv4 address, 0 to 4294967295")
        return IPv4Address(int(host)), 0
    if isinstance(host, bytes):
        host = _decode(host)
    if not isinstance(host, str):
        raise TypeError("the host must be a str, bytes, an int or an ipaddress object")
    if not host:
        raise ValueError("the host is empty")
    if "\0" in host:
        # CPython gives getaddrinfo(3) a C string: the look-up would be of what is before it.
        raise ValueError("the host has a NUL character")
    return parse_literal(host) or host


def _parse(value: Any) -> Request:
    if isinstance(value, Address):
        return _check_usable(value)
    if isinstance(value, str):
        return _parse_text(value)
    if isinstance(value, tuple):
        return _parse_tuple(value)
    if isinstance(value, os.PathLike):
        path = os.fsencode(value)
        if b"\0" in path or not path:
            raise ValueError("a path must have at least one byte, and no NUL byte")
        return LocalAddress(path)
    raise TypeError("not an address, a (host, port) tuple, a str or a path")


def _check_usable(address: Address) -> Address:
    """Refuse the paths that the kernel would cut; `LocalAddress.sockaddr` says why."""
    if isinstance(address, LocalAddress) and not address.is_abstract and b"\0" in address.path:
        raise ValueError("the path has a NUL byte: no file can be named so")
    return address


def _check_remote(request: Request) -> None:
    if isinstance(request, HostRequest) and request.is_wildcard:
        raise ValueError("it needs a host: None, the wildcard, is for local= only")
    if isinstance(request, LocalAddress) and request.path in (b"", b"\0"):
        raise ValueError("an address without a name is for local= only")


def _parse_text(text: str) -> Request:
    kind, _, name = text.partition(":")
    if kind == "unix":
        return _check_usable(parse_local(text))
    if kind == "fd":
        # "fd" and "activated" are no host names here: a (host, port) tuple is the way to those.
        if not is_digits(name) or len(name) > 9:
            raise ValueError("'fd:' must be followed by the number of a descriptor")
        return DescriptorRequest(int(name))
    if kind == "activated":
        if not name:
            raise ValueError("'activated:' must be followed by the name of a socket")
        return ActivatedRequest(name)
    host, service, flow_info = split_host_port(text)
    return _request(host, service, 0, flow_info)


def _parse_tuple(value: tuple[Any, ...]) -> Request:
    if len(value) == 2:
        return _request(*value, 0, 0)
    if len(value) == 4:
        host, port, flow_info, scope_id = value  # the standard library's order
        return _request(host, port, scope_id, flow_info)
    raise ValueError(
        f"a tuple must be (host, port) or (host, port, flow_info, scope_id), not of {len(value)}"
        " items; several addresses go into a list"
    )


def _request(host: Any, port: Any, scope_id: int, flow_info: int) -> Request:
    service = _parse_service(port)
    if host is None:
        if scope_id or flow_info:
            raise ValueError("the wildcard takes neither scope_id nor flow_info")
        return HostRequest(None, service)
    found = parse_host(host)
    if isinstance(found, str):
        # An address checks its numbers; those of a name are checked by way of any.
        checked = InternetAddress(IPv6Address(0), 0, scope_id, flow_info)
        return HostRequest(found, service, checked.scope_id, checked.flow_info)
    literal, own_scope = found
    if not (own_scope or scope_id or flow_info) and isinstance(service, int):
        return trusted_address(literal, service, 0, 0)
    if own_scope and scope_id not in (0, own_scope):
        raise ValueError(f"scope_id {scope_id} contradicts the scope of the host")
    address = InternetAddress(
        literal, service if isinstance(service, int) else 0, own_scope or scope_id, flow_info
    )
    if isinstance(service, int):
        return address
    return HostRequest(literal, service, address.scope_id, address.flow_info)


def _parse_service(port: Any) -> int | str:
    """A port number, or a service's name to be looked up."""
    if not isinstance(port, str):
        check_port(port)
        return int(port)
    if is_digits(port):
        return parse_port(port)
    check_service_name(port)
    return port


def check_service_name(name: str) -> None:
    """Refuse what getaddrinfo(3) would read as a number, or cut at a NUL.

    Raises:
      ValueError: *name* is not a service's name.
    """
    if not name or not name.isascii() or not name.isprintable() or " " in name:
        raise ValueError(f"{name!r} is neither a port number nor the name of a service")
    if is_digits(name.lstrip("+-")):
        raise ValueError(f"port must be 0 to 65535, not {name}")


def _show(host: IPv4Address | IPv6Address) -> str:
    return str(host) if host.version == 4 else f"[{format_host(host)}]"


def _decode(host: bytes) -> str:
    try:
        return host.decode("ascii")
    except UnicodeDecodeError as exc:
        raise ValueError("a host in bytes must be ASCII: a str may have other letters") from exc
