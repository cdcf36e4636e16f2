"""The addresses: frozen, hashable, ordered values, with their text and the socket module's form."""

from __future__ import annotations

import errno
import functools
import os
import re
import socket
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, ClassVar

from sockscope._addresses.hosts import (
    format_host,
    format_scope,
    host_from_kernel,
    is_digits,
    parse_literal,
    parse_scope,
)
from sockscope._core.errors import SocketError
from sockscope._core.frozen import refuse_changes

if TYPE_CHECKING:
    from typing_extensions import Self

# Windows has local sockets, but Python has no constant for them there.
AF_UNIX: int = getattr(socket, "AF_UNIX", 1)
HAS_ABSTRACT_NAMES = sys.platform == "linux"

# Each process has its own there (proc(5)): a socket bound by way of a descriptor, as paths
# that are too long for the kernel's structure must be, has a name that is another's elsewhere.
_EACH_PROCESS_OWN = (b"/proc/self/", b"/proc/thread-self/")
_INTERNET_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_FLOW_SUFFIX = "?flow_info="
_HOST_AND_PORT = re.compile(r"(?:\[(?P<ipv6>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[^:]*)")
_ESCAPE = re.compile(rb"%(.{0,2})", re.DOTALL)


@functools.total_ordering
class Address(ABC):
    """What a socket is bound or connected to: an `InternetAddress` or a `LocalAddress`.

    Addresses are frozen, hashable and totally ordered: IPv4 before IPv6 before local ones,
    then by host, port, scope and flow, or by path.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` prints of an address; the exact inverse of it.

        Args:
          text: such as ``127.0.0.1:80``, ``[::1]:80``, ``[fe80::1%eth0]:80``,
            ``unix:/run/x`` or ``unix:@name``. A scope may be a name or an index.

        No name of a host or a service is looked up: that is what `resolve` does. The name
        of an interface is (``if_nametoindex``).

        Raises:
          ValueError: *text* is no address, or one of another kind than the class asked.
          TypeError: *text* is not a str.
          UnknownInterfaceError: a scope names no interface.
        """
        if not isinstance(text, str):
            raise TypeError(f"an address is parsed from a str, not {text!r}")
        address = _parse(text)
        if not isinstance(address, cls):
            raise ValueError(f"{text!r} is not the text of a {cls.__name__}")
        return address

    @property
    @abstractmethod
    def family(self) -> int:
        """The address family, one of the socket module's ``AF_*`` numbers."""

    @property
    @abstractmethod
    def sockaddr(self) -> Any:
        """What the socket module's calls take for this address."""

    @property
    @abstractmethod
    def _key(self) -> tuple[Any, ...]:
        """What addresses of every kind are ordered by."""

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Address):
            return NotImplemented
        return self._key < other._key


