"""What a server is told: the arguments of `serve_passive` that concern its connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import outcome

from sockscope._core.deadlines import check_timeout
from sockscope._options.values import SocketOptions
from sockscope._serve.limits import HostNumber, Networks, Overload, check_count, check_rate
from sockscope._sockets.stream import StreamSocket

ConnectionOptions: TypeAlias = (
    SocketOptions
    | Callable[[StreamSocket], SocketOptions | None]
    | Callable[[StreamSocket], Awaitable[SocketOptions | None]]
)
"""Options for each connection, or a hook (sync or async) that gives them."""

HandlerErrors: TypeAlias = Literal["log", "raise"] | Callable[[Exception, StreamSocket], None]
"""What becomes of an exception that a handler raised."""

Outcome: TypeAlias = Literal["finished", "failed", "reset", "timed_out", "cancelled"]
"""How a connection ended."""


# What a handler returned or raised.
Result: TypeAlias = "outcome.Value[object] | outcome.Error"


@dataclass(frozen=True)
class Settings:
    """The checked arguments; see `serve_passive`."""

    handler: Callable[[Any], Awaitable[object]] | None
    connection_options: ConnectionOptions | None
    upgrade: Callable[[StreamSocket], Awaitable[Any]] | None
    handshake_timeout: float
    handler_errors: HandlerErrors
    drain_timeout: float
    overload: Overload
    max_connections: int | None
    max_connections_per_host: HostNumber | None
    accept_rate: float | None
    allow: Networks | None
    deny: Networks | None
    lifetime: float
    idle_timeout: float
    on_open: Callable[[StreamSocket], None] | None
    on_close: Callable[[StreamSocket, Outcome], None] | None

    def __post_init__(self) -> None:
        """Check each argument.

        Raises:
          TypeError: one is of the wrong type.
          ValueError: one is out of range.
        """
        check_timeout(self.handshake_timeout, "handshake_timeout")
        check_timeout(self.drain_timeout, "drain_timeout")
        _check_above_0(self.lifetime, "lifetime")
        _check_above_0(self.idle_timeout, "idle_timeout")
        if self.overload not in ("wait", "reject"):
            raise ValueError(f"overload must be 'wait' or 'reject', not {self.overload!r}")
        if self.max_connections is not None:
            check_count(self.max_connections, "max_connections")
        if self.accept_rate is not None:
            check_rate(self.accept_rate)
        for name in ("handler", "upgrade", "on_open", "on_close"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be callable or None, not {value!r}")
        options = self.connection_options
        if not (options is None or isinstance(options, SocketOptions) or callable(options)):
            raise TypeError(
                f"connection_options must be a SocketOptions or a callable, not {options!r}"
            )
        if self.handler_errors not in ("log", "raise") and not callable(self.handler_errors):
            raise ValueError(
                f"handler_errors must be 'log', 'raise' or a callable, not {self.handler_errors!r}"
            )


def _check_above_0(seconds: float, argument: str) -> None:
    if not check_timeout(seconds, argument):
        raise ValueError(f"{argument} must be above 0 seconds: no connection would live")
