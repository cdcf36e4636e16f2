"""Opening an active stream: look up, race, one attempt; each a function."""

from __future__ import annotations

import errno
import functools
import socket as stdlib_socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from trio.lowlevel import checkpoint

from sockscope._addresses.designators import HostRequest, Request
from sockscope._addresses.resolve import SocketKind
from sockscope._addresses.values import Address, InternetAddress, as_peer
from sockscope._core.cleanup import close_on_error
from sockscope._core.errors import OptionError, SocketError, UnsupportedOptionError
from sockscope._open.adopted import ReadyRequest, adopt, is_ready
from sockscope._open.happy_eyeballs import AllFailed, AttemptFailed, connect_first, interleave
from sockscope._open.several import is_hopeless, look_up
from sockscope._open.sockets import (
    AF_INET,
    AF_INET6,
    Configure,
    bind_socket,
    new_socket,
    run_configure,
)
from sockscope._options.defaults import NO_OPTIONS, with_defaults
from sockscope._options.kinds import kind_of
from sockscope._options.plan import Plan, compile_plan
from sockscope._options.table import TABLE
from sockscope._options.values import SocketOptions
from sockscope._sockets.base import AF_UNIX, AnySocket, is_custom
from sockscope._sockets.connecting import attempt_error, connect_error, connect_socket
from sockscope._sockets.custom import CustomStreamSocket
from sockscope._sockets.seqpacket import MessageStream
from sockscope._sockets.stream import StreamSocket

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


@dataclass(slots=True)
class ActiveRequest:
    """What an active stream is to be, with every argument checked."""

    remote: Request | None
    local: Request | None
    family: str | None
    type: SocketKind
    ipv6: bool | None
    options: SocketOptions
    configure: Configure | None
    mode: int | None
    owner: int | str | None
    group: int | str | None
    replace_stale: bool
    happy_eyeballs_delay: float
    #: The addresses under way, for the message of a timeout.
    pending: set[Address] = field(default_factory=set)

    @property
    def kind(self) -> int:
        """The system's number for the type of socket."""
        seqpacket = self.type == "seqpacket"
        return int(stdlib_socket.SOCK_SEQPACKET if seqpacket else stdlib_socket.SOCK_STREAM)

    @property
    def remote_name(self) -> str | None:
        """The host name asked for, or None where an address was given."""
        host = self.remote.host if isinstance(self.remote, HostRequest) else None
        return host if isinstance(host, str) else None


async def open_active(request: ActiveRequest) -> StreamSocket:
    """Open the stream that *request* describes.

    Raises:
      ConnectError: every address was tried, none could be reached.
      ResolverError: a name is unknown.
      OptionError: an option failed.
      SocketError: the system is short of descriptors or memory, or has no such socket.

    A checkpoint.
    """
    if is_ready(request.remote):
        return await _adopt(request, request.remote)
    local = await _local_addresses(request)
    if request.remote is None:
        return await _open_unconnected(request, local)
    found = await look_up(request.remote, request.ipv6, request.type)
    targets = _reachable(found, local, request)

    async def attempt(target: Address) -> StreamSocket:
        return await _attempt(request, target, local)

    try:
        if len(targets) > 1:
            ordered = interleave(targets)
            return await connect_first(
                ordered, attempt, request.happy_eyeballs_delay, request.pending
            )
        # The usual case, an address or a name with one: no nursery.
        request.pending.add(targets[0])
        return await attempt(targets[0])
    except AttemptFailed as exc:
        raise connect_error(request.remote, [exc.error]) from exc.error.__cause__
    except AllFailed as exc:
        raise connect_error(request.remote, exc.errors) from None


async def _adopt(request: ActiveRequest, ready: ReadyRequest) -> StreamSocket:
    """A stream that is there already."""
    await checkpoint()
    [stream] = adopt(
        ready, "active", request.type, request.options, request.configure, only_first=True
    )
    assert isinstance(stream, StreamSocket)
    return stream


async def _local_addresses(request: ActiveRequest) -> dict[int, Address]:
    """The address to bind to, by family; empty where none was asked for."""
    if request.local is None:
        return {}
    found = await look_up(request.local, request.ipv6, request.type)
    # Of several addresses of a family the resolver's first is the one to use.
    return {address.family: address for address in reversed(found)}


def _reachable(
    found: list[Address], local: dict[int, Address], request: ActiveRequest
) -> list[Address]:
    """The addresses that a socket bound to *local* can connect to."""
    if not local:
        return found
    targets = [address for address in found if address.family in local]
    if not targets:
        raise SocketError(
            errno.EADDRNOTAVAIL,
            f"cannot connect to {request.remote} from {request.local}: "
            f"it has no address of that family",
        )
    return targets


