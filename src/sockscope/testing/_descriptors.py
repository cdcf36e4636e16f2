"""Which file descriptors this process has open."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable

_KINDS = {
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "pipe",
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFCHR: "device",
}
# More than the C library of Windows can have open (_setmaxstdio), which has no listing.
_HIGHEST = 8192


def open_descriptors() -> dict[int, str]:
    """List the file descriptors that this process has open, with what each is open to.

    Not a checkpoint. Compare names and not numbers alone, and call ``gc.collect()``
    before the second listing: a number may have been given to another file, and a
    socket that nobody holds may still wait for the collector.

    Returns:
      For each number a name: on Linux what ``/proc/self/fd`` says, such as
      ``"socket:[4711]"``, where 4711 is the socket's own and never given again while
      it lives; elsewhere one of the same form, made from fstat(2). The descriptor
      that the listing itself needs is not in it.

    Platforms:
      Linux and macOS. On Windows a socket is no file descriptor, so only files show.

    Example::

        before = open_descriptors()
        await something()
        gc.collect()
        assert open_descriptors() == before
    """
    if os.path.isdir("/proc/self/fd"):
        return _named(os.listdir("/proc/self/fd"))
    numbers = os.listdir("/dev/fd") if os.path.isdir("/dev/fd") else range(_HIGHEST)
    return _statted(map(int, numbers))


def _named(numbers: Iterable[str]) -> dict[int, str]:
    """The names of *numbers* that /proc/self/fd has."""
    names = {}
    for number in numbers:
        try:
            names[int(number)] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            pass  # the listing's own, closed by now
    return names


def _statted(numbers: Iterable[int]) -> dict[int, str]:
    """Names for those of *numbers* that are open, from fstat(2)."""
    names = {}
    for number in numbers:
        try:
            status = os.fstat(number)
        except OSError:
            continue
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "descriptor")
        names[number] = f"{kind}:[{status.st_dev}:{status.st_ino}]"
    return names


def describe_descriptor(number: int, name: str) -> str:
    """*number* and *name* as an error shows them, a socket with its addresses."""
    if not name.startswith("socket:"):
        return f"descriptor {number} ({name})"
    try:
        with socket.socket(fileno=os.dup(number)) as copy:
            return f"descriptor {number} ({name}, {_ends(copy)})"
    except OSError:  # closed meanwhile, or no descriptor free for the copy
        return f"descriptor {number} ({name})"


def _ends(sock: socket.socket) -> str:
    """The addresses of *sock*, of both ends where it is connected."""
    words = f"{sock.family.name} {sock.type.name} {sock.getsockname()!r}"
    try:
        return f"{words} to {sock.getpeername()!r}"
    except OSError:
        return words
