"""Keeping new connections away from a listener that is about to close.

A close resets the handshakes that are under way: their clients are connected in their own
eyes, and EAGAIN says nothing about them. So first no new handshake may begin; those under
way then end in the queue, from which they are served. There are three ways (Linux, TCP):

- The listener is one of a group (SO_REUSEPORT): a filter on the group steers every new
  connection to another member. Any user may do that.
- A filter on the listener drops SYN segments, which the client repeats after a second.
  That needs CAP_NET_ADMIN.
- A listener that is alone in its group gets company: one of ours whose queue is full, to
  which the group's filter steers. Its clients go unanswered, too, and any user may do that.

None of them may touch a listener that another process has as well: filters belong to the
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
from sockscope._core.cleanup import close_on_error
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

# What the members of a group have in common, beside their address and user.
_SO_REUSEPORT: Final[int] = getattr(stdlib_socket, "SO_REUSEPORT", 15)
_SAME_OF_GROUP: Final = (
    (stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR),
    (stdlib_socket.SOL_SOCKET, _SO_REUSEPORT),
    (stdlib_socket.IPPROTO_IPV6, stdlib_socket.IPV6_V6ONLY),
)
# Somebody may be quicker than our connection to a listener with room for one; not always.
_TRIES: Final = 3

Begin = Callable[[PassiveSocket, stdlib_socket.socket, Any], object]


def may_lose(passive: PassiveSocket) -> bool:
    """Whether a close of *passive* can reset a handshake: local sockets connect in one step."""
    return isinstance(passive.address, InternetAddress) and not is_custom(passive._sock)


def keep_new_ones_away(passive: PassiveSocket, begin: Begin) -> contextlib.ExitStack | None:
    """Let no new handshake begin on *passive*.

    Args:
      passive: a TCP listener that no other process has.
      begin: begins a connection that is found in the queue meanwhile.

    Returns:
      What is to be closed after *passive*; None if nothing could be done.
    """
    if sys.platform != "linux" or not passive._is_sole_owner:
        return None
    # Where one way is refused, the next may be open.
    grouped = False
    with contextlib.suppress(OSError):
        grouped = bool(passive._sock.getsockopt(stdlib_socket.SOL_SOCKET, _SO_REUSEPORT))
        if grouped and _steer_away(passive, begin):
            return contextlib.ExitStack()
    with contextlib.suppress(OSError):
        _attach(passive._sock, _SO_ATTACH_FILTER, _DROP_SYN)
        return contextlib.ExitStack()
    with contextlib.suppress(OSError):
        return _steer_to_a_full_one(passive, begin) if grouped else None
    return None


def _attach(sock: stdlib_socket.socket, option: int, program: Sequence[_Instruction]) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("HP", len(program), ctypes.addressof(buffer))
    sock.setsockopt(stdlib_socket.SOL_SOCKET, option, described)


def _steer_to(passive: PassiveSocket, number: int) -> None:
    """Have all new connections of the group come to its member of that number."""
    _attach(passive._sock, _SO_ATTACH_REUSEPORT_CBPF, [(_RETURN, 0, 0, number)])


def _steer_away(passive: PassiveSocket, begin: Begin) -> bool:
    """Steer new connections to another member of the group; whether there is one.

    The kernel tells no member's number, and a number that nobody has falls back to the
    hash. So it is tried out, by a connection of our own that is reset at once: there
    always is a number 0; if that is us, number 1 is another, or there is none.
    """
    for number in (0, 1):
        _steer_to(passive, number)
        with _probe(passive, begin) as probe:
            if not _came_to_us(passive, begin, probe):
                return True
    return False


def _steer_to_a_full_one(passive: PassiveSocket, begin: Begin) -> contextlib.ExitStack | None:
    """Steer new connections to a listener of our own, whose queue of one is filled by us.

    Returns:
      It, and what fills it; None if the group cannot be steered.
    """
    with contextlib.ExitStack() as stack:
        _steer_to(passive, 0)  # while it has room, nobody is to come there
        full = stack.enter_context(_sibling(passive._sock))
        _steer_to(passive, 1)
        for _ in range(_TRIES):
            filler = stack.enter_context(_probe(passive, begin))
            if _came_to_us(passive, begin, filler):
                return None
            if _is_connected(filler):
                return stack.pop_all()
            # Somebody was quicker, and has taken its room: he is served, and we try again.
            child, peer = full.accept()
            child.setblocking(False)
            begin(passive, child, peer)
    return None


def _sibling(sock: stdlib_socket.socket) -> stdlib_socket.socket:
    """A listener of the same group with room for one connection.

    Raises:
      OSError: the group takes no more, for it is another user's, say.
    """
    sibling = stdlib_socket.socket(sock.family, sock.type, sock.proto)
    with close_on_error(sibling):
        sibling.setblocking(False)
        for level, option in _SAME_OF_GROUP:
            if level == stdlib_socket.SOL_SOCKET or sock.family == stdlib_socket.AF_INET6:
                sibling.setsockopt(level, option, sock.getsockopt(level, option))
        sibling.bind(sock.getsockname())
        sibling.listen(0)
    return sibling


def _probe(passive: PassiveSocket, begin: Begin) -> stdlib_socket.socket:
    """A connection of our own to *passive*, or to who is steered to; reset when it is closed.

    Over loopback it is connected on return, unless it comes to a full queue. It comes to
    us only where there is room, for our queue is emptied before.
    """
    _take_all(passive, begin)
    target = _reachable(passive._sock.getsockname())
    probe = stdlib_socket.socket(passive._sock.family, stdlib_socket.SOCK_STREAM)
    with close_on_error(probe):
        probe.setblocking(False)
        probe.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(BlockingIOError):
            probe.connect(target)
        with contextlib.suppress(OSError):
            probe.send(b"\0")  # for a listener that defers until there is data
    return probe


def _came_to_us(passive: PassiveSocket, begin: Begin, probe: stdlib_socket.socket) -> bool:
    """Whether *probe* was in the queue of *passive*; it is taken out, others are begun."""
    return _take_all(passive, begin, without=probe.getsockname()[:2])


def _is_connected(sock: stdlib_socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


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
