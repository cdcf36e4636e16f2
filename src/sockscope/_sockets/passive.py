"""`PassiveSocket`: a socket that takes connections."""

from __future__ import annotations

import functools
import math
import socket as stdlib_socket
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from sockscope._addresses.values import Address, InternetAddress
from sockscope._core.cleanup import close_on_error
from sockscope._core.deadlines import check_timeout, deadline_after
from sockscope._core.errors import AcceptTimeoutError, SocketError, socket_error
from sockscope._options.children import ChildPlan
from sockscope._options.defaults import NO_OPTIONS, with_defaults
from sockscope._options.values import SocketOptions
from sockscope._sockets.accept_errors import NEXT_IN_A_ROW, Verdict, verdict_of
from sockscope._sockets.base import AF_UNIX, AnySocket, BaseSocket, close_quietly
from sockscope._sockets.seqpacket import stream_class
from sockscope._sockets.stream import StreamSocket

# Several handlers may pass options of their own; a hook may make them anew each time.
_PLANS_KEPT: Final = 16


class PassiveStatistics(NamedTuple):
    """The figures of a passive socket."""

    accepted: int
    """Connections taken so far."""
    queue: int | None
    """Connections in the kernel's queue, waiting to be accepted (Linux, TCP)."""
    backlog: int | None
    """The queue's length as the kernel has cut it (Linux, TCP)."""
    dropped: int | None
    """Connections that the kernel dropped because the queue was full (Linux)."""


