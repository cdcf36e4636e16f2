"""Lingering close: what a peer gets of our last bytes while it is still sending.

A close with unread input resets the connection, and the reset takes away what has not
been sent yet: of a reply of 100,000 bytes 43,440 arrived over a slow path, though
shutdown(SHUT_WR) came first. So our side is ended, and what the peer sends is read and
thrown away until it ends, too: by nginx's times, and up to a number of bytes.
"""

from __future__ import annotations

import socket as stdlib_socket
from typing import Final

import trio

from sockscope._sockets.base import AF_UNIX, close_quietly, is_custom
from sockscope._sockets.ending import reset_on_close
from sockscope._sockets.queues import unread_bytes, unsent_bytes
from sockscope._sockets.stream import StreamSocket

# nginx's lingering_time and lingering_timeout; the bound in bytes is ours.
_WHOLE_SECONDS: Final = 30.0
_IDLE_SECONDS: Final = 5.0
_MOST_BYTES: Final = 1024 * 1024

# Thrown away by all connections alike.
_SINK: Final = bytearray(64 * 1024)


def take_for_lingering(stream: StreamSocket) -> stdlib_socket.socket | None:
    """The socket of *stream*, which is closed by that, if a plain close might lose bytes.

    None where it would not, or where the user has said by ``linger`` how it is to end.
    """
    if stream._ended or not _may_linger(stream) or not _needs_lingering(stream._sock):
        return None
    stream._wake()
    sock = stream._sock
    return stdlib_socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())


def _may_linger(stream: StreamSocket) -> bool:
    return (
        stream.is_open
        and not is_custom(stream._sock)
        and stream._requested.linger is None
        and stream._sock.type == stdlib_socket.SOCK_STREAM
    )


def _needs_lingering(sock: stdlib_socket.socket) -> bool:
    if unread_bytes(sock):
        return True
    # On a local socket what we sent is in the peer's hands, and nothing takes it away.
    if sock.family == AF_UNIX or not unsent_bytes(sock):
        return False
    try:
        return bool(sock.recv(1, stdlib_socket.MSG_PEEK))
    except BlockingIOError:
        return True  # it may send yet
    except OSError:
        return False


async def linger(sock: stdlib_socket.socket) -> bool:
    """End *sock*, read what comes until the peer ends it too, and close it.

    Returns:
      Whether close(2) reported no error.

    A checkpoint. When cancelled, it is reset and closed.
    """
    try:
        await _discard(sock)
    except BaseException:
        reset_on_close(sock)
        raise
    finally:
        closed_well = close_quietly(sock)
    return closed_well


async def _discard(sock: stdlib_socket.socket) -> None:
    try:
        sock.shutdown(stdlib_socket.SHUT_WR)
    except OSError:
        await trio.lowlevel.checkpoint()
        return  # reset by now
    left = _MOST_BYTES
    with trio.move_on_after(_WHOLE_SECONDS):
        while left > 0:
            received = 0
            with trio.move_on_after(_IDLE_SECONDS):
                try:
                    await trio.lowlevel.wait_readable(sock)
                    received = sock.recv_into(_SINK)
                except BlockingIOError:
                    continue
                except OSError:
                    return  # reset, or no wait to be had
            if not received:
                return  # its end, or silence for too long
            left -= received
