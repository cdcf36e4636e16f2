"""Keeping new connections away from a listener that is about to close.

A close resets the handshakes that are under way: their clients are connected in their own
eyes, and EAGAIN says nothing about them. So first no new handshake may begin; those under
way then end in the queue, from which they are served. There are two ways (Linux, TCP):

- The listener is one of a group (SO_REUSEPORT): a filter on the group steers every new
  connection to another member. Any user may do that.
- A filter on the listener drops SYN segments, which the client repeats after a second.
  That needs CAP_NET_ADMIN.

Neither may touch a listener that another process has as well: filters belong to the
socket, and it goes on listening there. Then nothing is lost anyway.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket as stdlib_socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import trio

from sockscope._addresses.values import InternetAddress
from sockscope._sockets.base import is_custom
from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.stream import StreamSocket

# So long handshakes under way have to end: two round trips of the slowest connection that
# there is, and at least this.
_LEAST_SECONDS: Final = 0.02
_ROUND_TRIPS: Final = 2
# More connections than these tell no more about the slowest.
_MOST_ASKED: Final = 1000

# asm-generic/socket.h; the socket module has no names for them.
_SO_ATTACH_FILTER: Final = 26
_SO_ATTACH_REUSEPORT_CBPF: Final = 51

# linux/filter.h: code, jump if true, jump if false, operand.
_Instruction = tuple[int, int, int, int]
_LOAD_BYTE: Final = 0x30
_JUMP_IF_SET: Final = 0x45
_RETURN: Final = 0x06
# Data begins at the TCP header, whose 14th byte has the flags.
_DROP_SYN: Final[Sequence[_Instruction]] = (
    (_LOAD_BYTE, 0, 0, 13),
    (_JUMP_IF_SET, 0, 1, 0x02),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, 0xFFFFFFFF),
)

Begin = Callable[[PassiveSocket, stdlib_socket.socket, Any], object]


def may_lose(passive: PassiveSocket) -> bool:
    """Whether a close of *passive* can reset a handshake: local sockets connect in one step."""
    return isinstance(passive.address, InternetAddress) and not is_custom(passive._sock)


def keep_new_ones_away(passive: PassiveSocket, begin: Begin) -> bool:
    """Let no new handshake begin on *passive*; whether that could be done.

    Args:
      passive: a TCP listener that no other process has.
      begin: begins a connection that is found in the queue meanwhile.
    """
    if sys.platform != "linux" or not passive._is_sole_owner:
        return False
    sock = passive._sock
    try:
        grouped = sock.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEPORT)
        if grouped and _steer_away(passive, begin):
            return True
        _attach(sock, _SO_ATTACH_FILTER, _DROP_SYN)
    except OSError:
        return False  # no capability, most often
    return True


def _attach(sock: stdlib_socket.socket, option: int, program: Sequence[_Instruction]) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("HP", len(program), ctypes.addressof(buffer))
    sock.setsockopt(stdlib_socket.SOL_SOCKET, option, described)


def _steer_away(passive: PassiveSocket, begin: Begin) -> bool:
    """Steer new connections to another member of the group; whether there is one.

    The kernel tells no member's number, and a number that nobody has falls back to the
    hash. So it is tried out, by a connection of our own that is reset at once: there
    always is a number 0; if that is us, number 1 is another, or there is none.
    """
    for number in (0, 1):
        _attach(passive._sock, _SO_ATTACH_REUSEPORT_CBPF, [(_RETURN, 0, 0, number)])
        if not _comes_to_us(passive, begin):
            return True
    return False


def _comes_to_us(passive: PassiveSocket, begin: Begin) -> bool:
    """Whether a new connection ends up in the queue of *passive*."""
    target = _reachable(passive._sock.getsockname())
    with stdlib_socket.socket(passive._sock.family, stdlib_socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        probe.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Over loopback it is connected on return. If that member's queue is full it is
        # not, but then it is not ours, whose queue has just been emptied.
        _take_all(passive, begin)
        with contextlib.suppress(BlockingIOError):
            probe.connect(target)
        with contextlib.suppress(OSError):
            probe.send(b"\0")  # for a listener that defers until there is data
        return _take_all(passive, begin, without=probe.getsockname()[:2])


def _reachable(name: tuple[Any, ...]) -> tuple[Any, ...]:
    """*name*, with the loopback host for a wildcard."""
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # names them, binds nothing
    return (loopback.get(name[0], name[0]), *name[1:])


def _take_all(
    passive: PassiveSocket, begin: Begin, *, without: tuple[Any, ...] | None = None
) -> bool:
    """Begin all that wait in the queue, but the one from *without*; whether that was there."""
    found = False
    while (pair := passive._take()) is not None:
        sock, peer = pair
        if peer[:2] == without:
            sock.close()
            found = True
        else:
            begin(passive, sock, peer)
    return found


async def handshakes_have_ended(streams: Iterable[StreamSocket]) -> None:
    """Wait until handshakes under way have probably ended. A checkpoint.

    The network's time is the real one, whatever clock Trio has in a test; so whichever
    is first.
    """
    seconds = max([_LEAST_SECONDS, *(_ROUND_TRIPS * trip for trip in _round_trips(streams))])
    with trio.move_on_after(seconds):
        await trio.to_thread.run_sync(time.sleep, seconds, abandon_on_cancel=True)


def _round_trips(streams: Iterable[StreamSocket]) -> Iterable[float]:
    for _, stream in zip(range(_MOST_ASKED), streams, strict=False):
        try:
            yield stream.tcp_info().rtt / 1_000_000
        except (OSError, trio.ClosedResourceError):
            continue  # a local one, or closed by now
