"""The path's MTU, for the message of a datagram that was too long for it."""

from __future__ import annotations

import socket as stdlib_socket
from typing import Any, Final

from sockscope._options.model import number_of
from sockscope._sockets.ancillary_datagram import IP, IPV6

_OPTIONS: Final = {
    int(stdlib_socket.AF_INET): (IP, number_of("IP_MTU", 14)),
    int(stdlib_socket.AF_INET6): (IPV6, number_of("IPV6_MTU", 24)),
}


def path_mtu(sock: Any, target: Any) -> int | None:
    """The MTU in bytes of the path to *target*, or None where the system does not tell.

    Args:
      sock: the socket that was to send there.
      target: a sockaddr; None is the peer that *sock* is connected to.

    Only a connected socket can be asked, so another one is connected for the moment.
    Source: IP_MTU, ip(7).
    """
    level, number = _OPTIONS[int(sock.family)]
    if number is None:
        return None
    try:
        if target is None:
            return int(sock.getsockopt(level, number))
        with stdlib_socket.socket(sock.family, stdlib_socket.SOCK_DGRAM) as scratch:
            scratch.connect(target)
            return scratch.getsockopt(level, number)
    except OSError:
        return None
