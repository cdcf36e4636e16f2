"""Connecting one socket to one address: the survey of connect(2), and the attempt.

- EINPROGRESS, EINTR: under way. Wait until writable, then ask SO_ERROR, once; a second
  connect would hide the outcome. But to this machine the handshake is over when Linux says
  so, and a second connect tells how it went: 0, the failure, or EALREADY.
- EAGAIN on a local socket: the listener's queue is full. Poll says writable at once and
  SO_ERROR is 0, so the only way is to try again by the clock.
- EAGAIN on an internet socket: local ports are exhausted, this attempt has failed.
- EALREADY, EISCONN: our fault, told as they are.
- All others: this address has failed.
"""

from __future__ import annotations

import errno
import os
import random
import socket as stdlib_socket
import sys
from collections.abc import Sequence
from typing import Any, Final

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from sockscope._addresses.values import Address
from sockscope._core.errors import ConnectError, SocketError, socket_error
from sockscope._sockets.base import AF_UNIX, AnySocket, family_of, is_custom
from sockscope._sockets.long_path import sockaddr_for

_IS_LINUX: Final = sys.platform == "linux"
_UNDER_WAY: Final = frozenset({errno.EINPROGRESS, errno.EINTR, errno.EWOULDBLOCK})
# 500 clients at a queue of 16: a fixed 1 ms takes 24 times the calls, doubling up
# to 1 s serves the last client 24 times later.
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


async def connect_socket(sock: AnySocket, sockaddr: Any) -> None:
    """Connect *sock*, once, to *sockaddr*; the caller closes it if this raises.

    Args:
      sock: a non-blocking socket, or one of a custom socket factory.
      sockaddr: a literal address as the socket module takes it.

    Raises:
      OSError: as the system says, without any words of ours.

    A checkpoint.
    """
    if is_custom(sock):
        await sock.connect(sockaddr)
        return
    assert isinstance(sock, stdlib_socket.socket)
    await checkpoint_if_cancelled()
    if family_of(sock) == AF_UNIX:
        with sockaddr_for(sockaddr) as short:
            number = await _connect_local(sock, short)
        if number:
            raise OSError(number, os.strerror(number))
        return
    number = sock.connect_ex(sockaddr)
    if number == errno.EINPROGRESS and _IS_LINUX and _is_loopback(sockaddr[0]):
        number = sock.connect_ex(sockaddr)
        if number == errno.EALREADY:
            number = errno.EINPROGRESS
    if number == errno.EAGAIN:
        raise OSError(number, "no local port is free for this destination")
    if number in _UNDER_WAY:
        await trio.lowlevel.wait_writable(sock)
        number = sock.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_ERROR)
    else:
        await cancel_shielded_checkpoint()
    if number:
        raise OSError(number, os.strerror(number))


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host == "::1"


async def _connect_local(sock: stdlib_socket.socket, path: Any) -> int:
    """Connect to a path, however full its queue; the errno, or 0."""
    number = sock.connect_ex(path)
    if number == errno.EAGAIN:
        return await _connect_by_the_clock(sock, path)
    await cancel_shielded_checkpoint()
    return number


async def _connect_by_the_clock(sock: stdlib_socket.socket, path: Any) -> int:
    """Try again until the listener's queue has room; the errno that ended it, or 0."""
    pause = _FIRST_PAUSE
    number = errno.EAGAIN
    while number == errno.EAGAIN:
        await trio.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, _LONGEST_PAUSE)
        number = sock.connect_ex(path)
    return number


def attempt_error(exc: OSError, address: Address) -> SocketError:
    """One failed attempt, named by its address, with the system's error as its cause."""
    error: SocketError = socket_error(exc, f"connect to {address}")
    error.__cause__ = exc
    return error


def connect_error(target: object, errors: Sequence[SocketError]) -> ConnectError:
    """All attempts at *target* failed: one error for them, of the last or common errno."""
    reasons = "; ".join(str(error.strerror) for error in errors)
    message = reasons if len(errors) == 1 else f"cannot connect to {target}: {reasons}"
    return ConnectError(errors[-1].errno, message, exceptions=errors)
