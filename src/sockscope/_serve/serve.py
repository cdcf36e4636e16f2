"""`serve_passive` and `serve`: open the listeners, serve every connection, end cleanly."""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import KW_ONLY, dataclass, fields
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, overload

import trio

from sockscope._addresses.designators import AddressLike, split_designators
from sockscope._open.arguments import OpenArguments
from sockscope._open.passive import PassiveRequest, open_every_address
from sockscope._open.sockets import Configure
from sockscope._options.values import SocketOptions
from sockscope._serve.limits import Network, Overload, parse_host_limit, parse_networks
from sockscope._serve.server import Server
from sockscope._serve.settings import ConnectionOptions, HandlerErrors, Outcome, Settings
from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.stream import StreamSocket

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")

Local = AddressLike | PassiveSocket | Iterable["AddressLike | PassiveSocket"]


class _ServerArguments(TypedDict, total=False):
    """What `serve_passive` and `serve` take besides *local*, *handler* and *upgrade*."""

    ipv6: bool | None
    backlog: int | None
    mode: int | None
    owner: int | str | None
    group: int | str | None
    replace_stale: bool
    options: SocketOptions | None
    configure: Configure | None
    connection_options: ConnectionOptions | None
    handshake_timeout: float
    handler_errors: HandlerErrors
    drain_timeout: float
    overload: Overload
    max_connections: int | None
    max_connections_per_host: int | tuple[int, int] | None
    accept_rate: float | None
    allow: Iterable[Network] | Network | None
    deny: Iterable[Network] | Network | None
    lifetime: float
    idle_timeout: float
    on_open: Callable[[StreamSocket], None] | None
    on_close: Callable[[StreamSocket, Outcome], None] | None


@dataclass(frozen=True)
class ServeArguments:
    """What `serve_passive` takes, with its defaults."""

    local: Any
    handler: Callable[[Any], Awaitable[object]] | None = None
    _: KW_ONLY
    ipv6: bool | None = None
    backlog: int | None = None
    mode: int | None = None
    owner: int | str | None = None
    group: int | str | None = None
    replace_stale: bool = True
    options: SocketOptions | None = None
    configure: Configure | None = None
    connection_options: ConnectionOptions | None = None
    upgrade: Callable[[StreamSocket], Awaitable[Any]] | None = None
    handshake_timeout: float = 10.0
    handler_errors: HandlerErrors = "log"
    drain_timeout: float = 30.0
    overload: Overload = "wait"
    max_connections: int | None = None
    max_connections_per_host: int | tuple[int, int] | None = None
    accept_rate: float | None = None
    allow: Iterable[Network] | Network | None = None
    deny: Iterable[Network] | Network | None = None
    lifetime: float = math.inf
    idle_timeout: float = math.inf
    on_open: Callable[[StreamSocket], None] | None = None
    on_close: Callable[[StreamSocket, Outcome], None] | None = None

    def settings(self) -> Settings:
        """Those that concern the connections, checked."""
        values = {field.name: getattr(self, field.name) for field in fields(Settings)}
        values["allow"] = parse_networks(self.allow, "allow")
        values["deny"] = parse_networks(self.deny, "deny")
        values["max_connections_per_host"] = parse_host_limit(self.max_connections_per_host)
        return Settings(**values)

    def requests(self) -> list[PassiveSocket | PassiveRequest]:
        """What to listen on, checked: sockets that are ready, and what has to be opened."""
        alone = isinstance(self.local, PassiveSocket)
        parts = [self.local] if alone else split_designators(self.local, argument="local")
        return [part if isinstance(part, PassiveSocket) else self._request(part) for part in parts]

    def _request(self, local: Any) -> PassiveRequest:
        names = (
            field.name for field in fields(PassiveRequest) if field.name not in ("local", "type")
        )
        common = {name: getattr(self, name) for name in names}
        return OpenArguments(connect="passive", local=local, **common).passive()


