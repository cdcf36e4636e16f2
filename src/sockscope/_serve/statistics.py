"""The figures of a server: what `Server.statistics` returns, and the counters behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sockscope._addresses.values import Address


class ListenerStatistics(NamedTuple):
    """One listener of a server, as the kernel has it; None where it does not tell."""

    address: Address
    queue: int | None
    """Connections that wait to be accepted."""
    backlog: int | None
    """How many may wait, as the kernel has cut it."""
    dropped: int | None
    """Connections that the kernel dropped because the queue was full."""


@dataclass(frozen=True)
class ServerStatistics:
    """A snapshot of a server's figures.

    ``accepted`` is the sum of ``active``, ``finished``, ``handler_errors``,
    ``timed_out``, ``resets``, ``option_failures`` and the values of ``refused`` and
    ``upgrade_failures``.
    """

    accepted: int
    """Connections taken from the kernel."""
    active: int
    """Connections that are being prepared, or are with a handler."""
    finished: int
    """Handlers that returned, or were cancelled."""
    handler_errors: int
    """Handlers that raised."""
    timed_out: int
    """Connections that ended by ``lifetime`` or ``idle_timeout``."""
    resets: int
    """Handlers that ended because the peer broke the connection."""
    refused: Mapping[str, int]
    """Connections refused, by the name of the argument that refused them."""
    option_failures: int
    """Connections whose options could not be set."""
    upgrade_failures: Mapping[str, int]
    """Connections whose upgrade failed, by kind: ``"timeout"``, a `HandshakeError`'s reason ..."""
    bytes_received: int
    bytes_sent: int
    shortages: int
    """Times that accepting had to pause for want of descriptors or memory."""
    close_errors: int
    """Errors that close(2) reported; the descriptors are free all the same."""
    drained: int
    """Connections that ended by themselves while the server drained."""
    cut: int
    """Connections that were cancelled when the time for draining was up."""
    lingering: int
    """Connections that are closing, but whose peer is still sending."""
    possibly_lost: int
    """Listeners closed where a handshake that was under way may have been reset."""
    listeners: tuple[ListenerStatistics, ...]
    """The listeners that are open, in their order."""


@dataclass
class Counters:
    """What a server counts as it goes."""

    accepted: int = 0
    finished: int = 0
    handler_errors: int = 0
    timed_out: int = 0
    resets: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    option_failures: int = 0
    upgrade_failures: dict[str, int] = field(default_factory=dict)
    bytes_received: int = 0
    bytes_sent: int = 0
    shortages: int = 0
    close_errors: int = 0
    drained: int = 0
    cut: int = 0
    possibly_lost: int = 0
