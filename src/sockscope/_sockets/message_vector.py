"""sendmmsg(2) and recvmmsg(2): many datagrams by one system call, whosever they are.

Python has no such calls, so they are made by ctypes, and only on 64-bit little-endian Linux,
whose layout of ``struct mmsghdr`` is written down here. Elsewhere there is None of it, and
datagrams go by single calls, with the same result.

sendmmsg(2) takes 2.5 µs for each datagram where sendto(2) by Python takes 3.4; recvmmsg(2)
0.6 where recvfrom(2) takes 1.5, and recvmsg(2) with room for control messages three times
that. Building the arguments one by one would cost what that saves, so they are laid out
once, and each batch only writes and reads columns.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket as stdlib_socket
import struct
import sys
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

from trio.lowlevel import RunVar

#: How many datagrams one call takes.
MOST_MESSAGES: Final = 64

# Eight words a message: name, its length, iovec, how many, control, its length, flags, sent.
_WORDS: Final = 8
_NAME, _NAME_LENGTH, _VECTOR, _VECTORS, _CONTROL, _CONTROL_LENGTH, _FLAGS, _LENGTH = range(_WORDS)
_NAMES_KEPT: Final = 1024

#: Room for each datagram received: a byte more than any has, or a whole joined train.
ROOM: Final = 65536
# Four words for the longest name, sockaddr_in6 with 28 bytes.
_NAME_WORDS: Final = 4
_CONTROL_HEAD: Final = struct.Struct("=Qii")

_IS_KNOWN_LAYOUT: Final = (
    sys.platform == "linux" and sys.byteorder == "little" and struct.calcsize("P") == 8
)


_libc: Final[Any] = ctypes.CDLL(None, use_errno=True) if _IS_KNOWN_LAYOUT else None
_sendmmsg: Final[Any] = getattr(_libc, "sendmmsg", None)
_recvmmsg: Final[Any] = getattr(_libc, "recvmmsg", None)
#: Whether this system has them.
HAS_SENDMMSG: Final = _sendmmsg is not None
HAS_RECVMMSG: Final = _recvmmsg is not None


class SendVector:
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
        return _checked(_sendmmsg(fd, self._headers_at, count, 0))

    def _name(self, target: Any) -> tuple[int, Any]:
        """Where the binary form of a sockaddr lies; it stays there while this object lives."""
        name = ctypes.create_string_buffer(_pack_sockaddr(self._family, target))
        entry = ctypes.addressof(name), name
        self._names[target] = entry
        return entry


# What the kernel calls a sender: the words of its address; the first alone for IPv4.
Name = int | tuple[int, ...]
# Control messages of a datagram, and whether it was cut.
Extras = tuple[list[tuple[int, int, bytes]], bool]


class ReceiveVector:
    """The arguments of recvmmsg(2), with room for `MOST_MESSAGES` datagrams of any size.

    The 4 MiB are the kernel's promise only: a page takes memory once a datagram was there.

    Args:
      control_room: the bytes of control messages that any socket may ask for.
    """

    __slots__ = ("_controls", "_data", "_headers", "_headers_at", "_names", "_room", "_vectors")

    def __init__(self, control_room: int) -> None:
        self._room = control_room
        # Not shared with a child process, which would receive into our memory.
        self._data = mmap.mmap(
            -1, MOST_MESSAGES * ROOM, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        self._names = array("Q", bytes(8 * _NAME_WORDS * MOST_MESSAGES))
        self._controls = array("B", bytes(control_room * MOST_MESSAGES))
        self._headers = array("Q", bytes(8 * _WORDS * MOST_MESSAGES))
        self._vectors = array("Q", bytes(16 * MOST_MESSAGES))
        self._headers_at = ctypes.c_void_p(self._headers.buffer_info()[0])
        data_at = ctypes.addressof(ctypes.c_char.from_buffer(self._data))
        names_at, controls_at, vectors_at = (
            part.buffer_info()[0] for part in (self._names, self._controls, self._vectors)
        )
        for index in range(MOST_MESSAGES):
            self._vectors[2 * index] = data_at + ROOM * index
            self._vectors[2 * index + 1] = ROOM
            header = _WORDS * index
            self._headers[header + _NAME] = names_at + 8 * _NAME_WORDS * index
            self._headers[header + _VECTOR] = vectors_at + 16 * index
            self._headers[header + _VECTORS] = 1
            self._headers[header + _CONTROL] = controls_at + control_room * index

    def receive(
        self, fd: int, family: int, count: int, control_room: int
    ) -> tuple[list[bytes], Sequence[Name], list[Extras] | None]:
        """Receive what is there, without waiting.

        Args:
          fd: a socket's descriptor.
          family: the socket's: AF_INET or AF_INET6.
          count: how many at most, up to `MOST_MESSAGES`.
          control_room: the bytes of control messages that each may bring.

        Returns:
          The data of each, at least one; the name of each one's sender, for
          `unpack_name`; and what else came with each, None if nothing came with any.

        Raises:
          OSError: none was received; `BlockingIOError`, as none is there.
        """
        headers = self._headers
        words = _WORDS * count
        # The kernel has written over these.
        headers[_NAME_LENGTH:words:_WORDS] = array("Q", (8 * _NAME_WORDS,)) * count
        headers[_CONTROL_LENGTH:words:_WORDS] = array("Q", (control_room,)) * count
        got = _checked(_recvmmsg(fd, self._headers_at, count, stdlib_socket.MSG_DONTWAIT, None))
        words = _WORDS * got
        data = self._data
        lengths = headers[_LENGTH:words:_WORDS]
        pieces = [
            data[place : place + length]
            for place, length in zip(range(0, ROOM * got, ROOM), lengths, strict=True)
        ]
        ends = _NAME_WORDS * got
        names: Sequence[Name]
        if family == stdlib_socket.AF_INET:
            names = self._names[0:ends:_NAME_WORDS]
        else:
            columns = (self._names[word:ends:_NAME_WORDS] for word in range(_NAME_WORDS))
            names = list(zip(*columns, strict=True))
        controls = headers[_CONTROL_LENGTH:words:_WORDS]
        flags = headers[_FLAGS:words:_WORDS]
        if not any(controls) and not any(flags):
            return pieces, names, None
        extras = [
            (self._control_messages(index, length), bool(flag & stdlib_socket.MSG_TRUNC))
            for index, (length, flag) in enumerate(zip(controls, flags, strict=True))
        ]
        return pieces, names, extras

    def _control_messages(self, index: int, length: int) -> list[tuple[int, int, bytes]]:
        """What came with one datagram, as recvmsg(2) gives it."""
        start = self._room * index
        raw = self._controls[start : start + length].tobytes()
        messages = []
        place = 0
        while place + _CONTROL_HEAD.size <= length:
            size, level, kind = _CONTROL_HEAD.unpack_from(raw, place)
            messages.append((level, kind, raw[place + _CONTROL_HEAD.size : place + size]))
            place += (size + 7) & ~7  # CMSG_ALIGN
        return messages


# All sockets of a run receive by the same: it is empty again before anybody else's turn.
_receive_vector: Final[RunVar[ReceiveVector]] = RunVar("sockscope.receive_vector")


def receive_vector(control_room: int) -> ReceiveVector:
    """The `ReceiveVector` of this Trio run; *control_room* is always the same."""
    try:
        return _receive_vector.get()
    except LookupError:
        vector = ReceiveVector(control_room)
        _receive_vector.set(vector)
        return vector


def unpack_name(name: Name) -> tuple[Any, ...]:
    """The socket module's form of a sender's name."""
    if isinstance(name, int):
        raw = name.to_bytes(8, "little")
        (port,) = struct.unpack_from("!H", raw, 2)
        return stdlib_socket.inet_ntop(stdlib_socket.AF_INET, raw[4:8]), port
    raw = struct.pack("<4Q", *name)
    port, flow_info = struct.unpack_from("!HI", raw, 2)
    (scope_id,) = struct.unpack_from("<I", raw, 24)
    return stdlib_socket.inet_ntop(stdlib_socket.AF_INET6, raw[8:24]), port, flow_info, scope_id


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _pack_sockaddr(family: int, target: Any) -> bytes:
    """``struct sockaddr_in`` or ``sockaddr_in6`` of the socket module's form."""
    head = struct.pack("=H", family) + struct.pack("!H", target[1])
    host = stdlib_socket.inet_pton(family, target[0])
    if family == stdlib_socket.AF_INET:
        return head + host + bytes(8)
    return head + struct.pack("!I", target[2]) + host + struct.pack("=I", target[3])