@refuse_changes
@dataclass(frozen=True, slots=True)
class InternetAddress(Address):
    """A host and a port.

    Args:
      host: an `ipaddress.IPv4Address` or `ipaddress.IPv6Address`. A scope that it carries
        moves to *scope_id*: the host of an InternetAddress never has one.
      port: 0 to 65535; 0 lets the system choose when a socket is bound.
      scope_id: the index of the interface on whose link an IPv6 host is; 0 for none.
      flow_info: the IPv6 flow label, 0 to 1048575.

    Raises:
      ValueError: a number is out of its range, or an IPv4 host has a scope or a flow.
      TypeError: an argument has another type.
      UnknownInterfaceError: the host's scope is the name of no interface.

    Its text is ``127.0.0.1:80``, ``[::1]:80`` or ``[fe80::1%eth0]:80``, the host as in
    RFC 5952; a flow label other than 0 follows as ``?flow_info=5``.
    """

    host: IPv4Address | IPv6Address
    port: int
    scope_id: int = 0
    flow_info: int = 0

    def __post_init__(self) -> None:
        _check_number("port", self.port, 0xFFFF)
        _check_number("scope_id", self.scope_id, 0xFFFF_FFFF)
        _check_number("flow_info", self.flow_info, 0xF_FFFF)
        host: IPv4Address | IPv6Address
        if isinstance(self.host, IPv6Address):
            host, scope_id = split_scope(self.host, self.scope_id)
            object.__setattr__(self, "scope_id", scope_id)
        elif not isinstance(self.host, IPv4Address):
            raise TypeError(f"host must be an IPv4Address or IPv6Address, not {self.host!r}")
        elif self.scope_id or self.flow_info:
            raise ValueError(f"the IPv4 host {self.host} takes neither scope_id nor flow_info")
        else:
            # An IPv4Interface is an IPv4Address, too, but is equal to none.
            host = IPv4Address(int(self.host))
        object.__setattr__(self, "host", host)

    @property
    def family(self) -> int:
        """``AF_INET`` or ``AF_INET6``."""
        return socket.AF_INET if self.host.version == 4 else socket.AF_INET6

    @property
    def sockaddr(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """``(host, port)`` for IPv4, ``(host, port, flow_info, scope_id)`` for IPv6."""
        # inet_ntop takes a tenth of the time of str(host).
        if self.host.version == 4:
            return socket.inet_ntop(socket.AF_INET, self.host.packed), self.port
        host = socket.inet_ntop(socket.AF_INET6, self.host.packed)
        return host, self.port, self.flow_info, self.scope_id

    @property
    def unmapped(self) -> InternetAddress:
        """The IPv4 address behind an IPv4-mapped IPv6 one (RFC 4291, 2.5.5.2), else itself.

        An allow-list of IPv4 networks must be asked about this one: a dual-stack socket
        shows its IPv4 peers mapped.
        """
        mapped = self.host.ipv4_mapped if isinstance(self.host, IPv6Address) else None
        return self if mapped is None else trusted_address(mapped, self.port, 0, 0)

    @property
    def mapped(self) -> InternetAddress:
        """An IPv4 address as IPv6 sockets take it (``::ffff:a.b.c.d``); an IPv6 one itself."""
        if isinstance(self.host, IPv6Address):
            return self
        return InternetAddress(IPv6Address(0xFFFF_0000_0000 | int(self.host)), self.port)

    @property
    def _key(self) -> tuple[int, ...]:
        return self.host.version, int(self.host), self.port, self.scope_id, self.flow_info

    def __str__(self) -> str:
        if self.host.version == 4:
            return f"{self.host}:{self.port}"
        scope = f"%{format_scope(self.scope_id)}" if self.scope_id else ""
        flow = f"{_FLOW_SUFFIX}{self.flow_info}" if self.flow_info else ""
        return f"[{format_host(self.host)}{scope}]:{self.port}{flow}"


@refuse_changes
@dataclass(frozen=True, slots=True)
class LocalAddress(Address):
    """A socket in the file system, or a name in Linux's abstract namespace (unix(7)).

    Args:
      path: the path of the socket's file. As in the kernel, a leading NUL makes it an
        abstract name (see `abstract`), and no bytes at all mean that it has none
        (`LocalAddress.unnamed`).

    Raises:
      TypeError: *path* is not bytes.

    Its text is ``unix:/run/x``, ``unix:./x`` for a relative path, ``unix:@name`` for an
    abstract one and ``unix:`` for the unnamed one. Bytes other than ASCII's printable
    ones, spaces and the percent sign are written as ``%XX``.
    """

    path: bytes

    unnamed: ClassVar[LocalAddress]
    """The address of a socket that has none, such as either end of a pair."""

    def __post_init__(self) -> None:
        if not isinstance(self.path, bytes):
            raise TypeError(f"path must be bytes (see os.fsencode), not {self.path!r}")

    @classmethod
    def abstract(cls, name: str | bytes = b"") -> LocalAddress:
        """A name in Linux's abstract namespace, which no file stands for.

        Args:
          name: any bytes; a str is encoded as UTF-8. Without a name the kernel picks one
            when a socket is bound (autobind); nothing can be connected to such an address.

        Raises:
          TypeError: *name* is neither str nor bytes.
        """
        if isinstance(name, str):
            name = name.encode("utf-8", "surrogateescape")
        elif not isinstance(name, bytes):
            raise TypeError(f"name must be str or bytes, not {name!r}")
        return cls(b"\0" + name)

    @property
    def family(self) -> int:
        """``AF_UNIX``."""
        return AF_UNIX

    @property
    def is_abstract(self) -> bool:
        """Whether this is a name in the abstract namespace."""
        return self.path.startswith(b"\0")

    @property
    def sockaddr(self) -> bytes:
        r"""The path; ``b"\0name"`` for an abstract name, ``b""`` for the unnamed and autobind.

        Raises:
          ValueError: the path has a NUL within, at which the kernel would cut it.
          SocketError: an abstract name, on a system that has none (``EAFNOSUPPORT``).
        """
        if not self.is_abstract:
            if b"\0" in self.path:
                raise ValueError(f"the path of {self} has a NUL byte: no file can be named so")
            return self.path
        if not HAS_ABSTRACT_NAMES:
            # Other systems would take the leading NUL for the end of an empty path.
            message = f"cannot use {self}: only Linux has abstract local addresses"
            raise SocketError(errno.EAFNOSUPPORT, message)
        return b"" if self.path == b"\0" else self.path

    @property
    def _key(self) -> tuple[int, bytes]:
        return 1 << 16, self.path  # behind all versions of the Internet Protocol

    def __str__(self) -> str:
        if self.is_abstract:
            return f"unix:@{_quote(self.path[1:])}"
        relative = self.path and not self.path.startswith(b"/")
        return f"unix:{'./' if relative else ''}{_quote(self.path)}"


LocalAddress.unnamed = LocalAddress(b"")

_set_host = InternetAddress.__dict__["host"].__set__
_set_port = InternetAddress.__dict__["port"].__set__
_set_scope_id = InternetAddress.__dict__["scope_id"].__set__
_set_flow_info = InternetAddress.__dict__["flow_info"].__set__


def from_sockaddr(family: int, sockaddr: Any, *, unmap: bool = False) -> Address:
    """The address that a call of the socket module returned.

    Args:
      family: the socket's address family.
      sockaddr: what getsockname, getpeername, accept or recvfrom gave. For a local socket
        ``""``, ``b""`` and None mean that it is unnamed, and so does a path below
        ``/proc/self``: it was bound by a path too long for the kernel to tell, and its
        name would lead whoever asks into descriptors of its own.
      unmap: give an IPv4-mapped IPv6 host as the IPv4 one that it is.

    Raises:
      ValueError: the family is neither an internet one nor the local one.
    """
    if family in _INTERNET_FAMILIES:
        return internet_from_sockaddr(family, sockaddr, unmap)
    if family == AF_UNIX:
        path = os.fsencode(sockaddr or b"")
        return LocalAddress.unnamed if path.startswith(_EACH_PROCESS_OWN) else LocalAddress(path)
    raise ValueError(f"address family {family} is neither an internet nor the local one")


def as_peer(address: Address) -> Address:
    """*address* as that of a peer is reported: an IPv4-mapped IPv6 host as the IPv4 one."""
    return address.unmapped if isinstance(address, InternetAddress) else address


def internet_from_sockaddr(
    family: int, sockaddr: tuple[Any, ...], unmap: bool = False
) -> InternetAddress:
    """`from_sockaddr` where *family* is known to be ``AF_INET`` or ``AF_INET6``."""
    if family == socket.AF_INET:
        text, port = sockaddr
        return trusted_address(host_from_kernel(text, False), port, 0, 0)
    text, port, flow_info, scope_id = sockaddr
    if "%" in text:
        text, _, scope = text.partition("%")
        scope_id = scope_id or parse_scope(scope)
    host = host_from_kernel(text, unmap)
    if host.version == 4:
        return trusted_address(host, port, 0, 0)
    return trusted_address(host, port, scope_id, flow_info)


def trusted_address(
    host: IPv4Address | IPv6Address, port: int, scope_id: int, flow_info: int
) -> InternetAddress:
    """An InternetAddress of parts that need no check: it takes a quarter of the time."""
    address = object.__new__(InternetAddress)
    _set_host(address, host)
    _set_port(address, port)
    _set_scope_id(address, scope_id)
    _set_flow_info(address, flow_info)
    return address


def split_scope(host: IPv6Address, scope_id: int = 0) -> tuple[IPv6Address, int]:
    """*host* without the scope it may carry, and that scope, or *scope_id* if it has none.

    Raises:
      ValueError: both are given and differ.
      UnknownInterfaceError: the scope is the name of no interface.
    """
    if host.scope_id is not None:
        own = parse_scope(host.scope_id)
        if scope_id not in (0, own):
            raise ValueError(f"scope_id {scope_id} contradicts the scope of {host}")
        scope_id = own
    return IPv6Address(int(host)), scope_id


def check_port(port: object) -> None:
    """Refuse what is not a port number.

    Raises:
      TypeError: *port* is no int.
      ValueError: it is not within 0 and 65535.
    """
    _check_number("port", port, 0xFFFF)


def _check_number(name: str, value: object, maximum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if not 0 <= value <= maximum:
        raise ValueError(f"{name} must be 0 to {maximum}, not {value}")


def _parse(text: str) -> Address:
    if text.startswith("unix:"):
        return parse_local(text)
    host, port, flow_info = split_host_port(text)
    literal = parse_literal(host)
    if literal is None:
        raise ValueError(f"{text!r} has no literal host: names are for resolve()")
    if not is_digits(port):
        raise ValueError(f"{text!r} has no port number: service names are for resolve()")
    return InternetAddress(literal[0], parse_port(port), literal[1], flow_info)


def parse_local(text: str) -> LocalAddress:
    """The address that a text beginning with ``unix:`` stands for.

    Raises:
      ValueError: a percent sign does not begin an escape, or the file's name is missing.
    """
    name = text[len("unix:") :]
    if name.startswith("@"):
        return LocalAddress(b"\0" + _unquote(name[1:]))
    if name == "./":
        raise ValueError(f"{text!r} has no file name")
    return LocalAddress(_unquote(name.removeprefix("./")))


def split_host_port(text: str) -> tuple[str, str, int]:
    """The host (without brackets), the port and the flow label of ``host:port``.

    Raises:
      ValueError: *text* has another form.
    """
    text, suffix, flow = text.partition(_FLOW_SUFFIX)
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is no address: write host:port, [ipv6]:port, unix:/path or unix:@name"
        )
    if suffix and (match["ipv6"] is None or not is_digits(flow) or len(flow) > 7):
        raise ValueError(f"{flow!r} is no IPv6 flow label")
    host = match["host"] if match["ipv6"] is None else match["ipv6"]
    if match["ipv6"] is not None and ":" not in host:
        raise ValueError(f"{host!r} in brackets is not an IPv6 address")
    return host, match["port"], int(flow or 0)


def parse_port(digits: str) -> int:
    """The port number that *digits* are.

    getaddrinfo(3) would make 4464 of 70000.

    Raises:
      ValueError: it is above 65535.
    """
    digits = digits.lstrip("0") or "0"  # Python refuses to read thousands of them
    if len(digits) > 5 or int(digits) > 0xFFFF:
        raise ValueError(f"port must be 0 to 65535, not {digits[:20]}")
    return int(digits)


def _quote(name: bytes) -> str:
    return "".join(
        chr(byte) if 0x20 < byte < 0x7F and byte != 0x25 else f"%{byte:02X}" for byte in name
    )


def _unquote(text: str) -> bytes:
    return _ESCAPE.sub(_unescape, text.encode("utf-8", "surrogateescape"))


def _unescape(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    if len(digits) != 2 or digits.translate(None, b"0123456789abcdefABCDEF"):
        raise ValueError(
            "a '%' must be followed by two hexadecimal digits (write '%25' for itself)"
        )
    return bytes.fromhex(digits.decode("ascii"))