@overload
def serve_passive(
    local: Local,
    handler: Callable[[StreamSocket], Awaitable[object]] | None = None,
    *,
    upgrade: None = None,
    **arguments: Unpack[_ServerArguments],
) -> AbstractAsyncContextManager[Server[StreamSocket]]: ...
@overload
def serve_passive(
    local: Local,
    handler: Callable[[T], Awaitable[object]] | None = None,
    *,
    upgrade: Callable[[StreamSocket], Awaitable[T]],
    **arguments: Unpack[_ServerArguments],
) -> AbstractAsyncContextManager[Server[T]]: ...
def serve_passive(  # noqa: D417  # the keywords are told one by one
    local: Local, handler: Callable[[Any], Awaitable[object]] | None = None, **arguments: Any
) -> AbstractAsyncContextManager[Server[Any]]:
    """Serve every connection to *local*, each in a task of its own, as long as the block.

    Args:
      local: one address designator or several, or `PassiveSocket` objects, which then
        belong to the server. All addresses of a name are opened, on the same port.
        A host of None is the wildcard of both families.
      handler: ``async def handler(stream)``; its connection is closed when it ends.
        Without one the body takes connections by `accept_connection`.
      ipv6: True for IPv6 only, False for IPv4 only, None for both.
      backlog: how many connections may wait to be accepted; None is the system's maximum.
      mode: the permission bits of a local socket's path.
      owner: the path's owner, a number or name.
      group: the path's group, a number or name.
      replace_stale: whether a path left behind by a socket that nobody listens on is
        replaced; with False the path must not exist.
      options: set on the listening sockets before they are bound.
      configure: called with each listening socket before bind, for what no option expresses.
      connection_options: set on each connection before its handler runs: a
        `SocketOptions`, or a callable (sync or async) that is given the `StreamSocket`
        and returns one, or None. Connections inherit nothing that can be relied on.
      upgrade: an async callable that turns each `StreamSocket` into what the handler gets.
      handshake_timeout: seconds for a connection's options and its upgrade.
      handler_errors: what becomes of an exception that a handler raises: ``"log"`` it
        (to the logger ``sockscope.server``) and go on; ``"raise"`` it, which ends the
        server; or a callable ``(exception, stream)``, and what that raises goes up.
        A connection that its peer broke is no error of the handler: it is counted.
      drain_timeout: seconds that handlers have to finish when the block ends.
      overload: what becomes of connections for which there is no room, by
        *max_connections*, *accept_rate* or for want of descriptors: they ``"wait"`` in
        the kernel's queue, or the server is to ``"reject"`` them with a reset.
      max_connections: how many there may be at a time; None for any number.
      max_connections_per_host: how many of one host: an IPv4 address, or 64 bits of an
        IPv6 address. ``(number, prefix_length)`` makes that other bits. Beyond it they are
        reset, always.
      accept_rate: how many a second on the average, with one second's worth at once.
      allow: networks, or their texts, from which alone connections are taken. IPv4-mapped
        addresses are IPv4; local sockets are not concerned. Others are reset.
      deny: networks from which connections are reset, also where *allow* has them.
      lifetime: seconds after which a connection's handler is cancelled.
      idle_timeout: seconds without a byte either way after which it is, at most an
        eighth later.
      on_open: a plain function called with each new `StreamSocket`.
      on_close: a plain function called with it and how it ended: ``"finished"``,
        ``"failed"``, ``"reset"``, ``"timed_out"`` or ``"cancelled"``.

    Entering gives the `Server`, which listens already; no handler runs before the
    body's first checkpoint. At the end of the block the server stops accepting, serves
    what the kernel has accepted, waits for the handlers, cancels what is left after
    *drain_timeout*, and closes everything. An exception or cancellation skips the wait.

    Raises:
      SocketError, OptionError, ResolverError: a listener could not be opened; none is.
      ExceptionGroup: whatever is raised once the server runs, as by a nursery: by the
        body, by a handler (with ``"raise"``), or by the last listener that failed.

    Example::

        async def echo(stream):
            async for data in stream:
                await stream.send_all(data)

        async with sockscope.serve_passive(("localhost", 0), echo) as server:
            print("listening on", *server.addresses)
            await trio.sleep_forever()

    Source: Emacs's ``:server`` (seed 000), IOLib's passive sockets (seed 003).
    """
    return _serve_scope(ServeArguments(local, handler, **arguments))


@asynccontextmanager
async def _serve_scope(arguments: ServeArguments) -> AsyncGenerator[Server[Any], None]:
    settings = arguments.settings()
    passives: list[PassiveSocket] = []
    try:
        await _open_all(arguments.requests(), passives)
        server: Server[Any] = Server(passives, settings)
        async with trio.open_nursery() as server._nursery:
            await server._run()
            yield server
            await server.drain()
    finally:
        for passive in passives:
            passive._close()


async def _open_all(
    requests: list[PassiveSocket | PassiveRequest], passives: list[PassiveSocket]
) -> None:
    """Open *requests*, in order, into *passives*, whose owner closes them."""
    # All that are ready first: if one cannot be opened, those are closed as well.
    ready = [request for request in requests if isinstance(request, PassiveSocket)]
    passives.extend(ready)
    ordered: list[PassiveSocket] = []
    for request in requests:
        if isinstance(request, PassiveSocket):
            ordered.append(request)
        else:
            opened = await open_every_address(request)
            passives.extend(opened)
            ordered.extend(opened)
    passives[:] = ordered


@overload
async def serve(
    local: Local,
    handler: Callable[[StreamSocket], Awaitable[object]] | None = None,
    *,
    upgrade: None = None,
    task_status: trio.TaskStatus[Server[StreamSocket]] = trio.TASK_STATUS_IGNORED,
    **arguments: Unpack[_ServerArguments],
) -> None: ...
@overload
async def serve(
    local: Local,
    handler: Callable[[T], Awaitable[object]] | None = None,
    *,
    upgrade: Callable[[StreamSocket], Awaitable[T]],
    task_status: trio.TaskStatus[Server[T]] = trio.TASK_STATUS_IGNORED,
    **arguments: Unpack[_ServerArguments],
) -> None: ...
async def serve(
    local: Local,
    handler: Callable[[Any], Awaitable[object]] | None = None,
    *,
    task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
    **arguments: Any,
) -> None:
    """Serve as `serve_passive` does, in a task of its own: ``await nursery.start(serve, ...)``.

    Args:
      local: as for `serve_passive`.
      handler: as for `serve_passive`.
      task_status: is told the `Server` once it listens.
      **arguments: as for `serve_passive`; by `functools.partial` with ``nursery.start``.

    Returns when the server has drained (see `Server.drain`). Raises as `serve_passive`.
    A checkpoint.
    """
    async with serve_passive(local, handler, **arguments) as server:
        task_status.started(server)
        await server._drained.wait()


# For help() and the docs: the arguments are those of ServeArguments.
_signature = inspect.signature(ServeArguments)
serve_passive.__signature__ = _signature  # type: ignore[attr-defined]  # functions take it
serve.__signature__ = _signature.replace(  # type: ignore[attr-defined]  # functions take it
    parameters=[
        *_signature.parameters.values(),
        inspect.signature(serve).parameters["task_status"],
    ]
)
