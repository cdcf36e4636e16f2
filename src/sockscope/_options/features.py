"""What this system and this process can do: found out by trying, not by asking for constants.

The socket module's constants tell what Python was built with: they are missing for some
sixty options that the kernel has, and there for some that it lacks.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sockscope._core.errors import SocketError, UnknownOptionError, socket_error
from sockscope._options import kinds
from sockscope._options.codec import Raw
from sockscope._options.composed import MPTCP
from sockscope._options.kernel import UNSUPPORTED, scratch_socket
from sockscope._options.model import Option, Phase, Target
from sockscope._options.table import TABLE, nearest

# A shortage of the moment says nothing of the feature.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def _can_open(
    family: int, type_: int, protocol: int = 0, address: tuple[str, int] | str | None = None
) -> bool:
    """Whether such a socket can be made, and bound to *address*."""
    with socket.socket(family, type_, protocol) as sock:
        if address is not None:
            sock.bind(address)
    return True


def _takes_option(name: str) -> bool:
    row = TABLE[name]
    return any(_takes(row, target) for target in row.targets)


# The order is that of DESIGN's list; binding port 0 sends nothing.
_NAMED: Mapping[str, Callable[[], bool]] = {
    "ipv6": lambda: _can_open(socket.AF_INET6, socket.SOCK_STREAM, 0, ("::1", 0)),
    "local": lambda: _can_open(kinds.AF_UNIX, socket.SOCK_STREAM),
    # An empty name: the kernel picks an abstract one, which goes with the socket.
    "abstract": lambda: _can_open(kinds.AF_UNIX, socket.SOCK_DGRAM, 0, ""),
    "seqpacket": lambda: _can_open(kinds.AF_UNIX, socket.SOCK_SEQPACKET),
    "mptcp": lambda: _can_open(socket.AF_INET, socket.SOCK_STREAM, MPTCP),
    "gso": lambda: _takes_option("gso_segment_size"),
    "gro": lambda: _takes_option("gro"),
}


def _takes(option: Option, target: Target) -> bool:
    """Whether a scratch socket of some kind takes *target*, with this process's privilege."""
    return any(_takes_on(kind, option, target) for kind in sorted(target.kinds - {kinds.OTHER}))


def _takes_on(kind: str, option: Option, target: Target) -> bool:
    if target.number is None:
        return False
    try:
        with scratch_socket(kind) as sock:
            return _try_out(option, target, sock)
    except OSError as exc:
        if exc.errno in _SHORTAGES:
            raise
        return False


def _try_out(option: Option, target: Target, sock: socket.socket) -> bool:
    codec, level, number = target.codec or option.codec, target.level, target.number or 0
    if option.phase in (Phase.READ_ONLY, Phase.CREATION):
        return _answers(lambda: target.read(sock, codec))
    if option.privilege and codec.sample is not None:
        sock.setsockopt(level, number, codec.pack(codec.sample))
        return True
    # Setting what is read changes nothing. Where nothing is read, four zero bytes are too
    # short or a no to most: any answer but "no such option" shows that it is there.
    raw: Raw = bytes(4)
    if target.readable and _answers(lambda: target.read(sock, codec)):
        raw = target.read(sock, codec)
    return _answers(lambda: sock.setsockopt(level, number, raw))


def _answers(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError as exc:
        return exc.errno not in UNSUPPORTED
    return True


def supports(name: str) -> bool:
    """Whether this system has a feature, and this process may use it; found out by trying.

    Nothing is sent and nothing is left behind; the answer is kept for the process's user.

    Args:
      name: an option, or ``"ipv6"``, ``"local"``, ``"abstract"``, ``"seqpacket"``,
        ``"mptcp"``, ``"gso"``, ``"gro"``.

    Returns:
      Whether it works here. Python's constants are not asked: they tell what it was built
      with. An option that needs a privilege is supported where the process has it.

    Raises:
      UnknownOptionError: there is no such name; the message gives the nearest one.
      SocketError: there was no descriptor or memory to try it with.
    """
    if name not in _NAMED and name not in TABLE:
        hint = nearest(name, {**TABLE, **_NAMED})
        raise UnknownOptionError(None, f"there is no feature {name!r}{hint}", option=name)
    # Dropping root drops what it may.
    return _try(name, os.geteuid() if hasattr(os, "geteuid") else -1)


@functools.cache
def _try(name: str, user: int) -> bool:
    try:
        if name in _NAMED:
            return _NAMED[name]()
        option = TABLE[name]
        # Streams of ours keep it, on any system.
        return option.user or _takes_option(name)
    except OSError as exc:
        if exc.errno in _SHORTAGES:
            raise socket_error(exc, f"find out whether {name} is supported", SocketError) from exc
        return False


def forget_features() -> None:
    """Find everything out anew: for tests, and for a process that entered another namespace."""
    _try.cache_clear()


@dataclass(frozen=True)
class Features:
    """What this system and this process can do.

    Attributes:
      ipv6: IPv6 sockets can be opened.
      local: local (AF_UNIX) sockets can be.
      abstract: they may have abstract names.
      seqpacket: they may keep message boundaries on a connection.
      mptcp: Multipath TCP sockets can be opened.
      gso: one send can be cut into many datagrams.
      gro: many datagrams can be received as one.
      options: the options that are supported, by name.
    """

    ipv6: bool
    local: bool
    abstract: bool
    seqpacket: bool
    mptcp: bool
    gso: bool
    gro: bool
    options: frozenset[str]


def features() -> Features:
    """Everything that `supports` can tell.

    Raises:
      SocketError: there was no descriptor or memory to try it with.
    """
    return Features(
        **{name: supports(name) for name in _NAMED},
        options=frozenset(name for name in TABLE if supports(name)),
    )
