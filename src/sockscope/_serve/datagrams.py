"""`serve_datagrams`: open the sockets, hand every datagram to a handler, end cleanly."""

from __future__ import annotations

import operator
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, overload

import trio

from sockscope._addresses.designators import AddressLike, parse_designator, split_designators
from sockscope._core.deadlines import check_timeout
from sockscope._open.arguments import check_options
from sockscope._open.datagram import DatagramRequest, open_every_address
from sockscope._options.values import SocketOptions
from sockscope._serve.datagram_server import DatagramServer, DatagramSettings, HandlerErrors
from sockscope._serve.datagram_session import DatagramSession
from sockscope._sockets.base import AF_UNIX
from sockscope._sockets.datagram import DatagramSocket
from sockscope._sockets.datagram_types import Datagram

Local = AddressLike | DatagramSocket | Iterable["AddressLike | DatagramSocket"]


@overload
def serve_datagrams(
    local: Local,
    handler: Callable[[Datagram, DatagramSocket], Awaitable[object]] | None = None,
    *,
    max_tasks: int = 64,
    max_queue: int = 1024,
    options: SocketOptions | None = None,
    handler_errors: HandlerErrors = "log",
    drain_timeout: float = 30,
    sessions: Literal[False] = False,
    idle_timeout: float = 60,
    max_peers: int = 1000,
) -> AbstractAsyncContextManager[DatagramServer]: ...
@overload
def serve_datagrams(
    local: Local,
    handler: Callable[[DatagramSession], Awaitable[object]] | None = None,
    *,
    max_tasks: int = 64,
    max_queue: int = 1024,
    options: SocketOptions | None = None,
    handler_errors: HandlerErrors = "log",
    drain_timeout: float = 30,
    sessions: Literal[True],
    idle_timeout: float = 60,
    max_peers: int = 1000,
) -> AbstractAsyncContextManager[DatagramServer]: ...
def serve_datagrams(
    local: Local,
    handler: Callable[..., Awaitable[object]] | None = None,
    *,
    max_tasks: int = 64,
    max_queue: int = 1024,
    options: SocketOptions | None = None,
    handler_errors: HandlerErrors = "log",
    drain_timeout: float = 30,
    sessions: bool = False,
    idle_timeout: float = 60,
    max_peers: int = 1000,
) -> AbstractAsyncContextManager[DatagramServer]:
    """Receive on *local* and hand every datagram to a handler, as long as the block.

    Args:
      local: one address designator or several, or `DatagramSocket` objects, which then
        belong to the server. All addresses of a name are opened, on the same port. A host
        of None is the wildcard of both families.
      handler: ``async def handler(datagram, socket)``; ``await socket.reply(datagram,
        data)`` answers. With *sessions* ``async def handler(session)``, once for each
        peer. Without one the body takes the peers' sessions by `DatagramServer.accept`.
      max_tasks: how many handlers of datagrams run at once. They share the socket; at most
        half of them wait for long for local peers that do not read.
      max_queue: how many datagrams wait for a handler, or with sessions for each peer's;
        what comes above that is dropped, and counted.
      options: set on the sockets before they are bound; ``packet_info`` is underneath, so
        that answers come from the address that was asked.
      handler_errors: what becomes of an exception that a handler raises: ``"log"`` it (to
        the logger ``sockscope.server``) and go on; ``"raise"`` it, which ends the server;
        or a callable ``(exception, datagram)``, with sessions ``(exception, session)``,
        and what that raises goes up.
      drain_timeout: seconds in which what has come is handled when the block ends.
      sessions: a `DatagramSession` for each peer, instead of single datagrams.
      idle_timeout: seconds after which a session ends in which neither side has sent.
      max_peers: how many sessions there may be at once; what comes from more peers is
        dropped, and counted.

    Entering gives the `DatagramServer`, which receives already; no handler runs before the
    body's first checkpoint. At the end of the block it stops receiving, takes what the
    kernel's queues hold, lets the handlers finish (sessions end once everything is
    received), cancels what is left after *drain_timeout*, and closes everything. An
    exception or cancellation skips the wait.

    No peer can stop it, or hold it up: what the network reports of answers that did not
    arrive is counted. So is the `DatagramError` of a send that a handler fails with, if the
    peer cannot be reached, has gone or does not read: it is no error of the handler. An
    answer waits 3 s for room in a local peer's queue, and in the 10 s after that not at all.

    Raises:
      SocketError, OptionError, ResolverError: a socket could not be opened; none is.
      ExceptionGroup: whatever is raised once the server runs, as by a nursery: by the
        body, by a handler (with ``"raise"``), or by a socket that is of no further use.
      TypeError, ValueError: an argument is wrong.

    Example::

        async def echo(datagram, socket):
            await socket.reply(datagram, datagram.data)

        async with sockscope.serve_datagrams((None, 7), echo) as server:
            await trio.sleep_forever()
    """
    if handler_errors not in ("log", "raise") and not callable(handler_errors):
        raise ValueError(
            f"handler_errors must be 'log', 'raise' or a callable, not {handler_errors!r}"
        )
    settings = DatagramSettings(
        handler=handler,
        max_tasks=_positive("max_tasks", max_tasks),
        max_queue=_positive("max_queue", max_queue),
        handler_errors=handler_errors,
        # Without a handler there is nobody else to take single datagrams.
        sessions=sessions or handler is None,
        idle_timeout=check_timeout(idle_timeout, "idle_timeout"),
        max_peers=_positive("max_peers", max_peers),
    )
    check_timeout(drain_timeout, "drain_timeout")
    return _serve(_requests(local, check_options(options)), settings, drain_timeout)


def _positive(name: str, value: int) -> int:
    value = operator.index(value)  # a TypeError for what is no whole number
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return value


_PACKET_INFO = SocketOptions(packet_info=True)


def _requests(local: Any, options: SocketOptions) -> list[DatagramSocket | DatagramRequest]:
    """What to receive on, checked: sockets that are ready, and what has to be opened."""
    alone = isinstance(local, DatagramSocket)
    parts = [local] if alone else split_designators(local, argument="local")
    found: list[DatagramSocket | DatagramRequest] = []
    for part in parts:
        if isinstance(part, DatagramSocket):
            found.append(part)
            continue
        request = parse_designator(part, argument="local", passive=True)
        is_local = getattr(request, "family", None) == AF_UNIX
        found.append(
            DatagramRequest(local=request, options=options if is_local else _PACKET_INFO | options)
        )
    return found


@asynccontextmanager
async def _serve(
    requests: list[DatagramSocket | DatagramRequest], settings: DatagramSettings, timeout: float
) -> AsyncGenerator[DatagramServer, None]:
    sockets = await _open(requests)
    server = DatagramServer(sockets, settings)
    try:
        async with trio.open_nursery() as nursery:
            server._start(nursery)
            yield server
            await server._drain(timeout)
            nursery.cancel_scope.cancel()
    finally:
        server._close()


async def _open(requests: list[DatagramSocket | DatagramRequest]) -> list[DatagramSocket]:
    """Open them all, or none."""
    sockets: list[DatagramSocket] = []
    try:
        for request in requests:
            if isinstance(request, DatagramSocket):
                sockets.append(request)
                if request._family != AF_UNIX and request.requested_options.packet_info is None:
                    request.set_option("packet_info", True)
            else:
                sockets += await open_every_address(request)
    except BaseException:
        for socket in sockets:
            socket._close()
        raise
    return sockets
