"""What lies in a socket's kernel buffers: unread and unsent bytes."""

from __future__ import annotations

import struct
import sys
from socket import socket
from typing import Final

_INT: Final = struct.Struct("i")

if sys.platform == "win32":

    def unread_bytes(sock: socket) -> int | None:
        """Bytes received and not read yet, or None where the system does not tell."""
        return None

    def unsent_bytes(sock: socket) -> int | None:
        """Bytes not yet acknowledged by the peer, or None where the system does not tell."""
        return None

else:
    import fcntl
    import termios

    def _ask(sock: socket, request: int) -> int | None:
        try:
            answer = fcntl.ioctl(sock.fileno(), request, bytes(_INT.size))
        except (OSError, ValueError):  # ValueError: the socket was closed meanwhile
            return None
        return int(_INT.unpack(answer)[0])

    def unread_bytes(sock: socket) -> int | None:
        """Bytes received and not read yet, or None where the system does not tell.

        Source: FIONREAD, tcp(7), unix(7).
        """
        return _ask(sock, termios.FIONREAD)

    def unsent_bytes(sock: socket) -> int | None:
        """Bytes not yet acknowledged by the peer, or None where the system does not tell.

        Source: SIOCOUTQ (the same number as TIOCOUTQ), tcp(7).
        """
        return _ask(sock, termios.TIOCOUTQ)
