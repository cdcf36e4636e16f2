"""`accept_connection`: one connection for the length of a block."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar, overload

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from sockscope._core.deadlines import check_timeout, deadline_after
from sockscope._core.errors import AcceptTimeoutError
from sockscope._open.upgrade import close_after
from sockscope._options.values import SocketOptions
from sockscope._serve.lending import Lender, Loan
from sockscope._serve.server import Server
from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.stream import StreamSocket

T = TypeVar("T")


@overload
def accept_connection(
    passive_or_server: PassiveSocket,
    *,
    timeout: float = math.inf,
    wait: bool = True,
    options: SocketOptions | None = None,
) -> AbstractAsyncContextManager[StreamSocket]: ...
@overload
def accept_connection(
    passive_or_server: Server[T],
    *,
    timeout: float = math.inf,
    wait: bool = True,
    options: SocketOptions | None = None,
) -> AbstractAsyncContextManager[T]: ...
def accept_connection(
    passive_or_server: PassiveSocket | Server[Any],
    *,
    timeout: float = math.inf,
    wait: bool = True,
    options: SocketOptions | None = None,
) -> AbstractAsyncContextManager[Any]:
    """Take one connection, for the length of the block, and close it at its end.

    Args:
      passive_or_server: a passive socket; or a server without a handler, where any number of
        tasks may wait, first come first served, and connections come with their
        options and upgrade done.
      timeout: seconds to wait for the connection. It does not limit the body.
      wait: False takes only a connection that is there already.
      options: set on the connection before it is handed out.

    Raises:
      AcceptTimeoutError: no connection came in time.
      trio.WouldBlock: *wait* is False, and there is none.
      OptionError: an option failed; that connection was closed.
      RuntimeError: the server has a handler, which gets its connections.
      trio.ClosedResourceError: the socket is closed; or the server drains, and all its
        connections have been taken.
      trio.BusyResourceError: another task is accepting on the passive socket.

    Entering is a checkpoint, and so is leaving at the end of the body. When cancelled
    or timed out, no connection is lost: it stays where the next one finds it.
    Exceptions of the body come out as they are; then the connection is closed at once.

    Source: IOLib's ``with-accept-connection`` (seed 003).
    """
    check_timeout(timeout)
    if not isinstance(wait, bool):
        raise TypeError(f"wait must be True or False, not {wait!r}")
    if isinstance(passive_or_server, PassiveSocket):
        return _accept_from_socket(passive_or_server, timeout, wait, options)
    if not isinstance(passive_or_server, Server):
        raise TypeError(
            f"accept_connection takes a PassiveSocket or a Server, not {passive_or_server!r}"
        )
    if passive_or_server._connections.lender is None:
        raise RuntimeError("this server has a handler, which gets its connections")
    return _accept_from_server(
        passive_or_server, passive_or_server._connections.lender, timeout, wait, options
    )


@asynccontextmanager
async def _accept_from_socket(
    passive: PassiveSocket, timeout: float, wait: bool, options: SocketOptions | None
) -> AsyncGenerator[StreamSocket, None]:
    if wait:
        stream = await passive.accept(timeout=timeout, options=options)
    else:
        await checkpoint_if_cancelled()
        stream = passive.accept_nowait(options=options)
        await cancel_shielded_checkpoint()
    try:
        yield stream
    except BaseException:
        await close_after(stream, stream, failed=True)
        raise
    await close_after(stream, stream, failed=False)


@asynccontextmanager
async def _accept_from_server(
    server: Server[T], lender: Lender[T], timeout: float, wait: bool, options: SocketOptions | None
) -> AsyncGenerator[T, None]:
    loan = await _borrow(server, lender, timeout, wait)
    error: BaseException | None = None
    try:
        if options is not None:
            options.apply(loan.stream)
        yield loan.connection
    except BaseException as exc:
        error = exc
        await close_after(loan.stream, loan.connection, failed=True)
        raise
    else:
        await close_after(loan.stream, loan.connection, failed=False)
    finally:
        loan.give_back(error)


async def _borrow(server: Server[T], lender: Lender[T], timeout: float, wait: bool) -> Loan[T]:
    if not wait:
        return await _borrow_at_once(server, lender)
    if timeout == 0:
        try:
            return await _borrow_at_once(server, lender)
        except trio.WouldBlock:
            raise AcceptTimeoutError(f"no connection is there on {server!r}") from None
    with deadline_after(timeout):
        return await lender.borrow()
    raise AcceptTimeoutError(f"no connection within {timeout} s on {server!r}")


async def _borrow_at_once(server: Server[T], lender: Lender[T]) -> Loan[T]:
    """A connection that is ready, or one from a queue as soon as it is prepared."""
    await checkpoint_if_cancelled()
    if not lender.has_ready() and lender.are_spoken_for():
        # All that are on their way are spoken for.
        server._begin_one()
    return await lender.borrow(at_once=True)
