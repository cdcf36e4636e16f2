"""How a stream ends: lingering by Trio's clock, and resetting."""

from __future__ import annotations

import socket as stdlib_socket
import struct
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import trio

from sockscope._sockets.base import close_quietly
from sockscope._sockets.queues import unsent_bytes

_LINGER: Final = struct.Struct("HH" if sys.platform == "win32" else "ii")
_NO_LINGER: Final = _LINGER.pack(0, 0)
_RESET: Final = _LINGER.pack(1, 0)
_IS_LINUX: Final = sys.platform == "linux"
# Half a round trip on a fast network; a delayed acknowledgement takes 40 ms.
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


def linger_seconds(sock: stdlib_socket.socket) -> int:
    """The seconds for which close(2) would block, 0 where it would not.

    Linux blocks there even on a non-blocking socket: the whole event loop with it.
    """
    try:
        # Linux gives the flag alone to who has room for no more: half the price, on every close.
        if _IS_LINUX and not sock.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER):
            return 0
        raw = sock.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, _LINGER.size)
    except OSError:
        return 0
    on, seconds = _LINGER.unpack(raw)
    return int(seconds) if on else 0


def _set_linger(sock: stdlib_socket.socket, value: bytes) -> None:
    try:
        sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, value)
    except OSError:
        pass  # a reset child refuses it on some systems: then there is nothing to linger for


def dont_linger(sock: stdlib_socket.socket) -> None:
    """Let close(2) return at once; the system goes on sending behind it."""
    _set_linger(sock, _NO_LINGER)


def reset_on_close(sock: stdlib_socket.socket) -> None:
    """Let close(2) reset the connection and throw its queues away."""
    _set_linger(sock, _RESET)


@contextmanager
def take_over(sock: stdlib_socket.socket) -> Generator[stdlib_socket.socket, None, None]:
    """Another object for the descriptor of *sock*, which is closed; at the end this one is."""
    family, kind, protocol = sock.family, sock.type, sock.proto
    taken = stdlib_socket.socket(family, kind, protocol, fileno=sock.detach())
    try:
        yield taken
    finally:
        close_quietly(taken)


async def linger(sock: stdlib_socket.socket, seconds: float) -> bool:
    """Send the end of the stream and wait until the peer has acknowledged all.

    Args:
      sock: the socket.
      seconds: how long at most.

    Returns:
      Whether all was acknowledged; where the system does not tell, True at once.

    A checkpoint. Source: SO_LINGER as POSIX means it, without its blocking close.
    """
    try:
        sock.shutdown(stdlib_socket.SHUT_WR)
    except OSError:
        await trio.lowlevel.checkpoint()
        return True  # the peer has gone: nobody is left to wait for
    pause = _FIRST_PAUSE
    with trio.move_on_after(seconds):
        while unsent_bytes(sock):
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        await trio.lowlevel.checkpoint()
    return not unsent_bytes(sock)
