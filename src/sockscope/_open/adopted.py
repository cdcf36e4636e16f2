"""What ``fd:N`` and ``activated:NAME`` stand for: sockets that are there already."""

from __future__ import annotations

import errno
import socket as stdlib_socket
from typing import Final, TypeAlias, TypeGuard

from sockscope._addresses.designators import ActivatedRequest, DescriptorRequest, Request
from sockscope._addresses.resolve import SocketKind
from sockscope._core.errors import WrongSocketError
from sockscope._open.activation import take_activated
from sockscope._open.descriptors import OurSocket, socket_from_fd
from sockscope._open.sockets import Configure, run_configure
from sockscope._options.values import SocketOptions
from sockscope._sockets.adopting import Connect

ReadyRequest: TypeAlias = DescriptorRequest | ActivatedRequest

_NUMBERS: Final = {
    "stream": int(stdlib_socket.SOCK_STREAM),
    "datagram": int(stdlib_socket.SOCK_DGRAM),
    "seqpacket": int(getattr(stdlib_socket, "SOCK_SEQPACKET", -1)),
}


def is_ready(request: Request | None) -> TypeGuard[ReadyRequest]:
    """Whether *request* names a socket, and no address."""
    return isinstance(request, (DescriptorRequest, ActivatedRequest))


def adopt(
    request: ReadyRequest,
    connect: Connect,
    type: SocketKind,  # as in make_socket
    options: SocketOptions,
    configure: Configure | None,
    *,
    only_first: bool,
) -> list[OurSocket]:
    """Take the sockets that *request* names, at least one, with *options* on them.

    Args:
      request: a descriptor, or a name under which one or several were passed.
      connect: what each must be.
      type: and of what type.
      options: set on each.
      configure: called with each, after the options.
      only_first: of several of one name take the first.

    Raises:
      SocketError: there is none.
      WrongSocketError: one is not what *connect* and *type* say.
      OptionError: an option failed.

    After an error the descriptors are open, and nobody's but the caller's; they may be
    non-blocking and close-on-exec by then.
    """

    def prepare(socket: OurSocket) -> None:
        if int(socket._sock.type) != _NUMBERS[type]:
            message = f"cannot use {request}: it is no socket of type={type!r}"
            raise WrongSocketError(errno.EPROTOTYPE, message)
        options.apply(socket)
        run_configure(configure, socket._sock, connect or "active", socket.local_address)

    if isinstance(request, ActivatedRequest):
        return take_activated(request.name, connect, prepare, only_first=only_first)
    socket = socket_from_fd(request.number, connect=connect)
    try:
        prepare(socket)
    except BaseException:
        socket.detach()
        raise
    return [socket]