class PassiveSocket(BaseSocket, trio.abc.Listener[StreamSocket]):
    """A listening socket on one address; ``make_socket(connect="passive")`` makes it.

    It is a `trio.abc.Listener`, so `trio.serve_listeners` takes it; `serve_passive`
    does much more.
    """

    __slots__ = (
        "_accepted",
        "_accepting",
        "_backlog",
        "_for_children",
        "_inherits",
        "_is_shared",
        "_is_sole_owner",
        "_kind",
        "_last_plan",
        "_make_child",
        "_plans",
    )

    def __init__(
        self,
        sock: AnySocket,
        requested: SocketOptions,
        *,
        backlog: int | None,
        address: Address | None = None,
        adopted: bool = False,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(sock, requested)
        self._local = address
        self._backlog = backlog
        self._accepting = False
        self._accepted = 0
        self._on_close = on_close
        # A local child is bound to our path, which the kernel may know by another name.
        make = stream_class(sock)
        self._make_child: Callable[..., StreamSocket] = (
            make if address is None else functools.partial(make, local=address)
        )
        self._kind = int(sock.family), int(sock.type), int(sock.proto)
        self._for_children = _stated_for_children(requested)
        # Children that were in the queue before we set an option do not have it.
        self._plans: dict[SocketOptions, ChildPlan] = {}
        self._last_plan: tuple[SocketOptions, ChildPlan] | None = None
        self._inherits = not adopted
        # What another process has as well is not ours to turn off: for an adopted socket
        # that may be so, for one that was handed over it is.
        self._is_sole_owner = not adopted
        self._is_shared = False

    @property
    def address(self) -> Address:
        """The address on which it listens, as the kernel chose it."""
        return self.local_address

    @property
    def port(self) -> int:
        """The port on which it listens.

        Raises:
          ValueError: it is a local socket, which has none.
        """
        address = self.address
        if not isinstance(address, InternetAddress):
            raise ValueError(f"a local socket has no port: {address}")
        return address.port

    @property
    def backlog(self) -> int | None:
        """The length asked for the queue; None is the system's maximum.

        `statistics` tells what the kernel made of it.
        """
        return self._backlog

    @property
    def is_listening(self) -> bool:
        """Whether the socket takes connections (IOLib's ``socket-listening-p``)."""
        return self.is_open

    async def accept(
        self, *, timeout: float = math.inf, options: SocketOptions | None = None
    ) -> StreamSocket:
        """Wait for the next connection and take it.

        Args:
          timeout: seconds to wait; 0 takes only what is there.
          options: set on the connection before it is handed out.

        Returns:
          The connection; its closing is the caller's.

        Raises:
          AcceptTimeoutError: no connection came in time.
          OptionError: an option failed; that connection was closed.
          SocketError: accept(2) failed (EMFILE, say); the connection is still queued.
          trio.ClosedResourceError: this socket is closed, maybe just now.
          trio.BusyResourceError: another task is accepting.

        A checkpoint. When cancelled or timed out, no connection is lost: it stays
        in the queue.
        Source: accept(2); IOLib's and Allegro CL's ``accept-connection`` (seeds 003, 004).
        """
        check_timeout(timeout)
        if self._accepting:
            raise trio.BusyResourceError("another task is already accepting on this socket")
        self._accepting = True
        try:
            await checkpoint_if_cancelled()
            child = self._accept_now(options)
            if child is not None:
                await cancel_shielded_checkpoint()
                return child
            if timeout == math.inf:
                return await self._accept_later(options)
            with deadline_after(timeout):
                return await self._accept_later(options)
            raise AcceptTimeoutError(f"no connection within {timeout} s on {self.address}")
        finally:
            self._accepting = False

    async def _accept_later(self, options: SocketOptions | None) -> StreamSocket:
        while True:
            try:
                await self._wait_readable()
            except OSError as exc:
                raise self._accept_failure(exc) from exc
            child = self._accept_now(options)
            if child is not None:
                return child

    def accept_nowait(self, *, options: SocketOptions | None = None) -> StreamSocket:
        """Take a connection that is there already.

        Args:
          options: set on the connection before it is handed out.

        Returns:
          The connection, which is the caller's.

        Raises:
          trio.WouldBlock: there is none.
          Otherwise as `accept`.

        A plain function. Source: ``:wait nil`` of ``accept-connection`` (seeds 003, 004).
        """
        self._check_open()
        if self._accepting:
            raise trio.BusyResourceError("another task is already accepting on this socket")
        child = self._accept_now(options)
        if child is None:
            raise trio.WouldBlock
        return child

    def _accept_now(self, options: SocketOptions | None) -> StreamSocket | None:
        """The next connection of the queue, configured, or None if there is none."""
        pair = self._take()
        if pair is None:
            return None
        sock, peer = pair
        with close_on_error(sock):
            stream = self._make_child(sock, NO_OPTIONS, peer=peer, accepted=True)
            self.configure_child(stream, options or NO_OPTIONS)
            return stream

    def _take(self) -> tuple[stdlib_socket.socket, Any] | None:
        """accept(2), by the survey: a connection, or None if the queue is empty.

        Raises:
          SocketError: a shortage, or a listener that is of no further use.
          trio.ClosedResourceError: the socket is closed.
        """
        gone = 0
        while True:
            try:
                sock, peer = self._accept_plain()
            except BlockingIOError:
                return None
            except OSError as exc:
                verdict = verdict_of(exc)
                if verdict is Verdict.WAIT:
                    return None
                gone += 1
                if verdict is not Verdict.NEXT or gone == NEXT_IN_A_ROW:
                    raise self._accept_failure(exc) from exc
            else:
                self._accepted += 1
                try:
                    sock.setblocking(False)
                except OSError:
                    close_quietly(sock)  # the child's own fault, and no listener's
                    continue
                return sock, peer

    def _accept_plain(self) -> tuple[stdlib_socket.socket, Any]:
        """socket.accept, without its way through three enums: half its price."""
        fd, peer = self._sock._accept()
        return stdlib_socket.socket(*self._kind, fileno=fd), peer

    def _accept_failure(self, exc: OSError) -> Exception:
        if not self.is_open:
            return trio.ClosedResourceError("this passive socket was closed")
        return socket_error(exc, f"accept on {self._describe()}", SocketError)

    def configure_child(self, stream: StreamSocket, options: SocketOptions) -> None:
        """Set the options that a connection of this socket needs and has not inherited.

        `accept` and servers do it for every connection.

        Args:
          stream: a connection that was accepted here.
          options: what it is to have, over the defaults.

        Raises:
          OptionError: one of them failed; several are one ExceptionGroup.
        """
        if self._last_plan is None or self._last_plan[0] is not options:
            self._last_plan = options, self._plan_for(options)
        self._last_plan[1].apply(stream._sock)
        if options is not NO_OPTIONS:
            stream._options_changed(options)

    def _plan_for(self, options: SocketOptions) -> ChildPlan:
        plan = self._plans.get(options)
        if plan is None:
            family, kind, _ = self._kind
            stated = self._for_children | options
            full = with_defaults(stated, family=family, type=kind, role="child")
            plan = ChildPlan(full, family=family, type=kind)
            if not self._inherits:
                plan.set_explicitly()
            if len(self._plans) >= _PLANS_KEPT:
                self._plans.clear()
            self._plans[options] = plan
        return plan

    def _hand_over(self) -> None:
        """Another process has it as well from now on, with its queue and its path."""
        self._on_close = None
        self._is_shared = True
        self._is_sole_owner = False

    def _options_changed(self, options: SocketOptions) -> None:
        """Children that wait in the queue carry the old values: trust no inheritance now."""
        super()._options_changed(options)
        self._for_children = _stated_for_children(self._requested)
        self._inherits = False
        self._plans.clear()
        self._last_plan = None

    def _expose(self, sock: trio.socket.SocketType) -> None:
        super()._expose(sock)
        self._options_changed(NO_OPTIONS)

    def statistics(self) -> PassiveStatistics:
        """What was accepted, and how the kernel's queue stands.

        Returns:
          The figures of this moment; None for what the system does not tell.

        Raises:
          trio.ClosedResourceError: the socket is closed.

        A plain function. Source: TCP_INFO of a listening socket, and SO_MEMINFO (Linux).
        """
        self._check_open()
        queue = backlog = dropped = None
        try:
            dropped = self.get_option("memory_info").dropped
            if self._sock.family != AF_UNIX:
                info = self.get_option("tcp_info")
                queue, backlog = info.unacked, info.sacked
        except OSError:
            pass  # this system does not tell
        return PassiveStatistics(self._accepted, queue, backlog, dropped)

    async def aclose(self) -> None:
        """Stop listening; connections that are still in the queue are reset.

        A waiting `accept` gets `trio.ClosedResourceError`. A local socket's path is
        removed if it is still this socket's. A checkpoint; always closes.
        """
        self._close()
        await checkpoint()


def _stated_for_children(requested: SocketOptions) -> SocketOptions:
    """What children get as well, of a listener's own options.

    They are those of which ours are set underneath: a listener on which they are stated
    would otherwise have children of its own opinion on some systems, and of ours on others.
    """
    return SocketOptions(nodelay=requested.nodelay, unsent_low_water=requested.unsent_low_water)
