"""Opening passive sockets: one address, or all the addresses of a designator."""

from __future__ import annotations

import dataclasses
import functools
import operator
import socket as stdlib_socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from trio.lowlevel import checkpoint

from sockscope._addresses.designators import Request
from sockscope._addresses.resolve import SocketKind, resolve_request
from sockscope._addresses.values import Address
from sockscope._core.cleanup import close_on_error
from sockscope._core.errors import SocketError, socket_error
from sockscope._open.adopted import ReadyRequest, adopt, is_ready
from sockscope._open.local_path import bind_path, is_path
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
    AF_INET6,
    Configure,
    bind_socket,
    new_socket,
    run_configure,
)
from sockscope._options.defaults import with_defaults
from sockscope._options.plan import compile_plan
from sockscope._options.values import SocketOptions
from sockscope._sockets.base import AnySocket, is_custom
from sockscope._sockets.custom import CustomPassiveSocket
from sockscope._sockets.passive import PassiveSocket

# The kernel cuts it to its own limit. More than 16 bits overflow on some systems.
_LARGEST_BACKLOG: Final = 0xFFFF


def check_backlog(backlog: int | None) -> int | None:
    """*backlog*, if it is one.

    Raises:
      TypeError: it is no whole number.
      ValueError: it is negative.
    """
    if backlog is None:
        return None
    if isinstance(backlog, bool):
        raise TypeError(f"backlog must be a whole number or None, not {backlog!r}")
    backlog = operator.index(backlog)
    if backlog < 0:
        raise ValueError(f"backlog must be 0 or more, not {backlog}")
    return min(backlog, _LARGEST_BACKLOG)


@dataclass(slots=True)
class PassiveRequest:
    """What a passive socket is to be, with every argument checked."""

    local: Request
    type: SocketKind
    ipv6: bool | None
    backlog: int | None
    options: SocketOptions
    configure: Configure | None
    mode: int | None
    owner: int | str | None
    group: int | str | None
    replace_stale: bool

    @property
    def kind(self) -> int:
        """The system's number for the type of socket."""
        seqpacket = self.type == "seqpacket"
        return int(stdlib_socket.SOCK_SEQPACKET if seqpacket else stdlib_socket.SOCK_STREAM)


async def open_passive(request: PassiveRequest) -> PassiveSocket:
    """Open one passive socket: of several addresses the first that can be bound.

    Raises:
      SocketError: no address could be bound; the last one's error.

    A checkpoint.
    """
    if is_ready(request.local):
        return (await _adopt(request, request.local, only_first=True))[0]
    if is_wildcard(request.local):
        return await _open_wildcard(request)
    addresses = await look_up(request.local, request.ipv6, request.type)
    for address in addresses[:-1]:
        try:
            return await _listen(request, address)
        except SocketError as exc:
            if is_hopeless(exc):
                raise
    return await _listen(request, addresses[-1])


async def open_every_address(request: PassiveRequest) -> list[PassiveSocket]:
    """Open a passive socket on every address of one designator, all on the same port.

    Addresses of a family that this machine lacks are left out, unless all are.

    Raises:
      SocketError: an address could not be bound; none is left open.

    A checkpoint.
    """
    if is_ready(request.local):
        return await _adopt(request, request.local, only_first=False)
    if is_wildcard(request.local):
        return [await _open_wildcard(request)]
    addresses = await look_up(request.local, request.ipv6, request.type)
    return await open_on_each(addresses, lambda address: _listen(request, address))


async def _adopt(
    request: PassiveRequest, ready: ReadyRequest, *, only_first: bool
) -> list[PassiveSocket]:
    """Passive sockets that are there already; they keep their backlog unless one is given."""
    await checkpoint()
    found = adopt(
        ready, "passive", request.type, request.options, request.configure, only_first=only_first
    )
    passives = [passive for passive in found if isinstance(passive, PassiveSocket)]
    try:
        for passive in passives:
            if request.backlog is not None:
                passive._sock.listen(request.backlog)
                passive._backlog = request.backlog
    except OSError as exc:
        for passive in passives:
            passive._close()
        raise socket_error(exc, f"listen on {request.local}") from exc
    return passives


async def _open_wildcard(request: PassiveRequest) -> PassiveSocket:
    """One socket for both families where the system allows, else for IPv4."""
    found = await resolve_request(request.local, ipv6=request.ipv6, type=request.type)
    if len(found) == 1:
        return await _listen(request, found[0])
    six, four = found
    dual = dataclasses.replace(request, options=BOTH_FAMILIES | request.options)
    try:
        return await _listen(dual, six)
    except SocketError as exc:
        if not lacks_family(exc, six):
            raise
    return await _listen(request, four)


async def _listen(request: PassiveRequest, address: Address) -> PassiveSocket:
    """Open, configure, bind, listen: on one literal address."""
    options = request.options
    if address.family == AF_INET6:
        options = family_options(address) | options
    full = with_defaults(options, family=address.family, type=request.kind, role="passive")
    plan = compile_plan(full, family=address.family, type=request.kind, role="passive")
    sock = new_socket(address.family, request.kind, plan.protocol)
    with close_on_error(sock):
        plan.before(sock)
        run_configure(request.configure, sock, "passive", address)
        release = await _bind_and_listen(request, sock, address)
        with _released_on_error(release):
            plan.after(sock)
            await checkpoint()
            make = CustomPassiveSocket if is_custom(sock) else PassiveSocket
            # A path is kept as it was given: the kernel may know it by another name.
            known = address if release is not None else None
            return make(
                sock, request.options, backlog=request.backlog, address=known, on_close=release
            )


async def _bind_and_listen(
    request: PassiveRequest, sock: AnySocket, address: Address
) -> Callable[[], None] | None:
    """What removes the path again, where there is one."""
    backlog = _LARGEST_BACKLOG if request.backlog is None else request.backlog
    listen = functools.partial(sock.listen, backlog)
    if is_path(address) and isinstance(sock, stdlib_socket.socket):
        return await bind_path(sock, address, request, listen)
    await bind_socket(sock, address, request)
    try:
        listen()
    except OSError as exc:
        raise socket_error(exc, f"listen on {address}") from exc
    return None


@contextmanager
def _released_on_error(release: Callable[[], None] | None) -> Generator[None, None, None]:
    try:
        yield
    except BaseException:
        if release is not None:
            release()
        raise
