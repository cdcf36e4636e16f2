"""Literal hosts: addresses as text, short dotted forms and scopes. No name is looked up here."""

from __future__ import annotations

import errno
import functools
import re
import socket
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from sockscope._core.errors import UnknownInterfaceError

# Everything that inet_aton, and so getaddrinfo, would take for an IPv4 address.
_LIKE_IPV4 = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]*)(\.(0[xX][0-9a-fA-F]*|[0-9]*))*")
_OCTET = re.compile(r"0|[1-9][0-9]{0,2}")
# Interface names that cannot be taken for an index, nor for another part of an address.
_PLAIN_INTERFACE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_MAX_SCOPE = 0xFFFF_FFFF


def is_digits(text: str) -> bool:
    """Whether *text* is ASCII digits: ``str.isdigit`` takes those of every script."""
    return text.isascii() and text.isdigit()


def parse_literal(text: str) -> tuple[IPv4Address | IPv6Address, int] | None:
    """The host and the scope of a literal, or None if *text* is a name.

    Raises:
      ValueError: *text* can only be meant as a literal, but is none.
      UnknownInterfaceError: it has a scope that is no interface.
    """
    if ":" in text:
        return _parse_ipv6(text)
    if _LIKE_IPV4.fullmatch(text):
        return parse_dotted(text), 0
    return None


def _parse_ipv6(text: str) -> tuple[IPv6Address, int]:
    address, percent, scope = text.partition("%")
    try:
        host = _ipv6(address)
    except AddressValueError as exc:
        raise ValueError(f"{text!r} is not an IPv6 address ({exc})") from exc
    return host, parse_scope(scope) if percent else 0


@functools.lru_cache(maxsize=1024)
def parse_dotted(text: str) -> IPv4Address:
    """An IPv4 address of 1 to 4 decimal parts; the last one is the last octet.

    So ``127.1`` is 127.0.0.1, as in IOLib and Allegro CL (seeds 003 and 004). Parts
    above 255 and parts with a leading zero are refused, because inet_aton(3) makes
    other hosts of them: ``127.257`` is 127.0.1.1 there, and ``010.0.0.1`` is 8.0.0.1.

    Raises:
      ValueError: *text* has another form.
    """
    parts = text.split(".")
    if len(parts) > 4 or not all(_OCTET.fullmatch(part) and int(part) < 256 for part in parts):
        raise ValueError(
            f"{text!r} is not an IPv4 address: it takes 1 to 4 decimal parts,"
            " each 0 to 255 and without leading zeros"
        )
    octets = [*map(int, parts[:-1]), *[0] * (4 - len(parts)), int(parts[-1])]
    return IPv4Address(bytes(octets))


def parse_scope(text: str) -> int:
    """The index of an IPv6 scope, which is an interface's index in digits or its name.

    Raises:
      ValueError: *text* is empty, or an index that does not fit 32 bits.
      UnknownInterfaceError: no interface has this name.
    """
    if not text:
        raise ValueError("the scope after '%' is empty")
    if not is_digits(text):
        return interface_index(text)
    if len(text) > 10 or int(text) > _MAX_SCOPE:
        raise ValueError(f"the scope {text[:20]!r} is above {_MAX_SCOPE}")
    return int(text)


def format_scope(scope_id: int) -> str:
    """The name of the interface with this index, or the index where it has no plain name."""
    try:
        name = socket.if_indextoname(scope_id)
    except (OSError, OverflowError):
        return str(scope_id)
    return name if _PLAIN_INTERFACE.fullmatch(name) else str(scope_id)


def interface_index(name: str) -> int:
    """The index of a network interface.

    Raises:
      UnknownInterfaceError: no interface has this name.
    """
    try:
        return socket.if_nametoindex(name)
    except (OSError, ValueError) as exc:  # ValueError: a NUL within, or an odd character
        raise UnknownInterfaceError(
            errno.ENXIO, f"cannot find a network interface named {name!r}"
        ) from exc


def format_host(host: IPv4Address | IPv6Address) -> str:
    """The text of RFC 5952, which writes a mapped address with its IPv4 part dotted.

    Python does so from 3.13 on only.
    """
    if isinstance(host, IPv6Address) and host.ipv4_mapped is not None:
        return f"::ffff:{host.ipv4_mapped}"
    return str(host)


# Values are made for every connection and every datagram, and peers come again: ipaddress
# takes microseconds for a text, the memory of it a tenth of one.
@functools.lru_cache(maxsize=1024)
def host_from_kernel(text: str, unmap: bool) -> IPv4Address | IPv6Address:
    """A host as the socket module gives it, without a scope.

    Args:
      text: the host.
      unmap: give an IPv4-mapped IPv6 address as the IPv4 one that it is.
    """
    if ":" not in text:
        return IPv4Address(text)
    host = IPv6Address(text)
    return (host.ipv4_mapped or host) if unmap else host


@functools.lru_cache(maxsize=1024)
def _ipv6(text: str) -> IPv6Address:
    return IPv6Address(text)
