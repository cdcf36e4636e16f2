"""`make_socket` and `open_socket`: from a designator to a socket that is ready."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, overload

from sockscope._addresses.designators import AddressLike
from sockscope._core.deadlines import deadline_after
from sockscope._core.errors import ConnectTimeoutError, HandshakeTimeoutError, SocketTimeoutError
from sockscope._open.active import open_active
from sockscope._open.arguments import OpenArguments
from sockscope._open.datagram import open_datagram
from sockscope._open.descriptors import OurSocket
from sockscope._open.passive import open_passive
from sockscope._open.sockets import Configure
from sockscope._open.upgrade import close_after, run_upgrade
from sockscope._options.values import SocketOptions
from sockscope._sockets.datagram import DatagramSocket
from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.stream import StreamSocket

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")


class _CommonArguments(TypedDict, total=False):
    """The arguments that every kind of socket takes."""

    family: Literal["internet", "local"] | None
    ipv6: bool | None
    options: SocketOptions | None
    configure: Configure | None
    timeout: float


class _ActiveArguments(_CommonArguments, total=False):
    """And those of an active one."""

    local: AddressLike | None
    happy_eyeballs_delay: float


class _DatagramArguments(_CommonArguments, total=False):
    """And those of a datagram socket."""

    local: AddressLike | None
    mode: int | None
    owner: int | str | None
    group: int | str | None
    replace_stale: bool


class _PassiveArguments(_CommonArguments, total=False):
    """And those of a passive one."""

    backlog: int | None
    mode: int | None
    owner: int | str | None
    group: int | str | None
    replace_stale: bool


@overload
async def make_socket(
    remote: AddressLike | None = None,
    *,
    type: Literal["stream", "seqpacket"] = "stream",
    connect: Literal["active"] = "active",
    upgrade: None = None,
    **arguments: Unpack[_ActiveArguments],
) -> StreamSocket: ...
@overload
async def make_socket(
    remote: AddressLike | None = None,
    *,
    type: Literal["stream", "seqpacket"] = "stream",
    connect: Literal["active"] = "active",
    upgrade: Callable[[StreamSocket], Awaitable[T]],
    **arguments: Unpack[_ActiveArguments],
) -> T: ...
@overload
async def make_socket(
    remote: None = None,
    *,
    type: Literal["stream", "seqpacket"] = "stream",
    connect: Literal["passive"],
    local: AddressLike,
    **arguments: Unpack[_PassiveArguments],
) -> PassiveSocket: ...
@overload
async def make_socket(
    remote: AddressLike | None = None,
    *,
    type: Literal["datagram"],
    **arguments: Unpack[_DatagramArguments],
) -> DatagramSocket: ...
async def make_socket(  # noqa: D417  # the keywords are told one by one
    remote: AddressLike | None = None, **arguments: Any
) -> Any:
    """Make a socket, of which the caller is the owner; see `open_socket`.

    Args:
      remote: the address designator to connect to; of a name all addresses are tried,
        as Happy Eyeballs does (RFC 8305). None is a socket to be connected later.
      type: ``"stream"``; ``"datagram"``, which is connected only if there is a *remote*;
        ``"seqpacket"`` for a local socket that keeps the boundaries of its messages.
      connect: ``"active"``, or ``"passive"`` for a socket that takes connections.
      family: ``"internet"`` or ``"local"`` for a socket without a remote.
      local: the address designator to bind to; needed by a passive socket. A host of
        None is the wildcard of both families.
      ipv6: True for IPv6 only, False for IPv4 only, None for both.
      backlog: how many connections may wait to be accepted; None is the system's
        maximum. Passive sockets only.
      options: set on the socket before it is bound or connected, on each attempt.
      configure: a plain function ``(socket, context)`` for what no option expresses,
        called after the options, before bind (passive) or connect (active). If it
        raises, nothing was opened.
      mode: the permission bits of the path that a local socket is bound to, 0 to 0o777.
      owner: the path's owner, a number or name.
      group: the path's group, a number or name.
      replace_stale: whether a path left behind by a socket that nobody listens on is
        replaced; with False the path must not exist.
      timeout: seconds for the opening, looking up and upgrading included.
      happy_eyeballs_delay: seconds before the next address is tried while one is
        under way; one that fails starts the next at once.
      upgrade: an async callable that turns the new stream into what is returned; it
        owns the stream from then on.

    Returns:
      A `StreamSocket`; a `PassiveSocket` if *connect* is ``"passive"``; a `DatagramSocket`
      if *type* is ``"datagram"``; what *upgrade* returned if there is one.

    Raises:
      ConnectError: no address could be reached; its ``exceptions`` name each.
      ConnectTimeoutError: it took longer; the message names the addresses pending.
      SocketTimeoutError: the same, of a socket that does not connect.
      HandshakeTimeoutError: connected in time, but not upgraded.
      ResolverError: a name is unknown.
      OptionError: an option failed.
      SocketError: bind or listen failed, or descriptors ran out.
      TypeError: arguments that make no sense together, or of a wrong type.
      ValueError: a value out of range.

    A checkpoint. When cancelled, nothing was opened.
    Source: IOLib's and Allegro CL's ``make-socket`` (seeds 003, 004), Emacs's
    ``make-network-process`` (seed 000).
    """
    return (await _open(OpenArguments(remote, **arguments)))[1]


@overload
def open_socket(
    remote: AddressLike | None = None,
    *,
    type: Literal["stream", "seqpacket"] = "stream",
    connect: Literal["active"] = "active",
    upgrade: None = None,
    **arguments: Unpack[_ActiveArguments],
) -> AbstractAsyncContextManager[StreamSocket]: ...
@overload
def open_socket(
    remote: AddressLike | None = None,
    *,
    type: Literal["stream", "seqpacket"] = "stream",
    connect: Literal["active"] = "active",
    upgrade: Callable[[StreamSocket], Awaitable[T]],
    **arguments: Unpack[_ActiveArguments],
) -> AbstractAsyncContextManager[T]: ...
@overload
def open_socket(
    remote: None = None,
    *,
    type: Literal["stream", "seqpacket"] = "stream",
    connect: Literal["passive"],
    local: AddressLike,
    **arguments: Unpack[_PassiveArguments],
) -> AbstractAsyncContextManager[PassiveSocket]: ...
@overload
def open_socket(
    remote: AddressLike | None = None,
    *,
    type: Literal["datagram"],
    **arguments: Unpack[_DatagramArguments],
) -> AbstractAsyncContextManager[DatagramSocket]: ...
def open_socket(remote: AddressLike | None = None, **arguments: Any) -> Any:
    r"""Open a socket that lives as long as the block: ``async with open_socket(...) as stream:``.

    It takes the arguments of `make_socket`, and raises what that raises. They cover the
    opening only: no timeout limits the body, and its exceptions come out as they are.

    On the way out the socket is closed: by its ``aclose()`` at the end of the body, at
    once and without waiting for anything if the body raised or was cancelled. Where
    *upgrade* gave something with an ``aclose`` of its own, that comes first.

    Entering is a checkpoint, and so is leaving at the end of the body.

    Example::

        async with sockscope.open_socket(("example.org", 80), timeout=10) as stream:
            await stream.send_all(b"HEAD / HTTP/1.0\r\n\r\n")

    Source: IOLib's ``with-open-socket`` (seed 003).
    """
    return _OpenScope(OpenArguments(remote, **arguments))


# For help() and the docs: both take what OpenArguments takes.
make_socket.__signature__ = open_socket.__signature__ = inspect.signature(OpenArguments)  # type: ignore[attr-defined]  # functions take it


class _OpenScope(AbstractAsyncContextManager[Any]):
    """What `open_socket` returns. A class, for a generator costs several times as much."""

    def __init__(self, arguments: OpenArguments) -> None:
        self._arguments = arguments

    async def __aenter__(self) -> Any:
        self._opened, self._result = await _open(self._arguments)
        return self._result

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await close_after(self._opened, self._result, failed=exc is not None)


async def _open(arguments: OpenArguments) -> tuple[OurSocket, Any]:
    """The socket, and what the upgrade made of it."""
    if arguments.connect == "active" and arguments.type != "datagram":
        return await _open_active(arguments)
    opened: OurSocket
    with deadline_after(arguments.timeout):
        if arguments.connect == "passive":
            opened = await open_passive(arguments.passive())
        else:
            opened = await open_datagram(arguments.datagram())
        return opened, opened
    where = arguments.remote if arguments.local is None else arguments.local
    raise SocketTimeoutError(f"cannot open {where}: not done within {arguments.timeout} s")


async def _open_active(arguments: OpenArguments) -> tuple[StreamSocket, Any]:
    request = arguments.active()
    stream: StreamSocket | None = None
    with deadline_after(arguments.timeout):
        stream = await open_active(request)
        if arguments.upgrade is None:
            return stream, stream
        return stream, await run_upgrade(stream, arguments.upgrade)
    within = f"within {arguments.timeout} s"
    if stream is not None:
        raise HandshakeTimeoutError(f"connected to {request.remote}, but not upgraded {within}")
    pending = ", ".join(map(str, sorted(request.pending))) or "its name was being looked up"
    raise ConnectTimeoutError(f"not connected to {request.remote} {within}; pending: {pending}")
