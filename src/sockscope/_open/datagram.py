"""Opening datagram sockets: bound, connected, both or neither."""

from __future__ import annotations

import errno
import socket as stdlib_socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from trio.lowlevel import checkpoint

from sockscope._addresses.designators import Request
from sockscope._addresses.values import Address
from sockscope._core.errors import SocketError
from sockscope._open.adopted import ReadyRequest, adopt, is_ready
from sockscope._open.several import (
    BOTH_FAMILIES,
    family_options,
    is_hopeless,
    is_wildcard,
    lacks_family,
    look_up,
    open_on_each,
)
from sockscope._open.sockets import (
    AF_INET,
    AF_INET6,
    Configure,
    bind_socket,
    new_socket,
    run_configure,
)
from sockscope._options.defaults import NO_OPTIONS, with_defaults
from sockscope._options.plan import compile_plan
from sockscope._options.values import SocketOptions
from sockscope._sockets.base import AF_UNIX, AnySocket, is_custom
from sockscope._sockets.connecting import attempt_error, connect_error
from sockscope._sockets.datagram import DatagramSocket
from sockscope._sockets.datagram_custom import CustomDatagramSocket

_SOCK_DGRAM: Final = int(stdlib_socket.SOCK_DGRAM)


@dataclass(slots=True)
class DatagramRequest:
    """What a datagram socket is to be, with every argument checked."""

    remote: Request | None = None
    local: Request | None = None
    family: str | None = None
    ipv6: bool | None = None
    options: SocketOptions = NO_OPTIONS
    configure: Configure | None = None
    mode: int | None = None
    owner: int | str | None = None
    group: int | str | None = None
    replace_stale: bool = True


async def open_datagram(request: DatagramRequest) -> DatagramSocket:
    """Open the datagram socket that *request* describes.

    Raises:
      ConnectError: no address of the remote could be connected to.
      ResolverError: a name is unknown.
      OptionError: an option failed.
      SocketError: no local address could be bound, or the system is short of descriptors.

    A checkpoint. When cancelled, nothing was opened.
    """
    for end in (request.local, request.remote):
        if is_ready(end):
            return (await _adopt(request, end, only_first=True))[0]
    local = await _look_up(request, request.local)
    if request.remote is None:
        return await _open_first(request, local)
    targets = await _look_up(request, request.remote)
    pairs = [(source, target) for target in targets for source in _sources(request, local, target)]
    if not pairs:
        raise SocketError(
            errno.EADDRNOTAVAIL,
            f"cannot connect to {request.remote} from {request.local}: it has no address of "
            "that family",
        )
    errors = []
    for source, target in pairs:
        try:
            return await _open(request, source, target)
        except OSError as exc:
            if is_hopeless(exc):
                raise
            errors.append(attempt_error(exc, target))
    raise connect_error(request.remote, errors) from errors[-1].__cause__


async def open_every_address(request: DatagramRequest) -> list[DatagramSocket]:
    """Open a bound datagram socket on every address of one designator, all on the same port.

    Addresses of a family that this machine lacks are left out, unless all are.

    Raises:
      SocketError: an address could not be bound; none is left open.

    A checkpoint.
    """
    if is_ready(request.local):
        return await _adopt(request, request.local, only_first=False)
    local = await _look_up(request, request.local)
    if is_wildcard(request.local):
        return [await _open_first(request, local)]
    return await open_on_each(local, lambda address: _open(request, address, None))


async def _adopt(
    request: DatagramRequest, ready: ReadyRequest, *, only_first: bool
) -> list[DatagramSocket]:
    """Datagram sockets that are there already."""
    await checkpoint()
    found = adopt(
        ready, None, "datagram", request.options, request.configure, only_first=only_first
    )
    return [socket for socket in found if isinstance(socket, DatagramSocket)]


async def _look_up(request: DatagramRequest, what: Request | None) -> list[Address]:
    return [] if what is None else await look_up(what, request.ipv6, "datagram")


def _sources(
    request: DatagramRequest, local: list[Address], target: Address
) -> Sequence[Address | None]:
    """What to bind to, to reach *target*: nothing, or the local address of its family."""
    if not request.local:
        return [None]
    return [address for address in local if address.family == target.family][:1]


async def _open_first(request: DatagramRequest, local: list[Address]) -> DatagramSocket:
    """A socket without a remote: on the first local address that can be bound, if any."""
    if not local:
        return await _open_unbound(request)
    is_dual = is_wildcard(request.local) and len(local) > 1
    for address in local[:-1]:
        try:
            return await _open(request, address, None, is_dual=is_dual)
        except SocketError as exc:
            if is_hopeless(exc):
                raise
            if is_dual and not lacks_family(exc, address):
                raise  # half of the wildcard is not what was asked for
    return await _open(request, local[-1], None)


async def _open_unbound(request: DatagramRequest) -> DatagramSocket:
    """A socket for whatever address it will be asked to send to."""
    if request.family == "local":
        return await _open(request, None, None, family=AF_UNIX)
    if request.ipv6 is not None:
        return await _open(request, None, None, family=AF_INET6 if request.ipv6 else AF_INET)
    try:
        return await _open(request, None, None, family=AF_INET6, is_dual=True)
    except SocketError as exc:
        if exc.errno != errno.EAFNOSUPPORT:
            raise
    return await _open(request, None, None, family=AF_INET)


async def _open(
    request: DatagramRequest,
    source: Address | None,
    target: Address | None,
    *,
    family: int | None = None,
    is_dual: bool = False,
) -> DatagramSocket:
    """Open, configure, bind, connect: between literal addresses."""
    known = source or target
    family = family if known is None else known.family
    assert family is not None
    options = request.options
    if family == AF_INET6:
        options = (BOTH_FAMILIES if is_dual else family_options(source, target)) | options
    full = with_defaults(options, family=family, type=_SOCK_DGRAM, role="active")
    plan = compile_plan(full, family=family, type=_SOCK_DGRAM, role="active")
    sock = new_socket(family, _SOCK_DGRAM, plan.protocol)
    release: Callable[[], None] | None = None
    opened: DatagramSocket | None = None
    try:
        plan.before(sock)
        run_configure(request.configure, sock, "active", target or source)
        if source is not None:
            release = await bind_socket(sock, source, request)
        opened = _wrap(request, sock, source if release is not None else None, release)
        if target is not None:
            await opened._connect_to(target)
        plan.after(sock)
        await checkpoint()
    except BaseException:
        if opened is not None:
            opened._close()
        else:
            sock.close()
        raise
    return opened


def _wrap(
    request: DatagramRequest,
    sock: AnySocket,
    path: Address | None,
    release: Callable[[], None] | None,
) -> DatagramSocket:
    make = CustomDatagramSocket if is_custom(sock) else DatagramSocket
    # A path is kept as it was given: the kernel may know it by another name.
    return make(sock, request.options, address=path, on_close=release)
