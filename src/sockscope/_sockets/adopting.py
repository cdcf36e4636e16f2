"""Making one of our sockets out of one that is there: what it is, and whether that will do."""

from __future__ import annotations

import errno
import socket as stdlib_socket
from collections.abc import Callable
from typing import Final, Literal

from sockscope._core.errors import WrongSocketError
from sockscope._options.defaults import default_options
from sockscope._options.kernel import Stage, stage_of
from sockscope._options.values import SocketOptions
from sockscope._sockets.base import AF_UNIX, BaseSocket

#: What a socket is to be; None is whatever it is.
Connect = Literal["active", "passive"] | None
#: How a socket is used: each kind has its class.
Kind = Literal["active", "passive", "datagram"]

#: The class of each kind, as a function of the socket. They are entered by the room that
#: opens sockets: the streams' own methods need this module, and the classes need streams.
adopters: Final[dict[Kind, Callable[[stdlib_socket.socket], BaseSocket]]] = {}

_FAMILIES: Final = (int(stdlib_socket.AF_INET), int(stdlib_socket.AF_INET6), AF_UNIX)
_SEQPACKET: Final = getattr(stdlib_socket, "SOCK_SEQPACKET", -1)
# The system cuts it to its own maximum.
_LARGEST_BACKLOG: Final = 0xFFFF


def adopt_socket(
    sock: stdlib_socket.socket, connect: Connect, options: SocketOptions
) -> BaseSocket:
    """One of our sockets around *sock*, non-blocking and close-on-exec.

    If this raises, *sock* is as it was, but for options that were set before one failed.

    Args:
      sock: of any kind; it is ours if this succeeds.
      connect: what it must be. A stream that is bound but does not listen yet will
        listen if it is to be passive (Emacs's ``:use-external-socket``).
      options: set on it; ours underneath, as for streams that we open.

    Raises:
      WrongSocketError: it is not what *connect* says, or of a kind that nobody knows.
      OptionError: an option failed, or comes too late.
      OSError: listen(2) failed.
    """
    kind, listens = _kind_of(sock, connect)
    ours = adopters[kind](sock)
    if kind == "active":
        default_options(family=sock.family, type=sock.type, role="active").apply(sock)
    options.apply(ours)
    if not listens:
        sock.listen(_LARGEST_BACKLOG)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return ours


def _kind_of(sock: stdlib_socket.socket, connect: Connect) -> tuple[Kind, bool]:
    """What *sock* is, and False if it has still to listen."""
    name = f"descriptor {sock.fileno()}"
    family, number = int(sock.family), int(sock.type)
    if family not in _FAMILIES:
        raise WrongSocketError(
            errno.EAFNOSUPPORT,
            f"cannot use {name}: its address family {family} is neither internet nor local",
        )
    if number == stdlib_socket.SOCK_DGRAM:
        if connect == "passive":
            raise _wrong(name, "a datagram socket takes no connections, connect='passive'")
        return "datagram", True
    if number != stdlib_socket.SOCK_STREAM and (number, family) != (_SEQPACKET, AF_UNIX):
        raise _wrong(name, f"no socket here has its type {number}", errno.ESOCKTNOSUPPORT)
    stage = stage_of(sock)
    if connect == "passive" and stage in (Stage.FRESH, Stage.CONNECTED):
        state = "connected" if stage is Stage.CONNECTED else "not bound to an address"
        raise _wrong(name, f"connect='passive', but it is {state}")
    if connect == "active" and stage is Stage.LISTENING:
        raise _wrong(name, "connect='active', but it listens for connections")
    passive = connect == "passive" or stage is Stage.LISTENING
    return ("passive" if passive else "active"), not passive or stage is Stage.LISTENING


def _wrong(name: str, why: str, number: int = errno.EINVAL) -> WrongSocketError:
    return WrongSocketError(number, f"cannot use {name}: {why}")
