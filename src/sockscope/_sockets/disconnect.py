"""Taking a datagram socket's peer away: connect(2) to AF_UNSPEC, which Python cannot say."""

from __future__ import annotations

import ctypes
import errno
import os
import socket as stdlib_socket
import struct
import sys
from typing import Final

# struct sockaddr with nothing in it but its family: AF_UNSPEC is 0 everywhere, so the
# place of the family within does not matter.
_UNSPECIFIED: Final = struct.pack("16x")

if sys.platform == "win32":

    def disconnect(sock: stdlib_socket.socket) -> None:
        """Let *sock* have no peer (an address of zeros does it there)."""
        wildcard = "0.0.0.0" if sock.family == stdlib_socket.AF_INET else "::"
        sock.connect((wildcard, 0))

else:
    _connect = ctypes.CDLL(None, use_errno=True).connect
    _connect.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]

    def disconnect(sock: stdlib_socket.socket) -> None:
        """Let *sock* have no peer.

        Raises:
          OSError: as connect(2).
        """
        if _connect(sock.fileno(), _UNSPECIFIED, len(_UNSPECIFIED)) == 0:
            return
        number = ctypes.get_errno()
        # macOS says so, and has dissolved the association (its connect(2)).
        if number != errno.EAFNOSUPPORT:
            raise OSError(number, os.strerror(number))
