"""Local sockets' paths that are longer than the system's structure has room for."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from sockscope._addresses.values import LocalAddress
from sockscope._core.errors import SocketError

#: The longest path that fits sun_path with the NUL that ends it: 108 bytes on Linux,
#: 104 on the systems that come from BSD.
LONGEST_PATH: Final = 107 if sys.platform == "linux" else 103
#: Whether a descriptor can stand for a path: Linux's links in /proc/self/fd.
HAS_DESCRIPTOR_PATHS: Final = sys.platform == "linux"

_O_PATH: Final = getattr(os, "O_PATH", os.O_RDONLY)
_O_CLOEXEC: Final = getattr(os, "O_CLOEXEC", 0)


def descriptor_path(fd: int) -> bytes:
    """The path that leads to whatever *fd* is open on (Linux, proc(5))."""
    return b"/proc/self/fd/%d" % fd


@contextmanager
def path_descriptor(path: bytes, flags: int = 0) -> Generator[int, None, None]:
    """A descriptor that only stands for *path*, open within the block.

    Args:
      path: of anything, a socket or a directory, too.
      flags: more of open(2)'s flags, such as ``O_NOFOLLOW``.
    """
    fd = os.open(path, _O_PATH | _O_CLOEXEC | flags)
    try:
        yield fd
    finally:
        os.close(fd)


def check_length(path: bytes) -> None:
    """Refuse a path that this system has no way to reach.

    Raises:
      SocketError: it is too long (``ENAMETOOLONG``).
    """
    if len(path) > LONGEST_PATH and not HAS_DESCRIPTOR_PATHS:
        raise SocketError(
            errno.ENAMETOOLONG,
            f"cannot use {LocalAddress(path)}: a local socket's path has at most {LONGEST_PATH}"
            f" bytes on this system, this one has {len(path)};"
            " a relative path, or a symbolic link to its directory, is shorter",
        )


@contextmanager
def sockaddr_for(path: bytes) -> Generator[bytes, None, None]:
    """What connect(2) and sendto(2) take for the socket at *path*, within the block.

    ``with sockaddr_for(path) as sockaddr: sock.connect(sockaddr)``

    A path that is too long is reached on Linux through a descriptor of the socket's
    file, so that neither its directory's name nor its own counts. Abstract names and
    the unnamed address come back as they are.

    Args:
      path: `LocalAddress.sockaddr` of a remote address.

    Raises:
      SocketError: the path is too long, and this is not Linux (``ENAMETOOLONG``).
      OSError: the path leads nowhere, as connect(2) would have said.

    Source: unix(7), proc(5), open(2) (O_PATH).
    """
    if len(path) <= LONGEST_PATH or path.startswith(b"\0"):
        yield path
        return
    check_length(path)
    with path_descriptor(path) as fd:
        yield descriptor_path(fd)
