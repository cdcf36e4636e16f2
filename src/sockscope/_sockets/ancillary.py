"""Descriptors in control messages (SCM_RIGHTS), made and taken apart.

What arrives may be a flood, and more than was asked for: room for an odd number of
descriptors is rounded up so that one more fits, and room for the messages that other
options bring fits descriptors just as well. So they are counted, and whoever gets too
many closes them all.
"""

from __future__ import annotations

import array
import os
import socket as stdlib_socket
from collections.abc import Iterable
from typing import Final, Protocol

#: As many as one message takes on Linux (SCM_MAX_FD); other systems take more.
MOST_DESCRIPTORS: Final = 253

_SOL_SOCKET: Final = stdlib_socket.SOL_SOCKET
_SCM_RIGHTS: Final = getattr(stdlib_socket, "SCM_RIGHTS", 1)
# A descriptor of the sending process, which SO_PASSPIDFD brings (Linux 6.5).
_SCM_PIDFD: Final = 4
#: Received descriptors are close-on-exec from the start, where the system can.
CLOSE_ON_EXEC: Final = getattr(stdlib_socket, "MSG_CMSG_CLOEXEC", 0)
_FIT: Final = array.array("i").itemsize
_LARGEST_DESCRIPTOR: Final = 256**_FIT // 2 - 1
# What SO_PASSCRED, SO_PASSPIDFD and SO_PASSSEC put beside the descriptors: a struct
# ucred, a descriptor, and a label. Without room for them the descriptors would be cut.
_OTHER_MESSAGES: Final = (12, 4, 256)

ControlMessage = tuple[int, int, bytes]


class HasDescriptor(Protocol):
    """A file, a socket: anything with a descriptor's number."""

    def fileno(self) -> int:
        """The descriptor's number."""
        ...


def number_of(descriptor: int | HasDescriptor) -> int:
    """The number of *descriptor*.

    Raises:
      TypeError: it is neither a number nor has one.
      ValueError: it is closed, or larger than any descriptor.
    """
    fileno = getattr(descriptor, "fileno", None)
    number = descriptor if fileno is None else fileno()
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"a descriptor is a number, or has a fileno(), not {descriptor!r}")
    if number < 0:
        raise ValueError(f"{descriptor!r} is closed: it has no descriptor")
    if number > _LARGEST_DESCRIPTOR:
        raise ValueError(f"no descriptor has the number {number}")
    return number


def pack_descriptors(descriptors: Iterable[int | HasDescriptor]) -> list[ControlMessage]:
    """The control messages that pass *descriptors*; none for none.

    Raises:
      TypeError, ValueError: as `number_of`; or they are more than one message takes.
    """
    numbers = array.array("i", map(number_of, descriptors))
    if len(numbers) > MOST_DESCRIPTORS:
        raise ValueError(
            f"fds must be at most {MOST_DESCRIPTORS} in one message, not {len(numbers)}"
        )
    return [(_SOL_SOCKET, _SCM_RIGHTS, numbers.tobytes())] if numbers else []


def room_for(count: int) -> int:
    """Bytes of room that *count* descriptors need at least."""
    other = sum(map(stdlib_socket.CMSG_SPACE, _OTHER_MESSAGES))
    return stdlib_socket.CMSG_SPACE(count * _FIT) + other


def take_descriptors(messages: Iterable[ControlMessage]) -> list[int]:
    """The descriptors that came with *messages*, which are the caller's from now on.

    They are close-on-exec. One of the sending process, which the option pass_pidfd
    brings, is closed: it can be told from the others here only.
    """
    found: list[int] = []
    for level, kind, data in messages:
        if level != _SOL_SOCKET or kind not in (_SCM_RIGHTS, _SCM_PIDFD):
            continue
        numbers = array.array("i")
        numbers.frombytes(data[: len(data) - len(data) % _FIT])
        if kind == _SCM_PIDFD:
            close_all(number for number in numbers if number >= 0)
        else:
            found.extend(numbers)
    if not CLOSE_ON_EXEC:
        for number in found:
            os.set_inheritable(number, False)
    return found


def close_all(descriptors: Iterable[int]) -> None:
    """Close *descriptors*, each of them, whatever close(2) says of one."""
    for number in descriptors:
        try:
            os.close(number)
        except OSError:
            pass  # the number is free all the same
