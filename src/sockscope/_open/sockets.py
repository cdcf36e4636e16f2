"""Making one bare socket, through Trio's hooks."""

from __future__ import annotations

import errno
import socket as stdlib_socket
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import trio

from sockscope._addresses.values import Address
from sockscope._core.errors import socket_error
from sockscope._core.hooks import refuse_awaitable
from sockscope._open.local_path import PathArguments, bind_path, is_path
from sockscope._sockets.base import AnySocket, is_custom

AF_INET: Final = int(stdlib_socket.AF_INET)
AF_INET6: Final = int(stdlib_socket.AF_INET6)

#: Where more attempts cannot help: the opening ends at once with the system's own error.
SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


class ConfigureContext(NamedTuple):
    """What a ``configure`` hook is told about the socket."""

    family: int
    """``socket.AF_INET``, ``AF_INET6`` or ``AF_UNIX``."""
    type: int
    """``socket.SOCK_STREAM`` and its like."""
    role: str
    """``"active"`` or ``"passive"``."""
    address: Address | None
    """Where it will be bound (passive) or connected (active); None if nowhere yet."""


#: A plain function, called after the options and before bind or connect.
Configure = Callable[[trio.socket.SocketType, ConfigureContext], None]


def new_socket(family: int, type: int, protocol: int) -> AnySocket:
    """A non-blocking socket, from the custom socket factory if there is one.

    Raises:
      SocketError: the system has no such family or type, or is short of descriptors.
    """
    try:
        if _has_custom_factory():
            return _unwrapped(trio.socket.socket(family, type, protocol))
        plain = stdlib_socket.socket(family, type, protocol)
    except OSError as exc:
        name = stdlib_socket.AddressFamily(family).name
        raise socket_error(exc, f"open a socket of family {name}") from exc
    plain.setblocking(False)
    return plain


def _has_custom_factory() -> bool:
    """Whether sockets are to come from elsewhere; Trio tells only who sets one."""
    factory = trio.socket.set_custom_socket_factory(None)
    if factory is None:
        return False
    trio.socket.set_custom_socket_factory(factory)
    return True


def _unwrapped(sock: trio.socket.SocketType) -> AnySocket:
    """What a factory made; of Trio's own sockets the one below, to be wrapped when asked for."""
    if is_custom(sock):
        return sock
    plain = stdlib_socket.socket(
        int(sock.family), int(sock.type), int(sock.proto), fileno=sock.detach()
    )
    plain.setblocking(False)
    return plain


def run_configure(
    configure: Configure | None, sock: AnySocket, role: str, address: Address | None
) -> None:
    """Call the user's hook with a `trio.socket` of the descriptor."""
    if configure is None:
        return
    shown: Any = sock if is_custom(sock) else trio.socket.from_stdlib_socket(sock)  # type: ignore[arg-type]  # then it is the standard library's
    refuse_awaitable(
        configure(shown, ConfigureContext(int(sock.family), int(sock.type), role, address)),
        "configure",
    )


async def bind_socket(
    sock: AnySocket, address: Address, arguments: PathArguments
) -> Callable[[], None] | None:
    """Bind to a literal address, or to a path of the file system.

    Returns:
      What removes the path again, where there is one.

    Raises:
      SocketError: the address is in use, not on this machine, or not allowed.

    A checkpoint for a path and for a custom factory's socket: for all others what follows
    is one.
    """
    if is_path(address) and isinstance(sock, stdlib_socket.socket):
        return await bind_path(sock, address, arguments)
    try:
        if is_custom(sock):
            await sock.bind(address.sockaddr)
        else:
            plain: Any = sock
            plain.bind(address.sockaddr)
    except OSError as exc:
        raise socket_error(exc, f"bind to {address}") from exc
    return None
