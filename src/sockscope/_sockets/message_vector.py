"""sendmmsg(2): many datagrams to different addresses by one system call.

Python has no such call, so it is made by ctypes, and only on 64-bit little-endian Linux,
whose layout of ``struct mmsghdr`` is written down here. Elsewhere there is None of it, and
datagrams go out by single calls, with the same result.

The system call takes 2.5 µs for each datagram where sendto(2) by Python takes 3.4. Building
its arguments one by one would cost what that saves, so they are laid out once, and each
batch only writes columns: its data is joined into one piece, whose parts they point to.
"""

from __future__ import annotations

import ctypes
import os
import socket as stdlib_socket
import struct
import sys
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

#: How many datagrams one call takes.
MOST_MESSAGES: Final = 64

# Eight words a message: name, its length, iovec, how many, control, its length, flags, sent.
_WORDS: Final = 8
_NAME, _NAME_LENGTH, _VECTOR, _VECTORS = range(4)
_NAMES_KEPT: Final = 1024

_IS_KNOWN_LAYOUT: Final = (
    sys.platform == "linux" and sys.byteorder == "little" and struct.calcsize("P") == 8
)


_sendmmsg: Final[Any] = (
    getattr(ctypes.CDLL(None, use_errno=True), "sendmmsg", None) if _IS_KNOWN_LAYOUT else None
)
#: Whether this system has it.
HAS_SENDMMSG: Final = _sendmmsg is not None


class MessageVector:
    """The arguments of sendmmsg(2) for one socket, made once.

    Args:
      family: the socket's: AF_INET or AF_INET6.
    """

    __slots__ = ("_family", "_headers", "_headers_at", "_names", "_vectors")

    def __init__(self, family: int) -> None:
        self._family = family
        self._headers = array("Q", bytes(8 * _WORDS * MOST_MESSAGES))
        self._vectors = array("Q", bytes(16 * MOST_MESSAGES))
        self._headers_at = ctypes.c_void_p(self._headers.buffer_info()[0])
        vectors_at = self._vectors.buffer_info()[0]
        length = 16 if family == stdlib_socket.AF_INET else 28
        for index in range(MOST_MESSAGES):
            self._headers[_WORDS * index + _NAME_LENGTH] = length
            self._headers[_WORDS * index + _VECTOR] = vectors_at + 16 * index
            self._headers[_WORDS * index + _VECTORS] = 1
        # The binary address of each target, and where it lies.
        self._names: dict[Any, tuple[int, Any]] = {}

    def send(self, fd: int, messages: Sequence[tuple[Any, int, Any]]) -> int:
        """Send without waiting.

        Args:
          fd: an unconnected socket's descriptor. On a connected one the kernel would
            throw a pending error away that another datagram's sending met with.
          messages: at most `MOST_MESSAGES` of data, its length in bytes, and a sockaddr.

        Returns:
          How many were sent, at least one.

        Raises:
          OSError: the first could not be sent, so none was.
        """
        count = len(messages)
        data, lengths, targets = zip(*messages, strict=True)
        joined = b"".join(data)
        if len(joined) != sum(lengths):
            # Somebody has changed a bytearray since; the kernel must not read beyond it.
            raise BufferError("the data of a datagram has changed its size while it was sent")
        base = ctypes.cast(ctypes.c_char_p(joined), ctypes.c_void_p).value or 0
        places = accumulate(lengths[:-1], initial=base)
        self._vectors[0 : 2 * count : 2] = array("Q", places)
        self._vectors[1 : 2 * count : 2] = array("Q", lengths)
        if len(self._names) > _NAMES_KEPT:
            self._names.clear()
        names = array("Q", [(self._names.get(to) or self._name(to))[0] for to in targets])
        self._headers[_NAME : _WORDS * count : _WORDS] = names
        sent: int = _sendmmsg(fd, self._headers_at, count, 0)
        if sent < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return sent

    def _name(self, target: Any) -> tuple[int, Any]:
        """Where the binary form of a sockaddr lies; it stays there while this object lives."""
        name = ctypes.create_string_buffer(_pack_sockaddr(self._family, target))
        entry = ctypes.addressof(name), name
        self._names[target] = entry
        return entry


def _pack_sockaddr(family: int, target: Any) -> bytes:
    """``struct sockaddr_in`` or ``sockaddr_in6`` of the socket module's form."""
    head = struct.pack("=H", family) + struct.pack("!H", target[1])
    host = stdlib_socket.inet_pton(family, target[0])
    if family == stdlib_socket.AF_INET:
        return head + host + bytes(8)
    return head + struct.pack("!I", target[2]) + host + struct.pack("=I", target[3])