async def _attempt(
    request: ActiveRequest, target: Address, local: dict[int, Address]
) -> StreamSocket:
    """One connection to one address, which fails alone or ends the opening."""
    source = local.get(target.family)
    try:
        sock, plan = _prepare(request, target.family, _for_connecting(request.options, source))
    except (OSError, ExceptionGroup) as exc:
        # What is grouped are errors of several options, which are OSErrors all.
        several = exc.exceptions if isinstance(exc, ExceptionGroup) else (exc,)
        errors = [error for error in several if isinstance(error, OSError)]
        if any(_ends_the_opening(error, target.family) for error in errors):
            raise
        raise AttemptFailed(attempt_error(errors[0], target)) from exc
    with close_on_error(sock):
        run_configure(request.configure, sock, "active", target)
        release: Callable[[], None] | None = None
        try:
            if source is not None:
                release = await bind_socket(sock, source, request)
            await connect_socket(sock, target.sockaddr)
            plan.after(sock)
        except BaseException as exc:
            if release is not None:
                release()
            if not isinstance(exc, OSError) or isinstance(exc, OptionError):
                raise
            raise AttemptFailed(attempt_error(exc, target)) from exc
        return _stream(sock, request, peer=target, source=source, release=release)


def _prepare(request: ActiveRequest, family: int, options: SocketOptions) -> tuple[AnySocket, Plan]:
    """A socket with its options on it, and what is left to be set once it is connected."""
    if options is NO_OPTIONS:
        plan = _default_plan(family, request.kind)
    else:
        plan = _plan(options, family, request.kind)
    sock = new_socket(family, request.kind, plan.protocol)
    with close_on_error(sock):
        plan.before(sock)
    return sock, plan


def _plan(options: SocketOptions, family: int, kind: int) -> Plan:
    full = with_defaults(options, family=family, type=kind, role="active")
    return compile_plan(full, family=family, type=kind, role="active")


@functools.cache
def _default_plan(family: int, kind: int) -> Plan:
    """The plan where nothing is stated."""
    return _plan(NO_OPTIONS, family, kind)


def _for_connecting(options: SocketOptions, source: Address | None) -> SocketOptions:
    """*options*, and for a source without a port the one that lets it share ports.

    The kernel then chooses the port when it knows the destination, so that one port
    serves many destinations (IP_BIND_ADDRESS_NO_PORT, as Trio has it).
    """
    if isinstance(source, InternetAddress) and source.port == 0:
        return _SHARE_PORTS | options
    return options


_SHARE_PORTS = SocketOptions(
    bind_address_no_port=True, preferred=frozenset({"bind_address_no_port"})
)


def _ends_the_opening(exc: OSError, family: int) -> bool:
    """Whether no other address can do better: a shortage, or an option that is at fault."""
    if isinstance(exc, UnsupportedOptionError):
        return not _only_family_lacks(exc, family)
    return is_hopeless(exc)


def _only_family_lacks(exc: UnsupportedOptionError, family: int) -> bool:
    """Whether the option is one that the other version of the Internet Protocol has."""
    option = TABLE.get(exc.option) if isinstance(exc.option, str) else None
    other = {AF_INET: AF_INET6, AF_INET6: AF_INET}.get(family)
    if option is None or other is None:
        return False
    return kind_of(other, int(stdlib_socket.SOCK_STREAM)) in option.suited


async def _open_unconnected(request: ActiveRequest, local: dict[int, Address]) -> StreamSocket:
    """A stream whose `connect` comes later, bound if there is a local address."""
    family, source = next(iter(local.items())) if local else (_family(request), None)
    sock, plan = _prepare(request, family, request.options)
    with close_on_error(sock):
        run_configure(request.configure, sock, "active", None)
        release = None if source is None else await bind_socket(sock, source, request)
        stream = _stream(sock, request, peer=None, source=source, release=release)
        stream._on_connect = plan.after
        try:
            await checkpoint()
        except BaseException:
            stream._close()
            raise
        return stream


def _family(request: ActiveRequest) -> int:
    if request.family == "local":
        return AF_UNIX
    return AF_INET6 if request.ipv6 else AF_INET


def _stream(
    sock: AnySocket,
    request: ActiveRequest,
    *,
    peer: Address | None,
    source: Address | None,
    release: Callable[[], None] | None,
) -> StreamSocket:
    make: type[StreamSocket] = StreamSocket
    if is_custom(sock):
        make = CustomStreamSocket
    elif request.type == "seqpacket":
        make = MessageStream
    return make(
        sock,
        request.options,
        peer=None if peer is None else as_peer(peer),
        # A path is kept as it was given: the kernel may know it by another name.
        local=source if release is not None else None,
        remote_name=request.remote_name,
        on_close=release,
    )
